"""Which dialect and byte order a connection speaks, and how that is found out."""

import struct

import pytest
from exchanges import (
    ALL,
    BEFORE_44,
    NAME,
    READERS,
    RECORD_SIZES,
    STATES,
    V40,
    V41,
    V42A,
    V42B,
    V43,
    V46,
    WAIT,
    dialects,
    header,
    orders,
    serving,
)

from pypcscd.protocol import (
    DIALECTS,
    SHORT_4_2,
    ClientConnection,
    Command,
    Dialect,
    RemoteProtocolError,
    Reply,
    Request,
    ServerConnection,
)
from pypcscd.protocol.dialects import NATIVE_ORDER, NEWEST, UNTOLD
from pypcscd.protocol.messages import Cancel, Connect, EstablishContext, Version, Waiting
from pypcscd.scard import ReturnCode

OTHER_ORDER = {"<": ">", ">": "<"}[NATIVE_ORDER]


def test_dialects_by_number() -> None:
    assert list(DIALECTS) == [(4, minor) for minor in range(7)]
    assert NEWEST is DIALECTS[4, 6]
    assert [str(dialect) for dialect in ALL] == ["4.0", "4.1", "4.2a", "4.2b", "4.3", "4.4", "4.5", "4.6"]
    assert SHORT_4_2.version == DIALECTS[4, 2].version
    assert DIALECTS[4, 2] != SHORT_4_2


# --- versions ------------------------------------------------------------------------------------


@orders
def test_before_its_version_is_told_a_client_is_served(order: str) -> None:
    """SCardCancel's connection sends CANCEL and nothing else."""
    server = ServerConnection()
    assert server.dialect is UNTOLD
    server.receive_data(header(8, Command.CANCEL, order) + struct.pack(order + "II", 5, 0))
    assert server.next_request() == Request(Command.CANCEL, Cancel(5))
    assert server.reply(Cancel(5, 0x80100003)) == struct.pack(order + "II", 5, 0x80100003)


@dialects
@orders
def test_dialect_changes_between_version_and_its_reply(dialect: Dialect, order: str) -> None:
    server = ServerConnection(has_short_names=dialect is V42A)
    client = ClientConnection(dialect, byte_order=order)
    version = Version(*dialect.version)
    server.receive_data(client.request(Command.VERSION, version))
    assert server.next_request() == Request(Command.VERSION, version)
    server.select_dialect(DIALECTS[dialect.version])
    assert server.dialect is dialect
    client.receive_data(server.reply(version))
    assert client.next_event() == Reply(Command.VERSION, version)
    body = Waiting(5) if dialect in BEFORE_44 else None
    server.receive_data(client.request(WAIT, body))
    assert server.next_request() == Request(WAIT, body)


def test_version_may_repeat_and_the_next_request_is_in_the_new_dialect() -> None:
    """Also if that request was received before the dialect was chosen."""
    server = ServerConnection()
    first, second = ClientConnection(V46), ClientConnection(V43)
    server.receive_data(first.request(Command.VERSION, Version(4, 6)))
    server.receive_data(second.request(Command.VERSION, Version(4, 3)))
    second.receive_data(struct.pack("iiI", 4, 3, 0))
    second.next_event()
    server.receive_data(second.request(WAIT, Waiting(1)))
    server.next_request()
    server.select_dialect(V46)
    server.reply(Version(4, 6, ReturnCode.E_SERVICE_STOPPED))
    assert server.next_request() == Request(Command.VERSION, Version(4, 3))
    server.select_dialect(V43)
    server.reply(Version(4, 3))
    assert server.next_request() == Request(WAIT, Waiting(1))


@orders
def test_any_dialect_may_follow_any_other(order: str) -> None:
    server = ServerConnection()
    for first in DIALECTS.values():
        for second in DIALECTS.values():
            for dialect in (first, second):
                client = ClientConnection(dialect, byte_order=order)
                server.receive_data(client.request(Command.VERSION, Version(*dialect.version)))
                server.next_request()
                server.select_dialect(dialect)
                server.reply(Version(*dialect.version))
                assert server.dialect is dialect
                server.receive_data(header(0, STATES, order))
                assert server.next_request() == Request(STATES, None)
                table = server.reply_readers(server.codec.encode_table(READERS, 16))
                assert len(table) == 16 * RECORD_SIZES[dialect]


