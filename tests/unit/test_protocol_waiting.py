"""Waiting for changes and telling versions: what is in step with what, in each dialect."""

import struct

import pytest
from exchanges import (
    ANSWERS,
    ARRAY,
    EVENTS,
    SIZE,
    STOP,
    V43,
    V44,
    V45,
    V46,
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
    Reply,
    Request,
    ServerConnection,
)
from pypcscd.protocol.dialects import UNTOLD
from pypcscd.protocol.messages import (
    Cancel,
    ReaderEvents,
    StatesSize,
    Status,
    Version,
    Waiting,
)
from pypcscd.scard import ReturnCode

# --- waiting -------------------------------------------------------------------------------------

EVENT = bytes.fromhex("0000000000000000")
CANCELLED = struct.pack("II", 0, 0x80100002)


def start_waiting(dialect: Dialect) -> ServerConnection:
    """A server that has answered WAIT as its dialect wants it."""
    _, server = pair(dialect)
    request(server, WAIT, Waiting() if dialect is V43 else None)
    if dialect in (V44, V45):
        server.reply_readers(server.codec.encode_table((), 16))
    else:
        assert server.no_reply() == b""
    return server


@pytest.mark.parametrize("dialect", [V43, V44, V45])
@pytest.mark.parametrize(("rv", "encoded"), [(0, EVENT), (ReturnCode.E_CANCELLED, CANCELLED)])
def test_event_is_sent_at_once_before_4_6(dialect: Dialect, rv: int, encoded: bytes) -> None:
    assert start_waiting(dialect).event(rv) == encoded


@pytest.mark.parametrize("rv", [0, ReturnCode.E_CANCELLED])
def test_event_between_wait_and_table_follows_the_table(rv: int) -> None:
    server = start_waiting(V46)
    assert server.event(rv) == b""
    request(server, EVENTS)
    assert server.reply(ReaderEvents(1)) == struct.pack("II", 1, 0)
    request(server, SIZE)
    assert server.reply(StatesSize(0)) == struct.pack("i", 0)
    request(server, ARRAY)
    assert server.reply_readers(b"") == struct.pack("II", 0, rv)
    # and only once
    request(server, ARRAY)
    assert server.reply_readers(b"") == b""


@pytest.mark.parametrize("before", [(), (SIZE,), (EVENTS,), (SIZE, EVENTS)])
def test_event_at_any_moment_of_the_first_look(before: tuple[Command, ...]) -> None:
    server = start_waiting(V46)
    for command in before:
        request(server, command)
        server.reply(ANSWERS[command])
    assert server.event(0) == b""
    request(server, ARRAY)
    assert server.reply_readers(b"table") == b"table" + EVENT


def test_event_while_the_table_is_being_made() -> None:
    server = start_waiting(V46)
    request(server, ARRAY)
    assert server.event(0) == b""
    assert server.reply_readers(b"table") == b"table" + EVENT


def test_event_after_the_table_is_sent_at_once() -> None:
    server = start_waiting(V46)
    for command in (SIZE, EVENTS):
        request(server, command)
        server.reply(ANSWERS[command])
    request(server, ARRAY)
    assert server.reply_readers(b"table") == b"table"
    assert server.event(0) == EVENT


def test_event_held_back_is_the_answer_to_stop() -> None:
    """The client has given up before its first look was over; the event answers its STOP."""
    server = start_waiting(V46)
    assert server.event(0) == b""
    request(server, STOP)
    assert server.no_reply() == EVENT


def test_each_wait_has_its_own_first_look() -> None:
    server = start_waiting(V46)
    request(server, ARRAY)
    server.reply_readers(b"")
    assert server.event(0) == EVENT
    request(server, WAIT)
    assert server.no_reply() == b""
    assert server.event(0) == b""
    request(server, ARRAY)
    assert server.reply_readers(b"") == EVENT


def test_second_wait_takes_the_place_of_the_first() -> None:
    """One event for each wait: what was held back for the first one is in the table of the second."""
    server = start_waiting(V46)
    assert server.event(0) == b""
    request(server, WAIT)
    server.no_reply()
    request(server, STOP)
    assert server.reply(Waiting()) == bytes(8)


def test_event_is_not_held_back_by_other_commands() -> None:
    """A client that does something else in its first look gets the event with that answer."""
    server = start_waiting(V46)
    assert server.event(0) == b""
    request(server, Command.STATUS, Status(7))
    assert server.reply(Status(7)) == struct.pack("iI", 7, 0) + EVENT


def test_looking_without_waiting_holds_nothing_back() -> None:
    _, server = pair(V46)
    request(server, SIZE)
    server.reply(StatesSize(0))
    assert server.event(0) == EVENT


@dialects
def test_stop_that_crosses_the_event_has_no_answer(dialect: Dialect) -> None:
    """The client takes the event for the answer; both have eight bytes."""
    client, server = pair(dialect)
    body = Waiting() if dialect is V43 else None
    server.receive_data(client.request(WAIT, body))
    server.next_request()
    if dialect in (V44, V45):
        client.receive_data(server.reply_readers(server.codec.encode_table((), 16)))
        assert client.next_event() == Reply(WAIT, None)
    else:
        server.no_reply()
    if dialect is V46:
        server.receive_data(client.request(SIZE))
        server.next_request()
        client.receive_data(server.reply(StatesSize(0)))
        client.next_event()
        server.receive_data(client.request(ARRAY))
        server.next_request()
        client.receive_data(server.reply_readers(b""))
        assert client.next_event() == Reply(ARRAY, None)

    stop = client.request(STOP, body)
    event = server.event(ReturnCode.SUCCESS)
    server.receive_data(stop)
    assert server.next_request() == Request(STOP, body)
    assert server.no_reply() == b""
    client.receive_data(event)
    assert client.next_event() == Reply(STOP, Waiting(0, 0))
    # the connection is in step
    server.receive_data(client.request(Command.STATUS, Status(7)))
    assert server.next_request() == Request(Command.STATUS, Status(7))


@dialects
def test_stop_while_waiting_is_answered(dialect: Dialect) -> None:
    _, server = pair(dialect)
    request(server, STOP, Waiting() if dialect is V43 else None)
    assert server.reply(Waiting()) == bytes(8)


# --- versions ------------------------------------------------------------------------------------


def test_before_its_version_is_told_a_client_is_served() -> None:
    server = ServerConnection()
    assert server.dialect is UNTOLD
    server.receive_data(header(8, Command.CANCEL) + struct.pack("II", 5, 0))
    assert server.next_request() == Request(Command.CANCEL, Cancel(5))


@dialects
def test_dialect_changes_between_version_and_its_reply(dialect: Dialect) -> None:
    server, client = ServerConnection(), ClientConnection(dialect)
    version = Version(*dialect.version)
    server.receive_data(client.request(Command.VERSION, version))
    assert server.next_request() == Request(Command.VERSION, version)
    server.select_dialect(dialect)
    client.receive_data(server.reply(version))
    assert client.next_event() == Reply(Command.VERSION, version)
    body = Waiting(5) if dialect is V43 else None
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
