"""What a client is told when a driver fails: one table per call (IFD handler semantics of pcscd)."""

from collections.abc import Mapping

from pypcscd.driver import DriverError, Reason
from pypcscd.scard import PcscError, ReturnCode

TRANSMIT: Mapping[Reason, ReturnCode] = {
    Reason.NO_DEVICE: ReturnCode.E_READER_UNAVAILABLE,
    Reason.NO_CARD: ReturnCode.E_NO_SMARTCARD,
}
CONTROL: Mapping[Reason, ReturnCode] = {
    Reason.NO_DEVICE: ReturnCode.E_READER_UNAVAILABLE,
    Reason.NOT_SUPPORTED: ReturnCode.E_UNSUPPORTED_FEATURE,
    Reason.INSUFFICIENT_BUFFER: ReturnCode.E_INSUFFICIENT_BUFFER,
    Reason.INVALID_PARAMETER: ReturnCode.E_INVALID_PARAMETER,
}
GET_ATTRIBUTE: Mapping[Reason, ReturnCode] = {
    Reason.UNKNOWN_ATTRIBUTE: ReturnCode.E_UNSUPPORTED_FEATURE,
    Reason.INSUFFICIENT_BUFFER: ReturnCode.E_INSUFFICIENT_BUFFER,
}
SET_ATTRIBUTE: Mapping[Reason, ReturnCode] = {
    Reason.UNKNOWN_ATTRIBUTE: ReturnCode.E_UNSUPPORTED_FEATURE,
}
POWER: Mapping[Reason, ReturnCode] = {
    Reason.NO_CARD: ReturnCode.W_REMOVED_CARD,
    Reason.NO_DEVICE: ReturnCode.E_READER_UNAVAILABLE,
}


def translate(table: Mapping[Reason, ReturnCode], error: DriverError) -> PcscError:
    """The error to be raised towards the client; reasons that are not in the table are NOT_TRANSACTED."""
    return PcscError(table.get(error.reason, ReturnCode.E_NOT_TRANSACTED))
