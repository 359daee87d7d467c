"""A connection as somebody between the two ends sees it: bytes of both directions in, messages out.

``Observer`` says nothing itself and must never be in the way, so unlike the two ends it raises no
error: what it does not understand it hands out as ``NotUnderstood``, and goes on with the client's
next request. All bytes come out again, in ``raw``, once and in the order of their direction.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from pypcscd.protocol.connection import FIXED_TABLE_SIZE
from pypcscd.protocol.dialects import (
    COMMANDS,
    DIALECTS,
    HEADER_SIZE,
    NATIVE_ORDER,
    SIBLINGS,
    UNTOLD,
    Codec,
    Dialect,
    WaitAnswer,
    codec,
    recognise_byte_order,
)
from pypcscd.protocol.messages import (
    TABLE_COMMANDS,
    Command,
    Control,
    Message,
    StatesSize,
    Transmit,
    Version,
    answer_length,
)
from pypcscd.scard import MAX_BUFFER_SIZE_EXTENDED, ReaderStatus

#: the other length of a fixed table: Fedora's
_LONG_TABLE_SIZE = 48
#: the longest body that an unknown command may claim to have
_LONGEST_BODY = 4096
_MOST_READERS = 65536


class SeenRequest(NamedTuple):
    """The client asked. ``body`` is None where the command has none."""

    command: Command
    body: Message | None
    data: bytes
    raw: bytes
    dialect: Dialect


class SeenReply(NamedTuple):
    """The daemon answered ``command``. Where the answer is the reader table, ``body`` is None."""

    command: Command
    body: Message | None
    data: bytes
    readers: tuple[ReaderStatus, ...]
    raw: bytes


class SeenEvent(NamedTuple):
    """The daemon ended a wait."""

    rv: int
    raw: bytes


class NotUnderstood(NamedTuple):
    """Bytes that are no message known here, and why."""

    from_client: bool
    raw: bytes
    why: str


Seen = SeenRequest | SeenReply | SeenEvent | NotUnderstood


class Tap(Protocol):
    """Somebody who is handed the bytes of one connection, as they come and go."""

    def received(self, data: bytes) -> None:
        """The client sent this."""

    def sent(self, data: bytes) -> None:
        """The daemon sent this."""

    def closed(self) -> None:
        """The connection is over."""


class Observer:
    """What one connection says, in every dialect and byte order."""

    def __init__(
        self,
        *,
        dialect: Dialect = UNTOLD,
        byte_order: str = "",
        table_size: int | None = None,
        is_joined: bool = False,
    ) -> None:
        """For a connection that is seen from its beginning, nothing need be known.

        One that is joined later (``is_joined``, between two requests) has a ``dialect`` and a
        ``byte_order`` ("<" or ">"), and perhaps an answer on its way to something that was not seen.
        ``table_size``: the records of a fixed reader table, 16 or 48; by default the one that fits.
        """
        self._byte_order = byte_order
        self._codec: Codec = codec(dialect, byte_order or NATIVE_ORDER)
        self._table_size = table_size
        self._from_client = bytearray()
        self._from_daemon = bytearray()
        #: what the daemon has not answered yet, and its body
        self._asked: Command | None = None
        self._asked_body: Message | None = None
        #: it is not known what was asked: whatever the daemon says is its answer
        self._is_lost = is_joined
        self._counted = 0

    @property
    def dialect(self) -> Dialect:
        return self._codec.dialect

    @property
    def byte_order(self) -> str:
        """ "<" or ">"; "" while the client has said nothing."""
        return self._byte_order

    def client_sent(self, data: bytes | memoryview) -> list[Seen]:
        """What the client sent, in pieces of any size."""
        self._from_client += data
        return list(self._requests())

    def daemon_sent(self, data: bytes | memoryview) -> list[Seen]:
        """What the daemon sent, in pieces of any size."""
        self._from_daemon += data
        return list(self._answers())

    def end(self) -> list[Seen]:
        """The connection is over: what is left is half a message."""
        left: list[Seen] = []
        if self._from_daemon:
            left.append(NotUnderstood(False, bytes(self._from_daemon), "the connection ended within it"))
        if self._from_client:
            left.append(NotUnderstood(True, bytes(self._from_client), "the connection ended within it"))
        self._from_client.clear()
        self._from_daemon.clear()
        return left

    # --- requests -----------------------------------------------------------------------------

    def _requests(self) -> Iterator[Seen]:
        buffer = self._from_client
        while len(buffer) >= HEADER_SIZE:
            if not self._byte_order:
                self._byte_order = recognise_byte_order(buffer)
                self._codec = codec(self.dialect, self._byte_order)
            size, number = self._codec.header.unpack_from(buffer)
            if not self._knows(size, number):
                if size > _LONGEST_BODY:
                    yield NotUnderstood(True, self._take(buffer, len(buffer)), "it is no request")
                    self._is_lost = True
                    continue
                if len(buffer) < HEADER_SIZE + size:
                    return
                yield from self._before_request()
                why = f"unknown command 0x{number:02X} with {size} bytes (protocol {self.dialect})"
                if number in COMMANDS:
                    why = f"{Command(number).name} with {size} bytes (protocol {self.dialect})"
                self._is_lost = True
                yield NotUnderstood(True, self._take(buffer, HEADER_SIZE + size), why)
                continue
            command = Command(number)
            body: Message | None = None
            end = HEADER_SIZE + size
            if len(buffer) < end:
                return
            data = b""
            layout = self._codec.requests[number]
            if layout is not None:
                body = layout.decode(buffer, HEADER_SIZE)
                if isinstance(body, Transmit | Control):
                    if body.send_length > MAX_BUFFER_SIZE_EXTENDED:
                        yield NotUnderstood(True, self._take(buffer, len(buffer)), "its data is too long")
                        self._is_lost = True
                        continue
                    start, end = end, end + body.send_length
                    if len(buffer) < end:
                        return
                    data = bytes(buffer[start:end])
            yield from self._before_request()
            self._ask(command, body)
            yield SeenRequest(command, body, data, self._take(buffer, end), self.dialect)

    def _knows(self, size: int, number: int) -> bool:
        """There is such a request, in the dialect or in the one that shares its number."""
        for dialect in (self.dialect, SIBLINGS.get(self.dialect)):
            if dialect is None:
                continue
            candidate = codec(dialect, self._byte_order)
            if number in candidate.requests:
                layout = candidate.requests[number]
                if size == (layout.size if layout else 0):
                    self._codec = candidate
                    return True
        return False

    def _before_request(self) -> Iterator[Seen]:
        """The client goes on, so it has had its answer: what came from the daemon is all there was."""
        yield from self._answers(client_goes_on=True)
        if self._from_daemon:
            yield self._strange_answer("it is no answer to what was asked")
        self._is_lost = False
        self._asked = None

    def _ask(self, command: Command, body: Message | None) -> None:
        is_silent = (
            command is Command.WAIT_READER_STATE_CHANGE and self.dialect.wait_answer is WaitAnswer.NOTHING
        )
        self._asked = None if is_silent else command
        self._asked_body = body

    # --- answers ------------------------------------------------------------------------------

    def _answers(self, *, client_goes_on: bool = False) -> Iterator[Seen]:
        if self._is_lost and self._from_daemon:
            yield self._strange_answer("it answers what is not understood")
        while self._from_daemon:
            command = self._asked
            seen: Seen | None
            if command is None:
                seen = self._event()
            elif command in TABLE_COMMANDS:
                seen = self._table(command, client_goes_on)
            else:
                seen = self._reply(command)
            if seen is None:
                return
            self._asked = None
            yield seen

    def _strange_answer(self, why: str) -> NotUnderstood:
        return NotUnderstood(False, self._take(self._from_daemon, len(self._from_daemon)), why)

    def _event(self) -> SeenEvent | None:
        structure = self._codec.event
        if len(self._from_daemon) < structure.size:
            return None
        _, rv = structure.unpack_from(self._from_daemon)
        return SeenEvent(rv, self._take(self._from_daemon, structure.size))

    def _table(self, command: Command, client_goes_on: bool) -> SeenReply | None:
        if client_goes_on:
            self._try_sibling()
        record_size = self._codec.record_size
        if command is Command.READERS_STATE_ARRAY:
            records: int | None = self._counted
        else:
            records = self._table_size or self._guess_table_size(client_goes_on)
        if records is None or len(self._from_daemon) < records * record_size:
            return None
        raw = self._take(self._from_daemon, records * record_size)
        return SeenReply(command, None, b"", tuple(self._codec.decode_records(raw)), raw)

    def _guess_table_size(self, client_goes_on: bool) -> int | None:
        """The table's length by what fits: nothing, or an event, follows a table of 16 records."""
        records = len(self._from_daemon) // self._codec.record_size
        if records >= _LONG_TABLE_SIZE:
            self._table_size = _LONG_TABLE_SIZE
            return _LONG_TABLE_SIZE
        if records == FIXED_TABLE_SIZE or (client_goes_on and records > FIXED_TABLE_SIZE):
            return FIXED_TABLE_SIZE
        return None

    def _try_sibling(self) -> None:
        """The table came whole, so its length tells which of two layouts with one number it has."""
        sibling = SIBLINGS.get(self.dialect)
        if sibling is not None:
            other = codec(sibling, self._byte_order)
            size = len(self._from_daemon)
            if size % self._codec.record_size and size % other.record_size == 0:
                self._codec = other

    def _reply(self, command: Command) -> SeenReply | None:
        layout = self._codec.replies[command]
        size = layout.size
        if len(self._from_daemon) < size:
            return None
        body = layout.decode(self._from_daemon)
        length = answer_length(body)
        if isinstance(body, StatesSize):
            self._counted = min(max(body.readers, 0), _MOST_READERS)
        if length > MAX_BUFFER_SIZE_EXTENDED:
            length = 0
        if len(self._from_daemon) < size + length:
            return None
        if isinstance(body, Version):
            self._agree(body)
        raw = self._take(self._from_daemon, size + length)
        return SeenReply(command, body, raw[size:], (), raw)

    def _agree(self, answer: Version) -> None:
        """A newer client falls back to what the daemon names; an older one stays what it is."""
        asked = self._asked_body
        if answer.rv != 0 or not isinstance(asked, Version):
            return
        known = [
            DIALECTS[version]
            for version in ((asked.major, asked.minor), (answer.major, answer.minor))
            if version in DIALECTS
        ]
        if known:
            agreed = min(known, key=lambda dialect: dialect.version)
            self._codec = codec(agreed, self._byte_order or NATIVE_ORDER)

    def _take(self, buffer: bytearray, size: int) -> bytes:
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken
