"""The command line, as far as it does not start anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pypcscd import __version__, cli
from pypcscd.configuration import config, options


def parse(*words: str) -> config.Config:
    return options.make_config(options.parse(words, ""), {})


@pytest.fixture(autouse=True)
def no_readers_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "DEFAULT_READER_CONF", tmp_path / "missing")
    monkeypatch.setattr(options, "DEFAULT_SETTINGS", tmp_path / "missing.toml")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("-h", "-v"):
        with pytest.raises(SystemExit) as caught:
            cli.main([flag])
        assert caught.value.code == 0
    text = capsys.readouterr().out
    assert __version__ in text
    assert "Enabled features:" in text
    assert "MAX_READERNAME: 128" in text
    for tool in ("run", "scan", "apdu"):
        assert f"\n  {tool} " in text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-f", "--vpcd", "many"], "'many' is not a number of slots"),
        (["-f", "--vpcd-port", "65536"], "'65536' is not a TCP port (1 to 65535)"),
        (["-f", "-c", "/no/such/place"], "/no/such/place does not exist"),
        (["-f", "surplus"], "unrecognized arguments: surplus"),
        (["-f", "--bogus"], "unrecognized arguments: --bogus"),
        (["-f", "--auto-exit=0"], "'0' is not a number of seconds above 0"),
        (["-t", "-1"], "'-1' is not a number from 0 on"),
        (["-t", "x"], "'x' is not a number from 0 on"),
    ],
)
def test_what_is_wrong_is_said_as_by_pcscd(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert why in said
    assert said.startswith("usage: ")


def test_tools_have_the_usual_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["apdu", "0G"])
    assert caught.value.code == 2
    assert "'0G' is not a row of hexadecimal bytes" in capsys.readouterr().err


def test_a_wrong_settings_file_ends_it_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[limits]\nclients = 0\n")
    # not in the foreground: it must not have gone to the background when it finds out
    assert cli.main(["--settings", str(path)]) == 1
    assert capsys.readouterr().err == f"pypcscd: {path}:2: clients: 0 is not a number from 1 on\n"


def test_devices() -> None:
    chosen = parse("--virtual", "hello", "--virtual", "cards:Mine", "--vpcd", "2", "--vpcd-port", "20000")
    assert [device.name for device in chosen.devices] == ["Virtual hello", "Virtual Mine", "Virtual PCD"]
    assert chosen.devices[2].options == {"slots": "2", "port": "20000", "host": "127.0.0.1"}
    assert chosen.reader_conf is None, "virtual readers alone, unless -c says more"
    assert parse("--virtual", "hello", "-c", "/etc").reader_conf == Path("/etc")


@pytest.mark.parametrize(
    ("words", "usb", "may_be_missing"),
    [
        ((), True, True),
        (("--usb",), True, False),
        (("--no-usb",), False, False),
        (("--virtual", "hello"), False, True),
        (("--virtual", "hello", "--usb"), True, False),
        (("--vpcd", "1"), False, True),
        (("-c", "/etc"), True, True),
    ],
)
def test_usb_readers(words: tuple[str, ...], usb: bool, may_be_missing: bool) -> None:
    chosen = parse(*words)
    assert (chosen.usb, chosen.usb_may_be_missing) == (usb, may_be_missing)


def test_the_usual_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "DEFAULT_READER_CONF", tmp_path)
    assert parse().reader_conf == tmp_path
    monkeypatch.setattr(options, "DEFAULT_READER_CONF", tmp_path / "missing")
    assert parse().reader_conf is None


def test_relative_paths_mean_the_directory_of_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A daemon in the background leaves it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "readers").mkdir()
    chosen = parse("--socket", "my.comm", "-c", "readers")
    assert chosen.sockets[0].path == tmp_path / "my.comm"
    assert chosen.reader_conf == tmp_path / "readers"


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (("-f",), None),
        (("-x",), 60),
        (("-xf",), 60),
        (("-fxd",), 60),
        (("-x30",), 30),
        (("-x", "30"), 30),
        (("--auto-exit",), 60),
        (("--auto-exit=5",), 5),
        (("--auto-exit=0.5",), 0.5),
        (("--auto",), 60),
    ],
)
def test_auto_exit(words: tuple[str, ...], seconds: float | None) -> None:
    assert parse(*words).auto_exit == seconds


def test_option_clusters_keep_their_meaning() -> None:
    chosen = options.parse(["-fxda"], "")
    assert (chosen.foreground, chosen.auto_exit, chosen.level, chosen.apdu) == (True, 60, "debug", True)
    chosen = options.parse(["-dxt5", "-c/usr/lib"], "")
    assert (chosen.auto_exit, chosen.max_thread, chosen.reader_conf) == (60, 5, Path("/usr/lib"))
    # an x within an argument is no option
    chosen = options.parse(["--socket", "x.comm", "-c/proc/self/exe"], "")
    assert (chosen.auto_exit, chosen.reader_conf) == (None, Path("/proc/self/exe"))


def test_the_last_level_counts() -> None:
    assert options.parse(["-d", "--error"], "").level == "error"
    assert options.parse([], "").level == "info"


def test_every_option_of_pcscd_is_taken() -> None:
    words = "-a -f -T -d -i -e -C --force-reader-polling --force-reader-polling=3 -t 5 -s 6 -r 7 -x -S -I"
    long = (
        "--apdu --foreground --color --debug --info --error --critical --max-thread 5 --auto-exit "
        "--max-card-handle-per-thread 6 --max-card-handle-per-reader 7 --reader-name-no-serial "
        "--reader-name-no-interface --disable-polkit"
    )
    for line in (words, long):
        chosen = parse(*line.split())
        assert chosen.logs_apdus
        assert chosen.auto_exit == 60
        limits = (chosen.max_clients, chosen.settings.handles_per_client, chosen.settings.handles_per_reader)
        assert limits == (5, 6, 7)
    assert not parse("--disable-polkit").polkit
    assert parse().polkit


def test_the_environment_of_the_unit_comes_between_file_and_options(tmp_path: Path) -> None:
    """What /etc/default/pcscd may say; systemd reads that file, we do not."""
    environment = {
        "PCSCLITE_HP_DROPDIR": "/opt/drivers",
        "PCSCLITE_FILTER_IGNORE_READER_NAMES": "Bad:Worse",
        "PCSCLITE_FILTER_EXTEND_READER_NAMES": " (here)",
    }
    path = tmp_path / "settings.toml"
    path.write_text('[usb]\nignore_names = ["Other"]\n')
    chosen = options.make_config(options.parse(["--settings", str(path), "-S"], ""), environment).usb_settings
    assert chosen.driver_directories == (Path("/opt/drivers"),)
    assert chosen.ignore_names == ("Bad", "Worse")
    assert chosen.name_extension == " (here)"
    assert not chosen.serial_in_names
    assert chosen.interface_in_names
    assert not parse("-I").usb_settings.interface_in_names


def test_zero_leaves_a_limit_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[limits]\nclients = 70\nhandles_per_client = 80\n")
    chosen = parse("--settings", str(path), "-t", "0", "-s", "9", "-r", "0")
    assert (chosen.max_clients, chosen.settings.handles_per_client) == (70, 9)
    assert chosen.settings.handles_per_reader == 200


def test_the_help_is_quick() -> None:
    """Neither parsing nor refusing loads what only the daemon needs."""
    script = "import sys; from pypcscd import cli; cli.main(['-h'])"
    command = [sys.executable, "-X", "importtime", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert "pypcscd.configuration.options" in done.stderr
    assert "asyncio" not in done.stderr
    assert "tomllib" not in done.stderr
