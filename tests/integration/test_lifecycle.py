"""How a daemon starts beside what it finds, and what it leaves."""

import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator import Emulator, HelloCard, Power
from harness import (
    CLIENTS,
    PYPCSCD,
    VPCD_LIBRARY,
    Background,
    Daemon,
    client_env,
    free_ports,
    missing,
    wait_for,
)


def pid_file(daemon: Daemon) -> Path:
    return daemon.path.with_suffix(".pid")


def test_socket_and_pid_file(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--virtual", "hello", readers=1)
    mode = daemon.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o666
    assert int(pid_file(daemon).read_text()) == daemon.process.pid
    daemon.stop()
    assert not daemon.path.exists()
    assert not pid_file(daemon).exists()


def test_a_stale_socket_is_replaced(start_daemon: Callable[..., Daemon], short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_dir / "pcscd.comm"))
    daemon = start_daemon("--virtual", "hello", readers=1)
    assert daemon.process.poll() is None


def test_a_killed_daemon_is_succeeded(start_daemon: Callable[..., Daemon], short_dir: Path) -> None:
    with Daemon(short_dir, ["--virtual", "hello"]) as first:
        first.wait_ready(1)
        first.end(signal.SIGKILL)
        assert first.path.exists()
        assert pid_file(first).exists()
        second = start_daemon("--virtual", "hello", readers=1)
        assert int(pid_file(second).read_text()) == second.process.pid


def test_a_second_daemon_is_refused(start_daemon: Callable[..., Daemon], short_dir: Path) -> None:
    first = start_daemon("--virtual", "hello", readers=1)
    command = [PYPCSCD, "-f", "--socket", first.path]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode != 0
    assert "already running" in second.stderr
    assert str(first.process.pid) in second.stderr
    assert "Traceback" not in second.stderr
    # and the first one is none the worse for it
    assert first.path.exists()
    assert pid_file(first).exists()
    assert len(first.readers()) == 1


def test_a_socket_that_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    command = [PYPCSCD, "-f", "--socket", path / "pcscd.comm"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode > 0
    assert str(path / "pcscd.comm") in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("driver", ["vpcd", "native"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_cards_are_powered_off_at_the_end(
    short_dir: Path, tmp_path: Path, driver: str, signum: signal.Signals
) -> None:
    """Also when a client still holds one."""
    port = free_ports(2)
    args = ["--vpcd", "1", "--vpcd-port", str(port)]
    if driver == "native":
        if not VPCD_LIBRARY.exists():
            missing(f"{VPCD_LIBRARY} is not installed")
        conf = tmp_path / "vpcd"
        conf.write_text(f'FRIENDLYNAME "Vpcd"\nDEVICENAME /dev/null:{port}\nLIBPATH {VPCD_LIBRARY}\n')
        args = ["-c", str(conf)]
    emulator = Emulator(port, HelloCard())
    with Daemon(short_dir, args) as daemon:
        daemon.wait_ready(1 if driver == "vpcd" else 2)
        emulator.plug()
        try:
            name = next(s.name for s in daemon.wait_readers(lambda r: r and r[0].present, "a card"))
            hold = [sys.executable, CLIENTS / "hold.py", name]
            with Background(hold, tmp_path / "hold", client_env(daemon.path)) as client:
                client.wait_for_line("connected")
                assert emulator.powers[-1] != Power.OFF
                begin = time.monotonic()
                status = daemon.end(signum)
                assert time.monotonic() - begin < 3
                assert status == 0, daemon.log
                wait_for(lambda: emulator.powers[-1] == Power.OFF, "the power-off")
                client.end(signal.SIGKILL)
        finally:
            emulator.unplug()
        assert not daemon.path.exists()
        assert not pid_file(daemon).exists()
        assert "Traceback" not in daemon.log
