"""The client protocol as bytes: layouts, every command there and back, and the reader table.

Sizes and offsets are those that were measured with pcsc-lite 1.8.9 to 2.5.1.
"""

import struct
from collections.abc import Callable

import pytest
from exchanges import (
    ARRAY,
    NAME,
    READERS,
    RECORD_SIZES,
    SIZE,
    SIZES,
    STATES,
    TABLE_AT_ONCE,
    V40,
    V41,
    V42A,
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
    LongStatus,
    Message,
    StatesSize,
    Transmit,
)
from pypcscd.scard import MAX_BUFFER_SIZE_EXTENDED, ReaderStatus, ReturnCode

# --- layouts -------------------------------------------------------------------------------------


@dialects
@orders
def test_body_sizes(dialect: Dialect, order: str) -> None:
    layouts = codec(dialect, order)
    for command, (sent, answered) in SIZES[dialect].items():
        layout = layouts.requests[command]
        assert (layout.size if layout else 0) == sent, command
        reply = layouts.replies.get(command)
        assert (reply.size if reply else None) == answered, command


@dialects
@orders
def test_commands_of_each_dialect(dialect: Dialect, order: str) -> None:
    assert dialect.commands() == set(SIZES[dialect])
    assert set(codec(dialect, order).requests) == set(SIZES[dialect])


@dialects
@orders
def test_record_size(dialect: Dialect, order: str) -> None:
    assert codec(dialect, order).record_size == RECORD_SIZES[dialect]


def words(body: bytes, order: str, *offsets: int) -> list[int]:
    return [struct.unpack_from(order + "I", body, at)[0] for at in offsets]


@dialects
@orders
def test_connect_layout(dialect: Dialect, order: str) -> None:
    """The offsets, each with a value of its own."""
    room = 100 if dialect in (V40, V41, V42A) else 128
    offsets = (0, 104, 108, 112, 116, 120) if room == 100 else (0, 132, 136, 140, 144, 148)
    client, _ = pair(dialect, order=order)
    one, two, three, four, five, six = (0x11111111 * i for i in range(1, 7))
    sent = client.request(Command.CONNECT, Connect(one, NAME[:room], two, three, four, five, six))
    assert sent[:8] == header(room + 24, 4, order)
    assert sent[8:][4 : 4 + room] == NAME[:room]
    assert words(sent[8:], order, *offsets) == [one, two, three, four, five, six]


@pytest.mark.parametrize("dialect", [V40, V41], ids=str)
@orders
def test_layout_of_the_long_status(dialect: Dialect, order: str) -> None:
    client, _ = pair(dialect, order=order)
    one, two, three, four, five, six = (0x11111111 * i for i in range(1, 7))
    atr = bytes(range(1, 34))
    sent = client.request(Command.STATUS, LongStatus(one, NAME[:100], two, three, four, atr, five, six))
    assert sent[:8] == header(160, 11, order)
    body = sent[8:]
    assert body[4:104] == NAME[:100]
    assert body[116:152] == atr + bytes(3)
    assert words(body, order, 0, 104, 108, 112, 152, 156) == [one, two, three, four, five, six]


@orders
def test_attribute_layout(order: str) -> None:
    client, _ = pair(V44, order=order)
    sent = client.request(
        Command.GET_ATTRIB, Attribute(0x11111111, 0x22222222, VALUE, 0x33333333, 0x44444444)
    )
    body = sent[8:]
    assert body[8:272] == VALUE
    assert words(body, order, 0, 4, 272, 276) == [0x11111111 * i for i in range(1, 5)]


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
    if command is STATES or server.dialect in TABLE_AT_ONCE:
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


@dialects
def test_names_in_the_table_leave_room_for_their_nul(dialect: Dialect) -> None:
    layouts = codec(dialect, "<")
    at, size = (4 if dialect is V40 else 0), dialect.name_size
    for length in (size - 1, size, 200):
        record = layouts.encode_records([ReaderStatus("x" * length)])
        assert record[at : at + size] == b"x" * (size - 1) + b"\0"


@pytest.mark.parametrize("dialect", [V40, V41, V42A], ids=str)
def test_a_shortened_name_keeps_the_numbers_of_reader_and_slot(dialect: Dialect) -> None:
    """Without them all slots of a device would have one name."""
    layouts = codec(dialect, "<")
    names = [f"{'x' * 120} 0A {slot:02X}" for slot in range(3)]
    shown = layouts.decode_records(layouts.encode_records([ReaderStatus(name) for name in names]))
    assert [status.name for status in shown] == [f"{'x' * 93} 0A {slot:02X}" for slot in range(3)]
    # no half letters: 46 of two bytes, where 93 bytes would fit
    assert layouts.encode_name("ü" * 60 + " 00 00").decode() == "ü" * 46 + " 00 00"
    assert layouts.encode_name("x" * 93 + " 00 00").decode() == "x" * 93 + " 00 00"


def test_any_name_survives_the_table() -> None:
    layouts = codec(V44, "<")
    name = b"\xff\x80 Leser".decode("utf-8", "surrogateescape")
    assert layouts.decode_records(layouts.encode_records([ReaderStatus(name)])) == [ReaderStatus(name)]
