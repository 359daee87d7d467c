"""How a daemon starts beside what it finds, and what it leaves."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from emulator import Emulator, HelloCard, Power
from harness import (
    CLIENTS,
    PYPCSCD,
    VPCD_LIBRARY,
    Background,
    Daemon,
    alive,
    client_env,
    free_ports,
    missing,
    run_client,
    wait_for,
)
from wire import WireClient

from pypcscd.scard import PcscError
from pypcscd.tools.client import Client


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


def test_it_does_not_take_the_processor_from_clients(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--virtual", "hello", readers=1)
    assert os.sched_getscheduler(daemon.process.pid) == os.SCHED_BATCH


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


# --- in the background ------------------------------------------------------------------------


@pytest.fixture
def background(short_dir: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Start a daemon without -f; whatever is left of it at the end is ended."""
    path = short_dir / "pcscd.comm"

    def start(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        command = [PYPCSCD, "--socket", path, *words]
        # whoever waits for the end of the output waits for ever if the daemon holds on to it
        return subprocess.run(
            command, env=client_env(None, env), capture_output=True, text=True, timeout=20, check=False
        )

    yield start
    pid_path = path.with_suffix(".pid")
    if pid_path.exists():
        pid = int(pid_path.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid), "the end of the daemon in the background")


def test_in_the_background(
    short_dir: Path, background: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Who started it goes on when the daemon serves, and the daemon has left terminal and directory."""
    done = background("--virtual", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with WireClient(short_dir / "pcscd.comm", timeout=1) as client:
        client.establish()
        assert [reader.present for reader in client.readers()] == [True]
    pid = int((short_dir / "pcscd.pid").read_text())
    process = Path(f"/proc/{pid}")
    assert os.getsid(pid) == pid
    assert (process / "cwd").readlink() == Path("/")
    assert {str((process / "fd" / str(number)).readlink()) for number in range(3)} == {"/dev/null"}
    os.kill(pid, signal.SIGHUP)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid), "the end")
    assert list(short_dir.iterdir()) == []


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-", ">&-"])
@pytest.mark.parametrize("options", ["", "-f"])
def test_whoever_starts_it_may_have_closed_everything(short_dir: Path, closed: str, options: str) -> None:
    path = short_dir / "pcscd.comm"
    command = f'exec "$0" {options} --socket {path} --virtual hello {closed}'
    process = subprocess.Popen(["sh", "-c", command, PYPCSCD])
    try:
        if not options:
            assert process.wait(20) == 0
        wait_for(path.with_suffix(".admin").exists, "the daemon")
        with WireClient(path, timeout=5) as client:
            client.establish()
            assert [reader.present for reader in client.readers()] == [True]
        pid = int((short_dir / "pcscd.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        if options:
            assert process.wait(20) == 0
        wait_for(lambda: not alive(pid), "the end")
        assert list(short_dir.iterdir()) == []
    finally:
        process.kill()
        process.wait()


def test_in_the_background_it_says_why_it_does_not_start(
    short_dir: Path, background: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert background("--virtual", "hello").returncode == 0
    second = background("--virtual", "hello")
    assert second.returncode == 1
    assert "already running" in second.stderr


def test_a_death_without_a_word(short_dir: Path) -> None:
    """pcscd's exit status for it."""
    kill = "import os; os.kill(os.getpid(), 9)"
    (short_dir / "deadly.py").write_text(f"{kill}\nclass Card: pass\n")
    command = [PYPCSCD, "--socket", short_dir / "pcscd.comm", "--virtual", "deadly:Card"]
    done = subprocess.run(command, cwd=short_dir, capture_output=True, timeout=20, check=False)
    assert done.returncode == 2


def test_a_command_line_is_refused_as_by_pcscd(short_dir: Path) -> None:
    program = shutil.which("pcscd", path="/usr/sbin:/sbin")
    if program is None:
        missing("pcscd is not installed")
    for words in (["--bogus"], ["surplus"], ["-t"], ["-h"], ["--version"], ["-H"], ["-fH"]):
        ours, theirs = (
            subprocess.run(
                ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /run; exec "$0" "$@"', one, *words],
                capture_output=True,
                timeout=20,
                check=False,
            )
            for one in (PYPCSCD, program)
        )
        assert ours.returncode == theirs.returncode, (words, ours, theirs)


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM])
def test_an_orderly_end_is_a_success(start_daemon: Callable[..., Daemon], signum: signal.Signals) -> None:
    daemon = start_daemon("--virtual", "hello", readers=1)
    with WireClient(daemon.path) as client:
        client.establish()
        assert daemon.end(signum) == 0
        assert client.closed_by_daemon()
    assert f"stopping ({signum.name})" in daemon.log
    assert not daemon.path.exists()


