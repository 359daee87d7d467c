"""What the tests of the client protocol have in common: sizes, exchanges and small steps."""

import struct
from collections.abc import Iterable
from typing import cast

import pytest

from pypcscd.protocol import (
    DIALECTS,
    SHORT_4_2,
    ClientConnection,
    Command,
    Dialect,
    Request,
    ServerConnection,
)
from pypcscd.protocol.dialects import NATIVE_ORDER
from pypcscd.protocol.messages import (
    Attribute,
    BeginTransaction,
    Cancel,
    CancelTransaction,
    Connect,
    Control,
    Disconnect,
    EndTransaction,
    EstablishContext,
    LongStatus,
    Message,
    ReaderEvents,
    Reconnect,
    ReleaseContext,
    StatesSize,
    Status,
    Transmit,
    Version,
    Waiting,
)
from pypcscd.scard import ReaderStatus

V40, V41, V42B, V43, V44, V45, V46 = (DIALECTS[4, minor] for minor in range(7))
V42A = SHORT_4_2
ALL = (V40, V41, V42A, V42B, V43, V44, V45, V46)
#: those in which WAIT and STOP have a body
BEFORE_44 = (V40, V41, V42A, V42B, V43)
#: those in which the table is the answer to WAIT
TABLE_AT_ONCE = (V44, V45)

WAIT = Command.WAIT_READER_STATE_CHANGE
STOP = Command.STOP_WAITING_READER_STATE_CHANGE
STATES = Command.GET_READERS_STATE
EVENTS = Command.GET_READER_EVENTS
SIZE = Command.READERS_STATE_SIZE
ARRAY = Command.READERS_STATE_ARRAY

#: command -> (bytes of a request's body, bytes of a reply's), as in 4.4 to 4.6; None: a table or nothing
_SIZES: dict[Command, tuple[int, int | None]] = {
    Command.ESTABLISH_CONTEXT: (12, 12),
    Command.RELEASE_CONTEXT: (8, 8),
    Command.CONNECT: (152, 152),
    Command.RECONNECT: (24, 24),
    Command.DISCONNECT: (12, 12),
    Command.BEGIN_TRANSACTION: (8, 8),
    Command.END_TRANSACTION: (12, 12),
    Command.TRANSMIT: (32, 32),
    Command.CONTROL: (24, 24),
    Command.STATUS: (8, 8),
    Command.CANCEL: (8, 8),
    Command.GET_ATTRIB: (280, 280),
    Command.SET_ATTRIB: (280, 280),
    Command.VERSION: (12, 12),
    STATES: (0, None),
    WAIT: (0, None),
    STOP: (0, 8),
}
_WAITING_SIZES: dict[Command, tuple[int, int | None]] = {WAIT: (8, None), STOP: (8, 8)}
_SHORT_SIZES: dict[Command, tuple[int, int | None]] = {**_WAITING_SIZES, Command.CONNECT: (124, 124)}
_OLDEST_SIZES: dict[Command, tuple[int, int | None]] = {
    **_SHORT_SIZES,
    Command.STATUS: (160, 160),
    Command.CANCEL_TRANSACTION: (8, 8),
}
#: the sizes of all commands that there are in a dialect
SIZES: dict[Dialect, dict[Command, tuple[int, int | None]]] = {
    V40: _SIZES | _OLDEST_SIZES,
    V41: _SIZES | _OLDEST_SIZES,
    V42A: _SIZES | _SHORT_SIZES,
    V42B: _SIZES | _WAITING_SIZES,
    V43: _SIZES | _WAITING_SIZES,
    V44: _SIZES,
    V45: _SIZES | {EVENTS: (0, 8)},
    V46: _SIZES | {EVENTS: (0, 8), SIZE: (0, 4), ARRAY: (0, None)},
}
#: bytes of a record of the reader table
RECORD_SIZES = {V40: 156, V41: 152, V42A: 156, V42B: 184, V43: 184, V44: 184, V45: 184, V46: 184}

NAME = b"Reader 00 00".ljust(128, b"\0")
VALUE = bytes(range(256)) + b"\xff" * 8

