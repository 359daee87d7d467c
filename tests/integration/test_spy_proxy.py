"""pypcscd spy as a proxy: secrets, files, exit statuses, and what goes wrong."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from harness import CLIENTS, PYPCSCD, Background, Daemon, client_env, need, run_client, wait_for
from spying import PIN, SELECT, VERIFY, leaks, read

HEADER = struct.Struct("=II")


def spy_files(directory: Path, *options: str) -> list[str | Path]:
    return [
        PYPCSCD,
        "spy",
        *options,
        *("--output", directory / "out"),
        *("--record", directory / "record"),
        *("--pcapng", directory / "pcapng"),
    ]


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    return start_daemon("-d", "--virtual", "hello", readers=1)


@pytest.mark.parametrize(
    "options", [(), ("--wire",), ("--json",)], ids=lambda options: "".join(options) or "text"
)
def test_the_pin_is_nowhere(daemon: Daemon, tmp_path: Path, options: tuple[str, ...]) -> None:
    program = [sys.executable, CLIENTS / "exchange.py", "hello", SELECT, VERIFY]
    result = run_client(daemon, [*spy_files(tmp_path, *options), "--", *program])
    assert result.returncode == 0
    outputs = {path.name: read(path) for path in tmp_path.iterdir()} | {"stderr": result.stderr}
    outputs["daemon's log"] = daemon.log
    again = run_client(daemon, [PYPCSCD, "spy", *options, "--read", tmp_path / "record"])
    outputs["the recording, read again"] = again.stdout + again.stderr
    assert {name: leaks(text) for name, text in outputs.items()} == {name: [] for name in outputs}
    assert SELECT in outputs["out"].replace(" ", "")
    assert len(outputs["pcapng"]) > 300
    assert "8 secret bytes" in outputs["out"] or "**" in outputs["out"]


@pytest.mark.parametrize(
    "options", [(), ("--wire",), ("--json",)], ids=lambda options: "".join(options) or "text"
)
def test_the_pin_is_shown_on_demand(daemon: Daemon, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Which also shows that the test above looks for the right thing."""
    program = [sys.executable, CLIENTS / "exchange.py", "hello", SELECT, VERIFY]
    run_client(daemon, [*spy_files(tmp_path, "--show-secrets", *options), "--", *program])
    assert [path.name for path in tmp_path.iterdir() if not leaks(read(path))] == []
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("record", "pcapng")} == {0o600}


def test_json_is_one_object_per_call(daemon: Daemon) -> None:
    program = [sys.executable, CLIENTS / "exchange.py", "hello", SELECT]
    result = run_client(daemon, [PYPCSCD, "spy", "--json", "--", *program])
    calls = [json.loads(line) for line in result.stderr.splitlines()]
    assert [call["call"] for call in calls][-3:] == [
        "SCardTransmit",
        "SCardDisconnect",
        "SCardReleaseContext",
    ]
    transmit = calls[-3]
    sent = {parameter["name"]: parameter for parameter in transmit["in"]}
    assert sent["bSendBuffer"]["hex"] == SELECT
    assert transmit["reader"] == "Virtual hello 00 00"
    assert transmit["result"] == "SCARD_S_SUCCESS"
    assert transmit["executable"].rpartition("/")[2].startswith("python")
    assert transmit["pid"] > 0


def test_the_recording_tells_the_same(daemon: Daemon, tmp_path: Path) -> None:
    program = [sys.executable, CLIENTS / "exchange.py", "hello", SELECT, "00000000", VERIFY]
    run_client(daemon, [*spy_files(tmp_path), "--", *program])
    again = run_client(daemon, [PYPCSCD, "spy", "--read", tmp_path / "record"])

    def without_times(text: str) -> list[str]:
        calls = text.partition("\n\n")[0]
        return [line.partition("  [")[0] for line in calls.splitlines()]

    shown = without_times(read(tmp_path / "out"))
    assert len(shown) > 30
    assert without_times(again.stdout) == shown


