"""Garbage from clients, drivers that cannot be used, drivers that crash."""

import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator import Emulator, HelloCard
from harness import (
    CLIENTS,
    VPCD_LIBRARY,
    Background,
    Daemon,
    client_env,
    free_ports,
    missing,
    run_client,
    wait_for,
)
from wire import WireClient

TRANSMIT_BODY = struct.pack("=iIIIIIII", 1, 1, 8, 0xFFFFFFFF, 0, 0, 264, 0)

GARBAGE = {
    "letters": b"\xa5" * 64,
    "http": b"GET / HTTP/1.0\r\n\r\n",
    "unknown command": struct.pack("=II", 0, 0x99),
    "command never used": struct.pack("=II", 12, 0x0C) + bytes(12),
    "wrong size": struct.pack("=II", 4, 0x11) + bytes(4),
    "huge body": struct.pack("=II", 0xFFFFFFFF, 0x01),
    "huge apdu": struct.pack("=II", 32, 0x09) + TRANSMIT_BODY,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_costs_its_sender_only(
    start_daemon: Callable[..., Daemon], tmp_path: Path, garbage: bytes
) -> None:
    daemon = start_daemon("--virtual", "sle4442", readers=1)
    name = daemon.readers()[0].name
    command = [sys.executable, CLIENTS / "sharing.py", name, "E5", "1000000"]
    with Background(command, tmp_path / "bystander", client_env(daemon.path)) as bystander:
        bystander.close_stdin()
        at = bystander.wait_for_line("so far")
        with WireClient(daemon.path) as idle:
            idle.establish()
            before = daemon.log
            with WireClient(daemon.path) as offender:
                offender.socket.sendall(garbage)
                assert offender.closed_by_daemon()
            new = wait_for(lambda: daemon.log[len(before) :].splitlines(), "a line in the log")
            # both other clients go on: the one in the middle of its work, and the one that was silent
            bystander.wait_for_line("so far", bystander.wait_for_line("so far", at))
            assert [state.name for state in idle.readers()] == [name]
        assert bystander.process.poll() is None
        assert daemon.log[len(before) :].splitlines() == new
        assert len(new) == 1
    assert "Traceback" not in daemon.log


def test_a_client_may_leave_in_the_middle_of_a_message(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--virtual", "hello", readers=1)
    message = struct.pack("=IIiiI", 12, 0x11, 4, 4, 0)
    for length in range(len(message)):
        with WireClient(daemon.path) as client:
            client.socket.sendall(message[:length])
    assert len(daemon.readers()) == 1
    assert "Traceback" not in daemon.log


def _absent(directory: Path, _: Callable[..., Path]) -> Path:
    return directory / "libabsent.so"


def _text(directory: Path, _: Callable[..., Path]) -> Path:
    library = directory / "libtext.so"
    library.write_text("This is not a shared library.\n" * 100)
    return library


def _other_class(directory: Path, compiled: Callable[..., Path]) -> Path:
    """A 32-bit library on a 64-bit machine, or the other way round: the header's class byte decides."""
    library = directory / "libother.so"
    image = bytearray(compiled("aborting_ifd.c", shared=True).read_bytes())
    image[4] ^= 3
    library.write_bytes(image)
    return library


def _no_power(_: Path, compiled: Callable[..., Path]) -> Path:
    return compiled("aborting_ifd.c", shared=True, flags=("-DNO_POWER",))


def _undefined(_: Path, compiled: Callable[..., Path]) -> Path:
    return compiled("aborting_ifd.c", shared=True, flags=("-DNEEDS_NOBODY", "-Wl,-z,now"))


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (_absent, "(?i)no such file|does not exist"),
        (_text, "(?i)elf|too short"),
        (_other_class, "(32|64)-bit library"),
        (_no_power, "IFDHPowerICC"),
        (_undefined, "a_function_that_nobody_has"),
    ],
)
def test_an_unusable_driver_is_named(
    start_daemon: Callable[..., Daemon],
    compiled: Callable[..., Path],
    short_dir: Path,
    library: Callable[[Path, Callable[..., Path]], Path],
    reason: str,
) -> None:
    """The daemon says which library and why, and serves the other readers of the same configuration."""
    if not VPCD_LIBRARY.exists():
        missing(f"{VPCD_LIBRARY} is not installed")
    path = library(short_dir, compiled)
    folder = short_dir / "conf.d"
    folder.mkdir()
    (folder / "bad").write_text(f'FRIENDLYNAME "Bad"\nLIBPATH {path}\nCHANNELID 1\n')
    port = free_ports(2)
    (folder / "good").write_text(
        f'FRIENDLYNAME "Good"\nDEVICENAME /dev/null:{port}\nLIBPATH {VPCD_LIBRARY}\nCHANNELID {port}\n'
    )
    daemon = start_daemon("-c", folder, "--virtual", "hello", readers=3)
    names = [state.name for state in daemon.readers()]
    assert not any(name.startswith("Bad") for name in names)
    assert sum(name.startswith("Good") for name in names) == 2
    lines = wait_for(lambda: [line for line in daemon.log.splitlines() if str(path) in line], "the reason")
    assert any(re.search(reason, line) for line in lines), daemon.log


