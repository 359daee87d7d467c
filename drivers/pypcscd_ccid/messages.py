"""The bulk messages of a CCID reader: commands to bytes, bytes to replies. No input or output here.

Source: CCID specification 1.1, section 6. A message is a header of 10 bytes and ``dwLength`` bytes
of data; numbers are little-endian.
"""

import enum
import struct

from pypcscd.driver import DriverError, Reason

HEADER_SIZE = 10
#: bytes of data in any message: an extended APDU, its answer with a status word, and some for T=1
MAX_DATA = 65_556
#: of a command: type, bytes of data, slot, sequence number, a byte of its own, wLevelParameter
COMMAND_HEADER = struct.Struct("<BIBBBH")
#: of a reply: type, bytes of data, slot, sequence number, bStatus, bError, and what depends on the type
REPLY_HEADER = struct.Struct("<BIBBBBB")

#: offsets in the header of a reply
SLOT = 5
SEQ = 6
STATUS = 7
ERROR = 8
SPECIFIC = 9

#: bits of bStatus
ICC_MASK = 0x03
COMMAND_MASK = 0xC0
COMMAND_FAILED = 0x40
TIME_EXTENSION = 0x80

#: wLevelParameter of XfrBlock at the level of extended APDUs
WHOLE = 0x0000
FIRST = 0x0001
LAST = 0x0002
MIDDLE = 0x0003
CONTINUE = 0x0010


class Command(enum.IntEnum):
    """Messages to the reader."""

    SET_PARAMETERS = 0x61
    ICC_POWER_ON = 0x62
    ICC_POWER_OFF = 0x63
    GET_SLOT_STATUS = 0x65
    SECURE = 0x69
    ESCAPE = 0x6B
    XFR_BLOCK = 0x6F
    ABORT = 0x72


class Answer(enum.IntEnum):
    """Messages from the reader."""

    DATA_BLOCK = 0x80
    SLOT_STATUS = 0x81
    PARAMETERS = 0x82
    ESCAPE = 0x83
    RATE_AND_CLOCK = 0x84


#: the answer that belongs to each command, by the command's number
ANSWERS: tuple[int, ...] = tuple(
    {
        Command.SET_PARAMETERS: Answer.PARAMETERS,
        Command.ICC_POWER_ON: Answer.DATA_BLOCK,
        Command.ICC_POWER_OFF: Answer.SLOT_STATUS,
        Command.GET_SLOT_STATUS: Answer.SLOT_STATUS,
        Command.SECURE: Answer.DATA_BLOCK,
        Command.ESCAPE: Answer.ESCAPE,
        Command.XFR_BLOCK: Answer.DATA_BLOCK,
        Command.ABORT: Answer.SLOT_STATUS,
    }.get(number, 0)  # type: ignore[call-overload]
    for number in range(0x80)
)


class IccStatus(enum.IntEnum):
    """bmICCStatus: the two lowest bits of bStatus."""

    ACTIVE = 0
    INACTIVE = 1
    ABSENT = 2
    RESERVED = 3


class SlotError(enum.IntEnum):
    """bError of a failed command that means more than "it failed"."""

    COMMAND_NOT_SUPPORTED = 0x00
    EMV_PROTOCOL = 0xBB
    SLOT_BUSY = 0xE0
    PIN_CANCELLED = 0xEF
    PIN_TIMEOUT = 0xF0
    PARITY = 0xFD
    ICC_MUTE = 0xFE
    ABORTED = 0xFF


_TEXTS = {
    0x00: "the reader does not know the command",
    0x05: "the reader does not know the slot",
    0xA2: "the card draws too much current",
    0xA3: "the ATR is too long",
    0xAB: "no data",
    0xB0: "the T=1 block is too long",
    0xBB: "the card breaks the EMV rules",
    0xBD: "T=1 failed",
    0xBE: "the length of the APDU is wrong",
    0xE0: "the slot is busy",
    0xEF: "the PIN entry was cancelled",
    0xF0: "the PIN was not entered in time",
    0xF2: "the reader is busy with a sequence of its own",
    0xF3: "the protocol is not active",
    0xF4: "the procedure byte conflicts with the command",
    0xF5: "the class of the APDU is not supported",
    0xF6: "the protocol is not supported",
    0xF7: "the check byte of the ATR is wrong",
    0xF8: "the first byte of the ATR is wrong",
    0xFB: "the hardware of the reader failed",
    0xFC: "the card sent more than the reader could take",
    0xFD: "parity error between reader and card",
    0xFE: "the card does not answer",
    0xFF: "the command was aborted",
}


def renumbered(frame: bytes, sequence: int) -> bytes:
    """The same command with another sequence number."""
    return frame[:SEQ] + bytes((sequence,)) + frame[SEQ + 1 :]


def describe_error(error: int) -> str:
    """bError in words."""
    if 0x01 <= error <= 0x7F and error not in _TEXTS:
        return f"the reader does not accept byte {error} of the command"
    text = _TEXTS.get(error)
    return f"{text} (error 0x{error:02X})" if text else f"error 0x{error:02X}"


def icc_status(reply: bytes) -> int:
    """What a reply says of the card, an ``IccStatus``."""
    return reply[STATUS] & ICC_MASK


def has_failed(reply: bytes) -> bool:
    return reply[STATUS] & COMMAND_MASK != 0


def failure(reply: bytes, what: str) -> DriverError:
    """The error that a failed reply stands for; ``what`` names the command for the log."""
    error = reply[ERROR]
    if error == SlotError.ICC_MUTE and reply[STATUS] & IccStatus.ABSENT:
        return DriverError(Reason.NO_CARD, f"{what}: there is no card")
    return DriverError(Reason.COMMUNICATION, f"{what}: {describe_error(error)}")
