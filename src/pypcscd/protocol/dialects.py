"""What the versions of the client protocol do differently, as data, and the codec made of it."""

import enum
import functools
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pypcscd.protocol.messages import (
    OLDEST_BODIES,
    REPLY_BODIES,
    REQUEST_BODIES,
    WAITING_BODIES,
    Attribute,
    Body,
    Command,
    Control,
    Message,
    Transmit,
)
from pypcscd.scard import ATR_NOT_INITIALISED, ReaderStatus

#: " RR SS" at the end of a reader name: without these numbers all slots of a device would look the same
_NUMBERS_SIZE = 6


NATIVE_ORDER: Final = "<" if sys.byteorder == "little" else ">"
_OTHER_ORDER: Final = ">" if sys.byteorder == "little" else "<"
#: bytes in front of every request: size of the body, and number of the command
HEADER_SIZE: Final = 8
TRANSMITTED_SIZE: Final = 16
#: by number
COMMANDS: Final = {command.value: command for command in Command}


class WaitAnswer(enum.Enum):
    """What the daemon answers to WAIT_READER_STATE_CHANGE."""

    NOTHING = "nothing until something happens"
    TABLE = "the fixed reader table at once"


@dataclass(frozen=True)
class Dialect:
    """One version of the protocol."""

    major: int
    minor: int
    #: tells versions apart that share a number
    variant: str = ""
    #: room for a reader name, bytes
    name_size: int = 128
    #: a record of the reader table begins with a number that is always 0
    has_reader_id: bool = False
    #: a record has a field for the event counter, else it is the upper half of the state word
    has_event_counter: bool = True
    #: STATUS carries the answer too, and CANCEL_TRANSACTION exists
    has_long_status: bool = False
    #: WAIT and STOP are sent with a body
    wait_has_body: bool = False
    wait_answer: WaitAnswer = WaitAnswer.NOTHING
    #: GET_READER_EVENTS exists
    reader_events: bool = False
    #: the table's length is asked for (SIZE, ARRAY); else it has a fixed number of records
    counted_table: bool = False

    @property
    def version(self) -> tuple[int, int]:
        return self.major, self.minor

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}{self.variant}"

    def commands(self) -> frozenset[Command]:
        """The commands that a client of this version may send."""
        absent = set()
        if not self.has_long_status:
            absent.add(Command.CANCEL_TRANSACTION)
        if not self.reader_events:
            absent.add(Command.GET_READER_EVENTS)
        if not self.counted_table:
            absent |= {Command.READERS_STATE_SIZE, Command.READERS_STATE_ARRAY}
        return frozenset(Command) - absent

    def request_bodies(self) -> dict[Command, Body]:
        """The bodies of the requests that have one."""
        bodies = dict(REQUEST_BODIES)
        if self.has_long_status:
            bodies |= OLDEST_BODIES
        if self.wait_has_body:
            bodies |= WAITING_BODIES
        return bodies


_OLDEST = Dialect(4, 1, name_size=100, has_event_counter=False, has_long_status=True, wait_has_body=True)
#: The first of the two layouts that the number 4.2 stands for, pcsc-lite 1.6.5 to 1.8.3; ``DIALECTS``
#: has the second one, 1.8.4 to 1.8.8.
SHORT_4_2 = Dialect(4, 2, "a", name_size=100, wait_has_body=True)
_LONG_4_2 = Dialect(4, 2, "b", wait_has_body=True)
_KNOWN = (
    replace(_OLDEST, minor=0, has_reader_id=True),
    _OLDEST,
    _LONG_4_2,
    Dialect(4, 3, wait_has_body=True),
    Dialect(4, 4, wait_answer=WaitAnswer.TABLE),
    Dialect(4, 5, wait_answer=WaitAnswer.TABLE, reader_events=True),
    Dialect(4, 6, reader_events=True, counted_table=True),
)

#: The dialects spoken here, by version.
DIALECTS: dict[tuple[int, int], Dialect] = {dialect.version: dialect for dialect in _KNOWN}
NEWEST = _KNOWN[-1]
#: Taken for a client that sends no CMD_VERSION; its layouts hold for all versions since 4.2b.
UNTOLD = DIALECTS[4, 4]
#: The size of CONNECT tells the two layouts of 4.2 apart; each leads to the other here.
SIBLINGS: dict[Dialect, Dialect] = {SHORT_4_2: _LONG_4_2, _LONG_4_2: SHORT_4_2}


