"""What readers without hardware answer about themselves: attributes and part 10 features."""

import sys

from pypcscd.driver import DriverError, Reason
from pypcscd.scard import Attribute

VENDOR = "pypcscd"
#: CM_IOCTL_GET_FEATURE_REQUEST (PC/SC part 10, section 2.2), SCARD_CTL_CODE(3400) in pcsc-lite's form
GET_FEATURE_REQUEST = 0x42000D48


def answer_attribute(attribute: int, *, atr: bytes, present: bool, max_input: int) -> bytes:
    """The value of a reader attribute (PC/SC part 3, section 3.1.4), numbers in the host's byte order.

    ``atr`` is empty while the card has no power; ``max_input`` is the longest command APDU in bytes.
    Raises DriverError(UNKNOWN_ATTRIBUTE) for all others, the reader's names among them: the manager
    knows those.
    """
    match attribute:
        case Attribute.VENDOR_NAME:
            return VENDOR.encode() + b"\0"
        case Attribute.ATR_STRING:
            return atr
        case Attribute.ICC_PRESENCE:
            return b"\x02" if present else b"\x00"
        case Attribute.ICC_INTERFACE_STATUS:
            return b"\x01" if present else b"\x00"
        case Attribute.MAXINPUT:
            return max_input.to_bytes(4, sys.byteorder)
        case _:
            raise DriverError(
                Reason.UNKNOWN_ATTRIBUTE, f"a virtual reader has no attribute 0x{attribute:08X}"
            )


def answer_control(code: int) -> bytes:
    """The reader's own answer to SCardControl: the list of features is empty, all else is unknown.

    Raises DriverError(NOT_SUPPORTED).
    """
    if code == GET_FEATURE_REQUEST:
        return b""
    raise DriverError(Reason.NOT_SUPPORTED, f"a virtual reader does not know control code 0x{code:08X}")
