"""The card's side of T=1 (ISO 7816-3 section 11): a block in, a block out."""

from collections.abc import Callable, Iterator

MORE = 0x20
R_BLOCK, S_BLOCK = 0x80, 0xC0
RESPONSE = 0x20
RESYNCH, IFS, ABORT, WTX = 0, 1, 2, 3
EDC_ERROR, OTHER_ERROR = 1, 2


def lrc(data: bytes) -> bytes:
    value = 0
    for byte in data:
        value ^= byte
    return bytes([value])


def crc(data: bytes) -> bytes:
    """ISO/IEC 13239 as ISO 7816-3 uses it, most significant byte first."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x8408 if value & 1 else 0)
    return value.to_bytes(2, "big")


class ParityError(Exception):
    """The reader did not understand the card."""


class T1Card:
    """``words`` says what the card does to its next blocks, one word for each:

    ``ok``; ``edc``, ``nad``, ``sequence``, ``length``: an error in the block; ``silent``: no block;
    ``parity``: the reader reports a parity error; ``refuse``: an R-block instead, as if the block just
    received had been damaged; ``resynch``, ``abort``: an S-request instead; ``ifs:n``: a request for
    information fields of n bytes first; ``wtx:n``: a request for n times the waiting time first.
    """

    def __init__(self, execute: Callable[[bytes], bytes], ifsc: int = 32, use_crc: bool = False) -> None:
        self._execute = execute
        self._edc = crc if use_crc else lrc
        self.ifsc = ifsc
        self.words: list[str] = []
        #: the same for each answer
        self.always: list[str] = []
        self.seen: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        self.ifsd = 32
        self._restart()
        self._last = b""
        self._after_request: Iterator[bytes] | None = None

    def _restart(self) -> None:
        self._send = 0
        self._expected = 0
        self._command = bytearray()
        self._answer = b""
        self._sent = 0

    def block(self, data: bytes) -> bytes | None:
        """The block that answers; None for none."""
        size = len(self._edc(b""))
        if len(data) < 3 + size or data[-size:] != self._edc(data[:-size]):
            self._count("edc errors")
            return self._out(self._error(EDC_ERROR))
        if len(data) != 3 + data[2] + size:
            self._count("length errors")
            return self._out(self._error(OTHER_ERROR))
        if self.words[:1] == ["refuse"]:
            return self._out(self._error(EDC_ERROR))
        pcb, information = data[1], data[3:-size]
        if not pcb & 0x80:
            return self._information(pcb, information)
        if pcb & 0xC0 == S_BLOCK:
            return self._supervisory(pcb, information)
        return self._receipt(pcb)

    def _information(self, pcb: int, information: bytes) -> bytes | None:
        self._count("I")
        if (pcb >> 6 & 1) != self._expected or self._after_request:
            self._count("sequence errors")
            return self._out(self._error(OTHER_ERROR))
        if len(information) > self.ifsc:
            self._count("blocks above the size")
            return self._out(self._error(OTHER_ERROR))
        # it also acknowledges what was sent last
        self._expected ^= 1
        self._command += information
        if pcb & MORE:
            return self._out(self._make(R_BLOCK | self._expected << 4))
        command = bytes(self._command)
        self._command.clear()
        self._answer, self._sent = self._execute(command), 0
        self.words = self.always + self.words
        return self._next_piece()

    def _receipt(self, pcb: int) -> bytes | None:
        self._count("R")
        wanted = pcb >> 4 & 1
        if self._sent < len(self._answer) and wanted == self._send:
            return self._next_piece()
        self._count("repetitions")
        return self._last

    def _supervisory(self, pcb: int, information: bytes) -> bytes | None:
        kind = pcb & 0x1F
        if pcb & RESPONSE:
            self._count(f"S response {kind}")
            waiting, self._after_request = self._after_request, None
            if kind == RESYNCH:
                self._restart()
                return None
            return self._out(next(waiting)) if waiting else self._out(self._error(OTHER_ERROR))
        self._count(f"S request {kind}")
        if kind == RESYNCH:
            self._restart()
            self._after_request = None
        elif kind == IFS:
            self.ifsd = information[0]
        elif kind == ABORT:
            self._answer, self._sent = b"", 0
        return self._out(self._make(pcb | RESPONSE, information))

    def _next_piece(self) -> bytes | None:
        piece = self._answer[self._sent : self._sent + self.ifsd]
        self._sent += len(piece)
        more = MORE if self._sent < len(self._answer) else 0
        block = self._make(self._send << 6 | more, piece)
        self._send ^= 1
        return self._out(block)

    def _out(self, block: bytes) -> bytes | None:
        self._last = block
        word, _, value = (self.words.pop(0) if self.words else "ok").partition(":")
        if word in ("wtx", "ifs"):
            kind = WTX if word == "wtx" else IFS
            if word == "ifs":
                self.ifsc = int(value)
            self._after_request = iter([block])
            self._last = self._make(S_BLOCK | kind, bytes([int(value)]))
            return self._last
        if word == "abort":
            # of the chain that the host is sending; the block that acknowledges its last part comes after
            self._command.clear()
        if word in ("resynch", "abort"):
            self._last = self._make(S_BLOCK | (RESYNCH if word == "resynch" else ABORT))
            self._after_request = iter([block])
            return self._last
        if word == "silent":
            return None
        if word == "parity":
            raise ParityError
        damage = {"edc": (-1, 0xFF), "nad": (0, 0x11), "sequence": (1, 0x40), "length": (2, 0x01)}
        if word in damage:
            where, mask = damage[word]
            broken = bytearray(block)
            broken[where] ^= mask
            if word == "edc":
                return bytes(broken)
            body = bytes(broken[: -len(self._edc(b""))])
            return body + self._edc(body)
        return block

    def _make(self, pcb: int, information: bytes = b"") -> bytes:
        block = bytes([0, pcb, len(information)]) + information
        return block + self._edc(block)

    def _error(self, what: int) -> bytes:
        return self._make(R_BLOCK | self._expected << 4 | what)

    def _count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1
