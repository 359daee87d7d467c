"""What the options of the command line mean, and who wins: they, the environment or the settings file."""

from pathlib import Path

import pytest

from pypcscd.configuration import options
from pypcscd.configuration.config import Config


def parse(*words: str) -> Config:
    return options.make_config(options.parse(words, ""), {})


@pytest.fixture(autouse=True)
def no_readers_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "DEFAULT_READER_CONF", tmp_path / "missing")
    monkeypatch.setattr(options, "DEFAULT_SETTINGS", tmp_path / "missing.toml")


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
