"""What the tests of the client protocol have in common: sizes, exchanges and small steps."""

import struct
from collections.abc import Iterable
from typing import cast

import pytest

from pypcscd.protocol import (
    DIALECTS,
    ClientConnection,
    Command,
    Dialect,
    Request,
    ServerConnection,
)
from pypcscd.protocol.connection import NATIVE_ORDER
from pypcscd.protocol.messages import (
    Attribute,
    BeginTransaction,
    Cancel,
    Connect,
    Control,
    Disconnect,
    EndTransaction,
    EstablishContext,
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

V43, V44, V45, V46 = (DIALECTS[4, minor] for minor in (3, 4, 5, 6))
ALL = (V43, V44, V45, V46)

WAIT = Command.WAIT_READER_STATE_CHANGE
STOP = Command.STOP_WAITING_READER_STATE_CHANGE
STATES = Command.GET_READERS_STATE
EVENTS = Command.GET_READER_EVENTS
SIZE = Command.READERS_STATE_SIZE
ARRAY = Command.READERS_STATE_ARRAY

#: command -> (bytes of a request's body, bytes of a reply's), from 4.4 on; None: a table or nothing
SIZES: dict[Command, tuple[int, int | None]] = {
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
    Command.CANCEL_TRANSACTION: (8, 8),
    Command.GET_ATTRIB: (280, 280),
    Command.SET_ATTRIB: (280, 280),
    Command.VERSION: (12, 12),
    STATES: (0, None),
    WAIT: (0, None),
    STOP: (0, 8),
    EVENTS: (0, 8),
    SIZE: (0, 4),
    ARRAY: (0, None),
}

NAME = b"Reader 00 00".ljust(128, b"\0")
VALUE = bytes(range(256)) + b"\xff" * 8

#: command -> (request, data behind it, reply, data behind it)
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

dialects = pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: "{}.{}".format(*dialect.version))
orders = pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])


def pair(
    dialect: Dialect, *, table_size: int = 16, order: str = NATIVE_ORDER
) -> tuple[ClientConnection, ServerConnection]:
    client = ClientConnection(dialect, table_size=table_size, byte_order=order)
    server = ServerConnection(table_size=table_size, byte_order=order)
    server.select_dialect(dialect)
    return client, server


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


def exchanges(dialect: Dialect) -> Iterable[tuple[Command, Message | None, bytes, Message | None, bytes]]:
    # STOP last: it ends the wait that WAIT begins
    for command in sorted(dialect.commands(), key=lambda command: (command is STOP, command)):
        if command in EXCHANGES:
            yield command, *EXCHANGES[command]
        else:
            has_body = dialect is V43 and command in (WAIT, STOP)
            yield command, Waiting(60_000) if has_body else None, b"", ANSWERS.get(command), b""


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
