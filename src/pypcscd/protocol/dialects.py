"""What the versions of the client protocol do differently, as data, and the codec made of it."""

import enum
import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pypcscd.protocol.messages import (
    REPLY_BODIES,
    REQUEST_BODIES,
    Body,
    Command,
    Message,
    Waiting,
)
from pypcscd.scard import ATR_NOT_INITIALISED, ReaderStatus


class WaitAnswer(enum.Enum):
    """What the daemon answers to WAIT_READER_STATE_CHANGE."""

    NOTHING = "nothing until something happens"
    TABLE = "the fixed reader table at once"


@dataclass(frozen=True)
class Dialect:
    """One version of the protocol."""

    major: int
    minor: int
    #: room for a reader name, bytes
    name_size: int
    #: WAIT and STOP are sent with a body
    wait_has_body: bool
    wait_answer: WaitAnswer
    #: the table's length is asked for (SIZE, ARRAY); else it has a fixed number of records
    counted_table: bool
    #: GET_READER_EVENTS exists
    reader_events: bool

    @property
    def version(self) -> tuple[int, int]:
        return self.major, self.minor

    def commands(self) -> frozenset[Command]:
        """The commands that a client of this version may send."""
        absent = set()
        if not self.reader_events:
            absent.add(Command.GET_READER_EVENTS)
        if not self.counted_table:
            absent |= {Command.READERS_STATE_SIZE, Command.READERS_STATE_ARRAY}
        return frozenset(Command) - absent


_KNOWN = (
    Dialect(4, 3, 128, True, WaitAnswer.NOTHING, counted_table=False, reader_events=False),
    Dialect(4, 4, 128, False, WaitAnswer.TABLE, counted_table=False, reader_events=False),
    Dialect(4, 5, 128, False, WaitAnswer.TABLE, counted_table=False, reader_events=True),
    Dialect(4, 6, 128, False, WaitAnswer.NOTHING, counted_table=True, reader_events=True),
)

#: The dialects spoken here, by version.
DIALECTS: dict[tuple[int, int], Dialect] = {dialect.version: dialect for dialect in _KNOWN}
NEWEST = _KNOWN[-1]
#: Taken for a client that sends no CMD_VERSION; its layouts hold for all versions spoken here.
UNTOLD = DIALECTS[4, 4]


class Layout(NamedTuple):
    """A body ready for use; its size in bytes is ``structure.size``."""

    message: type[Message]
    structure: struct.Struct

    def decode(self, body: bytes | memoryview) -> Message:
        fields = self.structure.unpack(body)
        return self.message(*fields)

    def encode(self, message: Message) -> bytes:
        return self.structure.pack(*message)


class Codec:
    """Encodes and decodes the structures of one dialect in one byte order ("<" or ">")."""

    def __init__(self, dialect: Dialect, byte_order: str) -> None:
        self.dialect = dialect
        self.header = struct.Struct(byte_order + "II")
        self.event = struct.Struct(byte_order + "II")

        def layout(body: Body) -> Layout:
            format_ = body.format.format(name=dialect.name_size)
            return Layout(body.message, struct.Struct(byte_order + format_))

        bodies = dict(REQUEST_BODIES)
        if dialect.wait_has_body:
            bodies[Command.WAIT_READER_STATE_CHANGE] = Body(Waiting, "II")
            bodies[Command.STOP_WAITING_READER_STATE_CHANGE] = Body(Waiting, "II")
        #: for every command of the dialect, the layout of its request or None for an empty body
        self.requests: dict[int, Layout | None] = {
            command: layout(bodies[command]) if command in bodies else None for command in dialect.commands()
        }
        self.replies: dict[int, Layout] = {
            command: layout(body)
            for command, body in (REQUEST_BODIES | REPLY_BODIES).items()
            if command in dialect.commands()
        }
        self._record = struct.Struct(f"{byte_order}{dialect.name_size}sIIi33s3xII")

    @property
    def record_size(self) -> int:
        """Bytes of one record of the reader table."""
        return self._record.size

    def encode_records(self, readers: Sequence[ReaderStatus]) -> bytes:
        """The reader table, a record for each reader."""
        pack = self._record.pack
        limit = self.dialect.name_size - 1
        return b"".join(
            pack(
                reader.name.encode("utf-8", "surrogateescape")[:limit],
                reader.event_counter,
                reader.state,
                reader.sharing,
                reader.atr,
                len(reader.atr),
                reader.protocol,
            )
            for reader in readers
        )

    def encode_table(self, readers: Sequence[ReaderStatus], size: int) -> bytes:
        """The reader table with exactly ``size`` records: cut, or filled with unused ones."""
        used = readers[:size]
        unused = self._record.pack(b"", 0, 0, 0, b"", ATR_NOT_INITIALISED, 0)
        return self.encode_records(used) + unused * (size - len(used))

    def decode_records(self, table: bytes) -> list[ReaderStatus]:
        """The readers of a table. Unused records are left out."""
        readers = []
        for name, counter, state, sharing, atr, atr_length, protocol in self._record.iter_unpack(table):
            text = name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            if text:
                readers.append(ReaderStatus(text, counter, state, sharing, atr[:atr_length], protocol))
        return readers


@functools.cache
def codec(dialect: Dialect, byte_order: str) -> Codec:
    """The codec of a dialect, made once."""
    return Codec(dialect, byte_order)
