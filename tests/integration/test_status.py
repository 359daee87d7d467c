"""pypcscd status, and the admin socket that it asks."""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator import Emulator, HelloCard
from harness import (
    CLIENTS,
    PYPCSCD,
    Backend,
    Background,
    Daemon,
    children,
    client_env,
    free_ports,
    need,
    run_client,
    wait_for,
)
from wire import WireClient

CONNECT = struct.Struct("=I128sIIiII")
READER = "Virtual hello 00 00"
Start = Callable[..., Daemon]


def status(daemon: Daemon) -> dict[str, Any]:
    result = run_client(daemon, [PYPCSCD, "status", "--json"])
    assert result.returncode == 0
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def shown(daemon: Daemon) -> str:
    result = run_client(daemon, [PYPCSCD, "status"])
    assert result.returncode == 0
    return result.stdout


def client(daemon: Daemon, log: Path) -> Background:
    return Background([sys.executable, CLIENTS / "begin.py", READER], log, client_env(daemon.path))


def begin(program: Background) -> None:
    assert program.process.stdin is not None
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()


class Admin:
    """A connection to the admin socket, line by line."""

    def __init__(self, daemon: Daemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(daemon.path.with_suffix(".admin")))
        self.lines = self.socket.makefile("rb")

    def send(self, content: object) -> None:
        self.socket.sendall(json.dumps(content).encode() + b"\n")

    def next(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.lines.readline())
        return content

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@pytest.fixture
def daemon(start_daemon: Start) -> Daemon:
    return start_daemon("--virtual", "hello", readers=1)


@pytest.fixture
def admin(daemon: Daemon) -> Any:
    connection = Admin(daemon)
    yield connection
    connection.close()


def test_who_holds_and_who_waits(daemon: Daemon, tmp_path: Path) -> None:
    with client(daemon, tmp_path / "holder") as holder:
        holder.wait_for_line("connected")
        with client(daemon, tmp_path / "waiter") as waiter:
            waiter.wait_for_line("connected")
            begin(holder)
            holder.wait_for_line("begun")
            begin(waiter)

            def queued() -> dict[str, Any] | None:
                (reader,) = status(daemon)["readers"]
                return reader if reader["waiting"] else None

            reader = wait_for(queued, "the second one is in the queue")
            assert reader is not None
            assert reader["holder"]["pid"] == holder.process.pid
            assert [one["pid"] for one in reader["waiting"]] == [waiter.process.pid]
            assert reader["users"] == 2
            held, waited = reader["holder"]["seconds"], reader["waiting"][0]["seconds"]
            assert 0 < waited <= held < 60
            text = shown(daemon)
            held_by = re.search(r"held by \(\d+\) (\S+), pid (\d+) for ", text)
            waiting = re.search(r"waiting \(1\): \(\d+\) (\S+), pid (\d+) for ", text)
            assert held_by and int(held_by[2]) == holder.process.pid
            assert waiting and int(waiting[2]) == waiter.process.pid
            assert held_by[1] == os.path.realpath(sys.executable)
            later = wait_for(queued, "it still waits")
            assert later is not None
            assert later["holder"]["seconds"] > held
            holder.close_stdin()
            waiter.wait_for_line("begun")
            (reader,) = status(daemon)["readers"]
            assert reader["holder"]["pid"] == waiter.process.pid
            assert reader["waiting"] == []
            waiter.close_stdin()
            assert waiter.wait() == 0
    (reader,) = status(daemon)["readers"]
    assert (reader["holder"], reader["users"]) == (None, 0)


def test_who_waits_to_connect(daemon: Daemon, tmp_path: Path) -> None:
    """SCardConnect waits for a transaction to end, too."""
    with client(daemon, tmp_path / "holder") as holder:
        begin(holder)
        holder.wait_for_line("begun")
        with client(daemon, tmp_path / "waiter") as waiter:
            reader = wait_for(
                lambda: next((one for one in status(daemon)["readers"] if one["waiting"]), None),
                "somebody is in the queue",
            )
            assert reader is not None
            assert [one["pid"] for one in reader["waiting"]] == [waiter.process.pid]
            (busy,) = [one for one in status(daemon)["clients"] if one["busy"]]
            assert busy["pid"] == waiter.process.pid


