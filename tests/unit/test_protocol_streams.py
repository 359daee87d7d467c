"""Streams of requests and answers: in order, at a cost that fits, and whatever the bytes are."""

import itertools
import struct
import time
from collections.abc import Callable, Iterable

import pytest
from exchanges import (
    ALL,
    EVENTS,
    EXCHANGES,
    SIZE,
    SIZES,
    STATES,
    STOP,
    V43,
    V44,
    V46,
    WAIT,
    answer_any,
    header,
    pair,
    single_bytes,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pypcscd.protocol import (
    ClientConnection,
    Command,
    Dialect,
    ReaderEvent,
    RemoteProtocolError,
    Reply,
    Request,
    ServerConnection,
)
from pypcscd.protocol.connection import NATIVE_ORDER
from pypcscd.protocol.dialects import codec
from pypcscd.protocol.messages import (
    Waiting,
)
from pypcscd.scard import MAX_BUFFER_SIZE_EXTENDED

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


# --- anything at all -----------------------------------------------------------------------------


def serve(pieces: Iterable[bytes]) -> tuple[list[Request], str, int]:
    """What a server makes of a stream: the requests, its complaint, and what is left over."""
    server = ServerConnection()
    received: list[Request] = []
    try:
        for piece in pieces:
            server.receive_data(piece)
            while (one := server.next_request()) is not None:
                received.append(one)
                answer_any(server, one)
    except RemoteProtocolError as error:
        return received, str(error), 0
    return received, "", server.buffered


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@st.composite
def some_requests(draw: st.DrawFn) -> bytes:
    """A request that is right, or nearly."""
    number = draw(st.one_of(st.sampled_from(sorted(Command)), st.integers(0, 0x18)))
    right = SIZES[Command(number)][0] if number in list(Command) else 8
    size = draw(st.sampled_from((right, right, right, right, right, right, 8, right + 1)))
    word = st.one_of(st.integers(0, 16), st.integers(0, 2**32 - 1), st.sampled_from((264, 265, 65548, 65549)))
    words = draw(st.lists(word, max_size=12))
    body = struct.pack(f"{len(words)}I", *words).ljust(right, b"\0")[:right]
    return header(size, number) + body + draw(st.binary(max_size=8))


ANY_STREAM = st.one_of(
    st.binary(max_size=300),
    st.lists(some_requests(), max_size=5).map(b"".join),
)
PLACES = st.lists(st.integers(0, 5000), max_size=6)


@given(ANY_STREAM, PLACES)
@example(header(12, Command.VERSION) + struct.pack("iiI", 4, 3, 0) + header(8, WAIT) + bytes(8), [20])
@example(header(12, Command.VERSION) + struct.pack("iiI", 4, 6, 0) + header(0, SIZE), [8, 20])
@settings(max_examples=3000, deadline=None)
def test_any_stream_cut_anywhere_is_the_same_requests_or_one_complaint(
    data: bytes, places: list[int]
) -> None:
    outcome = serve([data])
    assert serve(cut_at(data, places)) == outcome
    if len(data) < 200:
        assert serve(single_bytes(data)) == outcome
    received, complaint, left = outcome
    # what was given out and what is left over are the stream, with nothing lost between
    layouts = {one.command: codec(V46, NATIVE_ORDER).requests[one.command] for one in received}
    taken = sum(
        8
        + len(one.data)
        + (8 if one.body and one.command in (WAIT, STOP) else 0)
        + (layout.structure.size if (layout := layouts[one.command]) else 0)
        for one in received
    )
    assert complaint or taken + left == len(data)
    assert left < 8 + 280 + MAX_BUFFER_SIZE_EXTENDED


@given(st.lists(some_requests(), min_size=1, max_size=3).map(b"".join))
@settings(max_examples=500, deadline=None)
def test_the_two_byte_orders_are_mirror_images(data: bytes) -> None:
    """Whatever one order understands the other one encodes again."""
    for received in serve([data])[0]:
        client, server = pair(V43 if received.body and received.command in (WAIT, STOP) else V46, order=">")
        server.receive_data(client.request(received.command, received.body, received.data))
        assert server.next_request() == received


@given(
    st.sampled_from(ALL),
    st.lists(st.sampled_from(sorted(set(Command) - {Command.READERS_STATE_ARRAY})), max_size=4),
    st.binary(max_size=400),
    PLACES,
)
@settings(max_examples=2000, deadline=None)
def test_any_answers_cut_anywhere_are_the_same_events_or_one_complaint(
    dialect: Dialect, commands: list[Command], data: bytes, places: list[int]
) -> None:
    def listen(pieces: Iterable[bytes]) -> tuple[list[Reply | ReaderEvent], str]:
        client = ClientConnection(dialect, table_size=1)
        events: list[Reply | ReaderEvent] = []
        asked = [command for command in commands if command in dialect.commands()]

        def ask() -> None:
            if asked:
                command = asked.pop(0)
                body, sent, *_ = EXCHANGES.get(command, (None, b""))
                if dialect is V43 and command in (WAIT, STOP):
                    body = Waiting()
                client.request(command, body, sent)

        ask()
        try:
            for piece in pieces:
                client.receive_data(piece)
                while (event := client.next_event()) is not None:
                    events.append(event)
                    if isinstance(event, Reply):
                        ask()
        except RemoteProtocolError as error:
            return events, str(error)
        return events, ""

    outcome = listen([data])
    assert listen(cut_at(data, places)) == outcome
    assert listen(single_bytes(data)) == outcome
