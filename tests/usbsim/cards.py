"""Cards as the simulated readers hold them: a small application behind T=0, T=1 or whole APDUs.

Instructions, with class 00: ``B0`` reads Le bytes of a pattern that starts with P2; ``D6`` takes data;
``A4`` and ``88`` return the data that they get, ``88`` in reverse; ``B2`` reads a record of 16 bytes;
``10`` does nothing for P1 P2 milliseconds. Any other is refused with 6D00.
"""

from dataclasses import dataclass, field
from typing import Any, Self

from .t1 import ParityError, T1Card

#: data goes to the card; T=0 cannot tell from the header
INCOMING = {0xA4, 0xD6, 0x88}
RECORD = bytes(range(16))


def atr(
    protocol: int,
    historical: bytes = b"pypcscd",
    ta1: int | None = None,
    ifsc: int | None = None,
    bwi_cwi: int = 0x45,
) -> bytes:
    """An answer to reset for one protocol. The waiting times of T=1 are short ones unless told: those
    that hold where the ATR is silent let a host wait for minutes."""
    out = bytes([0x3B, (ta1 is not None) << 4 | (0x80 if protocol else 0) | len(historical)])
    if ta1 is not None:
        out += bytes([ta1])
    if not protocol:
        return out + historical
    out += bytes([0x81, 0x21 | (ifsc is not None) << 4])
    if ifsc is not None:
        out += bytes([ifsc])
    out += bytes([bwi_cwi]) + historical
    check = 0
    for byte in out[1:]:
        check ^= byte
    return out + bytes([check])


def offered(answer: bytes) -> tuple[list[int], int, bool]:
    """The protocols that an ATR offers, its IFSC, and whether blocks end with a CRC."""
    protocols: list[int] = []
    ifsc, use_crc = 32, False
    position, mask, group = 2, answer[1] >> 4, 1
    while mask:
        present = {name: bool(mask & 1 << bit) for bit, name in enumerate("ABCD")}
        if present["A"]:
            if group > 2 and protocols[-1] == 1:
                ifsc = answer[position]
            position += 1
        position += present["B"]
        if present["C"]:
            use_crc = use_crc or (group > 2 and answer[position] == 1)
            position += 1
        if not present["D"]:
            break
        protocols.append(answer[position] & 15)
        mask = answer[position] >> 4
        position, group = position + 1, group + 1
    return protocols or [0], ifsc, use_crc


@dataclass
class Apdu:
    instruction: int
    parameters: int
    data: bytes
    expected: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        instruction, parameters, body = raw[1], int.from_bytes(raw[2:4], "big"), raw[4:]
        data, expected = b"", 0
        if len(body) == 1:
            expected = body[0] or 256
        elif len(body) == 3 and body[0] == 0:
            expected = int.from_bytes(body[1:], "big") or 65536
        elif body:
            extended = body[0] == 0
            start = 3 if extended else 1
            count = int.from_bytes(body[:start], "big")
            data, rest = body[start : start + count], body[start + count :]
            if rest:
                expected = int.from_bytes(rest, "big") or (65536 if extended else 256)
        return cls(instruction, parameters, data, expected)


