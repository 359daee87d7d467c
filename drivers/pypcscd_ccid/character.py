"""T=0 byte by byte, for readers of the character level (ISO 7816-3, section 10.3.3). No input or output.

    step = exchange.start()
    while step.response is None:
        step = exchange.receive(await send(step.data, step.expected))

``expected`` is the number of bytes that the reader shall wait for (wLevelParameter); 0: for none.
"""

from collections.abc import Callable
from typing import NamedTuple

from pypcscd_ccid.messages import HEADER_SIZE

_HEADER = 5
_NULL = 0x60
_MAX_RESPONSE = 256
#: bytes in a bulk packet of USB at full speed
_PACKET = 64


class CharacterError(Exception):
    """Card or command break the rules of T=0; the message says how."""


class Step(NamedTuple):
    data: bytes
    expected: int
    response: bytes | None = None


class CharacterT0:
    """One command TPDU: CLA INS P1 P2, or with P3, or with P3 and data."""

    def __init__(self, tpdu: bytes, longest: int = _MAX_RESPONSE) -> None:
        """``longest``: bytes that the reader carries at a time. Raises CharacterError if it is no command."""
        self._longest = longest
        if len(tpdu) < 4:
            raise CharacterError(f"a T=0 command has at least 4 bytes, not {len(tpdu)}")
        self._header = tpdu[:_HEADER].ljust(_HEADER, b"\0")
        self._data = tpdu[_HEADER:]
        self._ins = tpdu[1]
        if self._ins & 0xF0 in (0x60, 0x90):
            raise CharacterError(f"the instruction {self._ins:02X} cannot be told from a procedure byte")
        p3 = self._header[4]
        if self._data and len(self._data) != p3:
            raise CharacterError(f"the length byte is {p3}, but {len(self._data)} bytes follow")
        #: bytes that the card still has to send
        self._due = 0 if self._data or len(tpdu) < _HEADER else p3 or _MAX_RESPONSE
        self._response = bytearray()
        #: … before there is another procedure byte
        self._announced = 0
        #: what the bytes to come are: a procedure byte, data, or the second status byte
        self._awaits: Callable[[bytes], Step] = self._procedure
        self._sw1 = 0

    def start(self) -> Step:
        return Step(self._header, 1)

    def receive(self, data: bytes) -> Step:
        """What the card sent. Raises CharacterError."""
        if not data and self._awaits != self._send_rest:
            raise CharacterError("the card sent nothing")
        return self._awaits(data)

    def _procedure(self, data: bytes) -> Step:
        byte = data[0]
        if byte == _NULL:
            return Step(b"", 1)
        if byte & 0xF0 in (0x60, 0x90):
            self._sw1 = byte
            self._awaits = self._status
            return Step(b"", 1)
        if byte & 0xFE == self._ins & 0xFE:
            return self._transfer(max(len(self._data), self._due))
        if (byte ^ 0xFF) & 0xFE == self._ins & 0xFE:
            return self._transfer(1)
        raise CharacterError(f"{byte:02X} is not a procedure byte of instruction {self._ins:02X}")

    def _transfer(self, count: int) -> Step:
        if self._data:
            if count > self._longest:
                # The rest follows without another procedure byte, so none is waited for.
                part, self._data = self._data[: self._longest], self._data[self._longest :]
                self._awaits = self._send_rest
                return Step(part, 0)
            self._awaits = self._procedure
            part, self._data = self._data[:count], self._data[count:]
            return Step(part, 1)
        if not self._due:
            raise CharacterError("the card asks for data where there is none")
        self._announced = count
        return self._fetch()

    def _send_rest(self, _nothing: bytes) -> Step:
        return self._transfer(len(self._data))

    def _fetch(self) -> Step:
        self._awaits = self._receive_data
        count = min(self._announced, self._longest)
        # Some readers do not end a message that fills its last packet, so none is asked for.
        is_full = (count + HEADER_SIZE) % _PACKET == 0
        return Step(b"", count - 1 if is_full else count)

    def _receive_data(self, data: bytes) -> Step:
        self._response += data
        self._due -= len(data)
        self._announced -= len(data)
        if self._announced < 0:
            raise CharacterError("the card sent more than was asked for")
        if self._announced:
            return self._fetch()
        self._awaits = self._procedure
        return Step(b"", 1)

    def _status(self, data: bytes) -> Step:
        return Step(b"", 0, bytes(self._response) + bytes((self._sw1, data[0])))
