"""Sockets that the service manager hands over, and what it is told."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from activator import Activator, listen
from emulator import Emulator, HelloCard
from harness import CLIENTS, PYPCSCD, client_env, free_ports, need, wait_for
from wire import WireClient


class Manager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(10)

    def next(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(short_dir: Path) -> Iterator[Manager]:
    manager = Manager(short_dir / "notify")
    yield manager
    manager.close()


def reader_names(path: Path) -> list[str]:
    with WireClient(path, timeout=20) as client:
        client.establish()
        return [reader.name for reader in client.readers()]


def test_the_first_client_starts_it(short_dir: Path) -> None:
    """Those in the queue wait for the readers; the file is the service manager's before and after."""
    path = short_dir / "pcscd.comm"
    listening = listen(path)
    path.chmod(0o640)
    before = path.stat()
    with Activator([listening], ["--socket", path, "--virtual", "hello"], short_dir / "log") as activator:
        assert reader_names(path) == ["Virtual hello 00 00"]
        pid_path = path.with_suffix(".pid")
        wait_for(lambda: f"serving on {path}, 1 reader" in activator.log, "the line that it serves")
        os.kill(int(pid_path.read_text()), signal.SIGTERM)
        wait_for(lambda: activator.statuses, "the end")
        assert activator.statuses == [0]
        assert not pid_path.exists()
        # and the next one starts the next one
        assert reader_names(path) == ["Virtual hello 00 00"]
        assert activator.starts == 2
    after = path.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


#: a reader that takes as long as the test likes
SLOW = """
import time
from pathlib import Path
from pypcscd_virtual.cards import Hello

while not Path(__file__).with_name("go").exists():
    time.sleep(0.01)

class Slow(Hello):
    pass
"""


@pytest.mark.parametrize(("start_wait", "first"), [("0.1", []), ("30", ["Virtual Slow 00 00"])])
def test_how_long_the_queue_waits_for_the_readers(short_dir: Path, start_wait: str, first: list[str]) -> None:
    path = short_dir / "pcscd.comm"
    settings, go = short_dir / "settings.toml", short_dir / "go"
    settings.write_text(f"[limits]\nstart_wait = {start_wait}\n")
    (short_dir / "slowcard.py").write_text(SLOW)
    arguments = ["--socket", path, "--settings", settings, "--virtual", "slowcard:Slow"]
    env = {"PYTHONPATH": str(short_dir)}
    with Activator([listen(path)], arguments, short_dir / "log", env=env) as activator:
        with WireClient(path, timeout=20) as client:
            if first:
                go.touch()
            client.establish()
            assert [reader.name for reader in client.readers()] == first
        warning = "not ready after 0.1 s ([limits] start_wait), to be announced later: Virtual Slow"
        assert (warning in activator.log) is not bool(first)
        go.touch()
        wait_for(lambda: reader_names(path) == ["Virtual Slow 00 00"], "the reader")


def test_several_sockets_by_path(short_dir: Path) -> None:
    own, bank, other = (short_dir / name for name in ("pcscd.comm", "bank.comm", "other.comm"))
    settings = short_dir / "settings.toml"
    settings.write_text(f'[[socket]]\npath = "{bank}"\nreaders = ["* sle*"]\nmode = "0600"\n')
    arguments = ["--socket", own, "--settings", settings, "--virtual", "hello", "--virtual", "sle4442"]
    sockets = [listen(path) for path in (other, bank, own)]
    modes = [path.stat().st_mode for path in (own, bank, other)]
    with Activator(sockets, arguments, short_dir / "log") as activator:
        assert reader_names(bank) == ["Virtual sle4442 01 00"], activator.log
        assert len(reader_names(own)) == 2
        assert len(reader_names(other)) == 2, "one that is not configured shows everything"
        assert own.with_suffix(".admin").exists(), "beside the daemon's own, wherever that is in the list"
        assert [path.stat().st_mode for path in (own, bank, other)] == modes
    assert activator.statuses == [0], activator.log
    assert all(path.exists() for path in (own, bank, other))
    assert not own.with_suffix(".admin").exists()