def test_a_broken_configuration_file_is_named(start_daemon: Callable[..., Daemon], short_dir: Path) -> None:
    folder = short_dir / "conf.d"
    folder.mkdir()
    (folder / "broken").write_text('FRIENDLYNAME "No end\nLIBPATH\n!!\n')
    daemon = start_daemon("-c", folder, "--virtual", "hello", readers=1)
    assert any(str(folder / "broken") in line for line in daemon.log.splitlines()), daemon.log


def test_a_crash_of_a_native_driver(
    start_daemon: Callable[..., Daemon], native_conf: tuple[Path, Path], tmp_path: Path
) -> None:
    """abort() in a driver costs its own reader only, which comes back; later if it goes on like that."""
    folder, library = native_conf
    port = free_ports(1)
    daemon = start_daemon("-c", folder, "--vpcd", "1", "--vpcd-port", str(port), readers=2)
    emulator = Emulator(port, HelloCard())
    emulator.plug()
    try:
        states = daemon.wait_readers(lambda found: all(state.present for state in found), "two cards")
        native = next(state.name for state in states if state.name.startswith("Aborting"))
        other = next(state.name for state in states if state.name != native)
        exchange = [sys.executable, CLIENTS / "exchange.py"]
        hold = [sys.executable, CLIENTS / "hold.py", other]
        with Background(hold, tmp_path / "hold", client_env(daemon.path)) as bystander:
            bystander.wait_for_line("connected")
            powers = list(emulator.powers)
            pauses = []
            for _ in range(2):
                before = len(daemon.log)
                assert run_client(daemon, [*exchange, native, "00000000"]).stdout.endswith("answer 9000\n")
                crash = run_client(daemon, [*exchange, native, "DEAD0000"])
                assert crash.returncode != 0
                assert "answer" not in crash.stdout
                daemon.wait_readers(
                    lambda found: any(state.name == native and state.present for state in found),
                    "the reader is back",
                    timeout=30,
                )
                lines = [line for line in daemon.log[before:].splitlines() if library.name in line]
                assert any(re.search("SIGABRT|signal 6", line) for line in lines), daemon.log
                pauses += re.findall(r"again in ([0-9.]+) s", daemon.log[before:])
            assert [float(pause) for pause in pauses] == sorted({float(pause) for pause in pauses})
            assert len(pauses) == 2
            # the other reader noticed nothing: its card stayed powered, its client connected
            assert emulator.powers == powers
            bystander.close_stdin()
            assert bystander.wait() == 0, bystander.log
        result = run_client(daemon, [*exchange, other, "00000000"])
        assert result.stdout.endswith("answer 48656C6C6F20776F726C64219000\n")
    finally:
        emulator.unplug()
