"""What readers are called: as under pcscd, or made of their own strings; cut, extended, ignored."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pypcscd.driver import DeviceConfig
from pypcscd.hotplug.interface import UsbInterface
from pypcscd.hotplug.names import base_name, extended, filter_configured
from pypcscd.hotplug.settings import UsbSettings
from pypcscd.manager.roster import reader_name
from pypcscd.scard import MAX_BASE_NAME, MAX_READERNAME

DEVICE = UsbInterface("1-2:1.0", "1-2", "/dev/bus/usb/001/005", 1, 5, 0x076B, 0x3021, 0, 0x0B, 3, 1)
USUAL = UsbSettings()
#: as a device and its driver may say it: any bytes, UTF-8 or not
TEXTS = st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("label", "serial", "settings", "name"),
    [
        ("", "", USUAL, "OMNIKEY 3x21"),
        ("CCID Interface", "", USUAL, "OMNIKEY 3x21 [CCID Interface]"),
        ("CCID Interface", "4711", USUAL, "OMNIKEY 3x21 [CCID Interface] (4711)"),
        ("", "4711", USUAL, "OMNIKEY 3x21 (4711)"),
        ("Slot 4711A", "4711", USUAL, "OMNIKEY 3x21 [Slot 4711A]"),
        ("Slot 4711A", "4711", UsbSettings(interface_in_names=False), "OMNIKEY 3x21 (4711)"),
        ("Slot", "4711", UsbSettings(serial_in_names=False), "OMNIKEY 3x21 [Slot]"),
        # one dot for each byte of the interface; the serial number as it is
        ("Leser für", "ß", USUAL, "OMNIKEY 3x21 [Leser f..r] (ß)"),
        ("\udcff", "\udcff", USUAL, "OMNIKEY 3x21 [.]"),
        (" x ", " 1", USUAL, "OMNIKEY 3x21 [ x ] ( 1)"),
        ("a\x1b[31m", "\x7f", USUAL, "OMNIKEY 3x21 [a.[31m] (.)"),
        ("CCID", "a\x9b!\xa0", USUAL, "OMNIKEY 3x21 [CCID] (a.!\xa0)"),
    ],
)
def test_names_as_pcscd_makes_them(label: str, serial: str, settings: UsbSettings, name: str) -> None:
    assert base_name(replace(DEVICE, label=label, serial=serial), "OMNIKEY 3x21", settings) == name


@pytest.mark.parametrize(
    ("manufacturer", "product", "name"),
    [
        ("ACME", "Reader", "ACME Reader (1)"),
        ("Acme", "ACME Reader", "ACME Reader (1)"),
        ("", "Reader", "Reader (1)"),
        (" ACME ", " Reader ", "ACME Reader (1)"),
        ("ACME", "", "ACME USB 076B:3021 (1)"),
        ("", "", "USB 076B:3021 (1)"),
        ("Müller", "A\x07B", "M..ller A.B (1)"),
    ],
)
def test_names_of_readers_that_are_on_no_list(manufacturer: str, product: str, name: str) -> None:
    device = replace(DEVICE, manufacturer=manufacturer, product_name=product, serial="1")
    assert base_name(device, None, USUAL) == name


@pytest.mark.parametrize(
    ("base", "extension", "name"),
    [
        ("Reader", "", "Reader"),
        ("Reader", " at home", "Reader at home"),
        ("R" * 200, "", "R" * 121),
        ("R" * 200, " at home", "R" * 113 + " at home"),
        ("ä" * 100, "", "ä" * 60),
        ("Reader", "x" * 200, "x" * 121),
        ("\udcff" * 200, "é", "\udcff" * 119 + "é"),
    ],
)
def test_the_name_gives_way_to_the_extension(base: str, extension: str, name: str) -> None:
    assert extended(base, extension) == name


@given(TEXTS, TEXTS, TEXTS, TEXTS, st.integers(0, 300), st.integers(0, 255))
def test_every_name_fits_and_ends_with_its_numbers(
    friendly: str, label: str, serial: str, extension: str, number: int, slot: int
) -> None:
    base = base_name(replace(DEVICE, label=label, serial=serial), friendly, USUAL)
    whole = extended(base, extension.replace("\0", ""))
    assert len(whole.encode("utf-8", "surrogateescape")) <= MAX_BASE_NAME
    name = reader_name(whole, number, slot).encode("utf-8", "surrogateescape")
    assert len(name) < MAX_READERNAME
    assert b"\0" not in name
    assert name.endswith(f" {number:02X} {slot:02X}".encode())


def test_the_settings_for_names_hold_for_configured_readers_too() -> None:
    configs = [
        DeviceConfig("ifdhandler", "Serial Reader", "x", origin="/etc/reader.conf.d/a:1"),
        DeviceConfig("ifdhandler", "Virtual PCD", "x"),
    ]
    settings = UsbSettings(ignore_names=("virtual", "l Read"), name_extension=" at home")
    assert filter_configured(configs, settings) == (
        [DeviceConfig("ifdhandler", "Virtual PCD at home", "x")],
        [
            "Serial Reader (/etc/reader.conf.d/a:1): left alone, "
            'because "l Read" is among the names to be ignored'
        ],
    )
    assert filter_configured(configs, USUAL) == (configs, [])


def test_the_environment_changes_the_settings() -> None:
    before = UsbSettings(ignore_names=("a",), name_extension="b")
    assert before.with_environment({}) == before
    assert before.with_environment(dict.fromkeys(VARIABLES, "")) == before
    changed = before.with_environment(
        dict(zip(VARIABLES, ("/x::/y", "ACME:My Reader:", " at home"), strict=True))
    )
    assert [str(path) for path in changed.driver_directories] == ["/x", "/y"]
    assert changed.ignore_names == ("ACME", "My Reader")
    assert changed.name_extension == " at home"


VARIABLES = (
    "PCSCLITE_HP_DROPDIR",
    "PCSCLITE_FILTER_IGNORE_READER_NAMES",
    "PCSCLITE_FILTER_EXTEND_READER_NAMES",
)
