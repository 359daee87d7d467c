"""The messages between the kernel's virtual host controller and a device; the kernel's
Documentation/usb/usbip_protocol.rst describes them. All numbers are big-endian; a header has 48 bytes."""

import struct
from dataclasses import dataclass

HEADER = 48
CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
DIR_OUT, DIR_IN = 0, 1

URB_SHORT_NOT_OK = 0x0001

_SUBMIT = struct.Struct(">IIIIIIiiii8s")
_UNLINK = struct.Struct(">IIIIII24x")
_RET_SUBMIT = struct.Struct(">IIIIIiiiii8x")
_RET_UNLINK = struct.Struct(">IIIIIi24x")


class ProtocolError(Exception):
    """The other end does not speak this protocol."""


@dataclass(slots=True)
class Submit:
    """A transfer: ``endpoint`` is an address with the direction in bit 7."""

    seqnum: int
    endpoint: int
    flags: int
    length: int
    setup: bytes
    data: bytes


@dataclass(slots=True)
class Unlink:
    """The host takes the transfer ``target`` back."""

    seqnum: int
    target: int


class Decoder:
    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Submit | Unlink]:
        self._buffer += data
        found: list[Submit | Unlink] = []
        while len(self._buffer) >= HEADER:
            command = int.from_bytes(self._buffer[:4], "big")
            if command == CMD_SUBMIT:
                values = _SUBMIT.unpack_from(self._buffer)
                _, seqnum, _, direction, endpoint, flags, length, _, packets, _, setup = values
                if packets not in (0, -1):
                    raise ProtocolError("isochronous transfers are not simulated")
                end = HEADER + (length if direction == DIR_OUT else 0)
                if len(self._buffer) < end:
                    break
                body = bytes(self._buffer[HEADER:end])
                found.append(Submit(seqnum, endpoint | direction << 7, flags, length, setup, body))
            elif command == CMD_UNLINK:
                end = HEADER
                values = _UNLINK.unpack_from(self._buffer)
                found.append(Unlink(values[1], values[5]))
            else:
                raise ProtocolError(f"unknown command {command:#x}")
            del self._buffer[:end]
        return found


def submit_reply(seqnum: int, status: int, actual: int, data: bytes = b"") -> bytes:
    """The end of a transfer: ``data`` for the direction IN only, ``status`` a negative errno or 0."""
    return _RET_SUBMIT.pack(RET_SUBMIT, seqnum, 0, 0, 0, status, actual, 0, 0, 0) + data


def unlink_reply(seqnum: int, status: int) -> bytes:
    return _RET_UNLINK.pack(RET_UNLINK, seqnum, 0, 0, 0, status)