@pytest.mark.parametrize("names", ["client:admin", ""])
def test_the_admin_socket_by_name_or_path(short_dir: Path, names: str) -> None:
    own = short_dir / "pcscd.comm"
    admin = short_dir / ("pcscd.control" if names else "pcscd.admin")
    sockets = [listen(own), listen(admin)]
    with Activator(sockets, ["--socket", own, "--virtual", "hello"], short_dir / "log", names=names):
        with socket.socket(socket.AF_UNIX) as tool:
            tool.settimeout(20)
            tool.connect(str(admin))
            assert b'"admin": "pypcscd"' in tool.recv(4096)
        assert len(reader_names(own)) == 1
    assert admin.exists()


def test_without_a_place_for_a_pid_file(short_dir: Path) -> None:
    """A daemon that was handed its socket serves it all the same."""
    folder = short_dir / "gone"
    folder.mkdir()
    path = folder / "pcscd.comm"
    listening = listen(path)
    moved = short_dir / "pcscd.comm"
    path.rename(moved)
    folder.rmdir()
    folder.write_text("not a directory")
    with Activator([listening], ["--virtual", "hello"], short_dir / "log") as activator:
        assert len(reader_names(moved)) == 1
        assert f"no pid file {folder / 'pcscd.pid'}" in activator.log
    assert activator.statuses == [0]


def test_two_daemons_on_one_inherited_socket(short_dir: Path) -> None:
    path = short_dir / "pcscd.comm"
    activator = Activator([listen(path)], ["--socket", path, "--virtual", "hello"], short_dir / "log")
    first = activator.start()
    assert len(reader_names(path)) == 1
    second = activator.start()
    assert second.wait(20) == 1
    assert f"a daemon (pid {first.pid}) is already running on {path}" in activator.log
    assert len(reader_names(path)) == 1
    first.terminate()
    assert first.wait(10) == 0
    with activator:
        pass


@pytest.mark.parametrize("kind", ["file", "datagram", "connected", "internet"])
def test_what_cannot_be_served_is_named(short_dir: Path, kind: str) -> None:
    pair = socket.socketpair()
    if kind == "file":
        descriptor = os.open(short_dir / "file", os.O_CREAT)
        given = socket.socket(fileno=os.dup(pair[0].fileno()))
        os.dup2(descriptor, given.fileno())
        os.close(descriptor)
    elif kind == "datagram":
        given = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        given.bind(str(short_dir / "datagram"))
    elif kind == "internet":
        given = socket.create_server(("127.0.0.1", 0))
    else:
        given = socket.socket(fileno=os.dup(pair[0].fileno()))
    activator = Activator([given], ["--virtual", "hello"], short_dir / "log")
    assert activator.start().wait(20) == 1
    assert "pypcscd: the descriptor 3 handed over by the service manager is no " in activator.log
    assert "Traceback" not in activator.log
    with activator:
        pass
    for end in pair:
        end.close()


