"""Our tools' own client against daemons that speak another version."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pypcscd import cli
from pypcscd.protocol import DIALECTS, Command, ServerConnection
from pypcscd.protocol.messages import EstablishContext, Version
from pypcscd.scard import ReaderStatus, ReturnCode
from pypcscd.tools.client import Client, ClientError, why_unreachable

READERS = (ReaderStatus("Reader 00 00", 0, 2),)


def serve_as_2_4_1(listening: socket.socket, readers: tuple[ReaderStatus, ...] = READERS) -> None:
    """One client: any minor version from 4 on is accepted, and answered with 4.5, which then counts."""
    connection = ServerConnection()
    connection.select_dialect(DIALECTS[4, 5])
    with listening, listening.accept()[0] as client:
        while data := client.recv(4096):
            connection.receive_data(data)
            request = connection.next_request()
            if request is None:
                continue
            if request.command is Command.VERSION:
                client.sendall(connection.reply(Version(4, 5)))
            elif request.command is Command.ESTABLISH_CONTEXT:
                client.sendall(connection.reply(EstablishContext(2, 7)))
            else:
                client.sendall(connection.reply_readers(connection.codec.encode_table(readers, 16)))


def refuse(listening: socket.socket) -> None:
    """One client, who is denied access."""
    connection = ServerConnection()
    with listening, listening.accept()[0] as client:
        connection.receive_data(client.recv(4096))
        assert connection.next_request() is not None
        client.sendall(connection.reply(Version(4, 6, ReturnCode.W_SECURITY_VIOLATION)))


def hang_up(listening: socket.socket) -> None:
    """One client, whose first words are not even read."""
    with listening, listening.accept()[0]:
        pass


def speak_otherwise(listening: socket.socket) -> None:
    with listening, listening.accept()[0] as client:
        client.sendall(b'{"admin": "pypcscd", "version": 1}')
        client.recv(4096)


Served = Callable[[Callable[[socket.socket], None]], Path]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Serves one client; gives the path of the socket."""
    path = tmp_path / "socket"
    servers: list[threading.Thread] = []

    def serve(how: Callable[[socket.socket], None]) -> Path:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
        servers.append(threading.Thread(target=how, args=(listening,)))
        servers[0].start()
        return path

    yield serve
    for server in servers:
        server.join()


def test_daemon_that_accepts_a_newer_client_in_its_own_version(served: Served) -> None:
    client = Client(served(serve_as_2_4_1))
    try:
        assert client.readers() == READERS
    finally:
        client.close()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (refuse, "access to {} was denied; the daemon's log says"),
        (hang_up, "the daemon on {} closed the connection; its log says why"),
        (speak_otherwise, "what listens on {} is no PC/SC daemon"),
    ],
)
def test_daemon_that_does_not_serve_us(
    served: Served, how: Callable[[socket.socket], None], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = served(how)
    assert cli.main(["scan", "--socket", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"pypcscd scan: {why.format(path)}")


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / (107 * "x")
    with pytest.raises(ClientError, match="a socket's path has 107 bytes at most"):
        Client(path)


def test_nothing_is_said_of_starting_a_daemon_to_who_may_not_reach_it() -> None:
    told = why_unreachable(Path("/run/socket"), PermissionError(13, "Permission denied"))
    assert told == "you may not open /run/socket, or a folder on the way to it: become a user who may"


# --- names that are no text, or more than that ----------------------------------------------------


def serve_named(name: str) -> Callable[[socket.socket], None]:
    return lambda listening: serve_as_2_4_1(listening, (ReaderStatus(name, 0, 2),))


@pytest.mark.parametrize(
    ("name", "encoding", "shown"),
    [
        # reader.conf in Latin-1: FRIENDLYNAME "Lesegerät"
        ("Leseger\udce4t 00 00", "utf-8", "Leseger?t 00 00"),
        ("Leser \N{SNOWMAN} 00 00", "latin-1", "Leser \\u2603 00 00"),
    ],
)
def test_scan_shows_letters_that_the_terminal_has_not(
    served: Served, name: str, encoding: str, shown: str
) -> None:
    path = served(serve_named(name))
    program = "import sys; from pypcscd.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "scan", "--socket", str(path)],
        # as in any locale but C.UTF-8
        env=os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"0: {shown}\n")


def test_scan_sends_no_commands_to_the_terminal(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    path = served(serve_named("Evil\x1b[2J 00 00"))
    assert cli.main(["scan", "--socket", str(path)]) == 0
    assert capfd.readouterr().out.startswith("0: Evil?[2J 00 00\n")
