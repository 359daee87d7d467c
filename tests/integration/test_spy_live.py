"""pypcscd spy at a running daemon: everybody is seen, nobody is slowed, a lazy watcher is dropped."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import CLIENTS, PYPCSCD, Background, Daemon, client_env, run_client, wait_for
from spying import PIN, SELECT, VERIFY, leaks, parse, read
from wire import WireClient

READER = "Virtual hello 00 00"


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    return start_daemon("-d", "--virtual", "hello", "--virtual", "sle4442", readers=2)


@contextmanager
def spying(daemon: Daemon, log: Path, *options: str | Path) -> Iterator[Background]:
    with Background([PYPCSCD, "spy", *options], log, client_env(daemon.path)) as spy:
        spy.wait_for_line("watching the clients")
        yield spy


def exchange(daemon: Daemon, *apdus: str, reader: str = "hello") -> int:
    """Run a program; its pid."""
    program = subprocess.Popen(
        [sys.executable, str(CLIENTS / "exchange.py"), reader, *apdus],
        env=client_env(daemon.path),
        stdout=subprocess.DEVNULL,
    )
    assert program.wait(20) == 0
    return program.pid


def test_the_proxy_and_the_daemon_tell_the_same(daemon: Daemon, tmp_path: Path) -> None:
    with spying(daemon, tmp_path / "live") as spy:
        command = [PYPCSCD, "spy", "-o", tmp_path / "proxy", "--", PYPCSCD, "apdu", SELECT, "00000000"]
        assert run_client(daemon, command).returncode == 0
        spy.wait_for_line(") SCardDisconnect")
        assert spy.end(signal.SIGINT) == 0
    live, proxied = parse(spy.log), parse(read(tmp_path / "proxy"))
    assert len(live) == len(proxied) == 6
    for one, other in zip(live, proxied, strict=True):
        assert (one.name, one.result, one.parameters) == (other.name, other.result, other.parameters)


def test_everybody_is_seen(daemon: Daemon, tmp_path: Path) -> None:
    with spying(daemon, tmp_path / "log") as spy:
        pids = {exchange(daemon, SELECT) for _ in range(3)}
        wait_for(lambda: spy.log.count(") SCardTransmit") == 3, "three exchanges are seen")
        assert spy.end(signal.SIGTERM) == 0
    assert {int(pid) for pid in re.findall(r"is .*, pid (\d+), uid", spy.log)} == pids
    assert "total time: " in spy.log


@pytest.mark.parametrize(
    "options", [(), ("--wire",), ("--json",)], ids=lambda options: "".join(options) or "text"
)
def test_the_pin_is_nowhere(daemon: Daemon, tmp_path: Path, options: tuple[str, ...]) -> None:
    files = ["-o", tmp_path / "out", "--record", tmp_path / "record", "--pcapng", tmp_path / "pcapng"]
    with spying(daemon, tmp_path / "log", *options, *files) as spy:
        exchange(daemon, SELECT, VERIFY, SELECT)
        wait_for(lambda: read(tmp_path / "pcapng").count("hello 00 00") >= 7, "all was written")
        assert spy.end(signal.SIGINT) == 0
    outputs = {path.name: read(path) for path in tmp_path.iterdir()} | {"daemon's log": daemon.log}
    assert {name: leaks(text) for name, text in outputs.items()} == {name: [] for name in outputs}
    assert SELECT in outputs["out"].replace(" ", "")


def spy_on(daemon: Daemon, **request: object) -> socket.socket:
    """A watcher by hand; its greeting and answer are read already."""
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(10)
    link.connect(str(daemon.path.with_suffix(".admin")))
    link.sendall(json.dumps({"id": 1, "request": "spy", **request}).encode() + b"\n")
    seen = b""
    while seen.count(b"\n") < 2:
        seen += link.recv(1)
    assert b"spying" in seen
    return link


def everything(link: socket.socket, closes: int) -> str:
    """All until so many connections have been closed."""
    seen = b""
    while seen.count(b'"close":') < closes:
        seen += link.recv(65536)
    return seen.decode()


def test_the_pin_is_not_on_the_admin_socket(daemon: Daemon) -> None:
    """The daemon itself hides it, before any tool does."""
    with spy_on(daemon) as watcher, spy_on(daemon, secrets=True) as trusted:
        exchange(daemon, VERIFY)
        assert leaks(everything(watcher, 2)) == []
        assert leaks(everything(trusted, 2)) != []
    assert "PINs included" in daemon.log


def test_filters(daemon: Daemon, tmp_path: Path) -> None:
    with (
        spying(daemon, tmp_path / "pid", "--pid", "1") as by_pid,
        spying(daemon, tmp_path / "uid", "--uid", "4711") as by_uid,
        spying(daemon, tmp_path / "reader", "--reader", "sle4442") as by_reader,
        spying(daemon, tmp_path / "all") as everyone,
    ):
        exchange(daemon, SELECT)
        exchange(daemon, "FFA400000106", reader="sle4442")
        wait_for(lambda: everyone.log.count(") SCardReleaseContext") >= 2, "both have been seen")
        by_reader.wait_for_line(") SCardDisconnect")
        for spy in (by_pid, by_uid, by_reader, everyone):
            assert spy.end(signal.SIGINT) == 0
    assert everyone.log.count(") SCardTransmit") == 2
    assert by_reader.log.count(") SCardTransmit") == 1
    assert "hello" not in by_reader.log
    assert "SCard" not in by_pid.log
    assert "SCard" not in by_uid.log


def test_a_connection_that_was_there_before(daemon: Daemon, tmp_path: Path) -> None:
    """Its dialect and its handles are told, so that its calls are understood."""
    program = [sys.executable, CLIENTS / "begin.py", READER]
    with Background(program, tmp_path / "program", client_env(daemon.path)) as client:
        client.wait_for_line("connected")
        with spying(daemon, tmp_path / "log", "--reader", READER) as spy:
            assert client.process.stdin is not None
            client.process.stdin.write(b"\n")
            client.process.stdin.flush()
            spy.wait_for_line(") SCardBeginTransaction")
            client.close_stdin()
            spy.wait_for_line(") SCardDisconnect")
            assert client.wait() == 0
            assert spy.end(signal.SIGINT) == 0
    assert f"pid {client.process.pid}" in spy.log
    assert [block.name for block in parse(spy.log)] == [
        "SCardBeginTransaction",
        "SCardEndTransaction",
        "SCardDisconnect",
    ]


def test_one_that_is_waiting_when_the_spy_comes(daemon: Daemon, tmp_path: Path) -> None:
    with WireClient(daemon.path) as client:
        client.establish()
        client.call(0x13, b"", 16 * 184)  # waits for a change from now on
        with spying(daemon, tmp_path / "log", "--wire") as spy:
            exchange(daemon)  # a user comes, and the wait ends
            assert client.receive(8) == bytes(8)
            assert len(client.readers()) == 2
            spy.wait_for_line("> GET_READERS_STATE [4.4]")
            wait_for(lambda: "Virtual sle4442 01 00: SCARD" in spy.log, "the table was understood")


def test_a_lazy_watcher_is_dropped(daemon: Daemon) -> None:
    """It asks for everything and reads nothing; the client does not notice."""
    with spy_on(daemon, secrets=True), spy_on(daemon) as diligent:
        diligent.setblocking(False)
        with WireClient(daemon.path) as client:
            client.establish()

            def dropped() -> bool:
                for _ in range(100):
                    client.readers()
                    try:
                        while diligent.recv(1 << 20):
                            pass
                    except BlockingIOError:
                        continue
                return "does not read what it asked for; it is dropped" in daemon.log

            wait_for(dropped, "the watcher is dropped", 30)
            client.readers()
            diligent.setblocking(True)
            assert diligent.recv(65536)
    assert daemon.log.count("is dropped") == 1


def test_nothing_is_left_of_a_watcher(daemon: Daemon, tmp_path: Path) -> None:
    """After the last one is gone, the sessions are as before; a new one begins anew."""
    with WireClient(daemon.path) as client:
        client.establish()
        for number in range(3):
            with spying(daemon, tmp_path / f"log{number}") as spy:
                client.readers()
                spy.wait_for_line(") SCardListReaders")
                assert spy.end(signal.SIGINT) == 0
            client.readers()


def test_the_end_of_the_daemon(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start_daemon("--virtual", "hello", readers=1)
    with spying(daemon, tmp_path / "log") as spy, WireClient(daemon.path) as client:
        client.establish()
        spy.wait_for_line(") SCardEstablishContext")
        daemon.stop()
        assert spy.wait() == 0
    assert "total time" in spy.log
    assert "Traceback" not in spy.log


def test_the_pin_that_this_file_looks_for() -> None:
    assert leaks(f"x{PIN.hex()}x")
