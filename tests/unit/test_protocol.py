"""The client protocol as bytes: layouts, every command there and back, and the reader table.

Sizes and offsets are those that were measured with pcsc-lite 1.8.9 to 2.5.1.
"""

import struct
from collections.abc import Callable

import pytest
from exchanges import (
    ALL,
    ARRAY,
    EVENTS,
    NAME,
    READERS,
    SIZE,
    SIZES,
    STATES,
    STOP,
    V43,
    V44,
    V45,
    V46,
    VALUE,
    WAIT,
    cuts,
    dialects,
    exchanges,
    header,
    orders,
    pair,
)

from pypcscd.protocol import (
    ClientConnection,
    Command,
    Dialect,
    ReaderEvent,
    Reply,
    Request,
    ServerConnection,
)
from pypcscd.protocol.dialects import codec
from pypcscd.protocol.messages import (
    Attribute,
    Connect,
    Control,
    EstablishContext,
    Message,
    StatesSize,
    Status,
    Transmit,
    Version,
)
from pypcscd.scard import MAX_BUFFER_SIZE_EXTENDED, ReaderStatus, ReturnCode

# --- layouts -------------------------------------------------------------------------------------


@dialects
@orders
def test_body_sizes(dialect: Dialect, order: str) -> None:
    layouts = codec(dialect, order)
    for command in dialect.commands():
        sent, answered = SIZES[command]
        if command in (WAIT, STOP) and dialect is V43:
            sent = 8
        layout = layouts.requests[command]
        assert (layout.structure.size if layout else 0) == sent, command
        reply = layouts.replies.get(command)
        assert (reply.structure.size if reply else None) == answered, command


def test_commands_of_each_dialect() -> None:
    since_42 = set(Command) - {Command.CANCEL_TRANSACTION}
    since_43 = since_42 - {EVENTS, SIZE, ARRAY}
    assert V43.commands() == V44.commands() == since_43
    assert V45.commands() == since_43 | {EVENTS}
    assert V46.commands() == since_42
    assert set(SIZES) == set(Command)


def test_record_size() -> None:
    assert {codec(dialect, order).record_size for dialect in ALL for order in "<>"} == {184}


@orders
def test_connect_layout(order: str) -> None:
    """The offsets, each with a value of its own."""
    client, _ = pair(V44, order=order)
    sent = client.request(
        Command.CONNECT, Connect(0x11111111, NAME, 0x22222222, 0x33333333, 0x44444444, 0x55555555, 0x66666666)
    )
    assert sent[:8] == header(152, 4, order)
    body = sent[8:]
    assert body[4:132] == NAME
    assert [struct.unpack_from(order + "I", body, at)[0] for at in (0, 132, 136, 140, 144, 148)] == [
        0x11111111 * i for i in range(1, 7)
    ]


@orders
def test_attribute_layout(order: str) -> None:
    client, _ = pair(V44, order=order)
    sent = client.request(
        Command.GET_ATTRIB, Attribute(0x11111111, 0x22222222, VALUE, 0x33333333, 0x44444444)
    )
    body = sent[8:]
    assert body[8:272] == VALUE
    assert [struct.unpack_from(order + "I", body, at)[0] for at in (0, 4, 272, 276)] == [
        0x11111111 * i for i in range(1, 5)
    ]


def test_golden_requests() -> None:
    """A client's opening words, as strace shows them on a little-endian machine."""
    client = ClientConnection(V44, byte_order="<")
    server = ServerConnection()
    golden: list[tuple[Command, Message, str]] = [
        (Command.VERSION, Version(4, 4), "0C000000 11000000 04000000 04000000 00000000"),
        (Command.ESTABLISH_CONTEXT, EstablishContext(2), "0C000000 01000000 02000000 00000000 00000000"),
        (Command.STATUS, Status(0x12345678), "08000000 0B000000 78563412 00000000"),
        (Command.STATUS, Status(-2), "08000000 0B000000 FEFFFFFF 00000000"),
    ]
    for command, body, text in golden:
        sent = client.request(command, body)
        assert sent == bytes.fromhex(text)
        server.receive_data(sent)
        assert server.next_request() == Request(command, body)
        client.receive_data(server.reply(body))
        assert client.next_event() == Reply(command, body)


