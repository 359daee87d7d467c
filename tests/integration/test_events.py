"""Cards and readers that come and go, as real programs notice."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import CLIENTS, Backend, Background, Daemon, children, client_env, need, wait_for

# the virtual readers of the command line keep their cards
pluggable = pytest.mark.parametrize("backend", ["vpcd", "native", "reference"], indirect=True)


@pluggable
def test_pcsc_scan_watches_a_card(backend: Backend, tmp_path: Path) -> None:
    need("pcsc_scan", "stdbuf")
    assert backend.emulator is not None
    reader = backend.readers[1]
    with backend.watch(["stdbuf", "-oL", "pcsc_scan", "-n"], tmp_path / "pcsc_scan.log") as scan:
        at = scan.wait_for_line(f"Reader 1: {reader}\n")
        at = scan.wait_for_line("Card state: Card inserted", at)
        backend.emulator.unplug()
        at = scan.wait_for_line(f"Reader 1: {reader}\n", at)
        at = scan.wait_for_line("Card state: Card removed", at)
        backend.emulator.plug()
        at = scan.wait_for_line(f"Reader 1: {reader}\n", at)
        at = scan.wait_for_line("Card state: Card inserted", at)
        scan.wait_for_line(f"ATR: {backend.emulator.card.atr.hex(' ').upper()}", at)


@pluggable
def test_pyscard_monitors_report_a_card(backend: Backend, tmp_path: Path) -> None:
    assert backend.emulator is not None
    atr = backend.emulator.card.atr.hex().upper()
    with backend.watch([sys.executable, CLIENTS / "monitor.py"], tmp_path / "monitor.log") as monitor:
        for state in backend.states:
            monitor.wait_for_line(f"reader + {state.name}\n")
            monitor.wait_for_line(f"card + {state.name} {state.atr.hex().upper()}\n")
        first = len(monitor.log)
        backend.emulator.unplug()
        at = monitor.wait_for_line(f"card - {backend.readers[1]} {atr}\n", first)
        backend.emulator.plug()
        monitor.wait_for_line(f"card + {backend.readers[1]} {atr}\n", at)
        # nothing else happened: the other card stayed, and no reader came or went
        assert len(monitor.log[first:].splitlines()) == 2
        monitor.close_stdin()
        assert monitor.wait(10) == 0


def test_pyscard_monitors_see_virtual_cards(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start_daemon("--virtual", "hello", "--virtual", "echo", readers=2)
    states = daemon.wait_readers(lambda found: all(state.present for state in found), "two cards")
    args = [sys.executable, CLIENTS / "monitor.py"]
    with Background(args, tmp_path / "monitor.log", client_env(daemon.path)) as monitor:
        for state in states:
            monitor.wait_for_line(f"reader + {state.name}\n")
            monitor.wait_for_line(f"card + {state.name} {state.atr.hex().upper()}\n")
        monitor.close_stdin()
        assert monitor.wait(10) == 0


def helpers(daemon: Daemon, library: Path) -> list[int]:
    """The processes under the daemon that have a driver loaded."""
    found = []
    for pid in children(daemon.process.pid):
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            continue
        if str(library.resolve()) in maps:
            found.append(pid)
    return found


def test_a_reader_goes_and_comes_back(
    start_daemon: Callable[..., Daemon], native_conf: tuple[Path, Path], tmp_path: Path
) -> None:
    """A native driver's process dies; its readers go, and come back with a new process by themselves."""
    need("pcsc_scan", "stdbuf")
    folder, library = native_conf
    daemon = start_daemon("-c", folder, "--virtual", "hello", readers=2)
    native = next(state.name for state in daemon.readers() if state.name.startswith("Aborting"))
    other = next(state.name for state in daemon.readers() if state.name != native)
    (helper,) = helpers(daemon, library)
    args = ["stdbuf", "-oL", "pcsc_scan", "-n"]
    with Background(args, tmp_path / "pcsc_scan.log", client_env(daemon.path)) as scan:
        scan.wait_for_line(f": {native}\n")
        at = scan.wait_for_line("ATR: 3B 80 01 81")
        os.kill(helper, signal.SIGKILL)
        # it lists the readers anew: first without the lost one, then with it
        at = scan.wait_for_line("Scanning present readers...\n", at)
        at = scan.wait_for_line(f"0: {other}\n", at)
        at = scan.wait_for_line("Scanning present readers...\n", at)
        at = scan.wait_for_line(f": {native}\n", at)
        scan.wait_for_line("ATR: 3B 80 01 81", at)
    (replacement,) = wait_for(lambda: helpers(daemon, library), "a new helper process")
    assert replacement != helper
