"""The messages between the daemon and a driver helper. No I/O here.

Both sockets of a helper (one control socket; one per slot) are SOCK_SEQPACKET pairs, so one message
is one packet: a header of a kind, a sequence number that a response repeats, and a signed 64-bit
argument, all in the machine's own byte order, then a payload of up to ``MAX_PAYLOAD`` bytes.
"""

import enum
import struct

from pypcscd_ifdhandler.api import MAX_BUFFER_SIZE


class WireError(Exception):
    """A packet that the other side cannot have meant."""


class Kind(enum.IntEnum):
    """What a message is; the argument and the payload of each."""

    # on the control socket, helper to daemon
    READY = 1  #: the library is loaded; argument: its API version; payload: a warning, or nothing
    UNUSABLE = 2  #: the library is not usable; payload: why and what to do
    OPENED = 3  #: argument: number of slots; payload: see pack_opened; with a descriptor per slot
    FAILED = 4  #: argument: response code; payload: the call that failed
    CLOSED = 5
    CAPABILITY = 6  #: argument: response code; payload: value
    # on the control socket, daemon to helper
    OPEN = 16  #: argument: device index; payload: see pack_open
    CLOSE = 17  #: argument: device index
    ASK = 18  #: argument: tag, asked of Lun 0
    # on a slot socket, helper to daemon
    RESPONSE = 32  #: argument: response code; payload: ATR, answer or value
    PRESENCE = 33  #: argument: response code of IFDHICCPresence
    # on a slot socket, daemon to helper
    POWER_ON = 48
    POWER_OFF = 49
    RESET = 50
    SET_PROTOCOL = 51  #: argument: 1 for T=0, 2 for T=1
    TRANSMIT = 52  #: argument: 0 for T=0, 1 for T=1, 4 for raw; payload: command APDU
    CONTROL = 53  #: argument: control code; payload: command
    GET = 54  #: argument: tag
    SET = 55  #: argument: tag; payload: value


HEADER = struct.Struct("=B3xIq")
MAX_PAYLOAD = MAX_BUFFER_SIZE
#: Room for any message, bytes.
MAX_MESSAGE = HEADER.size + MAX_PAYLOAD
#: What is asked of the kernel as a socket's send buffer: room for a longest message, its
#: bookkeeping, and a few short ones that nobody has read yet.
SEND_BUFFER = 4 * MAX_MESSAGE
#: As many descriptors as the kernel passes in one message (SCM_MAX_FD).
MAX_SLOTS = 253

_CHANNEL = struct.Struct("=Q")
_ACCESS = struct.Struct("=B")
_CODE = struct.Struct("=q")


def pack(kind: int, sequence: int, argument: int = 0, payload: bytes = b"") -> bytes:
    """Make a message. Raises WireError for a payload of more than ``MAX_PAYLOAD`` bytes."""
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"a payload of {len(payload)} bytes; at most {MAX_PAYLOAD} fit")
    return HEADER.pack(kind, sequence, argument) + payload


def unpack(message: bytes | memoryview) -> tuple[int, int, int, bytes]:
    """Return kind, sequence number, argument and payload. Raises WireError."""
    if not HEADER.size <= len(message) <= MAX_MESSAGE:
        raise WireError(f"a message of {len(message)} bytes")
    kind, sequence, argument = HEADER.unpack_from(message)
    return kind, sequence, argument, bytes(message[HEADER.size :])


def pack_open(channel: int, device: bytes) -> bytes:
    """The payload of OPEN: CHANNELID (unsigned) and DEVICENAME (no NUL)."""
    return _CHANNEL.pack(channel) + device


def unpack_open(payload: bytes) -> tuple[int, bytes]:
    """Return CHANNELID and DEVICENAME. Raises WireError."""
    if len(payload) < _CHANNEL.size:
        raise WireError(f"OPEN with {len(payload)} bytes")
    (channel,) = _CHANNEL.unpack_from(payload)
    return channel, payload[_CHANNEL.size :]


def pack_opened(simultaneous_access: int, presences: list[int]) -> bytes:
    """The payload of OPENED: how many devices the library serves at once (0: it did not say), and
    the response code of IFDHICCPresence for each slot."""
    return _ACCESS.pack(simultaneous_access) + b"".join(map(_CODE.pack, presences))


def unpack_opened(payload: bytes) -> tuple[int, list[int]]:
    """Return simultaneous accesses and presence codes. Raises WireError."""
    codes = memoryview(payload)[_ACCESS.size :]
    if not payload or len(codes) % _CODE.size:
        raise WireError(f"OPENED with {len(payload)} bytes")
    return payload[0], [code for (code,) in _CODE.iter_unpack(codes)]