def test_signals_that_end_nothing(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--virtual", "hello", readers=1)
    for signum in (signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
        daemon.process.send_signal(signum)
    daemon.wait_for_line("looking for readers (SIGUSR1)")
    daemon.wait_for_line("reloaded")
    assert len(daemon.readers()) == 1


def test_signals_before_it_serves_end_nothing(short_dir: Path) -> None:
    """Also those that come before there is an event loop. SIGUSR1 is the last that it learns to ignore."""
    with Daemon(short_dir, ["--virtual", "hello"]) as daemon:
        wait_for(
            lambda: ignores(daemon.process.pid, signal.SIGUSR1) or daemon.path.exists(), "the first moments"
        )
        for signum in (signal.SIGHUP, signal.SIGUSR1):
            daemon.process.send_signal(signum)
        daemon.wait_ready(1)
        daemon.stop()


def ignores(pid: int, signum: int) -> bool:
    line = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")
    )
    return bool(int(line.split()[1], 16) & 1 << signum - 1)


def test_hotplug_option(start_daemon: Callable[..., Daemon], short_dir: Path) -> None:
    command = [PYPCSCD, "--socket", short_dir / "pcscd.comm", "--hotplug"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "no daemon is running on" in done.stderr
    daemon = start_daemon("--virtual", "hello", readers=1)
    assert subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    daemon.wait_for_line("looking for readers (SIGUSR1)")
    daemon.stop()
    # the number in a pid file that was left behind may be anybody's
    with subprocess.Popen(["sleep", "60"]) as innocent:
        pid_file(daemon).write_text(f"{innocent.pid}\n")
        assert subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 1
        assert innocent.poll() is None
        innocent.kill()


def test_a_given_up_reader_is_tried_again(
    start_daemon: Callable[..., Daemon], native_conf: tuple[Path, Path]
) -> None:
    """A driver that is broken is given up; once it is repaired, SIGUSR1 is enough."""
    folder, library = native_conf
    good = library.with_name("repaired.so")
    good.write_bytes(b"no library")
    (folder / "aborting").write_text(f'FRIENDLYNAME "Broken"\nLIBPATH {good}\nCHANNELID 1\n')
    daemon = start_daemon("-c", folder, readers=None)
    daemon.wait_for_line("serving on")
    assert daemon.readers() == []
    # not written over: that file may be in use
    fresh = good.with_name("fresh.so")
    fresh.write_bytes(library.read_bytes())
    fresh.rename(good)
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.wait_ready(1)


#: a card that keeps the whole daemon busy when it is to be powered off
STUBBORN = """
import time
from pypcscd_virtual.card import Card as Base

class Card(Base):
    def power_off(self):
        while True:
            time.sleep(0.1)
"""
#: one that keeps only itself busy
SLOW = """
import asyncio
from pypcscd_virtual.card import Card as Base

class Card(Base):
    async def power_off(self):
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
"""


@pytest.mark.parametrize(
    ("card", "times", "why"),
    [
        (STUBBORN, 1, "a device did not close within"),
        (SLOW, 1, "a device did not close within"),
        (SLOW, 3, "it was told so three times"),
    ],
)
def test_the_end_comes_in_any_case(short_dir: Path, card: str, times: int, why: str) -> None:
    (short_dir / "stubborn.py").write_text(card)
    path, log = short_dir / "pcscd.comm", short_dir / "log"
    command = ["sh", "-c", f'cd {short_dir}; exec "$0" "$@"', PYPCSCD, "-f", "--socket", path]
    with Background([*command, "--virtual", "stubborn:Card"], log, client_env(None)) as daemon:
        daemon.wait_for_line("serving on")
        for number in range(times):
            daemon.process.send_signal(signal.SIGTERM)
            # signals of one kind that come together are one
            daemon.wait_for_line(("stopping", "one more", "ended")[number])
        assert daemon.wait(15) == 1
    assert f"ended at once because {why}" in daemon.log
    assert not path.exists()
    assert not path.with_suffix(".pid").exists()


# --- log lines --------------------------------------------------------------------------------


def test_apdus_are_logged_at_every_level(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("-C", "-a", "--virtual", "hello", readers=1)
    command = [sys.executable, CLIENTS / "exchange.py", "hello"]
    done = run_client(daemon, [*command, "00A4040006F00000000101", "0020000104313233FF"])
    assert done.returncode == 0
    daemon.wait_for_line("APDU: 00 A4 04 00 06 F0 00 00 00 01 01\n")
    daemon.wait_for_line("SW: 6A 82\n")
    daemon.wait_for_line("APDU: 00 20 00 01 04 ** ** ** **\n")
    assert "31 32 33" not in daemon.log
    assert "serving on" not in daemon.log


#: a card that answers nothing, and names another number each time
FAILING = """
from pypcscd.driver import DriverError, Reason
from pypcscd_virtual.card import Card as Base

class Card(Base):
    count = 0

    def transmit(self, apdu):
        Card.count += 1
        raise DriverError(Reason.COMMUNICATION, f"frame {Card.count} has {Card.count:02X}")
"""


def test_a_card_that_always_fails_does_not_fill_the_log(short_dir: Path) -> None:
    (short_dir / "failing.py").write_text(FAILING)
    path, log = short_dir / "pcscd.comm", short_dir / "log"
    command = ["sh", "-c", f'cd {short_dir}; exec "$0" "$@"', PYPCSCD, "-f", "--socket", path]
    with Background([*command, "--virtual", "failing:Card"], log, client_env(None)) as daemon:
        daemon.wait_for_line("serving on")
        began = time.monotonic()
        for _ in range(3):
            # each time another client
            client = Client(path)
            with client.card("Virtual Card 00 00") as (card, protocol):
                for _ in range(500):
                    with pytest.raises(PcscError):
                        client.transmit(card, protocol, bytes(5))
            client.close()
        took = time.monotonic() - began
        lines = re.findall("SCardTransmit by client .* failed", daemon.log)
        # five in each ten seconds, and how many they were
        assert 5 <= len(lines) <= 6 * (took // 10 + 2)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0
    said = [int(number.replace(",", "")) for number in re.findall(r"said ([\d,]+) times more", daemon.log)]
    assert sum(said) + daemon.log.count("SCardTransmit by client") - len(said) == 1500


def test_who_does_not_want_to_read_on_ends_nothing(short_dir: Path) -> None:
    """``pypcscd -f | head``."""
    path = short_dir / "pcscd.comm"
    command = [str(PYPCSCD), "-f", "--socket", str(path), "--virtual", "hello"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert daemon.stderr is not None
        daemon.stdout.readline()
        daemon.stdout.close()
        wait_for(path.exists, "the socket")
        daemon.send_signal(signal.SIGUSR1)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10) == 0
        assert daemon.stderr.read() == ""
