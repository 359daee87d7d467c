"""What a CCID interface says of itself: finding it in a configuration, and decoding its descriptor.

Source: CCID specification 1.1, sections 4.2 and 5.1. Nothing here touches a device.
"""

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

CCID_CLASS = 0x0B
VENDOR_CLASS = 0xFF
#: bInterfaceProtocol of readers with bulk pipes; 1 and 2 are ICCD tokens, which have a control pipe only
BULK_PROTOCOL = 0

_LENGTH = 54
#: the type that the specification gives, and the one that some devices give
_TYPES = (0x21, 0xFF)
_LAYOUT = struct.Struct("<BBHBBIIIBIIBIIIIIBBHBB")
assert _LAYOUT.size == _LENGTH

#: a message's header of 10 bytes, and the shortest command TPDU in a T=1 block
_LEAST_MESSAGE = 19

_BULK = 2
_INTERRUPT = 3
_TRANSFER_TYPE = 0x03
_IN = 0x80
#: largest block length of T=1 (ISO 7816-3, section 11.4.2)
_MAX_IFS = 254


class Feature(enum.IntFlag):
    """dwFeatures, without the level of exchange."""

    AUTO_PARAMETERS = 0x02
    AUTO_ACTIVATION = 0x04
    AUTO_VOLTAGE = 0x08
    AUTO_CLOCK = 0x10
    AUTO_BAUD = 0x20
    #: the reader negotiates by itself, in a way of its own
    AUTO_NEGOTIATION = 0x40
    #: the reader does the PPS by itself
    AUTO_PPS = 0x80
    CLOCK_STOP = 0x100
    NAD = 0x200
    AUTO_IFSD = 0x400


class Level(enum.Enum):
    """How much of the card protocol the reader leaves to the host; the value is its bit in dwFeatures."""

    CHARACTER = 0
    TPDU = 0x10000
    SHORT_APDU = 0x20000
    EXTENDED_APDU = 0x40000


class DescriptorError(ValueError):
    """An interface that cannot be used; the message says why."""


@dataclass(frozen=True)
class Descriptor:
    """The functional descriptor, in the order of the specification's table 5.1-1."""

    version: int
    #: number of slots, 1 to 256
    slots: int
    #: bit 0: 5 V, bit 1: 3 V, bit 2: 1.8 V
    voltages: int
    #: bit 0: T=0, bit 1: T=1
    protocols: int
    #: kHz
    default_clock: int
    maximum_clock: int
    #: bits per second
    default_rate: int
    maximum_rate: int
    #: length of the list of rates, 0: none is told
    rate_count: int
    #: bytes; as told, which may be 0 or more than T=1 allows
    declared_ifsd: int
    features: Feature
    level: Level
    #: longest message with its header, bytes
    max_message: int
    #: bytes 48 and 49, 0xFF: the class of the command at hand
    class_get_response: int
    class_envelope: int
    #: lines in the high byte, characters per line in the low one; 0: no display
    lcd_layout: int
    #: bit 0: verification, bit 1: modification of a PIN
    pin_support: int
    #: as told, which may be 0 or more than there are slots
    declared_busy_slots: int

    @property
    def busy_slots(self) -> int:
        """Slots that may have a command under way at the same time, 1 to ``slots``."""
        return min(max(self.declared_busy_slots, 1), self.slots)

    @property
    def ifsd(self) -> int:
        """Longest information field that the reader takes, 1 to 254 bytes; 0: not told."""
        return min(self.declared_ifsd, _MAX_IFS)


