"""Numbers of the PC/SC interface by the names that programmers know."""

import enum
from collections.abc import Mapping

from pypcscd.redact import CM_IOCTL_GET_FEATURE_REQUEST
from pypcscd.scard import Disposition, Protocol, ReaderState, ReaderStatus, ReturnCode, Scope, ShareMode


class EventState(enum.IntFlag):
    """The words of SCARD_READERSTATE; in the upper half is the event counter."""

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


_ATTRIBUTES: Mapping[int, str] = {
    0x00010100: "VENDOR_NAME",
    0x00010101: "VENDOR_IFD_TYPE",
    0x00010102: "VENDOR_IFD_VERSION",
    0x00010103: "VENDOR_IFD_SERIAL_NO",
    0x00020110: "CHANNEL_ID",
    0x00030120: "ASYNC_PROTOCOL_TYPES",
    0x00030121: "DEFAULT_CLK",
    0x00030122: "MAX_CLK",
    0x00030123: "DEFAULT_DATA_RATE",
    0x00030124: "MAX_DATA_RATE",
    0x00030125: "MAX_IFSD",
    0x00030126: "SYNC_PROTOCOL_TYPES",
    0x00040131: "POWER_MGMT_SUPPORT",
    0x00050140: "USER_TO_CARD_AUTH_DEVICE",
    0x00050142: "USER_AUTH_INPUT_DEVICE",
    0x00060150: "CHARACTERISTICS",
    0x0007A000: "ESC_RESET",
    0x0007A003: "ESC_CANCEL",
    0x0007A005: "ESC_AUTHREQUEST",
    0x0007A007: "MAXINPUT",
    0x00080201: "CURRENT_PROTOCOL_TYPE",
    0x00080202: "CURRENT_CLK",
    0x00080203: "CURRENT_F",
    0x00080204: "CURRENT_D",
    0x00080205: "CURRENT_N",
    0x00080206: "CURRENT_W",
    0x00080207: "CURRENT_IFSC",
    0x00080208: "CURRENT_IFSD",
    0x00080209: "CURRENT_BWT",
    0x0008020A: "CURRENT_CWT",
    0x0008020B: "CURRENT_EBC_ENCODING",
    0x0008020C: "EXTENDED_BWT",
    0x00090300: "ICC_PRESENCE",
    0x00090301: "ICC_INTERFACE_STATUS",
    0x00090302: "CURRENT_IO_STATE",
    0x00090303: "ATR_STRING",
    0x00090304: "ICC_TYPE_PER_ATR",
    0x7FFF0001: "DEVICE_UNIT",
    0x7FFF0002: "DEVICE_IN_USE",
    0x7FFF0003: "DEVICE_FRIENDLY_NAME_A",
    0x7FFF0004: "DEVICE_SYSTEM_NAME_A",
    0x7FFF0005: "DEVICE_FRIENDLY_NAME_W",
    0x7FFF0006: "DEVICE_SYSTEM_NAME_W",
    0x7FFF0007: "SUPRESS_T1_IFS_REQUEST",
}

#: PC/SC part 10
_FEATURES: Mapping[int, str] = {
    0x01: "VERIFY_PIN_START",
    0x02: "VERIFY_PIN_FINISH",
    0x03: "MODIFY_PIN_START",
    0x04: "MODIFY_PIN_FINISH",
    0x05: "GET_KEY_PRESSED",
    0x06: "VERIFY_PIN_DIRECT",
    0x07: "MODIFY_PIN_DIRECT",
    0x08: "MCT_READER_DIRECT",
    0x09: "MCT_UNIVERSAL",
    0x0A: "IFD_PIN_PROPERTIES",
    0x0B: "ABORT",
    0x0C: "SET_SPE_MESSAGE",
    0x0D: "VERIFY_PIN_DIRECT_APP_ID",
    0x0E: "MODIFY_PIN_DIRECT_APP_ID",
    0x0F: "WRITE_DISPLAY",
    0x10: "GET_KEY",
    0x11: "IFD_DISPLAY_PROPERTIES",
    0x12: "GET_TLV_PROPERTIES",
    0x13: "CCID_ESC_COMMAND",
    0x20: "EXECUTE_PACE",
}

