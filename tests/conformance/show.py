"""How values look in a transcript: by their names, never by numbers that differ from run to run."""

import enum
from collections.abc import Iterable

from winscard import UNTOUCHED

from pypcscd.scard import Disposition, Protocol, ReaderState, ReturnCode, ShareMode


class StateFlag(enum.IntFlag):
    """SCARD_STATE_*: what SCardGetStatusChange takes and gives; the high word is the event counter."""

    UNAWARE = 0x0000
    IGNORE = 0x0001
    CHANGED = 0x0002
    UNKNOWN = 0x0004
    UNAVAILABLE = 0x0008
    EMPTY = 0x0010
    PRESENT = 0x0020
    ATRMATCH = 0x0040
    EXCLUSIVE = 0x0080
    INUSE = 0x0100
    MUTE = 0x0200
    UNPOWERED = 0x0400


INFINITE = 0xFFFFFFFF


def rv(code: int) -> str:
    try:
        return ReturnCode(code).name
    except ValueError:
        return f"0x{code:08X}"


def flags(kind: type[enum.IntFlag], value: int, width: int = 32) -> str:
    """``T0|T1``; what has no name as a number."""
    if value == UNTOUCHED:
        return "untouched"
    names = [str(flag.name) for flag in kind if flag and value & flag]
    rest = value & ~sum(flag for flag in kind if flag)
    if rest:
        names.append(f"0x{rest:X}")
    return "|".join(names) or "0"


def share(value: int) -> str:
    return ShareMode(value).name if value in list(ShareMode) else str(value)


def disposition(value: int) -> str:
    return Disposition(value).name if value in list(Disposition) else str(value)


def protocols(value: int) -> str:
    return flags(Protocol, value)


def number(value: int) -> str:
    return "untouched" if value == UNTOUCHED else str(value)


def data(value: bytes) -> str:
    """Hexadecimal; of long strings the ends, the length and a sum that notices any change."""
    if len(value) <= 40:
        return value.hex().upper() or "-"
    digest = sum((index + 1) * byte for index, byte in enumerate(value)) & 0xFFFFFFFF
    return f"{value[:8].hex().upper()}…{value[-4:].hex().upper()}[{len(value)}, {digest:08X}]"


def reader_state(value: int) -> str:
    """What SCardStatus gives: state bits, and the event counter in the high word."""
    if value == UNTOUCHED:
        return "untouched"
    return f"{flags(ReaderState, value & 0xFFFF)}+{value >> 16}"


def state(value: int) -> str:
    """What SCardGetStatusChange takes and gives."""
    if value == UNTOUCHED:
        return "untouched"
    return f"{flags(StateFlag, value & 0xFFFF)}+{value >> 16}"


def words(values: Iterable[object]) -> str:
    return " ".join(str(value) for value in values)
