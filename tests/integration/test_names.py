"""The settings for reader names, on readers of reader.conf, beside pcscd."""

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import VPCD_LIBRARY, Daemon, Reference, free_ports, missing

IGNORE = "PCSCLITE_FILTER_IGNORE_READER_NAMES"
EXTEND = "PCSCLITE_FILTER_EXTEND_READER_NAMES"
#: longer than a name may be
LONG = "A long name " * 11


@pytest.fixture
def conf(short_dir: Path) -> Callable[..., Path]:
    """Makes a directory with a reader of two slots for each name."""
    if not VPCD_LIBRARY.exists():
        missing(f"{VPCD_LIBRARY} is not installed")

    def make(*names: str) -> Path:
        folder = short_dir / "names.conf.d"
        folder.mkdir()
        for number, name in enumerate(names):
            port = free_ports(2)
            text = f'FRIENDLYNAME "{name}"\nDEVICENAME /dev/null:{port}\nLIBPATH {VPCD_LIBRARY}\n'
            (folder / f"reader{number}").write_text(text)
        return folder

    return make


def test_names_are_ignored_and_extended_as_by_pcscd(
    short_dir: Path, conf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Reference.usable():
        missing("pcscd is not installed, or may not be run here")
    folder = conf("Good", "ACME Bad (4711)")
    monkeypatch.setenv(IGNORE, "good::ACME B")
    monkeypatch.setenv(EXTEND, " at home")
    names = []
    for kind in (Reference, Daemon):
        with kind(short_dir, ["-c", folder]) as daemon:
            names.append([state.name for state in daemon.wait_ready(2)])
    assert names[0] == names[1] == ["Good at home 00 00", "Good at home 00 01"]


def test_a_long_extension_leaves_the_numbers(
    short_dir: Path, conf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = conf(LONG)
    monkeypatch.setenv(EXTEND, " at home")
    with Daemon(short_dir, ["-c", folder]) as daemon:
        names = [state.name for state in daemon.wait_ready(2)]
    assert names == [f"{LONG[:113]} at home 00 0{slot}" for slot in range(2)]
