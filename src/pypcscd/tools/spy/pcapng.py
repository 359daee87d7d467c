"""Exchanges with cards as a pcapng file that Wireshark dissects.

The link type is 252, "Wireshark upper PDU": each packet names the dissector that it is for, here
``iso7816`` for commands and responses and ``iso7816.atr`` for answers to reset. Its comment says
which connection and which reader it belongs to.
Source: pcapng (draft-ietf-opsawg-pcapng) and Wireshark's ``exported_pdu_tlvs.h``.
"""

import struct
from typing import BinaryIO

_LINKTYPE_WIRESHARK_UPPER_PDU = 252
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_NANOSECONDS = 9

_END_OF_OPTIONS, _COMMENT, _APPLICATION, _RESOLUTION = 0, 1, 4, 9
_TAG_END, _TAG_DISSECTOR, _TAG_DIRECTION = 0, 12, 35
_SENT, _RECEIVED = 0, 1


class PcapngWriter:
    """Writes packets to a binary file. Raises OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        section = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
        self._write(_block(_SECTION, section + _options([(_APPLICATION, b"pypcscd spy")])))
        interface = struct.pack("<HHI", _LINKTYPE_WIRESHARK_UPPER_PDU, 0, 0)
        self._write(_block(_INTERFACE, interface + _options([(_RESOLUTION, bytes([_NANOSECONDS]))])))

    def command(self, apdu: bytes, time: float, comment: str) -> None:
        self._packet(b"iso7816", _SENT, apdu, time, comment)

    def response(self, response: bytes, time: float, comment: str) -> None:
        self._packet(b"iso7816", _RECEIVED, response, time, comment)

    def answer_to_reset(self, atr: bytes, time: float, comment: str) -> None:
        self._packet(b"iso7816.atr", _RECEIVED, atr, time, comment)

    def _packet(self, dissector: bytes, direction: int, data: bytes, time: float, comment: str) -> None:
        tags = _tag(_TAG_DISSECTOR, dissector) + _tag(_TAG_DIRECTION, struct.pack(">I", direction))
        packet = tags + struct.pack(">HH", _TAG_END, 0) + data
        stamp = int(time * 1_000_000_000)
        head = struct.pack("<IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(packet), len(packet))
        options = _options([(_COMMENT, comment.encode("utf-8", "replace"))])
        self._write(_block(_PACKET, head + _padded(packet) + options))

    def _write(self, block: bytes) -> None:
        self._file.write(block)
        self._file.flush()


def _tag(number: int, value: bytes) -> bytes:
    """A tag of the upper-PDU header: big-endian, its value filled to four bytes."""
    value = _padded(value)
    return struct.pack(">HH", number, len(value)) + value


def _options(options: list[tuple[int, bytes]]) -> bytes:
    encoded = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options)
    return encoded + struct.pack("<HH", _END_OF_OPTIONS, 0)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