class Layout:
    """A body ready for use; ``size`` in bytes."""

    __slots__ = ("has_attribute", "has_data", "message", "pack", "size", "unpack_from")

    def __init__(self, message: type[Message], structure: struct.Struct) -> None:
        self.message = message
        #: of the request: ``send_length`` bytes follow it …
        self.has_data = message in (Transmit, Control)
        #: … or ``length`` bytes of it count
        self.has_attribute = message is Attribute
        self.size = structure.size
        self.pack = structure.pack
        self.unpack_from = structure.unpack_from

    def decode(self, buffer: bytes | bytearray, offset: int = 0) -> Message:
        """The message that begins at ``offset``; the buffer must hold all of it."""
        # Calling the class would cost three times as much, to look for defaults.
        return tuple.__new__(self.message, self.unpack_from(buffer, offset))

    def encode(self, message: Message) -> bytes:
        return self.pack(*message)


class Codec:
    """Encodes and decodes the structures of one dialect in one byte order ("<" or ">")."""

    def __init__(self, dialect: Dialect, byte_order: str) -> None:
        self.dialect = dialect
        self.header = struct.Struct(byte_order + "II")
        self.unpack_header = self.header.unpack_from
        self.event = struct.Struct(byte_order + "II")
        #: what the daemon fills in of TRANSMIT, the last ``TRANSMITTED_SIZE`` bytes of its body
        self.pack_transmitted = struct.Struct(byte_order + "IIII").pack

        def layout(body: Body) -> Layout:
            format_ = body.format.format(name=dialect.name_size)
            return Layout(body.message, struct.Struct(byte_order + format_))

        bodies = dialect.request_bodies()
        #: for every command of the dialect, the layout of its request or None for an empty body
        self.requests: dict[int, Layout | None] = {
            command: layout(bodies[command]) if command in bodies else None for command in dialect.commands()
        }
        #: the same by plain numbers, with the command
        self.numbered: dict[int, tuple[Command, Layout | None]] = {
            int(command): (Command(command), known) for command, known in self.requests.items()
        }
        self.replies: dict[int, Layout] = {
            command: layout(body)
            for command, body in (REPLY_BODIES | bodies).items()
            if command in dialect.commands() and command is not Command.WAIT_READER_STATE_CHANGE
        }
        reader_id = "i" if dialect.has_reader_id else ""
        event_counter = "I" if dialect.has_event_counter else ""
        self._record = struct.Struct(f"{byte_order}{reader_id}{dialect.name_size}s{event_counter}Ii33s3xII")

    @property
    def record_size(self) -> int:
        """Bytes of one record of the reader table."""
        return self._record.size

    def encode_records(self, readers: Sequence[ReaderStatus]) -> bytes:
        """The reader table, a record for each reader."""
        return b"".join(self._encode_record(reader, len(reader.atr)) for reader in readers)

    def encode_table(self, readers: Sequence[ReaderStatus], size: int) -> bytes:
        """The reader table with exactly ``size`` records: cut, or filled with unused ones."""
        used = readers[:size]
        unused = self._encode_record(ReaderStatus(""), ATR_NOT_INITIALISED)
        return self.encode_records(used) + unused * (size - len(used))

    def encode_name(self, name: str) -> bytes:
        """A reader's name as this dialect shows it: one that is too long keeps the numbers at its end."""
        encoded = name.encode("utf-8", "surrogateescape")
        room = self.dialect.name_size - 1
        if len(encoded) <= room:
            return encoded
        numbers = encoded[-_NUMBERS_SIZE:]
        # no half letters
        base = encoded[: room - _NUMBERS_SIZE].decode("utf-8", "ignore").encode()
        return base + numbers

    def _encode_record(self, reader: ReaderStatus, atr_length: int) -> bytes:
        dialect = self.dialect
        name = self.encode_name(reader.name)
        fields: list[int | bytes] = [0] if dialect.has_reader_id else []
        if dialect.has_event_counter:
            fields += [name, reader.event_counter, reader.state]
        else:
            fields += [name, reader.event_counter << 16 | reader.state]
        return self._record.pack(*fields, reader.sharing, reader.atr, atr_length, reader.protocol)

    def decode_records(self, table: bytes) -> list[ReaderStatus]:
        """The readers of a table. Unused records are left out."""
        readers = []
        for record in self._record.iter_unpack(table):
            *_, state, sharing, atr, atr_length, protocol = record
            name = record[1] if self.dialect.has_reader_id else record[0]
            counter = record[-6] if self.dialect.has_event_counter else state >> 16
            text = name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            if text:
                known = ReaderStatus(text, counter, state & 0xFFFF, sharing, atr[:atr_length], protocol)
                readers.append(known)
        return readers


@functools.cache
def codec(dialect: Dialect, byte_order: str) -> Codec:
    """The codec of a dialect, made once."""
    return Codec(dialect, byte_order)


def recognise_byte_order(header: bytes | bytearray) -> str:
    """ "<" or ">", by a client's first header: a command's number is small, so its first or its last
    byte is not 0. A header that fits neither is taken for one of our own order.
    """
    for order in (NATIVE_ORDER, _OTHER_ORDER):
        _, number = codec(UNTOLD, order).header.unpack_from(header)
        if number in COMMANDS:
            return order
    return NATIVE_ORDER