def test_a_reader_and_its_card(daemon: Daemon) -> None:
    report = status(daemon)
    (reader,) = report["readers"]
    assert reader["name"] == READER
    assert reader["driver"] == "virtual"
    assert reader["card"] is True
    assert reader["atr_phrase"] == 'T=0 and T=1, "hello"'
    assert report["daemon"]["pid"] == daemon.process.pid
    assert [one["path"] for one in report["sockets"]] == [str(daemon.path)]
    assert report["helpers"] == []


def test_clients(daemon: Daemon, tmp_path: Path) -> None:
    with client(daemon, tmp_path / "log") as program:
        begin(program)
        program.wait_for_line("begun")
        clients = [one for one in status(daemon)["clients"] if one["handles"]]
        assert [one["pid"] for one in clients] == [program.process.pid]
        (known,) = clients
        assert known["uid"] == os.geteuid()
        assert re.fullmatch(r"4\.\d", known["dialect"])
        assert known["context"]
        assert [handle["reader"] for handle in known["handles"]] == [READER]
        assert known["byte_order"] == sys.byteorder
        program.close_stdin()
        assert program.wait() == 0


def test_requests_per_second(daemon: Daemon, admin: Admin) -> None:
    admin.next()
    with WireClient(daemon.path) as busy:
        busy.establish()
        admin.send({"id": 1, "request": "status", "measure": 0.3})
        sent = 0
        admin.socket.setblocking(False)
        while True:
            busy.readers()
            sent += 1
            try:
                if admin.socket.recv(1, socket.MSG_PEEK):
                    break
            except BlockingIOError:
                continue
        admin.socket.setblocking(True)
        (known,) = admin.next()["result"]["clients"]
        assert 0.3 * sent / 0.3 < known["requests_per_second"] < 1.5 * sent / 0.3
        admin.send({"id": 2, "request": "status"})
        (known,) = admin.next()["result"]["clients"]
        assert known["requests_per_second"] is None


def test_exclusive_use(daemon: Daemon) -> None:
    with WireClient(daemon.path) as user:
        body = CONNECT.pack(user.establish(), READER.encode(), 1, 3, 0, 0, 0)
        assert CONNECT.unpack(user.call(0x04, body, CONNECT.size))[-1] == 0
        (reader,) = status(daemon)["readers"]
        assert reader["exclusive"] is True
        assert reader["holder"]["pid"] == os.getpid()
        assert "in exclusive use by" in shown(daemon)


def test_a_native_driver(start_daemon: Start, native_conf: tuple[Path, Path]) -> None:
    folder, library = native_conf
    report = status(start_daemon("-c", folder, readers=1))
    (helper,) = children(report["daemon"]["pid"])
    assert report["helpers"] == [{"pid": helper, "library": str(library)}]
    assert report["readers"][0]["driver"].startswith("ifdhandler")


