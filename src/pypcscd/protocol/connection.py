"""One connection of the client protocol, seen from either end: bytes in, events out, and back.

``ServerConnection.receive_data`` takes what a client sent in pieces of any size and ``next_request``
gives whole requests; ``reply`` and its relatives return the bytes to be sent, in one piece.
``ClientConnection`` is the mirror image. Neither does I/O or knows of time.

As in the protocol itself at most one request is outstanding: further ones wait in the buffer until
the reply to the first was made.
"""

import struct
from typing import Any, Final, NamedTuple

from pypcscd.protocol.dialects import (
    DIALECTS,
    HEADER_SIZE,
    NATIVE_ORDER,
    NEWEST,
    SHORT_4_2,
    SIBLINGS,
    TRANSMITTED_SIZE,
    UNTOLD,
    Codec,
    Dialect,
    Layout,
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
    answer_length,
)
from pypcscd.scard import MAX_ATTRIBUTE_SIZE, MAX_BUFFER_SIZE_EXTENDED, ReaderStatus

_WAIT: Final = Command.WAIT_READER_STATE_CHANGE
_TRANSMIT: Final = Command.TRANSMIT
#: makes a named tuple of values that are complete already, at a third of what calling its class costs
_new: Final = tuple.__new__
#: what every body that can be its own answer ends in
_RV_SIZE: Final = 4
_SUCCESS: Final = bytes(_RV_SIZE)
#: a response from so many bytes on is not copied to stand behind its head
_LONG: Final = 16 * 1024
#: what is to be sent: in one piece, or in two that follow each other
Pieces = bytes | tuple[bytes, bytes]
#: records in the reader table of a client that does not ask for their number
FIXED_TABLE_SIZE: Final = 16
_WITH_DATA: Final = (Command.TRANSMIT, Command.CONTROL)
#: commands whose answer may be an event, or nothing
_ANSWERED_BY_EVENT: Final = (Command.WAIT_READER_STATE_CHANGE, Command.STOP_WAITING_READER_STATE_CHANGE)
#: what a 4.6 client asks between WAIT and the table; an event must not come in between
_FIRST_LOOK: Final = (Command.READERS_STATE_SIZE, Command.GET_READER_EVENTS)


class ProtocolError(Exception):
    """The base of the two ways in which a connection can go wrong."""


class LocalProtocolError(ProtocolError):
    """We tried to say what cannot be said now; the fault is in this program."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow; the connection cannot go on."""


def _too_long(command: Command, length: int, limit: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"{command.name} with {length} bytes instead of {limit} at most")


def _encode(command: Command, layout: Layout | None, body: Message | None) -> bytes:
    """A body as bytes, or none. Raises LocalProtocolError."""
    if layout is None:
        if body is not None:
            raise LocalProtocolError(f"{command.name} has no body here")
        return b""
    if not isinstance(body, layout.message):
        raise LocalProtocolError(f"{command.name} needs a body of type {layout.message.__name__}")
    try:
        return layout.pack(*body)
    except struct.error as error:
        raise LocalProtocolError(f"{command.name}: {error}") from error


class Request(NamedTuple):
    """A whole request. ``body`` is None where the command has none."""

    command: Command
    body: Message | None
    #: the APDU of TRANSMIT or the bytes of CONTROL, else empty
    data: bytes = b""


class Reply(NamedTuple):
    """A whole reply. Commands that answer with the reader table have ``readers`` and no body."""

    command: Command
    body: Message | None
    data: bytes = b""
    readers: tuple[ReaderStatus, ...] = ()


class ReaderEvent(NamedTuple):
    """What ends a wait: rv is SCARD_S_SUCCESS (something changed) or SCARD_E_CANCELLED."""

    rv: int


