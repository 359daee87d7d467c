"""Waiting for changes: what is in step with what, in each dialect."""

import struct

import pytest
from exchanges import (
    ANSWERS,
    ARRAY,
    BEFORE_44,
    EVENTS,
    SIZE,
    STOP,
    TABLE_AT_ONCE,
    V46,
    WAIT,
    dialects,
    pair,
    request,
)

from pypcscd.protocol import (
    Command,
    Dialect,
    Reply,
    Request,
    ServerConnection,
)
from pypcscd.protocol.messages import (
    Cancel,
    ReaderEvents,
    StatesSize,
    Status,
    Waiting,
)
from pypcscd.scard import ReturnCode

# --- waiting -------------------------------------------------------------------------------------

EVENT = bytes.fromhex("0000000000000000")
CANCELLED = struct.pack("II", 0, 0x80100002)


def start_waiting(dialect: Dialect) -> ServerConnection:
    """A server that has answered WAIT as its dialect wants it."""
    _, server = pair(dialect)
    request(server, WAIT, Waiting() if dialect in BEFORE_44 else None)
    if dialect in TABLE_AT_ONCE:
        server.reply_readers(server.codec.encode_table((), 16))
    else:
        assert server.no_reply() == b""
    return server


@pytest.mark.parametrize("dialect", [*BEFORE_44, *TABLE_AT_ONCE], ids=str)
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
    body = Waiting() if dialect in BEFORE_44 else None
    server.receive_data(client.request(WAIT, body))
    server.next_request()
    if dialect in TABLE_AT_ONCE:
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
    server.receive_data(client.request(Command.CANCEL, Cancel(7)))
    assert server.next_request() == Request(Command.CANCEL, Cancel(7))


@dialects
def test_stop_while_waiting_is_answered(dialect: Dialect) -> None:
    _, server = pair(dialect)
    request(server, STOP, Waiting() if dialect in BEFORE_44 else None)
    assert server.reply(Waiting()) == bytes(8)