def parse(raw: bytes) -> Descriptor:
    """Decode a functional descriptor of 54 bytes. Raises DescriptorError."""
    if len(raw) != _LENGTH or raw[0] != _LENGTH or raw[1] not in _TYPES:
        raise DescriptorError(f"its CCID descriptor is not valid: {raw.hex(' ').upper() or 'empty'}")
    (
        _length,
        _type,
        version,
        max_slot,
        voltages,
        protocols,
        default_clock,
        maximum_clock,
        _clock_count,
        default_rate,
        maximum_rate,
        rate_count,
        ifsd,
        _synchronous,
        _mechanical,
        features,
        max_message,
        class_get_response,
        class_envelope,
        lcd_layout,
        pin_support,
        busy_slots,
    ) = _LAYOUT.unpack(raw)
    if max_message < _LEAST_MESSAGE:
        raise DescriptorError(
            f"its longest message has {max_message} bytes (dwMaxCCIDMessageLength), too few for any APDU"
        )
    return Descriptor(
        version=version,
        slots=max_slot + 1,
        voltages=voltages,
        protocols=protocols,
        default_clock=default_clock,
        maximum_clock=maximum_clock,
        default_rate=default_rate,
        maximum_rate=maximum_rate,
        rate_count=rate_count,
        declared_ifsd=ifsd,
        features=Feature(features & 0xFFFF),
        level=_level(features),
        max_message=max_message,
        class_get_response=class_get_response,
        class_envelope=class_envelope,
        lcd_layout=lcd_layout,
        pin_support=pin_support,
        declared_busy_slots=busy_slots,
    )


def _level(features: int) -> Level:
    bits = features & 0x70000
    try:
        return Level(bits)
    except ValueError:
        raise DescriptorError(
            f"it declares several levels of exchange at once (dwFeatures 0x{features:08X}); "
            "please report this reader"
        ) from None


# --- finding it --------------------------------------------------------------------------------


class Endpoint(NamedTuple):
    """An endpoint descriptor: address, bmAttributes, wMaxPacketSize, and what follows it."""

    address: int
    attributes: int
    max_packet: int
    extra: bytes = b""


@dataclass(frozen=True)
class Interface:
    """An interface descriptor (alternate setting 0) with its endpoints and the bytes that follow it."""

    number: int
    interface_class: int
    protocol: int
    endpoints: Sequence[Endpoint]
    extra: bytes = b""


class Pipes(NamedTuple):
    """The endpoints of a reader; ``interrupt`` is None where card movements must be polled."""

    bulk_in: Endpoint
    bulk_out: Endpoint
    interrupt: Endpoint | None


def find_descriptor(interface: Interface) -> bytes | None:
    """The functional descriptor of an interface, or None: then it is no CCID interface.

    It follows the interface descriptor, or in some old devices the last endpoint's. An interface of
    the vendor's class counts only if the descriptor is there and nothing else.
    """
    if interface.interface_class == VENDOR_CLASS:
        places: list[bytes] = [interface.extra] if len(interface.extra) == _LENGTH else []
    elif interface.interface_class == CCID_CLASS:
        places = [interface.extra, *(endpoint.extra for endpoint in reversed(interface.endpoints))]
    else:
        return None
    for place in places:
        for descriptor in _walk(place):
            if len(descriptor) == _LENGTH and descriptor[1] in _TYPES:
                return descriptor
    return None


def _walk(extra: bytes) -> Iterator[bytes]:
    """The descriptors in a row of them, up to the first that is cut off."""
    position = 0
    while position + 2 <= len(extra):
        length = extra[position]
        if length < 2:
            return
        yield extra[position : position + length]
        position += length


def find_pipes(interface: Interface) -> Pipes:
    """The endpoints by their types and directions. Raises DescriptorError."""
    bulk_in = bulk_out = interrupt = None
    for endpoint in interface.endpoints:
        kind = endpoint.attributes & _TRANSFER_TYPE
        is_in = bool(endpoint.address & _IN)
        if kind == _BULK and is_in:
            bulk_in = endpoint
        elif kind == _BULK:
            bulk_out = endpoint
        elif kind == _INTERRUPT and is_in:
            interrupt = endpoint
    if bulk_in is None or bulk_out is None:
        if interface.protocol != BULK_PROTOCOL:
            raise DescriptorError(
                f"it is an ICCD token (interface protocol {interface.protocol}), which is driven by control "
                "transfers; these are not supported, use libccid by reader.conf instead"
            )
        raise DescriptorError(f"interface {interface.number} has no bulk pipe in each direction")
    return Pipes(bulk_in, bulk_out, interrupt)
