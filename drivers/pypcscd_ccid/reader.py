"""What is known of one CCID reader, and how its slots answer questions about it."""

import sys
from dataclasses import dataclass

from pypcscd.driver import DriverError, Reason
from pypcscd.scard import Attribute
from pypcscd_ccid import features, quirks
from pypcscd_ccid.descriptor import Descriptor
from pypcscd_ccid.messages import HEADER_SIZE
from pypcscd_ccid.quirks import Quirk

#: CHANNEL_ID: "USB" in the high half, bus and address in the low one (PC/SC part 3, section 3.1.4)
_CHANNEL_ID = 0x00020110
_USB_CHANNEL = 0x00200000


@dataclass(frozen=True)
class ReaderFacts:
    """Facts that do not change while the reader is plugged in."""

    #: how messages name it
    title: str
    vendor: int
    product: int
    #: bcdDevice
    firmware: int
    manufacturer: str
    serial: str
    bus: int
    address: int
    #: with the quirk applied
    descriptor: Descriptor
    quirk: Quirk
    #: bits per second, empty: not told
    rates: tuple[int, ...]
    #: the user allows commands of SCardControl to be passed to the reader
    allows_escape: bool

    @property
    def max_data(self) -> int:
        """Bytes of data in the longest message."""
        return self.descriptor.max_message - HEADER_SIZE

    def may_escape(self, data: bytes) -> bool:
        return self.allows_escape or quirks.allows_escape(self.quirk, self.vendor, data)

    def answer_control(self, code: int) -> bytes:
        """The answers that need no command to the reader. Raises DriverError(NOT_SUPPORTED)."""
        offers_escape = self.allows_escape or self.quirk.allows_escape
        match code:
            case features.GET_FEATURE_REQUEST | features.GET_FEATURE_REQUEST_WINDOWS:
                return features.feature_list(self.descriptor, allows_escape=offers_escape)
            case features.PIN_PROPERTIES if self.descriptor.pin_support:
                return features.pin_properties(self.descriptor, self.quirk)
            case features.TLV_PROPERTIES:
                return features.tlv_properties(
                    self.descriptor,
                    self.quirk,
                    vendor=self.vendor,
                    product=self.product,
                    allows_escape=offers_escape,
                )
        raise DriverError(
            Reason.NOT_SUPPORTED, f"{self.title}: the reader does not know control code 0x{code:08X}"
        )

    def answer_attribute(self, attribute: int, *, atr: bytes, is_present: bool) -> bytes:
        """An attribute's value (PC/SC part 3, section 3.1.4), numbers in the host's byte order.

        ``atr`` is empty while the card has no power. Raises DriverError(UNKNOWN_ATTRIBUTE).
        """
        match attribute:
            case Attribute.ATR_STRING:
                return atr
            case Attribute.ICC_PRESENCE:
                return b"\x02" if is_present else b"\x00"
            case Attribute.ICC_INTERFACE_STATUS:
                return b"\x01" if is_present else b"\x00"
            case Attribute.VENDOR_NAME:
                return _text(self.manufacturer)
            case Attribute.VENDOR_IFD_SERIAL_NO:
                return _text(self.serial)
            case Attribute.VENDOR_IFD_VERSION:
                return _number(self.firmware << 16)
            case Attribute.MAXINPUT:
                return _number(self.max_data)
            case int(number) if number == _CHANNEL_ID:
                return _number(_USB_CHANNEL | self.bus << 8 | self.address)
        raise DriverError(
            Reason.UNKNOWN_ATTRIBUTE, f"{self.title}: the reader has no attribute 0x{attribute:08X}"
        )


def _number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def _text(value: str) -> bytes:
    """With a final NUL; nothing at all if the device has no such string."""
    return value.encode() + b"\0" if value else b""
