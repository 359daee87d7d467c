"""Any bytes, cut anywhere: the same messages or the same complaint, and nothing else.

The streams come from a seeded generator, because a hundred thousand of them must not take long: what
is right, what is nearly right, and what is nothing at all. A failure names the seed of its stream.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from exchanges import (
    ALL,
    SIZES,
    TABLE_AT_ONCE,
    WAIT,
    answer_any,
    body_of,
    pair,
)
from streams import COMMANDS, Maker, questions

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
from pypcscd.scard import MAX_BUFFER_SIZE_EXTENDED

#: 100,000 streams to a daemon and 50,000 to a client, in parts of which each is a test
SERVER_PARTS, CLIENT_PARTS, PART = 10, 5, 10_000
LONGEST = 8 + 280 + MAX_BUFFER_SIZE_EXTENDED


def single(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


# --- what a daemon hears -------------------------------------------------------------------------


class Heard(NamedTuple):
    requests: list[tuple[Request, Dialect]]
    answers: bytes
    complaint: str
    left: int


def serve(pieces: Iterable[bytes], has_short_names: bool) -> Heard:
    server = ServerConnection(has_short_names=has_short_names)
    requests, answers, complaint = [], [], ""
    unheard = iter(pieces)
    try:
        for piece in unheard:
            server.receive_data(piece)
            while (one := server.next_request()) is not None:
                requests.append((one, server.dialect))
                answers.append(answer_any(server, one))
    except RemoteProtocolError as error:
        complaint = str(error)
    return Heard(requests, b"".join(answers), complaint, server.buffered + sum(map(len, unheard)))


@pytest.mark.parametrize("part", range(SERVER_PARTS))
def test_any_stream_is_the_same_requests_or_one_complaint(part: int) -> None:
    seen: Counter[object] = Counter()
    for seed in range(part * PART, (part + 1) * PART):
        maker = Maker(seed)
        data, has_short_names = questions(maker)
        whole = serve([data], has_short_names)
        assert serve(single(data), has_short_names) == whole, seed
        assert serve(maker.cuts(data), has_short_names) == whole, seed
        # nothing is lost and nothing is taken twice
        taken = sum(8 + SIZES[dialect][one.command][0] + len(one.data) for one, dialect in whole.requests)
        assert taken + whole.left == len(data), seed
        assert whole.complaint or whole.left < LONGEST, seed
        seen.update((one.command, dialect) for one, dialect in whole.requests)
        seen["complaints" if whole.complaint else "in order"] += 1
        seen.update(data[:1] for _ in whole.requests[:1])
    # the streams are worth something: every command of every dialect came through, and much did not
    assert {(command, dialect) for dialect in ALL for command in SIZES[dialect]} <= set(seen)
    assert min(seen["complaints"], seen["in order"]) > PART // 10
    assert min(seen[b"\x0c"], seen[b"\0"]) > PART // 10, "both byte orders"


# --- what a client hears -------------------------------------------------------------------------


def listen(
    pieces: Iterable[bytes], dialect: Dialect, order: str, commands: list[Command]
) -> tuple[list[Reply | ReaderEvent], str]:
    """What a client makes of the answers, if it asks the next question after each."""
    client = ClientConnection(dialect, table_size=1, byte_order=order)
    asked = iter(commands)

    def ask() -> None:
        command = next(asked, None)
        if command is not None:
            client.request(command, *body_of(dialect, command))

    events: list[Reply | ReaderEvent] = []
    ask()
    try:
        # an empty table is there without a byte
        for piece in itertools.chain((b"",), pieces):
            client.receive_data(piece)
            while (event := client.next_event()) is not None:
                events.append(event)
                if isinstance(event, Reply):
                    ask()
    except RemoteProtocolError as error:
        return events, str(error)
    return events, ""


@pytest.mark.parametrize("part", range(CLIENT_PARTS))
def test_any_answers_are_the_same_events_or_one_complaint(part: int) -> None:
    seen: Counter[object] = Counter()
    for seed in range(part * PART, (part + 1) * PART):
        maker = Maker(-1 - seed)
        dialect, order = maker.random.choice(ALL), maker.random.choice("<>")
        commands = maker.random.choices(COMMANDS[dialect], k=maker.random.randrange(5))
        counted = [0]
        if maker.chance(0.1):
            data = maker.noise(maker.random.randrange(300))
        else:
            stream = (maker.reply(dialect, command, order, counted) for command in commands)
            data = maker.spoil(b"".join(stream))
        whole = listen([data], dialect, order, commands)
        assert listen(single(data), dialect, order, commands) == whole, seed
        assert listen(maker.cuts(data), dialect, order, commands) == whole, seed
        seen.update((event.command, dialect) for event in whole[0] if isinstance(event, Reply))
        seen["complaints" if whole[1] else "in order"] += 1
        seen["events"] += sum(isinstance(event, ReaderEvent) for event in whole[0])
    replied = {(command, dialect) for dialect in ALL for command in SIZES[dialect]}
    assert {pair for pair in replied if pair[0] is not WAIT or pair[1] in TABLE_AT_ONCE} <= set(seen)
    assert seen["complaints"] > PART // 200
    assert seen["in order"] > PART // 2
    assert seen["events"] > PART // 100


# --- both ends -----------------------------------------------------------------------------------


def test_whatever_was_understood_is_said_the_same_in_the_other_byte_order() -> None:
    compared = 0
    for seed in range(3000):
        data, has_short_names = questions(Maker(seed))
        for received, dialect in serve([data], has_short_names).requests:
            for order in "<>":
                client, server = pair(dialect, order=order)
                server.receive_data(client.request(received.command, received.body, received.data))
                assert server.next_request() == received, seed
                compared += 1
    assert compared > 3000
