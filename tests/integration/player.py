"""A client in any dialect and byte order, which does what a libpcsclite of that age does."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from pypcscd.protocol import ClientConnection, Command, Dialect, ReaderEvent, Reply
from pypcscd.protocol import messages as m
from pypcscd.protocol.dialects import NATIVE_ORDER, WaitAnswer
from pypcscd.scard import ReaderStatus, ReturnCode

WAIT, STOP = Command.WAIT_READER_STATE_CHANGE, Command.STOP_WAITING_READER_STATE_CHANGE
T1 = 2
UNKNOWN_CONTEXT = 0xFFFFFFFF

Readers = tuple[ReaderStatus, ...]
Body = TypeVar("Body", bound=m.Message)


class Player:
    """One connection. Whatever is not answered within ten seconds, or not as it must be, fails."""

    def __init__(
        self, path: Path, dialect: Dialect, order: str = NATIVE_ORDER, *, table_size: int = 16
    ) -> None:
        self.dialect = dialect
        self.connection = ClientConnection(dialect, table_size=table_size, byte_order=order)
        self.context = 0
        self.events = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    # --- one message ---------------------------------------------------------------------------

    def say(self, command: Command, body: m.Message | None = None, data: bytes = b"") -> None:
        self._socket.sendall(self.connection.request(command, body, data))

    def hear(self) -> Reply | ReaderEvent:
        while (event := self.connection.next_event()) is None:
            data = self._socket.recv(1 << 20)
            assert data, "the daemon hung up"
            self.connection.receive_data(data)
        return event

    def exchange(self, command: Command, body: m.Message | None = None, data: bytes = b"") -> Reply:
        self.say(command, body, data)
        reply = self.hear()
        assert isinstance(reply, Reply)
        assert reply.command is command
        return reply

    def ask(self, command: Command, body: Body) -> Body:
        """A call that must succeed."""
        reply = self.exchange(command, body).body
        assert isinstance(reply, type(body))
        assert reply.rv == 0, f"{self.dialect} {command.name}: {reply.rv:08X}"  # type: ignore[union-attr]
        return reply

    def send_and_leave(self, data: bytes) -> None:
        """Say anything at all, and wait until the daemon has heard it and has hung up."""
        self._socket.sendall(data)
        self._socket.shutdown(socket.SHUT_WR)
        while self._socket.recv(1 << 20):
            pass

    # --- what a library does -------------------------------------------------------------------

    def establish(self) -> int:
        version = m.Version(*self.dialect.version)
        assert self.ask(Command.VERSION, version) == version, "the answer repeats the version"
        self.context = self.ask(Command.ESTABLISH_CONTEXT, m.EstablishContext(2)).context
        return self.context

    def check_step(self) -> None:
        """The daemon has sent what was read and no more: the next answer is that to the next question."""
        body = m.Cancel(UNKNOWN_CONTEXT)
        answer = self.exchange(Command.CANCEL, body).body
        assert answer == body._replace(rv=ReturnCode.E_INVALID_HANDLE)

    def readers(self) -> Readers:
        if not self.dialect.counted_table:
            return self.exchange(Command.GET_READERS_STATE).readers
        self.exchange(Command.READERS_STATE_SIZE)
        return self.exchange(Command.READERS_STATE_ARRAY).readers

    def connect(self, reader: str, share_mode: int = 2, protocols: int = 3) -> int:
        name = reader.encode().ljust(self.dialect.name_size, b"\0")
        return self.ask(Command.CONNECT, m.Connect(self.context, name, share_mode, protocols)).card

    def begin(self, card: int) -> None:
        """Again and again while another one holds the card."""
        while True:
            answer = self.exchange(Command.BEGIN_TRANSACTION, m.BeginTransaction(card)).body
            assert isinstance(answer, m.BeginTransaction)
            if answer.rv != ReturnCode.E_SHARING_VIOLATION:
                assert answer.rv == 0
                return

    def transmit(self, card: int, apdu: bytes) -> bytes:
        body = m.Transmit(card, T1, 8, len(apdu), T1, 8, 65548)
        reply = self.exchange(Command.TRANSMIT, body, apdu)
        assert reply.body == body._replace(receive_length=len(reply.data))
        return reply.data

    def check_status(self, card: int) -> None:
        if self.dialect.has_long_status:
            self.ask(Command.STATUS, m.LongStatus(card, bytes(100), 100, 0, 0, bytes(33), 33))
        else:
            self.ask(Command.STATUS, m.Status(card))

    # --- waiting -------------------------------------------------------------------------------

    def look(self) -> Readers:
        """The readers now; the daemon has been told that this client waits for a change."""
        body = m.Waiting(60_000) if self.dialect.wait_has_body else None
        if self.dialect.wait_answer is WaitAnswer.TABLE:
            return self.exchange(WAIT).readers
        if self.dialect.counted_table:
            self.say(WAIT)
            if self.dialect.reader_events:
                self.exchange(Command.GET_READER_EVENTS)
            return self.readers()
        readers = self.readers()
        self.say(WAIT, body)
        return readers

    def stop(self) -> None:
        """An event that is on its way is as good an answer as the answer itself."""
        self.exchange(STOP, m.Waiting(60_000) if self.dialect.wait_has_body else None)

    def wait_until(
        self, holds: Callable[[Readers], object], registered: Callable[[], object] = lambda: None
    ) -> Readers:
        """SCardGetStatusChange; ``registered`` is called when this client has looked in vain and waits."""
        while True:
            readers = self.look()
            if holds(readers):
                self.stop()
                return readers
            registered()
            event = self.hear()
            assert event == ReaderEvent(ReturnCode.SUCCESS)
            self.events += 1
