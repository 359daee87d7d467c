"""The vpcd network protocol of the vsmartcard project, without I/O.

Each direction is a stream of frames: a two-byte big-endian length and that many bytes. The reader
speaks first. Its frames of one byte 00, 01, 02 or 04 are commands (``Control``), of which only the
ATR question is answered; all others are command APDUs and are answered by one response each, in
order. The emulator connects to the reader: being connected means that the card is inserted.
"""

import enum

#: 0x8C7B, the port of the first slot unless configured otherwise
DEFAULT_PORT = 35963
#: what the two-byte length can express, bytes
MAX_PAYLOAD = 0xFFFF
_LENGTH_SIZE = 2
#: bytes of the longest frame
MAX_FRAME = _LENGTH_SIZE + MAX_PAYLOAD


class Control(enum.IntEnum):
    """The one-byte frames that a reader sends."""

    POWER_OFF = 0
    POWER_ON = 1
    RESET = 2
    ATR = 4


_CONTROL_PAYLOADS = frozenset(bytes((control,)) for control in Control)


class LocalProtocolError(ValueError):
    """We were asked to send what the protocol cannot express."""


def encode(payload: bytes) -> bytes:
    """One frame. Raises LocalProtocolError for more than 65,535 bytes."""
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(
            f"the vpcd protocol carries at most {MAX_PAYLOAD} bytes at a time, not {len(payload)}"
        )
    return len(payload).to_bytes(_LENGTH_SIZE, "big") + payload


def encode_control(control: Control) -> bytes:
    """The frame of a command to the emulator."""
    return encode(bytes((control,)))


def encode_apdu(apdu: bytes) -> bytes:
    """The frame of a command APDU of 1 to 65,535 bytes.

    Raises LocalProtocolError if an emulator would take it for something else, or it is too long.
    """
    if 2 <= len(apdu) <= MAX_PAYLOAD:
        return len(apdu).to_bytes(_LENGTH_SIZE, "big") + apdu
    if not apdu:
        raise LocalProtocolError("the vpcd protocol has no empty APDUs")
    if apdu in _CONTROL_PAYLOADS:
        raise LocalProtocolError(
            f"the one-byte APDU {apdu.hex().upper()} means {Control(apdu[0]).name} in the vpcd protocol"
        )
    return encode(apdu)


class Decoder:
    """Cuts a byte stream into the payloads of its frames, however the stream was delivered."""

    __slots__ = ("_missing", "_parts")

    def __init__(self) -> None:
        #: an unfinished frame: what there is of its payload, or the one byte of its length
        self._parts: list[bytes] = []
        #: bytes of that frame that are still to come; 0 while its length is not known
        self._missing = 0

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are waiting for the rest."""
        known = _LENGTH_SIZE if self._missing else 0
        return known + sum(len(part) for part in self._parts)

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Take bytes in, and return the payloads (0 to 65,535 bytes) that are complete with them.

        ``data`` may change afterwards: what is needed of it is copied.
        """
        size = len(data)
        missing = self._missing
        if not self._parts and missing == 0:
            # nearly always: exactly one frame in one delivery
            if size >= _LENGTH_SIZE and data[0] << 8 | data[1] == size - _LENGTH_SIZE:
                return [bytes(data[_LENGTH_SIZE:])]
            return self._cut(data)
        if missing > size:
            self._parts.append(bytes(data))
            self._missing = missing - size
            return []
        parts, self._parts, self._missing = self._parts, [], 0
        if missing == 0:
            return self._cut(parts[0] + data)
        parts.append(bytes(data[:missing]))
        frames = [b"".join(parts)]
        if missing < size:
            frames += self._cut(data[missing:])
        return frames

    def _cut(self, data: bytes | memoryview) -> list[bytes]:
        """The payloads in what begins with a frame; the rest is kept."""
        frames: list[bytes] = []
        position, size = 0, len(data)
        while size - position >= _LENGTH_SIZE:
            begin = position + _LENGTH_SIZE
            end = begin + (data[position] << 8 | data[position + 1])
            if end > size:
                self._missing = end - size
                self._parts = [bytes(data[begin:])]
                return frames
            frames.append(bytes(data[begin:end]))
            position = end
        if position < size:
            self._parts = [bytes(data[position:])]
        return frames
