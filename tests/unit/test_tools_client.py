"""Our tools' own client against daemons that speak another version."""

import socket
import threading
from pathlib import Path

from pypcscd.protocol import DIALECTS, Command, ServerConnection
from pypcscd.protocol.messages import EstablishContext, Version
from pypcscd.scard import ReaderStatus
from pypcscd.tools.client import Client

READERS = (ReaderStatus("Reader 00 00", 0, 2),)


def serve_as_2_4_1(listening: socket.socket) -> None:
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
                client.sendall(connection.reply_readers(connection.codec.encode_table(READERS, 16)))


def test_daemon_that_accepts_a_newer_client_in_its_own_version(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    server = threading.Thread(target=serve_as_2_4_1, args=(listening,))
    server.start()
    client = Client(path)
    try:
        assert client.readers() == READERS
    finally:
        client.close()
        server.join()