def test_golden_exchange_of_an_apdu() -> None:
    client, server = pair(V45, order="<")
    body = Transmit(1, 2, 16, 5, 2, 16, 258)
    sent = client.request(Command.TRANSMIT, body, bytes.fromhex("00A4000000"))
    assert sent == bytes.fromhex(
        "20000000 0900000001000000 02000000 10000000 05000000 02000000 10000000 02010000 0000000000A4000000"
    )
    server.receive_data(sent)
    server.next_request()
    answer = server.reply(body._replace(receive_length=2), b"\x90\x00")
    assert answer == bytes.fromhex(
        "01000000 02000000 10000000 05000000 02000000 10000000 02000000 00000000 9000"
    )


def test_name_of_a_reader_ends_at_its_first_nul_or_at_byte_127() -> None:
    assert Connect(0, NAME, 0, 0).reader_name == "Reader 00 00"
    assert Connect(0, b"a\0b".ljust(128, b"c"), 0, 0).reader_name == "a"
    assert Connect(0, b"x" * 128, 0, 0).reader_name == "x" * 127
    assert Connect(0, bytes(128), 0, 0).reader_name == ""
    strange = b"\xff\xfe reader".ljust(128, b"\0")
    assert Connect(0, strange, 0, 0).reader_name.encode("utf-8", "surrogateescape") == b"\xff\xfe reader"


# --- every command there and back ----------------------------------------------------------------
@dialects
@orders
@cuts
def test_every_command_there_and_back(
    dialect: Dialect, order: str, cut: Callable[[bytes], list[bytes]]
) -> None:
    client, server = pair(dialect, order=order)
    for command, body, data, answer, answer_data in exchanges(dialect):
        requests: list[Request] = []
        for piece in cut(client.request(command, body, data)):
            assert requests == [], "a request is not given out before it is whole"
            server.receive_data(piece)
            if (request := server.next_request()) is not None:
                requests.append(request)
        assert requests == [Request(command, body, data)]
        assert server.buffered == 0

        sent, expected = make_answer(server, command, answer, answer_data)
        events: list[Reply | ReaderEvent] = []
        for piece in cut(sent):
            assert events == [], "a reply is not given out before it is whole"
            client.receive_data(piece)
            if (event := client.next_event()) is not None:
                events.append(event)
        assert events == expected
        assert client.next_event() is None


def make_answer(
    server: ServerConnection, command: Command, body: Message | None, data: bytes
) -> tuple[bytes, list[Reply | ReaderEvent]]:
    """What the server sends, and what the client shall make of it."""
    if body is not None:
        return server.reply(body, data), [Reply(command, body, data)]
    if command is ARRAY:
        table = server.codec.encode_records(READERS)
        return server.reply_readers(table), [Reply(command, None, readers=READERS)]
    if command is STATES or server.dialect in (V44, V45):
        table = server.codec.encode_table(READERS, 16)
        return server.reply_readers(table), [Reply(command, None, readers=READERS)]
    assert command is WAIT
    assert server.no_reply() == b""
    if server.dialect is V46:
        return b"", []
    return server.event(ReturnCode.E_CANCELLED), [ReaderEvent(ReturnCode.E_CANCELLED)]


@orders
def test_failed_exchange_carries_no_data(order: str) -> None:
    """receive_length then says how much room is needed, not how much follows."""
    client, server = pair(V44, order=order)
    transmit = Transmit(7, 1, 16, 1, 1, 16, 2)
    refused = Transmit(7, 1, 16, 1, 1, 16, 300, ReturnCode.E_INSUFFICIENT_BUFFER)
    server.receive_data(client.request(Command.TRANSMIT, transmit, b"\x00"))
    assert server.next_request() == Request(Command.TRANSMIT, transmit, b"\x00")
    client.receive_data(server.reply(refused))
    assert client.next_event() == Reply(Command.TRANSMIT, refused)

    control = Control(7, 1, 0, 0)
    refused_control = Control(7, 1, 0, 0, 300, ReturnCode.E_INSUFFICIENT_BUFFER)
    server.receive_data(client.request(Command.CONTROL, control))
    server.next_request()
    client.receive_data(server.reply(refused_control))
    assert client.next_event() == Reply(Command.CONTROL, refused_control)