_PROTOCOLS = {Protocol.T0: "T=0", Protocol.T1: "T=1", Protocol.RAW: "RAW", Protocol.T15: "T=15"}


def scope(value: int) -> str:
    return f"SCARD_SCOPE_{Scope(value).name}" if value in set(Scope) else "UNKNOWN"


def share_mode(value: int) -> str:
    return f"SCARD_SHARE_{ShareMode(value).name}" if value in set(ShareMode) else "UNKNOWN"


def disposition(value: int) -> str:
    return f"SCARD_{Disposition(value).name}_CARD" if value in set(Disposition) else "UNKNOWN"


def protocols(value: int) -> str:
    """The protocols of a mask, e.g. "T=0, T=1"."""
    names = [name for bit, name in _PROTOCOLS.items() if value & bit]
    if value & Protocol.ANY_OLD:
        names.append("any")
    return ", ".join(names) or ("UNDEFINED" if not value else "UNKNOWN")


def attribute(value: int) -> str:
    return f"SCARD_ATTR_{_ATTRIBUTES[value]}" if value in _ATTRIBUTES else "UNKNOWN"


def control_code(value: int, learnt: Mapping[int, int]) -> str:
    """``learnt``: what the reader said of its features, by ``features``."""
    if value == CM_IOCTL_GET_FEATURE_REQUEST:
        return "CM_IOCTL_GET_FEATURE_REQUEST"
    if value in learnt:
        return feature(learnt[value])
    number = (value - 0x42000000) & 0xFFFFFFFF
    return f"SCARD_CTL_CODE({number})" if number < 0x10000 else "UNKNOWN"


def feature(tag: int) -> str:
    return f"FEATURE_{_FEATURES[tag]}" if tag in _FEATURES else f"FEATURE 0x{tag:02X}"


def features(answer: bytes) -> dict[int, int]:
    """Control code -> feature, by the answer to CM_IOCTL_GET_FEATURE_REQUEST."""
    found = {}
    for position in range(0, len(answer) - 5, 6):
        if answer[position + 1] != 4:
            break
        found[int.from_bytes(answer[position + 2 : position + 6], "big")] = answer[position]
    return found


def reader_state(value: int) -> str:
    return _flags("SCARD_", ReaderState, value)


def event_state(value: int) -> str:
    return _flags("SCARD_STATE_", EventState, value) or "SCARD_STATE_UNAWARE"


def _flags(prefix: str, kind: type[enum.IntFlag], value: int) -> str:
    return ", ".join(f"{prefix}{flag.name}" for flag in kind if value & flag)


def event_state_of(reader: ReaderStatus, *, changed: bool) -> int:
    """What SCardGetStatusChange makes of a reader's record in the table."""
    state = EventState(0)
    if reader.state & ReaderState.UNKNOWN:
        state |= EventState.UNAVAILABLE
    elif reader.state & ReaderState.ABSENT:
        state |= EventState.EMPTY
    elif reader.state & ReaderState.PRESENT:
        state |= EventState.PRESENT
        if reader.state & ReaderState.SWALLOWED:
            state |= EventState.MUTE
    if reader.sharing < 0:
        state |= EventState.EXCLUSIVE | EventState.INUSE
    elif reader.sharing:
        state |= EventState.INUSE
    if changed:
        state |= EventState.CHANGED
    return state | reader.event_counter << 16


def result(rv: int) -> tuple[str, str]:
    """The sentence and the name of a return code."""
    try:
        known = ReturnCode(rv)
    except ValueError:
        return "an unknown result", "UNKNOWN"
    return known.text, known.symbol
