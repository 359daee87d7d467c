"""[usb] and [[usb.reader]] in the settings file, and how mistakes in them are named."""

from pathlib import Path

import pytest

from pypcscd.configuration.config import Config
from pypcscd.configuration.settings_file import SettingsError, load
from pypcscd.hotplug.settings import UsbRule, UsbSettings

EVERYTHING = """
[usb]
driver_directories = ["/usr/lib/pcsc/drivers", "/opt/drivers"]
serial_in_names = false
interface_in_names = false
ignore_names = ["ACME", "[Slot"]
name_extension = " at home"

[[usb.reader]]
vendor = "076B"
product = "0x3021"
serial = "4711"
port = "1-2.3"
interface = 10
name = "OMNIKEY * [CCID Interface]"
driver = "ccid"
rename = "Front desk"
index = 3
options = { escape = true }

[[usb.reader]]
driver = "/opt/libx.so"
"""
RULE = "[[usb.reader]]\ndriver = 'ccid'\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pypcscd.toml"


def loaded(path: Path, text: str, before: UsbSettings | None = None) -> UsbSettings:
    path.write_text(text)
    return load(path, Config(usb_settings=before or UsbSettings())).usb_settings


def test_everything(path: Path) -> None:
    assert loaded(path, EVERYTHING) == UsbSettings(
        driver_directories=(Path("/usr/lib/pcsc/drivers"), Path("/opt/drivers")),
        serial_in_names=False,
        interface_in_names=False,
        ignore_names=("ACME", "[Slot"),
        name_extension=" at home",
        rules=(
            UsbRule(
                vendor=0x076B,
                product=0x3021,
                serial="4711",
                port="1-2.3",
                interface=10,
                name="OMNIKEY * [[]CCID Interface]",
                driver="ccid",
                rename="Front desk",
                index=3,
                options={"escape": "yes"},
                origin=f"{path}:9",
            ),
            UsbRule(driver="/opt/libx.so", origin=f"{path}:21"),
        ),
    )


def test_the_example_of_the_manual(path: Path) -> None:
    """It can be read, and says everything that can be said."""
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    example = page[page.index("[usb]\n") : page.index("```\n", page.index("[usb]\n"))]
    (rule,) = loaded(path, example).rules
    usual = UsbRule(origin=rule.origin)
    assert [name for name, value in vars(rule).items() if value == vars(usual)[name]] == ["origin"]
    named = {line.split(" =")[0] for line in example.splitlines()}
    assert {name for name in UsbSettings._fields if name != "rules"} <= named


def test_what_is_not_said_stays(path: Path) -> None:
    before = UsbSettings(serial_in_names=False, ignore_names=("x",))
    assert loaded(path, "[usb]\nname_extension = 'y'\n", before) == UsbSettings(
        serial_in_names=False, ignore_names=("x",), name_extension="y"
    )


def test_rules_in_other_forms_of_toml(path: Path) -> None:
    text = "[usb]\nreader = [\n{driver = 'ccid'},\n{index = 0, options.escape = false},\n]\n"
    assert loaded(path, text).rules == (
        UsbRule(driver="ccid", origin=f"{path}:3"),
        UsbRule(index=0, options={"escape": "no"}, origin=f"{path}:4"),
    )


def test_the_environment_wins_over_the_file(path: Path) -> None:
    settings = loaded(path, EVERYTHING).with_environment({"PCSCLITE_FILTER_IGNORE_READER_NAMES": "b"})
    assert settings.ignore_names == ("b",)
    assert settings.name_extension == " at home"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[usb]\nreaders = 1\n", 2, "readers: unknown; there are driver_directories, serial_in_names"),
        ("usb = 1\n", 1, "usb: write [usb] and its settings below"),
        ("[[usb]]\n", 1, "usb: write [usb] and its settings below"),
        ("[usb]\ndriver_directories = '/x'\n", 2, 'driver_directories: "/x" is not a list; write ["/x"]'),
        ("[usb]\ndriver_directories = [\n'x']\n", 3, 'driver_directories: "x" does not begin with /'),
        ("[usb]\nserial_in_names = 'no'\n", 2, 'serial_in_names: "no" is neither true nor false'),
        ("[usb]\nignore_names = ['']\n", 2, 'ignore_names: "" is not a text in quotes'),
        ('[usb]\nname_extension = "\\u0007"\n', 2, 'name_extension: "\\u0007" has characters that cannot'),
        (f"[usb]\nname_extension = '{'x' * 61}'\n", 2, "name_extension: there is room for 60 bytes"),
        ("[usb.reader]\nindex = 1\n", 1, "reader: write [[usb.reader]], with two brackets"),
        ("[usb]\nreader = [\n1]\n", 3, "reader: write [[usb.reader]] and its settings below"),
        (
            "\n[[usb.reader]]\nserial = '1'\n",
            2,
            "reader: it changes nothing; add one of driver, rename, index",
        ),
        (RULE + "[[usb.reader]]\nserial = '1'\n", 3, "reader: it changes nothing"),
        (RULE + "product = '1'\n", 3, "product: add the vendor"),
        (RULE + "color = 'red'\n", 3, "color: unknown; there are vendor, product, serial"),
        (
            RULE + "vendor = 1050\n",
            3,
            'vendor: 1050 is not a number as lsusb shows it, in quotes, like "076B"',
        ),
        (RULE + "vendor = 'ACME'\n", 3, 'vendor: "ACME" is not a number as lsusb'),
        (RULE + "vendor = '10000'\n", 3, 'vendor: "10000" is not a number as lsusb'),
        (RULE + "port = 'usb1'\n", 3, 'port: "usb1" is not a port as the kernel names it'),
        (RULE + "interface = -1\n", 3, "interface: -1 is not a number from 0 to 255"),
        (RULE + "index = 256\n", 3, "index: 256 is not a number from 0 to 255"),
        (RULE + "index = true\n", 3, "index: true is not a number from 0 to 255"),
        (RULE + "serial = 4711\n", 3, "serial: 4711 is not a text in quotes"),
        (RULE + f"rename = '{'ä' * 61}'\n", 3, "rename: there is room for 121 bytes; this has 122"),
        (RULE + "options = 'escape'\n", 3, "options: write { escape = true }"),
        (RULE + "options = { escape = 1 }\n", 3, "escape: 1 is neither true nor false"),
        (RULE + "options = { speed = 1 }\n", 3, "speed: unknown; there are escape"),
        (
            "[[usb.reader]]\ndriver = 'vpcd'\n",
            2,
            'driver: "vpcd" is neither "ccid", "libccid" or "ignore" nor',
        ),
        (
            "[[usb.reader]]\ndriver = 'libccid'\noptions = { escape = true }\n",
            3,
            'options: they are for the driver "ccid" only',
        ),
    ],
)
def test_mistakes_are_named_by_file_line_and_reason(path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(path, text)
    assert str(caught.value).startswith(f"{path}:{line}: {reason}")