def test_longest_apdu() -> None:
    client, server = pair(V44)
    apdu = bytes(MAX_BUFFER_SIZE_EXTENDED)
    body = Transmit(7, 2, 16, len(apdu), 2, 16, len(apdu))
    server.receive_data(client.request(Command.TRANSMIT, body, apdu))
    assert server.next_request() == Request(Command.TRANSMIT, body, apdu)
    client.receive_data(server.reply(body, apdu))
    assert client.next_event() == Reply(Command.TRANSMIT, body, apdu)


def test_request_outlives_the_buffer_it_came_in() -> None:
    """The session receives into one buffer for all clients."""
    client, server = pair(V44)
    buffer = bytearray(client.request(Command.CONTROL, Control(7, 1, 4, 4), b"data"))
    server.receive_data(memoryview(buffer))
    received = server.next_request()
    buffer[:] = bytes(len(buffer))
    assert received == Request(Command.CONTROL, Control(7, 1, 4, 4), b"data")
    assert isinstance(received.data, bytes)


# --- the reader table ----------------------------------------------------------------------------

#: READERS[0], by hand: name, counter 0102, state 34, exclusive, ATR and its length, T=1
USED_RECORD = (
    b"Virtual PCD 00 00".hex() + "00" * 111 + "02010000" + "34000000" + "FFFFFFFF"
    "3B8F8001804F0CA000000306030001000000006A" + "00" * 13 + "000000" + "14000000" + "02000000"
)
#: "not initialised": an ATR length of 34
UNUSED_RECORD = "00" * 176 + "22000000" + "00000000"


def test_records_by_hand() -> None:
    assert len(bytes.fromhex(USED_RECORD)) == len(bytes.fromhex(UNUSED_RECORD)) == 184
    layouts = codec(V44, "<")
    assert layouts.encode_records(READERS[:1]).hex().upper() == USED_RECORD.upper()
    assert layouts.encode_table((), 1).hex().upper() == UNUSED_RECORD


@pytest.mark.parametrize(("size", "length"), [(16, 2944), (48, 8832)])
def test_fixed_table(size: int, length: int) -> None:
    table = codec(V44, "<").encode_table(READERS[:1], size)
    assert len(table) == length
    assert table[:184].hex().upper() == USED_RECORD.upper()
    assert table[184:].hex().upper() == UNUSED_RECORD * (size - 1)


@pytest.mark.parametrize("size", [16, 48])
def test_fixed_table_is_cut(size: int) -> None:
    readers = [ReaderStatus(f"R {i:02X}") for i in range(60)]
    layouts = codec(V45, "<")
    table = layouts.encode_table(readers, size)
    assert len(table) == size * 184
    assert layouts.decode_records(table) == readers[:size]


@pytest.mark.parametrize("count", [0, 1, 16, 17, 200])
def test_counted_table(count: int) -> None:
    client, server = pair(V46)
    readers = tuple(ReaderStatus(f"R {i:02X}", i) for i in range(count))
    server.receive_data(client.request(SIZE))
    server.next_request()
    client.receive_data(server.reply(StatesSize(count)))
    assert client.next_event() == Reply(SIZE, StatesSize(count))
    server.receive_data(client.request(ARRAY))
    server.next_request()
    table = server.codec.encode_records(readers)
    assert len(table) == count * 184
    client.receive_data(server.reply_readers(table))
    assert client.next_event() == Reply(ARRAY, None, readers=readers)


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("command", [STATES, WAIT])
def test_client_waits_for_its_own_table_size(size: int, command: Command) -> None:
    client, server = pair(V44, table_size=size)
    server.receive_data(client.request(command))
    server.next_request()
    table = server.reply_readers(server.codec.encode_table(READERS, server.table_size))
    client.receive_data(table[:-1])
    assert client.next_event() is None
    client.receive_data(table[-1:])
    assert client.next_event() == Reply(command, None, readers=READERS)


def test_names_in_the_table_leave_room_for_their_nul() -> None:
    layouts = codec(V44, "<")
    record = layouts.encode_records([ReaderStatus("x" * 200)])
    assert record[:128] == b"x" * 127 + b"\0"


def test_any_name_survives_the_table() -> None:
    layouts = codec(V44, "<")
    name = b"\xff\x80 Leser".decode("utf-8", "surrogateescape")
    assert layouts.decode_records(layouts.encode_records([ReaderStatus(name)])) == [ReaderStatus(name)]