def test_what_is_meant_for_another_process_is_left_alone(short_dir: Path) -> None:
    path = short_dir / "pcscd.comm"
    env = client_env(None, {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})
    command = [PYPCSCD, "-f", "--socket", path, "--virtual", "hello", "--auto-exit=0.1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0
    assert f"serving on {path}" in done.stdout


def test_what_the_service_manager_is_told(short_dir: Path, manager: Manager) -> None:
    path = short_dir / "pcscd.comm"
    settings = short_dir / "settings.toml"
    settings.write_text("")
    arguments = ["--socket", path, "--virtual", "hello", "--settings", settings]
    env = {"NOTIFY_SOCKET": str(manager.path)}
    activator = Activator([listen(path)], arguments, short_dir / "log", env=env)
    process = activator.start()
    serving = {"READY": "1", "STATUS": f"1 reader, 1 with a card, no clients; serving on {path}"}
    assert manager.next() == serving

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    process.send_signal(signal.SIGHUP)
    told = manager.next()
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert manager.next() == serving

    settings.write_text("[limits]\nclients = none\n")
    process.send_signal(signal.SIGHUP)
    assert manager.next()["RELOADING"] == "1"
    told = manager.next()
    assert told["READY"] == "1", "the daemon serves as before"
    failed = f"serving on {path}; reload failed: {settings}:2: "
    assert told["STATUS"].startswith(f"1 reader, 1 with a card, no clients; {failed}")
    with WireClient(path):
        # what is to be done about stays there
        assert manager.next()["STATUS"].startswith(f"1 reader, 1 with a card, 1 client; {failed}")

    process.terminate()
    assert manager.next() == {"STOPPING": "1", "STATUS": "stopping (SIGTERM)"}
    assert process.wait(10) == 0
    with activator:
        pass


def test_the_service_manager_is_told_who_is_there(short_dir: Path, manager: Manager) -> None:
    """Once a second at most, whatever happens."""
    path = short_dir / "pcscd.comm"
    port = free_ports(2)
    arguments = ["--socket", path, "--vpcd", "2", "--vpcd-port", str(port)]
    env = {"NOTIFY_SOCKET": str(manager.path)}
    activator = Activator([listen(path)], arguments, short_dir / "log", env=env)
    process = activator.start()
    where = f"serving on {path}"
    told = 0

    def wait_until_told(numbers: str) -> None:
        nonlocal told
        while True:
            told += 1
            if manager.next() == {"STATUS": f"{numbers}; {where}"}:
                return

    try:
        assert manager.next() == {"READY": "1", "STATUS": f"2 readers, no card, no clients; {where}"}
        since = time.monotonic()
        emulator = Emulator(port, HelloCard())
        emulator.plug()
        wait_until_told("2 readers, 1 with a card, no clients")
        second = Emulator(port + 1, HelloCard())
        second.plug()
        wait_until_told("2 readers, 2 with cards, no clients")
        emulator.unplug()
        second.unplug()
        wait_until_told("2 readers, no card, no clients")
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(WireClient(path)).establish()
            wait_until_told("2 readers, no card, 5 clients")
        wait_until_told("2 readers, no card, no clients")
        for _ in range(20):
            reader_names(path)
        with WireClient(path):
            wait_until_told("2 readers, no card, 1 client")
        assert 6 <= told <= time.monotonic() - since
    finally:
        process.terminate()
        assert process.wait(10) == 0
        with activator:
            pass


def test_an_abstract_notify_socket(short_dir: Path) -> None:
    name = f"\0{short_dir.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(10)
        env = client_env(None, {"NOTIFY_SOCKET": "@" + name[1:]})
        command = [PYPCSCD, "-f", "--socket", short_dir / "pcscd.comm", "--virtual", "hello", "-x", "0.1"]
        subprocess.run(command, env=env, capture_output=True, timeout=20, check=True)
        assert manager.recv(4096).startswith(b"READY=1\n")


def test_under_the_tool_of_systemd(short_dir: Path) -> None:
    """systemd-socket-activate starts it at the first connection, with the real protocol."""
    need("systemd-socket-activate")
    path = short_dir / "pcscd.comm"
    command = ["systemd-socket-activate", f"--listen={path}", PYPCSCD, "-f", "--socket", path, "-x", "0.2"]
    with subprocess.Popen([*command, "--virtual", "hello"], stdout=subprocess.DEVNULL) as activator:
        wait_for(path.exists, "the socket")
        program = [sys.executable, CLIENTS / "exchange.py", "Virtual", "00A4040006F00000000101"]
        done = subprocess.run(program, env=client_env(path), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert activator.wait(20) == 0
    assert path.exists()