def test_wireshark_dissects_the_packets(daemon: Daemon, tmp_path: Path) -> None:
    need("tshark")
    program = [sys.executable, CLIENTS / "exchange.py", "hello", SELECT, VERIFY, "00B0000010"]
    run_client(daemon, [*spy_files(tmp_path), "--", *program])
    fields = ("frame.protocols", "iso7816.apdu.ins", "iso7816.apdu.sw1", "iso7816.apdu.sw2", "frame.comment")
    columns = [word for field in fields for word in ("-e", field)]
    command = ["tshark", "-r", str(tmp_path / "pcapng"), "-T", "fields", *columns]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    print(result.stdout)
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows[0][0] == "exported_pdu"
    assert {row[0] for row in rows[1:]} == {"exported_pdu:iso7816"}
    assert [row[1] for row in rows[1::2]] == ["0xa4", "0x20", "0xb0"]
    assert [row[2] for row in rows[2::2]] == ["0x90", "0x6d", "0x6d"]
    assert all("Virtual hello 00 00" in row[4] for row in rows)


def test_an_answer_to_reset_is_dissected(daemon: Daemon, tmp_path: Path) -> None:
    need("tshark")
    run_client(daemon, [*spy_files(tmp_path), "--", sys.executable, CLIENTS / "exchange.py", "hello"])
    command = ["tshark", "-r", str(tmp_path / "pcapng"), "-V"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "Historical bytes: 68656c6c6f" in result.stdout


@pytest.mark.parametrize(
    ("command", "status"),
    [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -TERM $$"], 143), (["no-such-command"], 127)],
)
def test_the_exit_status_is_the_commands(daemon: Daemon, command: list[str], status: int) -> None:
    result = run_client(daemon, [PYPCSCD, "spy", "--", *command])
    assert result.returncode == status
    assert "Traceback" not in result.stderr


def test_no_daemon(short_dir: Path) -> None:
    result = subprocess.run(
        [PYPCSCD, "spy", "--socket", short_dir / "nowhere", "--", "touch", short_dir / "ran"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == 1
    assert "nowhere" in result.stderr
    assert "start one" in result.stderr
    assert not (short_dir / "ran").exists()


def test_a_recording_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"stream": "pypcscd-spy", "version": 1}\n{"data": 1}\n')
    command = [PYPCSCD, "spy", "--read", tmp_path / "file"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 1
    assert "file:2: " in result.stderr
    assert "Traceback" not in result.stderr


# --- the proxy itself -------------------------------------------------------------------------


@contextmanager
def proxy(upstream: Path, directory: Path, *options: str | Path) -> Iterator[tuple[Background, Path]]:
    path = directory / "spy.comm"
    env = client_env(None, {"PYTHONUNBUFFERED": "1"})
    command = [PYPCSCD, "spy", "--socket", upstream, "--proxy", path, *options]
    with Background(command, directory / "spy.log", env) as spy:
        spy.wait_for_line("watching ")
        yield spy, path


class FakeDaemon:
    """Accepts one client after the other and lets the test say what is answered."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes]) -> None:
        self.received = b""
        self._answer = answer
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection:
                    while data := connection.recv(65536):
                        self.received += data
                        connection.sendall(self._answer(data))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def echo(short_dir: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(short_dir / "daemon.comm", lambda data: data[::-1])
    yield daemon
    daemon.close()


def exchange(path: Path, *pieces: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        answer = b""
        for piece in pieces:
            client.sendall(piece)
            wanted = len(answer) + len(piece)
            while len(answer) < wanted:
                answer += client.recv(65536)
        return answer


def test_unknown_commands_pass_untouched(echo: FakeDaemon, short_dir: Path) -> None:
    unknown = HEADER.pack(6, 0x42) + b"secret"
    with proxy(short_dir / "daemon.comm", short_dir) as (spy, path):
        assert exchange(path, unknown, b"\0" * 9) == unknown[::-1] + b"\0" * 9
        spy.wait_for_line("unknown command 0x42 with 6 bytes")
        spy.end(signal.SIGINT)
    assert echo.received == unknown + b"\0" * 9
    assert "Traceback" not in spy.log


def test_what_is_not_understood_is_not_shown(echo: FakeDaemon, short_dir: Path) -> None:
    """It may hold anything."""
    unknown = HEADER.pack(8, 0x42) + PIN
    with proxy(short_dir / "daemon.comm", short_dir, "--wire", "--record", short_dir / "record") as (
        spy,
        path,
    ):
        exchange(path, unknown)
        spy.wait_for_line("unknown command 0x42")
        spy.wait_for_line("passed on as they are: it answers")
        spy.end(signal.SIGINT)
    assert leaks(spy.log) == []
    assert leaks(read(short_dir / "record")) == []


def test_half_a_message_and_a_death(daemon: Daemon, short_dir: Path) -> None:
    with proxy(daemon.path, short_dir) as (spy, path):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(HEADER.pack(12, 0x01) + b"\2\0\0")
        spy.wait_for_line("11 bytes that are passed on as they are: the connection ended within it")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(HEADER.pack(0, 0x13))
            client.recv(65536)
        spy.wait_for_line("it was still waiting when the connection ended")
        spy.wait_for_line("=> no result")


def test_a_call_that_the_daemon_does_not_survive(short_dir: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(short_dir / "daemon.comm"))
    listening.listen()
    with listening, proxy(short_dir / "daemon.comm", short_dir) as (spy, path):
        listening.accept()[0].close()  # the tool's own look
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(HEADER.pack(8, 0x07) + struct.pack("=iI", 7, 0))
            connection, _ = listening.accept()
            with connection:
                assert len(connection.recv(100)) == 16
            assert client.recv(100) == b""
        spy.wait_for_line("no answer: the daemon closed the connection")


def test_connections_are_told_apart(daemon: Daemon, short_dir: Path) -> None:
    with proxy(daemon.path, short_dir) as (spy, path):
        # not pyscard: its disconnection takes the card's power, and the others are told of a reset
        program = [str(PYPCSCD), "apdu", "--socket", str(path), "--reader", "Virtual hello", SELECT]
        programs = [subprocess.Popen(program, stdout=subprocess.DEVNULL) for _ in range(3)]
        assert [program.wait(20) for program in programs] == [0, 0, 0]
        spy.end(signal.SIGINT)
    owners = dict(re.findall(r"^\((\d+)\) is .*, pid (\d+), uid", spy.log, re.MULTILINE))
    users = [owners[number] for number in re.findall(r"^\((\d+)\) SCardTransmit$", spy.log, re.MULTILINE)]
    assert sorted(users) == sorted(str(program.pid) for program in programs)
    assert f"{len(owners)} connections, calls sorted" in spy.log


def test_a_watcher_that_does_not_read_stops_nobody(daemon: Daemon, short_dir: Path) -> None:
    """More is to be shown than a pipe takes, and nobody reads it until all is done."""
    path = short_dir / "spy.comm"
    spy = subprocess.Popen(
        [str(PYPCSCD), "spy", "--socket", str(daemon.path), "--proxy", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(path.exists, "the proxy listens")
        program = [sys.executable, str(CLIENTS / "exchange.py"), "hello", *["00000000"] * 1500]
        done = subprocess.run(program, env=client_env(path), capture_output=True, timeout=30, check=False)
        assert done.stdout.count(b"answer ") == 1500
        spy.send_signal(signal.SIGINT)
        shown, _ = spy.communicate(timeout=30)
        assert shown.count(b"(1) SCardTransmit\n") + shown.count(b"(2) SCardTransmit\n") == 1500
    finally:
        spy.kill()
        spy.wait()


def test_a_reader_of_the_output_that_goes_away(daemon: Daemon) -> None:
    """As with ``| head``: the command goes on, and nothing is said about it."""
    program = f"{sys.executable} {CLIENTS / 'exchange.py'} hello {'00000000 ' * 300}"
    script = f"({PYPCSCD} spy -- {program} >/dev/null; echo status $? >&3) 2>&1 | head -2"
    result = subprocess.run(
        ["sh", "-c", f"exec 3>&2; {script}"],
        env=client_env(daemon.path),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert result.stderr == "status 0\n"
    assert len(result.stdout.splitlines()) == 2


def test_many_bytes_at_once(echo: FakeDaemon, short_dir: Path) -> None:
    """Neither side is faster than the other for long; nothing is lost or reordered."""
    data = os.urandom(8 * 1024 * 1024)
    daemon = FakeDaemon(short_dir / "same.comm", lambda piece: piece)
    with proxy(short_dir / "same.comm", short_dir) as (_, path), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        sender = threading.Thread(target=lambda: client.sendall(data))
        sender.start()
        received = b""
        while len(received) < len(data):
            received += client.recv(1 << 20)
        sender.join()
    daemon.close()
    assert received == data


def test_a_socket_in_use(daemon: Daemon) -> None:
    result = run_client(daemon, [PYPCSCD, "spy", "--proxy", daemon.path])
    assert result.returncode == 1
    assert "choose another path" in result.stderr


def test_who_may_connect(daemon: Daemon, short_dir: Path) -> None:
    with proxy(daemon.path, short_dir) as (_, path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