class ServerConnection:
    """The daemon's end."""

    def __init__(
        self, *, table_size: int = FIXED_TABLE_SIZE, has_short_names: bool = False, byte_order: str = ""
    ) -> None:
        """``byte_order``: "<" or ">"; by default the client's first header tells."""
        #: records in this client's reader table, for dialects where that is fixed
        self.table_size = table_size
        #: which of the two layouts of 4.2 this client speaks, as far as is known
        self.has_short_names = has_short_names
        self._byte_order = byte_order
        #: layouts of the dialect in use
        self.codec: Codec = codec(UNTOLD, byte_order or NATIVE_ORDER)
        self._buffer = b""
        #: where the next request begins in the buffer
        self._begin = 0
        #: bytes received but not yet given out
        self.buffered = 0
        #: the body of the outstanding request
        self._body = b""
        self._outstanding: Command | None = None
        self._is_first_look = False
        self._held_event = b""

    @property
    def dialect(self) -> Dialect:
        return self.codec.dialect

    @property
    def byte_order(self) -> str:
        """ "<" or ">", or "" as long as it is not known."""
        return self._byte_order

    def select_dialect(self, dialect: Dialect) -> None:
        """Go on in another dialect; the reply that is outstanding has the same layout in all.

        Of the two layouts of 4.2 the first is taken if it is named, or if the client has short names.
        """
        if self.has_short_names and dialect == DIALECTS[SHORT_4_2.version]:
            dialect = SHORT_4_2
        self.codec = codec(dialect, self._byte_order or NATIVE_ORDER)

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent."""
        # Mostly exactly one request comes at a time, and nothing is left of the one before.
        self._buffer = buffer = self._buffer[self._begin :] + data if self._buffer else data
        self._begin = 0
        self.buffered = len(buffer)

    def next_request(self) -> Request | None:
        """The next whole request, or None if there is none yet or a reply is outstanding.

        Raises RemoteProtocolError as soon as the bytes cannot become a request.
        """
        if self._outstanding is not None or self.buffered < HEADER_SIZE:
            return None
        buffer = self._buffer
        start = self._begin + HEADER_SIZE
        if not self._byte_order:
            self._byte_order = recognise_byte_order(buffer)
            self.codec = codec(self.dialect, self._byte_order)
        layouts = self.codec
        # compiled, numbers whose type is known are quick
        size: int
        number: int
        size, number = layouts.unpack_header(buffer, self._begin)
        try:
            command, layout = layouts.numbered[number]
        except KeyError:
            raise RemoteProtocolError(f"unknown command 0x{number:02X} (protocol {self.dialect})") from None
        expected = layout.size if layout is not None else 0
        if size != expected:
            layout = self._try_sibling(command, size, expected)
        end = start + size
        if len(buffer) < end:
            return None
        self._body = buffer[start:end]
        body: Any = None
        data = b""
        if layout is not None:
            # what layout.decode does
            body = _new(layout.message, layout.unpack_from(buffer, start))
            if layout.has_data:
                length: int = body.send_length
                if length > MAX_BUFFER_SIZE_EXTENDED:
                    raise _too_long(command, length, MAX_BUFFER_SIZE_EXTENDED)
                start, end = end, end + length
                if len(buffer) < end:
                    return None
                data = buffer[start:end]
            elif layout.has_attribute and body.length > MAX_ATTRIBUTE_SIZE:
                raise _too_long(command, body.length, MAX_ATTRIBUTE_SIZE)
        self.buffered = len(buffer) - end
        if end == len(buffer):
            self._buffer, end = b"", 0
        self._begin = end
        self._outstanding = command
        if command is _WAIT:
            self._is_first_look = self.dialect.counted_table
            self._held_event = b""
        return _new(Request, (command, body, data))

    def reply(self, body: Message, data: bytes = b"") -> bytes:
        """The answer to the outstanding request, with the data of TRANSMIT and CONTROL behind it.

        After a LocalProtocolError the request is still outstanding and can be answered otherwise.
        """
        command = self._unanswered()
        encoded = _encode(command, self.codec.replies.get(command), body)
        if data:
            if command not in _WITH_DATA:
                raise LocalProtocolError(f"{command.name} carries no data")
            encoded += data
        self._outstanding = None
        if not self._is_first_look or command in _FIRST_LOOK:
            return encoded
        return encoded + self._release_event()

    def confirm(self) -> bytes:
        """``reply`` with the request's own body and rv = 0, without making it anew."""
        command = self._unanswered()
        if not self._body:
            raise LocalProtocolError(f"{command.name} has no body that could be its answer")
        self._outstanding = None
        answer = self._body[:-_RV_SIZE] + _SUCCESS
        return answer if not self._is_first_look else answer + self._release_event()

    def reply_transmit(self, request: Transmit, protocol: int, response: bytes) -> Pieces:
        """``reply`` to TRANSMIT with the protocol used and the card's response, at a third of its cost.

        A long response stays a piece of its own.
        """
        if self._outstanding is not _TRANSMIT:
            raise LocalProtocolError("a card's response belongs to TRANSMIT")
        filled_in = self.codec.pack_transmitted(protocol, request.receive_pci_length, len(response), 0)
        encoded = self._body[:-TRANSMITTED_SIZE] + filled_in
        self._outstanding = None
        if self._is_first_look:
            response += self._release_event()
        return encoded + response if len(response) < _LONG else (encoded, response)

    def reply_readers(self, records: bytes) -> bytes:
        """The answer that is a reader table, made by ``codec.encode_table`` or ``encode_records``."""
        command = self._unanswered()
        if command not in TABLE_COMMANDS:
            raise LocalProtocolError(f"{command.name} is not answered with a reader table")
        self._outstanding = None
        return records + self._release_event() if self._is_first_look else records

    def no_reply(self) -> bytes:
        """The outstanding request has no answer. Returns an event that was held back, mostly nothing."""
        command = self._unanswered()
        if command not in _ANSWERED_BY_EVENT:
            raise LocalProtocolError(f"{command.name} must be answered")
        self._outstanding = None
        return b"" if command is Command.WAIT_READER_STATE_CHANGE else self._release_event()

    def _try_sibling(self, command: Command, size: int, expected: int) -> Layout:
        """The body may belong to the other layout of the same version. Raises RemoteProtocolError."""
        sibling = SIBLINGS.get(self.dialect)
        if sibling is not None:
            other = codec(sibling, self._byte_order)
            layout = other.requests[command]
            if layout is not None and layout.size == size:
                self.has_short_names = sibling is SHORT_4_2
                self.codec = other
                return layout
        raise RemoteProtocolError(f"{command.name} with a body of {size} bytes instead of {expected}")

    def event(self, rv: int) -> bytes:
        """Tell a waiting client that something happened.

        Between WAIT and the table that belongs to it a 4.6 client would take the event for the
        table's size: then nothing is returned and the event follows the table.
        """
        encoded = self.codec.event.pack(0, rv)
        if self._is_first_look:
            self._held_event = encoded
            return b""
        return encoded

    def _unanswered(self) -> Command:
        if self._outstanding is None:
            raise LocalProtocolError("a reply without a request")
        return self._outstanding

    def _release_event(self) -> bytes:
        self._is_first_look = False
        event, self._held_event = self._held_event, b""
        return event


