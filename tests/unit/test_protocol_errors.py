"""What the two ends of the client protocol refuse: our own mistakes, and the peer's."""

import struct
from collections.abc import Callable

import pytest
from exchanges import (
    ARRAY,
    EVENTS,
    SIZE,
    STATES,
    V43,
    V44,
    V45,
    V46,
    VALUE,
    WAIT,
    dialects,
    header,
    pair,
    request,
)

from pypcscd.protocol import (
    ClientConnection,
    Command,
    Dialect,
    LocalProtocolError,
    RemoteProtocolError,
    Request,
    ServerConnection,
)
from pypcscd.protocol.dialects import NATIVE_ORDER, codec
from pypcscd.protocol.messages import (
    Attribute,
    Cancel,
    Control,
    Message,
    StatesSize,
    Status,
    Transmit,
    Version,
    Waiting,
)
from pypcscd.scard import MAX_ATTRIBUTE_SIZE, MAX_BUFFER_SIZE_EXTENDED, ReturnCode

# --- our own mistakes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        lambda server: server.reply(Status(7)),
        lambda server: server.reply_readers(b""),
        lambda server: server.no_reply(),
    ],
)
def test_reply_without_a_request(answer: Callable[[ServerConnection], bytes]) -> None:
    _, server = pair(V46)
    with pytest.raises(LocalProtocolError, match="without a request"):
        answer(server)
    request(server, WAIT)
    server.no_reply()
    with pytest.raises(LocalProtocolError, match="without a request"):
        answer(server)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (Command.STATUS, lambda server: server.reply(Cancel(7))),
        (Command.STATUS, lambda server: server.reply(Status(2**31))),
        (Command.STATUS, lambda server: server.reply(Status(7, -1))),
        (Command.STATUS, lambda server: server.reply(Status(7), b"data")),
        (Command.STATUS, lambda server: server.reply(None)),
        (Command.STATUS, lambda server: server.reply_readers(b"")),
        (Command.STATUS, lambda server: server.no_reply()),
        (STATES, lambda server: server.reply(Status(7))),
        (SIZE, lambda server: server.no_reply()),
        (SIZE, lambda server: server.reply(StatesSize(2**31))),
    ],
)
def test_wrong_reply_leaves_the_request_to_be_answered(
    command: Command, answer: Callable[[ServerConnection], bytes]
) -> None:
    _, server = pair(V46)
    request(server, command, Status(7) if command is Command.STATUS else None)
    # compiled, an argument of another type than the function says is a TypeError
    with pytest.raises((LocalProtocolError, TypeError)):
        answer(server)
    if command is Command.STATUS:
        assert server.reply(Status(7, ReturnCode.F_INTERNAL_ERROR)) == struct.pack("iI", 7, 0x80100001)
    elif command is SIZE:
        assert server.reply(StatesSize(0)) == bytes(4)
    else:
        assert server.reply_readers(b"table") == b"table"


def test_one_request_at_a_time() -> None:
    client, _ = pair(V44)
    client.request(Command.STATUS, Status(7))
    with pytest.raises(LocalProtocolError, match="CANCEL before the reply to STATUS"):
        client.request(Command.CANCEL, Cancel(7))
    client.receive_data(struct.pack("iI", 7, 0))
    assert client.next_event() is not None
    client.request(Command.CANCEL, Cancel(7))


@pytest.mark.parametrize(("dialect", "command"), [(V43, EVENTS), (V44, EVENTS), (V45, SIZE), (V45, ARRAY)])
def test_command_of_another_dialect(dialect: Dialect, command: Command) -> None:
    client, _ = pair(dialect)
    with pytest.raises(
        LocalProtocolError, match="{} does not exist in protocol {}.{}".format(command.name, *dialect.version)
    ):
        client.request(command)


@pytest.mark.parametrize(
    ("command", "body", "data"),
    [
        (Command.STATUS, None, b""),
        (Command.STATUS, Cancel(7), b""),
        (Command.STATUS, Status(2**31), b""),
        (Command.STATUS, Status(7), b"data"),
        (STATES, Status(7), b""),
        (STATES, None, b"data"),
        (WAIT, Waiting(), b""),
        (Command.TRANSMIT, Transmit(7, 1, 16, 2, 1, 16, 2), b"\x00"),
        (Command.TRANSMIT, Transmit(7, 1, 16, 0, 1, 16, 2), b"\x00"),
        (Command.CONTROL, Control(7, 1, 2, 2), b""),
    ],
)
def test_wrong_request_is_not_sent(command: Command, body: Message | None, data: bytes) -> None:
    client, _ = pair(V46)
    with pytest.raises(LocalProtocolError):
        client.request(command, body, data)
    assert client.request(STATES) == header(0, STATES)


# --- the peer's mistakes -------------------------------------------------------------------------


def reject(dialect: Dialect, data: bytes) -> str:
    """The server's complaint; it must come with the last byte and be repeated."""
    _, server = pair(dialect)
    server.receive_data(data[:-1])
    assert server.next_request() is None
    server.receive_data(data[-1:])
    with pytest.raises(RemoteProtocolError) as caught:
        server.next_request()
    with pytest.raises(RemoteProtocolError):
        server.next_request()
    return str(caught.value)