@dataclass
class Card:
    atr: bytes = field(default_factory=lambda: atr(0))
    latency_ms: float = 0.0
    power_ms: float = 0.0
    #: the reader asks for more time every so many milliseconds; 0: never
    extension_ms: float = 0.0
    #: the voltages at which it works: bits as in the descriptor
    voltages: int = 7
    #: the T=1 card's habits, see ``T1Card``
    t1_always: list[str] = field(default_factory=list)
    t1_words: list[str] = field(default_factory=list)
    #: T=0 at character level: null bytes before the procedure byte; data byte by byte
    nulls: int = 0
    single_bytes: bool = False

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        values = dict(values)
        if "protocol" in values:
            known = {key: values.pop(key) for key in ("ta1", "ifsc", "bwi_cwi") if key in values}
            values["atr"] = atr(values.pop("protocol"), **known)
        elif "atr" in values:
            values["atr"] = bytes.fromhex(values["atr"])
        return cls(**values)

    def __post_init__(self) -> None:
        protocols, ifsc, use_crc = offered(self.atr)
        self.protocol = self._default = protocols[0]
        self.t1 = T1Card(self.apdu, ifsc, use_crc)
        self.t1.always, self.t1.words = self.t1_always, self.t1_words
        self.pps = b""
        self.commands = 0
        self.reset()

    def reset(self) -> bytes:
        self.protocol = self._default
        self.t1.reset()
        self._fresh = True
        self._response = b""
        #: how long the last exchange took
        self.took_ms = 0.0
        self._received = bytearray()
        self.stream = bytearray()
        return self.atr

    def apdu(self, raw: bytes) -> bytes:
        """A whole command and its answer."""
        if len(raw) < 4:
            return b"\x67\x00"
        command = Apdu.parse(raw)
        self.commands += 1
        self.took_ms = self.latency_ms
        match command.instruction:
            case 0xB0:
                first = command.parameters & 0xFF
                data = bytes((first + i) & 0xFF for i in range(min(command.expected, 256)))
                data = (data * (command.expected // 256 + 1))[: command.expected]
            case 0xA4:
                data = command.data
            case 0x88:
                data = command.data[::-1]
            case 0xB2 if command.expected != len(RECORD):
                return bytes([0x6C, len(RECORD)])
            case 0xB2:
                data = RECORD
            case 0xD6:
                data = b""
            case 0x10:
                self.took_ms += command.parameters
                data = b""
            case _:
                return b"\x6d\x00"
        return data[: command.expected] + b"\x90\x00"

    def whole(self, raw: bytes) -> bytes:
        """At the APDU levels: the reader does the rest."""
        self._fresh = False
        return self.apdu(raw)

    def tpdu(self, raw: bytes) -> bytes | None:
        self.took_ms = 0.0
        if self._fresh and raw[:1] == b"\xff":
            self._fresh = False
            self.pps = raw
            self.protocol = raw[1] & 15
            return raw
        self._fresh = False
        if self.protocol == 1:
            return self.t1.block(raw)
        return self._t0(raw)

    def _t0(self, raw: bytes) -> bytes:
        if len(raw) < 4:
            return b"\x67\x00"
        header, p3 = raw[:4], raw[4] if len(raw) > 4 else 0
        if header[1] == 0xC0:
            return self._get_response(p3 or 256)
        if len(raw) > 5:
            answer = self.apdu(raw[:5] + raw[5:] + b"\x00")
            if len(answer) == 2:
                return answer
            self._response = answer[:-2]
            return bytes([0x61, len(self._response) & 0xFF])
        answer = self.apdu(header + bytes([p3]))
        count = len(answer) - 2
        if 0 < count < (p3 or 256):
            return bytes([0x6C, count])
        return answer

    def _get_response(self, count: int) -> bytes:
        self.took_ms = self.latency_ms
        if count > len(self._response):
            return bytes([0x6C, len(self._response)]) if self._response else b"\x69\x85"
        data, self._response = self._response[:count], self._response[count:]
        left = len(self._response)
        return data + (bytes([0x61, min(left, 255)]) if left else b"\x90\x00")

    def characters(self, data: bytes) -> None:
        """At character level: bytes to the card; its own are in ``stream``."""
        self.took_ms = 0.0
        self._received += data
        received = bytes(self._received)
        if self._fresh and received[:1] == b"\xff":
            need = 3 + bin(received[1] & 0x70).count("1") if len(received) > 1 else 2
            if len(received) >= need:
                self._finish(self.tpdu(received))
        elif self.protocol == 1:
            size = 3 + len(self.t1._edc(b""))
            if len(received) >= size and len(received) >= size + received[2]:
                self._finish(self.tpdu(received))
        elif len(received) >= 5:
            self._procedure(received, bool(data))

    def _procedure(self, received: bytes, progress: bool) -> None:
        instruction, p3 = received[1], received[4]
        want = p3 if instruction in INCOMING else 0
        if len(received) - 5 < want:
            if not progress:
                return
            if len(received) == 5:
                self.stream += b"\x60" * self.nulls
            self.stream.append(instruction ^ 0xFF if self.single_bytes else instruction)
            return
        answer = self._t0(received)
        procedure = b""
        if len(answer) > 2:
            procedure = b"\x60" * self.nulls + bytes([instruction])
        self._finish(procedure + answer)

    def _finish(self, answer: bytes | None) -> None:
        self._received.clear()
        self.stream += answer or b""


__all__ = ["Apdu", "Card", "ParityError", "atr", "offered"]