class ClientConnection:
    """The client's end. ``table_size`` is what the client was built with, where the dialect has it."""

    def __init__(
        self,
        dialect: Dialect = NEWEST,
        *,
        table_size: int = FIXED_TABLE_SIZE,
        byte_order: str = NATIVE_ORDER,
    ) -> None:
        self.table_size = table_size
        self._byte_order = byte_order
        self._codec = codec(dialect, byte_order)
        self._buffer = bytearray()
        self._outstanding: Command | None = None
        self._counted = 0

    @property
    def dialect(self) -> Dialect:
        return self._codec.dialect

    def select_dialect(self, dialect: Dialect) -> None:
        """Go on in another dialect, after the answer to VERSION."""
        self._codec = codec(dialect, self._byte_order or NATIVE_ORDER)

    def request(self, command: Command, body: Message | None = None, data: bytes = b"") -> bytes:
        """The bytes of a request. Raises LocalProtocolError while another one is outstanding."""
        if self._outstanding is not None:
            raise LocalProtocolError(f"{command.name} before the reply to {self._outstanding.name}")
        try:
            layout = self._codec.requests[command]
        except KeyError:
            raise LocalProtocolError(
                "{} does not exist in protocol {}.{}".format(command.name, *self.dialect.version)
            ) from None
        encoded = _encode(command, layout, body)
        announced = body.send_length if isinstance(body, Transmit | Control) else 0
        if len(data) != announced:
            raise LocalProtocolError(f"{command.name} with {len(data)} bytes of data instead of {announced}")
        is_silent = (
            command is Command.WAIT_READER_STATE_CHANGE and self.dialect.wait_answer is WaitAnswer.NOTHING
        )
        self._outstanding = None if is_silent else command
        return self._codec.header.pack(len(encoded), command) + encoded + data

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take what the daemon sent."""
        self._buffer += data

    def next_event(self) -> Reply | ReaderEvent | None:
        """The reply to the outstanding request, else the event that ends a wait, else None.

        Raises RemoteProtocolError as soon as the bytes cannot become a reply.
        The answer to STOP and an event cannot be told apart and need not be: both end the wait.
        """
        command = self._outstanding
        if command is None:
            return self._next_reader_event()
        if command in TABLE_COMMANDS:
            is_counted = command is Command.READERS_STATE_ARRAY
            records = self._counted if is_counted else self.table_size
            table = self._take(records * self._codec.record_size)
            if table is None:
                return None
            reply = Reply(command, None, readers=tuple(self._codec.decode_records(table)))
        else:
            decoded = self._next_reply(command)
            if decoded is None:
                return None
            reply = decoded
        self._outstanding = None
        return reply

    def _next_reader_event(self) -> ReaderEvent | None:
        event = self._take(self._codec.event.size)
        if event is None:
            return None
        _, rv = self._codec.event.unpack(event)
        return ReaderEvent(rv)

    def _next_reply(self, command: Command) -> Reply | None:
        layout = self._codec.replies[command]
        size = layout.size
        if len(self._buffer) < size:
            return None
        body = layout.decode(self._buffer)
        data_length = answer_length(body)
        if isinstance(body, StatesSize):
            if body.readers < 0:
                raise RemoteProtocolError(f"a reader table of {body.readers} records")
            self._counted = body.readers
        if data_length > MAX_BUFFER_SIZE_EXTENDED:
            raise _too_long(command, data_length, MAX_BUFFER_SIZE_EXTENDED)
        whole = self._take(size + data_length)
        return None if whole is None else Reply(command, body, whole[size:])

    def _take(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken
