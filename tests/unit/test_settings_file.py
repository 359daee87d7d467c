"""The settings file: what it changes, and how mistakes in it are named."""

from pathlib import Path

import pytest

from pypcscd import cli
from pypcscd.configuration import options
from pypcscd.configuration.config import Config
from pypcscd.configuration.settings_file import SettingsError, load
from pypcscd.manager.settings import ReaderRule

GOOD = """
[limits]
clients = 7
handles_per_client = 8
handles_per_reader = 9
start_wait = 4

[power]
down_delay = 2.5

[[reader]]
name = "SIM bank *"
power_down_delay = "never"

[[reader]]
name = "*"
power_down_delay = 1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pypcscd.toml"


def test_everything(path: Path) -> None:
    path.write_text(GOOD)
    config = load(path, Config())
    assert config.max_clients == 7
    assert config.settle_bound == 4.0
    assert config.settings.handles_per_client == 8
    assert config.settings.handles_per_reader == 9
    assert config.settings.power_down_delay == 2.5
    assert config.settings.reader_rules == (ReaderRule("SIM bank *", None), ReaderRule("*", 1.0))


def test_brackets_in_names_are_just_brackets(path: Path) -> None:
    name = "Alcor Micro AU9560 [CCID Interface] 00 00"
    path.write_text(f"[[reader]]\nname = '{name[:-6]} *'\npower_down_delay = 'never'\n")
    settings = load(path, Config()).settings
    assert settings.power_down_delay_of(name) is None
    assert settings.power_down_delay_of(name.replace("[CCID Interface]", "C")) is not None


def test_an_empty_file_changes_nothing(path: Path) -> None:
    path.write_text("# nothing\n")
    assert load(path, Config()) == Config()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[limit]\n", 1, "limit: unknown; there are clients, limits, power, reader"),
        ("\n[limits]\nclient = 1\n", 3, "client: unknown; there are clients, handles_per_client"),
        ("[limits]\nclients = 0\n", 2, "clients: 0 is not a number from 1 on"),
        ("[limits]\n\nclients = true\n", 3, "clients: true is not a number from 1 on"),
        ("limits = 3\n", 1, "limits: write [limits] and its settings below"),
        ("[power]\ndown_delay = 'often'\n", 2, 'down_delay: "often" is neither a number of seconds'),
        ("[power]\ndown_delay = -1\n", 2, "down_delay: -1 is neither"),
        ("[reader]\nname = 'x'\n", 1, "write [[reader]], with two brackets"),
        ("[[reader]]\nname = 'x'\n", 1, "this [[reader]] has no power_down_delay"),
        ("[limits]\nstart_wait = -0.1\n", 2, "start_wait: -0.1 is not a number of seconds from 0 to 60"),
        ("[limits]\nstart_wait = 61\n", 2, "start_wait: 61 is not"),
        ("[limits]\nstart_wait = nan\n", 2, "start_wait: nan is not"),
        ("[limits]\nstart_wait = true\n", 2, "start_wait: true is not"),
        ("[limits]\nstart_wait = 'never'\n", 2, 'start_wait: "never" is not'),
        (GOOD.replace("= 1", "= inf"), 17, "power_down_delay: inf is neither"),
        (GOOD.replace('"*"', "4"), 16, "name: 4 is not a text in quotes"),
        ("reader = 'x'\n", 1, "reader: write [[reader]], with two brackets, and its settings below"),
        ("reader = [\n'x']\n", 2, "write [[reader]] and its settings below"),
        ("\n[limits]\nclients = \n", 3, "Invalid value (column 11)"),
        ("[limits]\nclients = 1\nclients = 2\n", 3, "Cannot overwrite a value (column 12)"),
        ("# one\n\nusers = [\n", 3, "Invalid value (at end of document)"),
        ('s = """\nx', 2, "(at end of document)"),
    ],
)
def test_mistakes_are_named_by_file_line_and_reason(path: Path, text: str, line: int, reason: str) -> None:
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(path, Config())
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert reason in str(caught.value)


def test_files_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(SettingsError, match=f"cannot read the settings {path}: No such file"):
        load(path, Config())
    path.write_bytes(b"[limits]\n# caf\xe9\n")
    with pytest.raises(SettingsError, match=f"{path}:2: byte E9 is not UTF-8"):
        load(path, Config())


def test_the_daemon_does_not_start_with_a_wrong_file(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.write_text("[power]\nlevel = 9\n")
    assert cli.main(["-f", "--virtual", "hello", "--settings", str(path)]) == 1
    assert f"{path}:2: level: unknown; there are down_delay" in capfd.readouterr().err


def test_the_command_line_wins(path: Path) -> None:
    path.write_text(GOOD)
    words = ["-f", "--virtual", "hello", "--settings", str(path), "-t", "70", "-s", "80", "-r", "0"]
    config = options.make_config(options.parse(words, ""), {})
    assert (config.max_clients, config.settings.handles_per_client) == (70, 80)
    assert config.settings.handles_per_reader == 9


@pytest.mark.parametrize(
    "text",
    [
        '[usb]\ndriver_directories = ["/a\\u0000b"]\n',
        '[[usb.reader]]\nvendor = "1234"\ndriver = "/a\\u0000b"\n',
    ],
)
def test_a_path_that_no_file_can_have(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=str(path)):
        load(path, Config())