def test_watch(start_daemon: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    daemon = start_daemon("--vpcd", "1", "--vpcd-port", str(port), readers=1)
    emulator = Emulator(port, HelloCard())
    command = [PYPCSCD, "status", "--watch"]
    with Background(command, tmp_path / "log", client_env(daemon.path)) as watch:
        watch.wait_for_line("no card")
        emulator.plug()
        seen = watch.wait_for_line("card, powered")
        emulator.unplug()
        watch.wait_for_line("no card", seen)
        assert watch.end(signal.SIGINT) == 130
        assert "Traceback" not in watch.log


def test_events(start_daemon: Start) -> None:
    port = free_ports(1)
    daemon = start_daemon("--vpcd", "1", "--vpcd-port", str(port), readers=1)
    admin = Admin(daemon)
    admin.next()
    admin.send({"id": "x", "request": "watch"})
    assert admin.next() == {"id": "x", "result": "watching"}
    emulator = Emulator(port, HelloCard())
    emulator.plug()
    event = admin.next()
    assert (event["event"], event["atr"]) == ("card inserted", emulator.card.atr.hex().upper())
    emulator.unplug()
    assert admin.next() == {"event": "card removed", "reader": event["reader"]}
    admin.close()


# --- the socket -------------------------------------------------------------------------------


def test_the_greeting(admin: Admin) -> None:
    greeting = admin.next()
    assert (greeting["admin"], greeting["version"]) == ("pypcscd", 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "no valid request"),
        (b"[1]", "JSON object"),
        (b'{"id": 7, "request": "reboot"}', "there are status, watch, spy"),
        (b'{"id": 7}', "unknown request None"),
        (b'{"id": 7, "request": "spy", "pid": "all"}', "pid is a number"),
        (b'{"id": 7, "request": "spy", "pid": 1e999}', "no valid request"),
        (b"\xff\xfe", "no valid request"),
        (b"[" * 20000, "no valid request"),
    ],
)
def test_wrong_requests(daemon: Daemon, admin: Admin, line: bytes, reason: str) -> None:
    admin.next()
    admin.socket.sendall(line + b"\n")
    assert reason in admin.next()["error"]
    admin.send({"id": 8, "request": "status"})
    assert admin.next()["id"] == 8
    assert "Traceback" not in daemon.log


def test_a_request_without_end(daemon: Daemon, admin: Admin) -> None:
    admin.next()
    admin.socket.sendall(b"x" * 70000)
    assert "more than" in admin.next()["error"]
    assert admin.lines.readline() == b""


def test_nobody_else_may_use_it(daemon: Daemon, short_dir: Path) -> None:
    path = daemon.path.with_suffix(".admin")
    assert path.stat().st_mode & 0o777 == 0o660
    if os.geteuid() != 0:
        pytest.skip("needs another user")
    need("setpriv")
    short_dir.chmod(0o755)
    others = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    rights = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    command = [*others, *rights, "--bounding-set=-all,+dac_read_search", PYPCSCD, "status"]
    result = run_client(daemon, command)
    assert result.returncode == 1
    assert "root and the daemon's own user and group" in result.stderr
    # and the mode is not all that keeps them out
    path.chmod(0o666)
    result = run_client(daemon, command)
    assert result.returncode == 1
    assert "root and the daemon's own user and group" in result.stderr
    assert "was refused at the admin socket" in daemon.log


def test_no_daemon(short_dir: Path) -> None:
    command = [PYPCSCD, "status", "--socket", short_dir / "pcscd.comm"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 1
    assert "start one" in result.stderr


@pytest.mark.parametrize("backend", ["reference"], indirect=True)
def test_another_daemon(backend: Backend) -> None:
    result = backend.run([PYPCSCD, "status"])
    assert result.returncode == 1
    assert "is not pypcscd" in result.stderr


def test_the_socket_goes_with_the_daemon(start_daemon: Start) -> None:
    daemon = start_daemon("--virtual", "hello", readers=1)
    path = daemon.path.with_suffix(".admin")
    assert path.is_socket()
    daemon.stop()
    assert not path.exists()


def test_what_a_dead_daemon_left(start_daemon: Start, short_dir: Path) -> None:
    with Daemon(short_dir, ["--virtual", "hello"]) as daemon:
        daemon.wait_ready(1)
        daemon.end(signal.SIGKILL)
    assert daemon.path.with_suffix(".admin").is_socket()
    again = start_daemon("--virtual", "hello", readers=1)
    assert status(again)["daemon"]["pid"] == again.process.pid


def test_it_is_no_matter_of_life(start_daemon: Start, short_dir: Path) -> None:
    """A daemon that cannot have its admin socket serves all the same, and says so."""
    (short_dir / "pcscd.admin").mkdir()
    daemon = start_daemon("--virtual", "hello", readers=1)
    assert "no admin socket at" in daemon.log
    shutil.rmtree(short_dir / "pcscd.admin")
