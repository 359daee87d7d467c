"""Readers that need something of their own: a table by vendor and product, and nothing else.

The facts are those that the CCID project's users and vendors found out over the years.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from pypcscd_ccid.descriptor import Descriptor, Feature, Level

_GEMALTO = 0x08E6
_NO_FEATURES = Feature(0)


@dataclass(frozen=True)
class Quirk:
    """What is different with a reader. Everything that is not set is as its descriptor says."""

    level: Level | None = None
    #: the highest rate, bits per second
    maximum_rate: int | None = None
    ifsd: int | None = None
    #: features that it has without saying so
    features: Feature = _NO_FEATURES
    #: False: its PIN entry leaks PINs or does not work, and is not offered
    offers_pin: bool = True
    #: True: commands of SCardControl are passed to the reader without being allowed by the option
    allows_escape: bool = False
    #: True: PPS is left out, and the card's first protocol is taken whatever was asked for
    skips_pps: bool = False
    #: an escape that helps if a card is refused because of the EMV rules (error 0xBB)
    leaves_emv: bytes = b""
    #: the values of bcdDevice for which this holds, below the second; None: all
    firmware: tuple[int, int] | None = None
    #: seconds that the reader may take to answer when it is opened
    opening_timeout: float = 3.0
    #: bEntryValidationCondition that its keypad knows (bit 0: maximum, 1: key, 2: time-out)
    entry_conditions: int = 0x07
    #: shortest and longest PIN, where told
    pin_sizes: tuple[int, int] | None = None
    #: bNumberMessage for PIN verification and modification, whatever the client asks for
    verify_messages: int | None = None
    modify_messages: int | None = None
    #: True: bMsgIndex2 and 3 of a modification are there whatever bNumberMessage says
    wants_all_indexes: bool = False
    #: True: it reads the two bytes of wPINMaxExtraDigit of a verification the other way round
    swaps_pin_lengths: bool = False


_NO_PIN = Quirk(offers_pin=False)
_APDU_WITHOUT_PIN = Quirk(level=Level.EXTENDED_APDU, offers_pin=False)
_EXTENDED = Quirk(level=Level.EXTENDED_APDU)
_SLOW_START = Quirk(opening_timeout=12.0)
_EMV = Quirk(leaves_emv=b"\x1f\x01")
_GEMPC_PINPAD = Quirk(entry_conditions=0x02, pin_sizes=(4, 8), verify_messages=1, wants_all_indexes=True)

_QUIRKS: Mapping[tuple[int, int], Quirk] = MappingProxyType(
    {
        (0x09BE, 0x0002): Quirk(ifsd=254),  # MySmartPad: byte-swapped
        (0x0B81, 0x0200): Quirk(opening_timeout=60.0),  # id3 CL1356
        (0x0B97, 0x7762): Quirk(maximum_rate=9600, skips_pps=True),  # O2Micro Oz776
        (0x0B97, 0x7772): Quirk(maximum_rate=9600, skips_pps=True),
        (0x072F, 0x2200): Quirk(opening_timeout=30.0),  # ACR122U
        (0x09D8, 0x0427): Quirk(opening_timeout=30.0),  # Elatec TWN4
        (0x09D8, 0x0428): Quirk(opening_timeout=30.0),
        (0x04E6, 0x5293): _SLOW_START,  # SCL011
        (0x04E6, 0x5790): _SLOW_START,  # uTrust 3700
        (0x04E6, 0x5791): _SLOW_START,
        (0x04E6, 0x5724): _SLOW_START,
        (0x058F, 0x9540): Quirk(maximum_rate=200_000),  # Alcor AU9540
        (0x03F0, 0x1024): _NO_PIN,  # keyboards that show the PIN to the host
        (0x03F0, 0x0036): _NO_PIN,
        (0x0BF8, 0x1017): _NO_PIN,
        (0x04F2, 0x1469): _NO_PIN,
        (0x0783, 0x0006): _NO_PIN,  # C3PO LTC31v2
        (0x25DD, 0x3111): _NO_PIN,  # bit4id miniLector
        (0x076B, 0x3A21): _APDU_WITHOUT_PIN,  # Omnikey: the firmware chains
        (0x076B, 0x3031): _APDU_WITHOUT_PIN,
        (0x076B, 0x6632): _APDU_WITHOUT_PIN,
        (0x046A, 0x00A7): _APDU_WITHOUT_PIN,
        (0x0BF8, 0x1024): _APDU_WITHOUT_PIN,
        (0x0D46, 0x3010): Quirk(level=Level.SHORT_APDU),  # Kobil TriB@nk
        (0x2F7C, 0x6007): _EXTENDED,  # Diebold PN7362AU
        (0x046A, 0x00A1): replace(_EXTENDED, firmware=(0x0100, 0x0101)),  # Cherry KC1000SC
        (0x0529, 0x0620): Quirk(features=Feature.AUTO_IFSD, firmware=(0x0012, 0x0014)),  # eToken 5100
        (0x08E6, 0x4433): _EMV,  # GemPC433
        (0x046A, 0x0005): _EMV,  # Cherry xx33
        (0x076B, 0x5427): Quirk(allows_escape=True),  # Omnikey 5427CK
        (0x08E6, 0x3478): _GEMPC_PINPAD,
        (0x0982, 0x0008): _GEMPC_PINPAD,  # Vega-Alpha
        (0x046A, 0x003E): Quirk(  # Cherry ST-2000
            entry_conditions=0x02, pin_sizes=(0, 25), modify_messages=0, wants_all_indexes=True
        ),
        (0x04E6, 0xE003): Quirk(modify_messages=0, wants_all_indexes=True),  # SPR532
        (0x413C, 0x2100): Quirk(verify_messages=0, swaps_pin_lengths=True),  # Dell keyboards
        (0x413C, 0x2101): Quirk(verify_messages=0),
        (0x046A, 0x0010): Quirk(modify_messages=3),
    }
)

_NONE = Quirk()
#: the largest message of the SCM family; they take longer ones than they say
LYING_MAX_MESSAGE = 263


def find(vendor: int, product: int, firmware: int) -> Quirk:
    """What is to be minded with a reader; ``firmware`` is bcdDevice."""
    quirk = _QUIRKS.get((vendor, product), _NONE)
    if quirk.firmware is not None and not quirk.firmware[0] <= firmware < quirk.firmware[1]:
        return _NONE
    return quirk


def apply(quirk: Quirk, descriptor: Descriptor) -> Descriptor:
    """The descriptor as it should have been."""
    changed = replace(descriptor, features=descriptor.features | quirk.features)
    if quirk.level is not None:
        changed = replace(changed, level=quirk.level)
    if quirk.maximum_rate is not None:
        changed = replace(changed, maximum_rate=min(quirk.maximum_rate, changed.maximum_rate))
    if quirk.ifsd is not None:
        changed = replace(changed, declared_ifsd=quirk.ifsd)
    if not quirk.offers_pin:
        changed = replace(changed, pin_support=0)
    return changed


def allows_escape(quirk: Quirk, vendor: int, data: bytes) -> bool:
    """A command of SCardControl that cannot do harm, or without which the reader is of little use."""
    return quirk.allows_escape or (vendor == _GEMALTO and data == b"\x02")
