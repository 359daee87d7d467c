"""The vocabulary of PC/SC: return codes, states, protocols, modes, attributes and limits.

Values are those of pcsc-lite's ``winscard.h`` and ``pcsclite.h``; where Microsoft's differ
(``UNSUPPORTED_FEATURE``) the value of pcsc-lite counts.
"""

import enum
from typing import NamedTuple


class ReturnCode(enum.IntEnum):
    """The result of a PC/SC call; each member carries a sentence for people in ``text``."""

    text: str

    def __new__(cls, value: int, text: str = "") -> "ReturnCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    SUCCESS = 0x00000000, "the call succeeded"
    F_INTERNAL_ERROR = 0x80100001, "an internal consistency check failed"
    E_CANCELLED = 0x80100002, "the call was cancelled by SCardCancel"
    E_INVALID_HANDLE = 0x80100003, "the handle is not valid"
    E_INVALID_PARAMETER = 0x80100004, "a parameter is not valid"
    E_INVALID_TARGET = 0x80100005, "the driver could not open its device"
    E_NO_MEMORY = 0x80100006, "no more handles can be given out"
    F_WAITED_TOO_LONG = 0x80100007, "an internal timer has expired"
    E_INSUFFICIENT_BUFFER = 0x80100008, "the answer is longer than the buffer"
    E_UNKNOWN_READER = 0x80100009, "there is no reader of that name"
    E_TIMEOUT = 0x8010000A, "the time-out has expired"
    E_SHARING_VIOLATION = 0x8010000B, "another connection holds the card"
    E_NO_SMARTCARD = 0x8010000C, "there is no card in the reader"
    E_UNKNOWN_CARD = 0x8010000D, "the card is not known"
    E_CANT_DISPOSE = 0x8010000E, "the card cannot be disposed of in that manner"
    E_PROTO_MISMATCH = 0x8010000F, "the card does not offer that protocol"
    E_NOT_READY = 0x80100010, "the reader or card is not ready"
    E_INVALID_VALUE = 0x80100011, "a value is out of range"
    E_SYSTEM_CANCELLED = 0x80100012, "the call was cancelled by the system"
    F_COMM_ERROR = 0x80100013, "the connection to the daemon broke"
    F_UNKNOWN_ERROR = 0x80100014, "an error of unknown origin"
    E_INVALID_ATR = 0x80100015, "the ATR is not valid"
    E_NOT_TRANSACTED = 0x80100016, "the exchange with the card failed, or no transaction is open"
    E_READER_UNAVAILABLE = 0x80100017, "the reader is not working or has been unplugged"
    E_NO_SERVICE = 0x8010001D, "the daemon is not running"
    E_SERVICE_STOPPED = 0x8010001E, "the daemon has stopped, or speaks another protocol version"
    E_UNSUPPORTED_FEATURE = 0x8010001F, "the reader does not support this"
    E_NO_READERS_AVAILABLE = 0x8010002E, "there is no reader"
    W_UNSUPPORTED_CARD = 0x80100065, "the reader cannot talk to this card"
    W_UNRESPONSIVE_CARD = 0x80100066, "the card does not answer"
    W_UNPOWERED_CARD = 0x80100067, "the card has no power"
    W_RESET_CARD = 0x80100068, "the card was reset by another connection; reconnect to go on"
    W_REMOVED_CARD = 0x80100069, "the card was removed"
    W_SECURITY_VIOLATION = 0x8010006A, "access was denied"

    @property
    def symbol(self) -> str:
        """The name that programmers know, e.g. ``SCARD_E_SHARING_VIOLATION``."""
        return "SCARD_S_SUCCESS" if self is ReturnCode.SUCCESS else f"SCARD_{self.name}"


def describe(code: int) -> str:
    """``"SCARD_E_TIMEOUT (0x8010000A): the time-out has expired"``, also for unknown numbers."""
    try:
        known = ReturnCode(code)
    except ValueError:
        return f"0x{code:08X}"
    return f"{known.symbol} (0x{code:08X}): {known.text}"


class PcscError(Exception):
    """A PC/SC call that did not succeed; ``code`` is what the client is told."""

    def __init__(self, code: ReturnCode) -> None:
        super().__init__(describe(code))
        self.code = code


class ReaderState(enum.IntFlag):
    """The state word of a reader, as in the reader table of the client protocol."""

    UNKNOWN = 0x0001
    ABSENT = 0x0002
    PRESENT = 0x0004
    SWALLOWED = 0x0008
    POWERED = 0x0010
    NEGOTIABLE = 0x0020
    SPECIFIC = 0x0040


class Protocol(enum.IntFlag):
    """Card protocols: what a client asks for (a mask) and what is active (one bit, or none)."""

    UNDEFINED = 0x0000
    T0 = 0x0001
    T1 = 0x0002
    RAW = 0x0004
    T15 = 0x0008
    #: "any of T=0 and T=1" in the words of old clients
    ANY_OLD = 0x1000


class Scope(enum.IntEnum):
    USER = 0
    TERMINAL = 1
    SYSTEM = 2
    GLOBAL = 3


class ShareMode(enum.IntEnum):
    EXCLUSIVE = 1
    SHARED = 2
    DIRECT = 3


class Disposition(enum.IntEnum):
    """What happens to the card at the end of a transaction or connection, or at a reconnect."""

    LEAVE = 0
    RESET = 1
    UNPOWER = 2
    EJECT = 3


class Attribute(enum.IntEnum):
    """The attributes that the daemon itself must know; all others are passed to the driver."""

    VENDOR_NAME = 0x00010100
    VENDOR_IFD_VERSION = 0x00010102
    VENDOR_IFD_SERIAL_NO = 0x00010103
    ICC_PRESENCE = 0x00090300
    ICC_INTERFACE_STATUS = 0x00090301
    ATR_STRING = 0x00090303
    DEVICE_FRIENDLY_NAME = 0x7FFF0003
    DEVICE_SYSTEM_NAME = 0x7FFF0004
    MAXINPUT = 0x0007A007


#: Longest ATR (ISO 7816-3, section 8.2.1), bytes.
MAX_ATR_SIZE = 33
#: Room for a reader name in the client protocol, bytes, with its final NUL.
MAX_READERNAME = 128
#: Longest reader name without the two hexadecimal numbers at its end, bytes.
MAX_BASE_NAME = MAX_READERNAME - len(" 00 00\0")
#: Longest attribute value, bytes.
MAX_ATTRIBUTE_SIZE = 264
#: Longest command or answer: an extended APDU (4 + 3 + 65536 + 3) and a status word, bytes.
MAX_BUFFER_SIZE_EXTENDED = 65548

#: "Not initialised": the ATR length in an unused entry of a fixed reader table.
ATR_NOT_INITIALISED = MAX_ATR_SIZE + 1


class ReaderStatus(NamedTuple):
    """What clients are told of one reader (``pcsclite.h``: the public reader state)."""

    name: str
    #: insertions and removals of cards since the reader came, modulo 65,536
    event_counter: int = 0
    state: int = 0
    #: number of open handles, or -1 for one exclusive handle
    sharing: int = 0
    #: 0 to 33 bytes
    atr: bytes = b""
    #: the active card protocol, 0 while none is selected
    protocol: int = 0