# --- the two layouts of 4.2 ----------------------------------------------------------------------


def connect(dialect: Dialect, order: str) -> tuple[bytes, Request]:
    body = Connect(1, NAME[: dialect.name_size], 2, 3)
    sent = ClientConnection(dialect, byte_order=order).request(Command.CONNECT, body)
    return sent, Request(Command.CONNECT, body)


@pytest.mark.parametrize(("spoken", "taken_for"), [(V42A, V42B), (V42B, V42A)], ids=["a", "b"])
@pytest.mark.parametrize("is_told", [False, True], ids=["order by header", "order told"])
@orders
def test_the_size_of_connect_tells_the_layout(
    spoken: Dialect, taken_for: Dialect, is_told: bool, order: str
) -> None:
    server = serving(taken_for, order=order if is_told else "")
    sent, expected = connect(spoken, order)
    server.receive_data(sent)
    assert server.next_request() == expected
    assert server.dialect is spoken
    assert server.has_short_names is (spoken is V42A)
    # the reply and all tables from here on have the other layout too
    answer = server.reply(expected.body._replace(card=9))  # type: ignore[union-attr, call-arg]
    assert len(answer) == spoken.name_size + 24
    server.receive_data(header(0, STATES, order))
    server.next_request()
    table = server.reply_readers(server.codec.encode_table(READERS, 16))
    assert len(table) == 16 * RECORD_SIZES[spoken]
    client = ClientConnection(spoken, byte_order=order)
    client.request(STATES)
    client.receive_data(table)
    assert client.next_event() == Reply(STATES, None, readers=READERS)


def test_a_layout_once_found_stays() -> None:
    """A second VERSION on the connection does not make it forget."""
    server = serving(V42B)
    server.receive_data(connect(V42A, "<")[0])
    server.next_request()
    server.reply(connect(V42A, "<")[1].body)  # type: ignore[arg-type]
    server.select_dialect(DIALECTS[4, 2])
    assert server.dialect is V42A
    server.select_dialect(V43)
    assert server.dialect is V43
    server.select_dialect(DIALECTS[4, 2])
    assert server.dialect is V42A


@pytest.mark.parametrize("wrong", [0, 123, 125, 151, 153])
@pytest.mark.parametrize("dialect", [V42A, V42B], ids=str)
def test_no_other_size_is_taken(dialect: Dialect, wrong: int) -> None:
    server = serving(dialect)
    server.receive_data(header(wrong, Command.CONNECT))
    with pytest.raises(RemoteProtocolError, match=f"CONNECT with a body of {wrong} bytes instead of"):
        server.next_request()
    assert server.dialect is dialect


@dialects
def test_only_4_2_has_two_layouts(dialect: Dialect) -> None:
    other = V42B if dialect.name_size == 100 else V42A
    server = serving(dialect)
    sent, expected = connect(other, NATIVE_ORDER)
    server.receive_data(sent)
    if dialect in (V42A, V42B):
        assert server.next_request() == expected
    else:
        with pytest.raises(RemoteProtocolError, match="CONNECT"):
            server.next_request()


@dialects
def test_short_names_concern_4_2_only(dialect: Dialect) -> None:
    server = ServerConnection(has_short_names=True)
    server.select_dialect(DIALECTS[dialect.version])
    assert server.dialect is (V42A if dialect in (V42A, V42B) else dialect)
    server = ServerConnection(has_short_names=False)
    server.select_dialect(DIALECTS[dialect.version])
    assert server.dialect is (V42B if dialect in (V42A, V42B) else dialect)


def test_a_layout_that_is_named_is_taken() -> None:
    server = ServerConnection()
    server.select_dialect(SHORT_4_2)
    assert server.dialect is V42A
    # and still found out to be wrong
    server.receive_data(connect(V42B, NATIVE_ORDER)[0])
    assert server.next_request() == connect(V42B, NATIVE_ORDER)[1]
    assert server.dialect is V42B
    assert not server.has_short_names


