"""The daemon leaves when nobody has been connected for some time, and nobody is lost by it."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from activator import Activator, listen
from harness import CLIENTS, PYPCSCD, Background, Daemon, client_env, wait_for
from wire import WireClient


def wait_for_end(daemon: Daemon) -> None:
    wait_for(lambda: daemon.process.poll() is not None, "the daemon's end")
    assert daemon.process.returncode == 0, daemon.log
    assert not daemon.path.exists()


def test_it_ends_also_if_nobody_ever_came(short_dir: Path) -> None:
    with Daemon(short_dir, ["--virtual", "hello", "--auto-exit=0.3"]) as daemon:
        wait_for_end(daemon)
        assert "stopping (no client for 0.3 s)" in daemon.log


def test_it_stays_while_somebody_is_connected(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--virtual", "hello", "-x", "1", readers=None)
    wait_for(daemon.path.exists, "the socket")
    with WireClient(daemon.path):
        with WireClient(daemon.path) as second:
            second.establish()
        # a connection counts, whether or not it has a context
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(3)
    left = time.monotonic()
    wait_for_end(daemon)
    assert time.monotonic() - left > 0.9, "the whole time is counted from the last client on"


def test_the_admin_socket(start_daemon: Callable[..., Daemon]) -> None:
    """Who only asks does not keep the daemon; who watches does."""
    daemon = start_daemon("--virtual", "hello", "-x", "2", readers=1)
    args = [PYPCSCD, "spy", "--socket", daemon.path]
    with ExitStack() as stack:
        bridge = stack.enter_context(WireClient(daemon.path))
        log = daemon.path.with_name("spy.log")
        spy = stack.enter_context(Background(args, log, client_env(daemon.path)))
        # it watches when it shows what is said
        wait_for(lambda: daemon.readers() and spy.log, "the spy")
        bridge.socket.close()
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(5)
        spy.end()
    asked = [PYPCSCD, "status", "--socket", daemon.path]
    while daemon.process.poll() is None:
        subprocess.run(asked, capture_output=True, check=False, timeout=20)
    wait_for_end(daemon)


def test_no_client_is_lost_around_the_exit(short_dir: Path) -> None:
    """Clients come just when the daemon leaves; each is served, by this daemon or by the next one."""
    path = short_dir / "pcscd.comm"
    period = 0.1
    failures: list[str] = []
    served: list[int] = []
    deadline = time.monotonic() + 20

    def come_and_go(number: int) -> None:
        generator = random.Random(number)
        while time.monotonic() < deadline:
            try:
                with WireClient(path, timeout=20) as client:
                    client.establish()
                    readers = client.readers()
                served.append(len(readers))
            except (OSError, EOFError) as error:
                failures.append(f"{number}: {error!r}")
            # together they leave pauses of about the time after which it exits
            threading.Event().wait(period * generator.uniform(0.9, 1.1) if generator.random() < 0.7 else 0)

    listening = listen(path)
    inode = path.stat().st_ino
    arguments = ["--socket", path, "--virtual", "hello", f"--auto-exit={period}"]
    with Activator([listening], arguments, short_dir / "daemons.log") as activator:
        clients = [threading.Thread(target=come_and_go, args=(number,)) for number in range(2)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert failures == [], activator.log
    assert set(served) == {1}
    assert activator.starts >= 3, "the exit was not met often enough to say anything"
    assert set(activator.statuses) == {0}, activator.log
    assert "Traceback" not in activator.log
    assert path.stat().st_ino == inode


def test_programs_do_not_notice(short_dir: Path) -> None:
    """The same with the real library: one program after another starts the daemon anew."""
    path = short_dir / "pcscd.comm"
    arguments = ["--socket", path, "--virtual", "hello", "--auto-exit=0.05"]
    with Activator([listen(path)], arguments, short_dir / "daemons.log") as activator:
        for round_ in range(1, 6):
            command = [sys.executable, CLIENTS / "exchange.py", "Virtual", "00A4040006F00000000101"]
            done = subprocess.run(
                command, env=client_env(path), capture_output=True, text=True, check=False, timeout=30
            )
            assert done.returncode == 0, done.stdout + done.stderr + activator.log
            wait_for(lambda n=round_: len(activator.statuses) == n, "the exit")  # type: ignore[misc]
    assert set(activator.statuses) == {0}
