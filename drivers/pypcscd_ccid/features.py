"""PC/SC part 10: what a reader with keypad or display offers, and PIN commands made for it.

Source: PC/SC specification part 10, revision 2.02.09, sections 2.2 to 2.6, and the CCID
specification 1.1, section 6.1.11 (Secure). No input or output here.
"""

import struct
from typing import NamedTuple

from pypcscd.driver import DriverError, Reason
from pypcscd_ccid.descriptor import Descriptor, Level
from pypcscd_ccid.quirks import Quirk

_CODE = 0x42000000
GET_FEATURE_REQUEST = _CODE + 3400
#: the same as Windows numbers it, which some programs use everywhere
GET_FEATURE_REQUEST_WINDOWS = 0x00313520
ESCAPE = _CODE + 1

_VERIFY_PIN_DIRECT = 0x06
_MODIFY_PIN_DIRECT = 0x07
_PIN_PROPERTIES = 0x0A
_TLV_PROPERTIES = 0x12
_CCID_ESCAPE = 0x13

VERIFY_PIN = _CODE + 0x330000 + _VERIFY_PIN_DIRECT
MODIFY_PIN = _CODE + 0x330000 + _MODIFY_PIN_DIRECT
PIN_PROPERTIES = _CODE + 0x330000 + _PIN_PROPERTIES
TLV_PROPERTIES = _CODE + 0x330000 + _TLV_PROPERTIES

_CAN_VERIFY = 0x01
_CAN_MODIFY = 0x02
#: what follows the structure's fixed part: an APDU of at least 4 bytes
_VERIFY_HEADER = 19
_MODIFY_HEADER = 24
_LEAST_APDU = 4
#: maximum size reached: the condition that every keypad knows
_AT_MAXIMUM_SIZE = 0x02
_ALL_CONDITIONS = 0x07
_NO_MESSAGE = 0xFF
_MOST_MESSAGES = 3
#: seconds
_LEAST_PIN_TIMEOUT = 90
_PIN_GRACE = 10
_MAX_APDU_DATA = 0x10000


class PinCommand(NamedTuple):
    """A PIN command for the reader."""

    #: abData of PC_to_RDR_Secure
    payload: bytes
    #: where bTeoPrologue (3 bytes) is in it
    prologue: int
    #: the APDU in which the reader puts the PIN
    apdu: bytes
    #: seconds that the user has, and some more
    timeout: float


def feature_list(descriptor: Descriptor, *, allows_escape: bool) -> bytes:
    """The answer to GET_FEATURE_REQUEST: records of tag, length 4 and control code, big-endian."""
    codes: list[tuple[int, int]] = []
    if descriptor.pin_support & _CAN_VERIFY:
        codes.append((_VERIFY_PIN_DIRECT, VERIFY_PIN))
    if descriptor.pin_support & _CAN_MODIFY:
        codes.append((_MODIFY_PIN_DIRECT, MODIFY_PIN))
    if descriptor.pin_support:
        codes.append((_PIN_PROPERTIES, PIN_PROPERTIES))
    codes.append((_TLV_PROPERTIES, TLV_PROPERTIES))
    if allows_escape:
        codes.append((_CCID_ESCAPE, ESCAPE))
    return b"".join(struct.pack(">BBI", tag, 4, code) for tag, code in codes)


def pin_properties(descriptor: Descriptor, quirk: Quirk) -> bytes:
    """PIN_PROPERTIES_STRUCTURE: wLcdLayout, bEntryValidationCondition, bTimeOut2."""
    return struct.pack("<HBB", descriptor.lcd_layout, quirk.entry_conditions, 0)


def tlv_properties(
    descriptor: Descriptor, quirk: Quirk, *, vendor: int, product: int, allows_escape: bool
) -> bytes:
    """The answer to GET_TLV_PROPERTIES: records of tag, length and little-endian value."""
    layout = descriptor.lcd_layout
    records: list[tuple[int, int, int]] = [(0x01, 2, layout)]
    if layout:
        records += [(0x04, 2, layout & 0xFF), (0x05, 2, layout >> 8)]
    records.append((0x03, 1, 0))
    if quirk.pin_sizes is not None:
        shortest, longest = quirk.pin_sizes
        records += [(0x06, 1, shortest), (0x07, 1, longest), (0x02, 1, quirk.entry_conditions)]
    takes_long = descriptor.level in (Level.TPDU, Level.EXTENDED_APDU)
    records += [
        (0x09, 1, allows_escape),
        (0x0B, 2, vendor),
        (0x0C, 2, product),
        (0x0A, 4, _MAX_APDU_DATA if takes_long else 0),
    ]
    return b"".join(bytes((tag, size)) + value.to_bytes(size, "little") for tag, size, value in records)


def verify_command(data: bytes, quirk: Quirk) -> PinCommand:
    """PIN_VERIFY_STRUCTURE made into a command. Raises DriverError(INVALID_PARAMETER)."""
    apdu = _apdu(data, _VERIFY_HEADER, "verification")
    head = bytearray(data[:_VERIFY_HEADER])
    head[7] = _condition(head[7], quirk)
    if quirk.verify_messages is not None:
        head[8] = quirk.verify_messages
    if quirk.swaps_pin_lengths:
        head[5:7] = head[6:4:-1]
    # Neither bTimerOut2 nor ulDataLength are part of the reader's structure.
    payload = bytes((0x00, head[0])) + head[2:15]
    return PinCommand(payload + apdu, len(payload) - 3, apdu, _timeout(head[0]))


def modify_command(data: bytes, quirk: Quirk) -> PinCommand:
    """PIN_MODIFY_STRUCTURE made into a command. Raises DriverError(INVALID_PARAMETER)."""
    apdu = _apdu(data, _MODIFY_HEADER, "modification")
    head = bytearray(data[:_MODIFY_HEADER])
    head[10] = _condition(head[10], quirk)
    if quirk.modify_messages is not None:
        head[11] = quirk.modify_messages
    messages = head[11]
    if messages > _MOST_MESSAGES and messages != _NO_MESSAGE:
        raise DriverError(
            Reason.INVALID_PARAMETER,
            f"bNumberMessage of the PIN modification is {messages}, not 0 to 3 or 255",
        )
    count = 3 if quirk.wants_all_indexes or messages >= _MOST_MESSAGES else 2 if messages else 1
    # Indexes belong to messages of the client's; a keypad may know none.
    indexes = head[14 : 14 + count] if quirk.modify_messages != 0 else bytes(count)
    payload = bytes((0x01, head[0])) + head[2:14] + indexes + head[17:20]
    return PinCommand(payload + apdu, len(payload) - 3, apdu, _timeout(head[0]))


def _apdu(data: bytes, header: int, what: str) -> bytes:
    if len(data) < header + _LEAST_APDU:
        raise DriverError(
            Reason.INVALID_PARAMETER,
            f"the PIN {what} has {len(data)} bytes; {header + _LEAST_APDU} are needed",
        )
    told = int.from_bytes(data[header - 4 : header], "little")
    if told != len(data) - header:
        raise DriverError(
            Reason.INVALID_PARAMETER,
            f"ulDataLength of the PIN {what} is {told}, but {len(data) - header} bytes follow",
        )
    return data[header:]


def _condition(asked: int, quirk: Quirk) -> int:
    if not 1 <= asked <= _ALL_CONDITIONS:
        return _AT_MAXIMUM_SIZE
    return asked & quirk.entry_conditions or _AT_MAXIMUM_SIZE


def _timeout(seconds: int) -> float:
    return max(_LEAST_PIN_TIMEOUT, seconds + _PIN_GRACE)
