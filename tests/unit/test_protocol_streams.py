"""Streams of requests: one after the other, and at a cost that fits."""

import struct
import time
from collections.abc import Callable

import pytest
from exchanges import (
    EVENTS,
    SIZE,
    STATES,
    STOP,
    V44,
    V46,
    WAIT,
    answer_any,
    header,
    pair,
)

from pypcscd.protocol import (
    Command,
    RemoteProtocolError,
    Request,
    ServerConnection,
)

# --- several requests at once --------------------------------------------------------------------


def test_pipelined_requests_are_served_in_order_and_one_by_one() -> None:
    _, server = pair(V46)
    commands = [EVENTS, STATES, SIZE, WAIT, STOP]
    server.receive_data(b"".join(header(0, command) for command in commands))
    for index, command in enumerate(commands):
        assert server.next_request() == Request(command, None)
        assert server.next_request() is None, "the reply is outstanding"
        assert server.buffered == 8 * (len(commands) - index - 1)
        answer_any(server, Request(command, None))
    assert server.next_request() is None


def test_error_behind_a_good_request_waits_for_its_turn() -> None:
    _, server = pair(V44)
    server.receive_data(header(0, STATES) + header(0, 0))
    assert server.next_request() == Request(STATES, None)
    assert server.next_request() is None
    server.reply_readers(b"")
    with pytest.raises(RemoteProtocolError):
        server.next_request()


def least_time(work: Callable[[], object]) -> float:
    """CPU seconds of the best of some tries: what it costs when nobody disturbs."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def serve_all(data: bytes, piece: int) -> int:
    server = ServerConnection()
    served = 0
    for start in range(0, len(data), piece):
        server.receive_data(data[start : start + piece])
        while (received := server.next_request()) is not None:
            answer_any(server, received)
            served += 1
    assert server.buffered == 0
    return served


def test_many_requests_at_once_cost_what_each_costs() -> None:
    data = header(0, STATES) * 60_000
    in_pieces = least_time(lambda: serve_all(data, 4096))
    at_once = least_time(lambda: serve_all(data, len(data)))
    # more than ten times as much if each request moved what lies behind it
    assert at_once < 4 * in_pieces


def test_slow_sender_costs_what_its_bytes_cost() -> None:
    def control(length: int) -> bytes:
        body = struct.pack("iIIIII", 7, 1, length, 0, 0, 0)
        return header(len(body), Command.CONTROL) + body + bytes(length)

    short, long = control(8000), control(64_000)
    once = least_time(lambda: serve_all(short, 1))
    eightfold = least_time(lambda: serve_all(long, 1))
    # 8 if the cost is linear, 64 if each byte moves what lies before it
    assert eightfold < 24 * once