# --- byte order ----------------------------------------------------------------------------------


@dialects
@orders
def test_the_first_header_tells_the_byte_order(dialect: Dialect, order: str) -> None:
    """Every command may be the first; its size does not matter."""
    for command in dialect.commands():
        server = serving(dialect)
        server.receive_data(header(0, command, order))
        if server.codec.requests[command] is None:
            assert server.next_request() == Request(command, None)
        else:
            with pytest.raises(RemoteProtocolError, match=f"{command.name} with a body of 0 bytes"):
                server.next_request()


@orders
def test_the_first_byte_order_holds(order: str) -> None:
    """A connection does not change its mind, not even with a new VERSION."""
    server = ServerConnection()
    version = header(12, Command.VERSION, order) + struct.pack(order + "iiI", 4, 3, 0)
    for _ in range(2):
        server.receive_data(version)
        assert server.next_request() == Request(Command.VERSION, Version(4, 3))
        server.select_dialect(V43)
        assert server.reply(Version(4, 3)) == version[8:]
    turned = OTHER_ORDER if order == NATIVE_ORDER else NATIVE_ORDER
    server.receive_data(header(0, STATES, turned))
    with pytest.raises(RemoteProtocolError, match="unknown command 0x12000000"):
        server.next_request()


@orders
def test_a_byte_order_that_is_told_is_not_asked_for(order: str) -> None:
    server = ServerConnection(byte_order=OTHER_ORDER if order == NATIVE_ORDER else NATIVE_ORDER)
    server.receive_data(header(12, Command.VERSION, order) + struct.pack(order + "iiI", 4, 4, 0))
    with pytest.raises(RemoteProtocolError, match="unknown command 0x11000000"):
        server.next_request()


@pytest.mark.parametrize(
    ("garbage", "complaint"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "0x5448202F"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "0x2D302E32"),
        (bytes(8), "0x00"),
        (b"\xff" * 8, "0xFFFFFFFF"),
        (b"\xa5" * 64, "0xA5A5A5A5"),
        # numbers that no command has, in either order
        (header(0, 0x03, "<"), "0x03"),
        (header(0, 0x18, "<"), "0x18"),
        (header(0, 0x00110000, "<"), "0x110000"),
        # the next header tells nothing any more
        (header(0, 0, "<") + header(0, STATES, ">"), "0x00"),
    ],
)
@pytest.mark.skipif(NATIVE_ORDER == ">", reason="the numbers are those of a little-endian machine")
def test_a_first_header_that_is_none(garbage: bytes, complaint: str) -> None:
    server = ServerConnection()
    server.receive_data(garbage[:7])
    assert server.next_request() is None
    server.receive_data(garbage[7:])
    with pytest.raises(RemoteProtocolError, match=rf"unknown command {complaint} \(protocol 4\.4\)"):
        server.next_request()


def test_a_refusal_names_the_dialect() -> None:
    server = serving(V42A)
    server.receive_data(header(0, 0x15))
    with pytest.raises(RemoteProtocolError, match=r"unknown command 0x15 \(protocol 4\.2a\)"):
        server.next_request()


@dialects
@orders
def test_answers_have_the_byte_order_of_the_questions(dialect: Dialect, order: str) -> None:
    server = serving(dialect)
    server.receive_data(header(12, Command.ESTABLISH_CONTEXT, order) + struct.pack(order + "III", 2, 0, 0))
    assert server.next_request() == Request(Command.ESTABLISH_CONTEXT, EstablishContext(2))
    assert server.reply(EstablishContext(2, 0x01020304)) == struct.pack(order + "III", 2, 0x01020304, 0)
    assert server.event(ReturnCode.E_CANCELLED) == struct.pack(order + "II", 0, 0x80100002)


@pytest.mark.parametrize("dialect", [V40, V41], ids=str)
def test_the_event_counter_is_the_upper_half_of_the_state(dialect: Dialect) -> None:
    for order, state in (("<", "34000201"), (">", "01020034")):
        server = serving(dialect, order=order)
        record = server.codec.encode_records(READERS[:1])
        at = 104 if dialect is V40 else 100
        assert record[at : at + 4].hex() == state