@dialects
def test_wrong_size_is_refused_with_the_header(dialect: Dialect) -> None:
    for command in dialect.commands():
        right = codec(dialect, NATIVE_ORDER).requests[command]
        size = right.size if right else 0
        for wrong in {0, 1, size - 1, size + 1, size + 4, 2**31, 2**32 - 1} - {size, -1}:
            text = reject(dialect, header(wrong, command))
            assert command.name in text
            assert f"{wrong} bytes" in text


@dialects
def test_unknown_commands(dialect: Dialect) -> None:
    known = {int(command) for command in dialect.commands()}
    for number in {*range(0x40), 0x100, 0x01000000, 2**32 - 1} - known:
        assert f"unknown command 0x{number:02X}" in reject(dialect, header(0, number))
        assert "unknown command" in reject(dialect, header(12, number))


def test_body_with_a_command_that_has_none() -> None:
    """The WAIT of a 4.3 client that said it was a 4.4 one."""
    assert "WAIT_READER_STATE_CHANGE" in reject(V44, header(8, WAIT))


def test_big_endian_client_on_a_little_endian_connection() -> None:
    sent = ClientConnection(V44, byte_order=">").request(Command.VERSION, Version(4, 4))
    server = ServerConnection(byte_order="<")
    server.receive_data(sent)
    with pytest.raises(RemoteProtocolError, match="unknown command 0x11000000"):
        server.next_request()


@pytest.mark.parametrize("length", [MAX_BUFFER_SIZE_EXTENDED + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("command", [Command.TRANSMIT, Command.CONTROL])
def test_oversize_data_is_refused_before_it_comes(command: Command, length: int) -> None:
    if command is Command.TRANSMIT:
        body = struct.pack("iIIIIIII", 7, 1, 16, length, 1, 16, 2, 0)
    else:
        body = struct.pack("iIIIII", 7, 1, length, 2, 0, 0)
    text = reject(V44, header(len(body), command) + body)
    assert command.name in text
    assert str(length) in text


@pytest.mark.parametrize("length", [0, 2, 65548, 65549, 2**32 - 1])
def test_any_receive_length_is_honoured(length: int) -> None:
    client, server = pair(V44)
    body = Transmit(7, 1, 16, 0, 1, 16, length)
    server.receive_data(client.request(Command.TRANSMIT, body))
    assert server.next_request() == Request(Command.TRANSMIT, body)
    client, server = pair(V44)
    control = Control(7, 1, 0, length)
    server.receive_data(client.request(Command.CONTROL, control))
    assert server.next_request() == Request(Command.CONTROL, control)


@pytest.mark.parametrize("command", [Command.GET_ATTRIB, Command.SET_ATTRIB])
@pytest.mark.parametrize("length", [MAX_ATTRIBUTE_SIZE + 1, 2**32 - 1])
def test_oversize_attribute(command: Command, length: int) -> None:
    body = struct.pack("iI264sII", 7, 1, b"", length, 0)
    assert command.name in reject(V44, header(280, command) + body)


@pytest.mark.parametrize("command", [Command.GET_ATTRIB, Command.SET_ATTRIB])
def test_longest_attribute(command: Command) -> None:
    body = Attribute(7, 1, VALUE, MAX_ATTRIBUTE_SIZE)
    _, server = pair(V44)
    assert request(server, command, body) == Request(command, body)


def test_unfinished_request_is_waited_for_and_bounded() -> None:
    """The longest thing that a server must keep is one header, one body and one APDU."""
    client, server = pair(V44)
    apdu = bytes(MAX_BUFFER_SIZE_EXTENDED)
    sent = client.request(Command.TRANSMIT, Transmit(7, 1, 16, len(apdu), 1, 16, 2), apdu)
    for start in range(0, len(sent), 1000):
        assert server.next_request() is None
        server.receive_data(sent[start : start + 1000])
    assert server.buffered == len(sent) == 8 + 32 + 65548
    assert server.next_request() is not None
    assert server.buffered == 0


@pytest.mark.parametrize(
    ("command", "body", "answer"),
    [
        (
            Command.TRANSMIT,
            Transmit(7, 1, 16, 0, 1, 16, 2),
            struct.pack("iIIIIIII", 7, 1, 16, 0, 1, 16, MAX_BUFFER_SIZE_EXTENDED + 1, 0),
        ),
        (Command.CONTROL, Control(7, 1, 0, 2), struct.pack("iIIIII", 7, 1, 0, 2, 2**32 - 1, 0)),
        (SIZE, None, struct.pack("i", -1)),
    ],
)
def test_client_refuses_replies_out_of_bounds(command: Command, body: Message | None, answer: bytes) -> None:
    client, _ = pair(V46)
    client.request(command, body)
    client.receive_data(answer)
    with pytest.raises(RemoteProtocolError):
        client.next_event()
