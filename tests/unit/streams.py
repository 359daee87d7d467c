"""Streams of the client protocol from a seeded generator: right, nearly right, and nothing at all."""

import itertools
import random
import struct

from exchanges import ALL, RECORD_SIZES, SIZES, TABLE_AT_ONCE, WAIT

from pypcscd.protocol import Command, Dialect
from pypcscd.protocol.dialects import UNTOLD

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
        number = self.random.randrange(0x1A) if self.chance(0.03) else self.random.choice(COMMANDS[dialect])
        size = SIZES[dialect].get(Command(number), (8,))[0] if number in NUMBERS else 8
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
            if command is WAIT and dialect not in TABLE_AT_ONCE:
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


NUMBERS = frozenset(Command)
COMMANDS = {dialect: sorted(SIZES[dialect]) for dialect in ALL}


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
