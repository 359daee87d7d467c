"""The numbers of the IFD handler API 3.0: response codes, capability tags, power actions.

Shared by the daemon's side and the helper, so it must stay quick to import.
"""

import enum


class ResponseCode(enum.IntEnum):
    """What a driver's functions return, without the ``IFD_`` of the names in ifdhandler.h."""

    SUCCESS = 0
    ERROR_TAG = 600
    ERROR_SET_FAILURE = 601
    ERROR_VALUE_READ_ONLY = 602
    ERROR_PTS_FAILURE = 605
    ERROR_NOT_SUPPORTED = 606
    PROTOCOL_NOT_SUPPORTED = 607
    ERROR_POWER_ACTION = 608
    ERROR_SWALLOW = 609
    ERROR_EJECT = 610
    ERROR_CONFISCATE = 611
    COMMUNICATION_ERROR = 612
    RESPONSE_TIMEOUT = 613
    NOT_SUPPORTED = 614
    ICC_PRESENT = 615
    ICC_NOT_PRESENT = 616
    NO_SUCH_DEVICE = 617
    ERROR_INSUFFICIENT_BUFFER = 618


def describe(code: int) -> str:
    """``"IFD_COMMUNICATION_ERROR (612)"``; unknown codes are given as numbers only."""
    try:
        name = ResponseCode(code).name
    except ValueError:
        return f"response code {code}"
    return f"IFD_{name} ({code})"


class Tag(enum.IntEnum):
    """Capabilities that are asked by the host itself (``TAG_IFD_…``)."""

    SLOT_THREAD_SAFE = 0x0FAC
    THREAD_SAFE = 0x0FAD
    SLOTS_NUMBER = 0x0FAE
    SIMULTANEOUS_ACCESS = 0x0FAF
    POLLING_THREAD = 0x0FB0
    POLLING_THREAD_KILLABLE = 0x0FB1
    STOP_POLLING_THREAD = 0x0FB2
    POLLING_THREAD_WITH_TIMEOUT = 0x0FB3


#: Capabilities whose values are addresses within the helper: never told to clients, who could do
#: nothing with them but attack it.
ADDRESS_TAGS = frozenset({Tag.POLLING_THREAD, Tag.STOP_POLLING_THREAD, Tag.POLLING_THREAD_WITH_TIMEOUT})


class PowerAction(enum.IntEnum):
    UP = 500
    DOWN = 501
    RESET = 502


#: Longest ATR (ISO 7816-3, section 8.2.1), bytes.
MAX_ATR_SIZE = 33
#: Room that is offered for an attribute's value, bytes.
MAX_ATTRIBUTE_SIZE = 264
#: Room for a command and for an answer: an extended APDU and a status word, bytes.
MAX_BUFFER_SIZE = 65548
