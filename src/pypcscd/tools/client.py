"""A small blocking PC/SC client for our own tools; it speaks to our daemon and to pcscd."""

import os
import socket
from argparse import ArgumentParser, _ArgumentGroup
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pypcscd.configuration.config import DEFAULT_SOCKET
from pypcscd.paths import excess
from pypcscd.protocol import DIALECTS, ClientConnection, Command, ReaderEvent, Reply
from pypcscd.protocol.dialects import NEWEST
from pypcscd.protocol.messages import (
    Connect,
    Disconnect,
    EstablishContext,
    Message,
    Transmit,
    Version,
    Waiting,
)
from pypcscd.scard import (
    MAX_BUFFER_SIZE_EXTENDED,
    Disposition,
    PcscError,
    Protocol,
    ReaderStatus,
    ReturnCode,
    Scope,
    ShareMode,
)

Body = TypeVar("Body", bound=Message)


class ClientError(Exception):
    """The daemon cannot be reached or understood; the message says what to do."""


def default_socket() -> Path:
    """Where libpcsclite would connect to."""
    return Path(os.environ.get("PCSCLITE_CSOCK_NAME") or DEFAULT_SOCKET)


def why_unreachable(path: Path, error: OSError) -> str:
    """Why a daemon's socket cannot be connected to, and what to do."""
    if too_long := excess(path):
        return f"{path}: {too_long}"
    if isinstance(error, PermissionError):
        return f"you may not open {path}, or a folder on the way to it: become a user who may"
    return (
        f"no daemon answers on {path}: {error.strerror or error}; start one, "
        "or name its socket with --socket or PCSCLITE_CSOCK_NAME"
    )


def add_socket_option(parser: ArgumentParser | _ArgumentGroup) -> None:
    """``--socket``, by which every tool finds its daemon."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=Path,
        default=default_socket(),
        help="the daemon's client socket (%(default)s)",
    )


class Client:
    """One context. Failed calls raise PcscError."""

    def __init__(self, path: Path) -> None:
        self._connection = ClientConnection()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise ClientError(why_unreachable(path, error)) from error
        self._path = path
        try:
            self._choose_dialect()
            self._context = self._ask(Command.ESTABLISH_CONTEXT, EstablishContext(Scope.SYSTEM)).context
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def readers(self) -> tuple[ReaderStatus, ...]:
        """What SCardListReaders and SCardGetStatusChange are made of."""
        if not self._connection.dialect.counted_table:
            return self._exchange(Command.GET_READERS_STATE).readers
        self._exchange(Command.READERS_STATE_SIZE)
        return self._exchange(Command.READERS_STATE_ARRAY).readers

    def changes(self) -> Iterator[tuple[ReaderStatus, ...]]:
        """The readers now, and again after each change."""
        while True:
            first = self._start_waiting()
            yield first
            while (event := self._connection.next_event()) is None:
                self._receive()
            assert isinstance(event, ReaderEvent)

    def _start_waiting(self) -> tuple[ReaderStatus, ...]:
        command = Command.WAIT_READER_STATE_CHANGE
        if self._connection.dialect.counted_table:
            self._send(self._connection.request(command))
            return self.readers()
        return self._exchange(command).readers

    @contextmanager
    def card(self, reader: str) -> Iterator[tuple[int, Protocol]]:
        """A shared connection to the card in a reader: its handle and protocol."""
        name = reader.encode("utf-8", "surrogateescape")
        connected = self._ask(
            Command.CONNECT, Connect(self._context, name, ShareMode.SHARED, Protocol.T0 | Protocol.T1)
        )
        try:
            yield connected.card, Protocol(connected.active_protocol)
        finally:
            self._ask(Command.DISCONNECT, Disconnect(connected.card, Disposition.LEAVE))

    def transmit(self, card: int, protocol: Protocol, apdu: bytes) -> bytes:
        """Send a command APDU; returns the response with its status word."""
        pci_length = 16
        body = Transmit(card, protocol, pci_length, len(apdu), protocol, pci_length, MAX_BUFFER_SIZE_EXTENDED)
        reply = self._exchange(Command.TRANSMIT, body, apdu)
        self._check(reply.body)
        return reply.data

    def _choose_dialect(self) -> None:
        """Speak the newest version that the daemon speaks too: its answer names one."""
        reply = self._exchange(Command.VERSION, Version(*NEWEST.version)).body
        assert isinstance(reply, Version)
        offered = DIALECTS.get((reply.major, reply.minor))
        if offered is None:
            raise ClientError(
                f"what listens on {self._path} is no PC/SC daemon, or one of an unknown protocol "
                f"({reply.major}.{reply.minor}); name a daemon's socket with --socket"
            )
        self._connection.select_dialect(offered)
        if reply.rv == ReturnCode.W_SECURITY_VIOLATION:
            raise ClientError(f"access to {self._path} was denied; the daemon's log says what to add for it")
        if reply.rv == ReturnCode.E_SERVICE_STOPPED:
            reply = self._ask(Command.VERSION, Version(*offered.version))
        self._check(reply)

    def _ask(self, command: Command, body: Body) -> Body:
        reply = self._exchange(command, body).body
        assert isinstance(reply, type(body))
        self._check(reply)
        return reply

    def _check(self, body: Message | None) -> None:
        rv = getattr(body, "rv", ReturnCode.SUCCESS)
        if rv != ReturnCode.SUCCESS:
            raise PcscError(rv)

    def _exchange(self, command: Command, body: Message | None = None, data: bytes = b"") -> Reply:
        if body is None and self._connection.dialect.wait_has_body:
            body = Waiting() if command is Command.WAIT_READER_STATE_CHANGE else None
        self._send(self._connection.request(command, body, data))
        while (event := self._connection.next_event()) is None:
            self._receive()
        assert isinstance(event, Reply)
        return event

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except ConnectionError as error:
            raise self._closed() from error

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
        except ConnectionError as error:
            raise self._closed() from error
        if not data:
            raise self._closed()
        self._connection.receive_data(data)

    def _closed(self) -> ClientError:
        return ClientError(f"the daemon on {self._path} closed the connection; its log says why")
