"""Any bytes, cut anywhere: the same messages or the same complaint, and nothing else.

The streams come from a seeded generator, because a hundred thousand of them must not take long: what
is right, what is nearly right, and what is nothing at all. A failure names the seed of its stream.
"""

import itertools
import random
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from exchanges import (
    ALL,
    RECORD_SIZES,
    SIZES,
    WAIT,
    answer_any,
    body_of,
    pair,
)

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
from pypcscd.protocol.dialects import UNTOLD
from pypcscd.scard import MAX_BUFFER_SIZE_EXTENDED

#: 100,000 streams to a daemon and 50,000 to a client, in parts of which each is a test
SERVER_PARTS, CLIENT_PARTS, PART = 10, 5, 10_000
LONGEST = 8 + 280 + MAX_BUFFER_SIZE_EXTENDED

INTERESTING = (0, 1, 2, 4, 16, 33, 34, 100, 264, 265, 65548, 65549, 2**31 - 1, 2**31, 2**32 - 1)
#: where TRANSMIT and CONTROL tell how many bytes follow: in a request, and in a reply
SEND_LENGTH = {Command.TRANSMIT: 12, Command.CONTROL: 8}
RETURNED = {Command.TRANSMIT: 24, Command.CONTROL: 16}
ATTRIBUTE_LENGTH = 272
ATTRIBUTES = (Command.GET_ATTRIB, Command.SET_ATTRIB)


class Maker:
    """Makes the streams of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def noise(self, length: int) -> bytes:
        return self.random.randbytes(length)

    def words(self, size: int, order: str) -> bytearray:
        """A body of numbers, most of them small."""
        count = min(size // 4, 8)
        numbers = [
            self.random.choice(INTERESTING) if self.chance(0.4) else self.random.randrange(8)
            for _ in range(count)
        ]
        return bytearray(struct.pack(f"{order}{count}I", *numbers).ljust(size, b"\0"))

    def length(self, order: str) -> tuple[bytes, int]:
        """The length of the data that follows, and how much does follow."""
        if self.chance(0.9):
            told = self.random.randrange(24)
            return struct.pack(order + "I", told), told
        return struct.pack(order + "I", self.random.choice(INTERESTING)), self.random.randrange(24)

    def request(self, dialect: Dialect, order: str) -> tuple[bytes, Dialect]:
        """A request that is right, or nearly, and the dialect that holds after it."""
        if self.chance(0.15):
            dialect = self.random.choice(ALL)
            body = struct.pack(order + "iiI", *dialect.version, 0)
            return struct.pack(order + "II", 12, Command.VERSION) + body, dialect
        number = self.random.randrange(0x1A) if self.chance(0.03) else self.random.choice(_COMMANDS[dialect])
        size = SIZES[dialect].get(Command(number), (8,))[0] if number in _NUMBERS else 8
        body = bytes(self.message(number, size, order))
        if self.chance(0.03):
            size += self.random.choice((-1, 1, 4, 28, -28, 2**31))
        return struct.pack(order + "II", size % 2**32, number) + body, dialect

    def message(self, number: int, size: int, order: str) -> bytearray:
        body = self.words(size, order)
        if number in SEND_LENGTH:
            at = SEND_LENGTH[Command(number)]
            body[at : at + 4], follows = self.length(order)
            body += self.noise(follows)
        elif number in ATTRIBUTES and self.chance(0.9):
            body[ATTRIBUTE_LENGTH : ATTRIBUTE_LENGTH + 4] = bytes(4)
        return body

    def reply(self, dialect: Dialect, command: Command, order: str, counted: list[int]) -> bytes:
        """What a daemon might answer; ``counted``: the length of the next table of 4.6."""
        size = SIZES[dialect][command][1]
        if command is Command.READERS_STATE_SIZE:
            counted[0] = -1 if self.chance(0.2) else self.random.randrange(3)
            return struct.pack(order + "i", counted[0])
        if size is None:
            records = counted[0] if command is Command.READERS_STATE_ARRAY else 1
            table = [
                self.noise(5).ljust(RECORD_SIZES[dialect], b"\0")
                if self.chance(0.5)
                else self.noise(RECORD_SIZES[dialect])
                for _ in range(records)
            ]
            if command is WAIT and dialect not in _TABLE_AT_ONCE:
                return struct.pack(order + "II", 0, 0)
            return b"".join(table)
        body = self.words(size, order)
        if command in RETURNED:
            at = RETURNED[command]
            body[at : at + 4], follows = self.length(order)
            body[size - 4 :] = bytes(4) if self.chance(0.8) else self.noise(4)
            if not any(body[size - 4 :]):
                body += self.noise(follows)
        return bytes(body)

    def cuts(self, data: bytes) -> list[bytes]:
        """The stream in up to five pieces."""
        edges = sorted(self.random.randrange(len(data) + 1) for _ in range(self.random.randrange(5)))
        edges = [0, *edges, len(data)]
        return [data[start:end] for start, end in itertools.pairwise(edges)]

    def spoil(self, data: bytes) -> bytes:
        """Some streams end too early, some have a wrong byte."""
        if data and self.chance(0.1):
            data = data[: self.random.randrange(len(data))]
        if data and self.chance(0.1):
            at = self.random.randrange(len(data))
            data = data[:at] + self.noise(1) + data[at + 1 :]
        return data


_NUMBERS = frozenset(Command)
_COMMANDS = {dialect: sorted(SIZES[dialect]) for dialect in ALL}
_TABLE_AT_ONCE = [dialect for dialect in ALL if dialect.version in ((4, 4), (4, 5))]


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


def questions(maker: Maker) -> tuple[bytes, bool]:
    """What a client sends, and whether a rule says that it has short names."""
    if maker.chance(0.1):
        return maker.noise(maker.random.randrange(100)), False
    order = maker.random.choice("<>")
    has_short_names = maker.chance(0.2)
    dialect = UNTOLD
    stream = b""
    if maker.chance(0.8):
        dialect = maker.random.choice(ALL)
        stream = struct.pack(order + "IIiiI", 12, Command.VERSION, *dialect.version, 0)
    for _ in range(maker.random.randrange(5)):
        # data that follows and belongs to nothing has the rest of the stream misunderstood, too
        one, dialect = maker.request(dialect, order)
        stream += one
    return maker.spoil(stream), has_short_names


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
        commands = maker.random.choices(_COMMANDS[dialect], k=maker.random.randrange(5))
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
    assert {pair for pair in replied if pair[0] is not WAIT or pair[1] in _TABLE_AT_ONCE} <= set(seen)
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