#: command -> (request, data behind it, reply, data behind it), as in 4.4 to 4.6
EXCHANGES: dict[Command, tuple[Message, bytes, Message, bytes]] = {
    Command.ESTABLISH_CONTEXT: (EstablishContext(2), b"", EstablishContext(2, 0x7FFFFFFF), b""),
    Command.RELEASE_CONTEXT: (ReleaseContext(0xFFFFFFFF), b"", ReleaseContext(0xFFFFFFFF), b""),
    Command.CONNECT: (Connect(1, NAME, 2, 3), b"", Connect(1, NAME, 2, 3, -2, 1, 0x8010000B), b""),
    Command.RECONNECT: (Reconnect(7, 2, 3, 1), b"", Reconnect(7, 2, 3, 1, 2), b""),
    Command.DISCONNECT: (Disconnect(7, 1), b"", Disconnect(7, 1, 0x80100069), b""),
    Command.BEGIN_TRANSACTION: (BeginTransaction(-1), b"", BeginTransaction(-1), b""),
    Command.END_TRANSACTION: (EndTransaction(7, 0), b"", EndTransaction(7, 0), b""),
    Command.TRANSMIT: (
        Transmit(7, 1, 16, 5, 2, 16, 258),
        b"\x00\xa4\x04\x00\x00",
        Transmit(7, 1, 16, 5, 1, 16, 2),
        b"\x90\x00",
    ),
    Command.CONTROL: (
        Control(7, 0x42000D48, 0, 264),
        b"",
        Control(7, 0x42000D48, 0, 264, 6),
        b"\x12\x04ABCD",
    ),
    Command.STATUS: (Status(7), b"", Status(7, 0x80100068), b""),
    Command.CANCEL: (Cancel(0x80000000), b"", Cancel(0x80000000, 0x80100003), b""),
    Command.GET_ATTRIB: (
        Attribute(7, 0x90303, bytes(264), 264),
        b"",
        Attribute(7, 0x90303, VALUE, 33),
        b"",
    ),
    Command.SET_ATTRIB: (Attribute(7, 0x7A007, VALUE, 0), b"", Attribute(7, 0x7A007, VALUE, 0), b""),
    Command.VERSION: (Version(4, 6), b"", Version(-4, 5, 0x8010001E), b""),
}
_SHORT_NAME = NAME[:100]
_STATUS = LongStatus(7, bytes(100), 100, 0, 0, bytes(33), 33)
#: what is different in the dialects of short names, and in the oldest of them
SHORT_EXCHANGES: dict[Command, tuple[Message, bytes, Message, bytes]] = {
    Command.CONNECT: (
        Connect(1, _SHORT_NAME, 2, 3),
        b"",
        Connect(1, _SHORT_NAME, 2, 3, -2, 1, 0x8010000B),
        b"",
    ),
}
OLDEST_EXCHANGES: dict[Command, tuple[Message, bytes, Message, bytes]] = {
    Command.STATUS: (_STATUS, b"", LongStatus(7, _SHORT_NAME, 12, 0x34, 2, b"\x3b" * 33, 33, 1), b""),
    Command.CANCEL_TRANSACTION: (CancelTransaction(7), b"", CancelTransaction(7, 0x80100003), b""),
}
#: replies to requests without a body
ANSWERS: dict[Command, Message] = {
    STOP: Waiting(60_000, 0),
    EVENTS: ReaderEvents(0x7FFF),
    SIZE: StatesSize(2),
}

ATR = bytes.fromhex("3B8F8001804F0CA000000306030001000000006A")
READERS = (
    ReaderStatus("Virtual PCD 00 00", 0x0102, 0x34, -1, ATR, 2),
    ReaderStatus("Leser für alles 01 00", 0xFFFF, 0x02, 3),
)

dialects = pytest.mark.parametrize("dialect", ALL, ids=str)
orders = pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])


def pair(
    dialect: Dialect, *, table_size: int = 16, order: str = NATIVE_ORDER
) -> tuple[ClientConnection, ServerConnection]:
    client = ClientConnection(dialect, table_size=table_size, byte_order=order)
    return client, serving(dialect, table_size=table_size, order=order)


def serving(dialect: Dialect, *, table_size: int = 16, order: str = "") -> ServerConnection:
    """A server that knows of its client what nothing on the wire tells, and its version."""
    server = ServerConnection(table_size=table_size, has_short_names=dialect is V42A, byte_order=order)
    server.select_dialect(dialect)
    return server


def request(server: ServerConnection, command: Command, body: Message | None = None) -> Request:
    """Have the server receive a request that needs no answer to be looked at."""
    server.receive_data(ClientConnection(server.dialect).request(command, body))
    received = server.next_request()
    assert received is not None
    return received


def header(size: int, number: int, order: str = NATIVE_ORDER) -> bytes:
    return struct.pack(order + "II", size, number)


def whole(data: bytes) -> list[bytes]:
    return [data]


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


cuts = pytest.mark.parametrize("cut", [whole, single_bytes])


def body_of(dialect: Dialect, command: Command) -> tuple[Message | None, bytes]:
    """Some request: its body, and the data behind it."""
    body, data, _, _ = exchange(dialect, command)
    return body, data


def exchange(dialect: Dialect, command: Command) -> tuple[Message | None, bytes, Message | None, bytes]:
    """Request, data, reply, data; a reply of None is a table or nothing."""
    known = dict(EXCHANGES)
    if dialect in (V40, V41, V42A):
        known |= SHORT_EXCHANGES
    if dialect in (V40, V41):
        known |= OLDEST_EXCHANGES
    if command in known:
        return known[command]
    has_body = dialect in BEFORE_44 and command in (WAIT, STOP)
    return Waiting(60_000) if has_body else None, b"", ANSWERS.get(command), b""


def exchanges(dialect: Dialect) -> Iterable[tuple[Command, Message | None, bytes, Message | None, bytes]]:
    # STOP last: it ends the wait that WAIT begins
    for command in sorted(SIZES[dialect], key=lambda command: (command is STOP, command)):
        yield command, *exchange(dialect, command)


def answer_any(server: ServerConnection, received: Request) -> bytes:
    """Some answer that the protocol allows, as a session would make it."""
    command, body = received.command, received.body
    if command in (STATES, ARRAY):
        return server.reply_readers(b"")
    if command in (WAIT, STOP):
        return server.no_reply()
    if command is SIZE:
        return server.reply(StatesSize(0))
    if command is EVENTS:
        return server.reply(ReaderEvents(1))
    if isinstance(body, Version) and (body.major, body.minor) in DIALECTS:
        server.select_dialect(DIALECTS[body.major, body.minor])
    return server.reply(cast(Message, body))
