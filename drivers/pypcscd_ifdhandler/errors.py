"""What the response codes of a driver mean to the manager."""

from pypcscd.driver import DriverError, Presence, Reason
from pypcscd_ifdhandler.api import ResponseCode, describe

_REASONS: dict[int, Reason] = {
    ResponseCode.ERROR_TAG: Reason.UNKNOWN_ATTRIBUTE,
    ResponseCode.ERROR_PTS_FAILURE: Reason.PROTOCOL_REFUSED,
    ResponseCode.ERROR_NOT_SUPPORTED: Reason.NOT_SUPPORTED,
    ResponseCode.PROTOCOL_NOT_SUPPORTED: Reason.PROTOCOL_UNSUPPORTED,
    ResponseCode.ERROR_POWER_ACTION: Reason.POWER,
    ResponseCode.COMMUNICATION_ERROR: Reason.COMMUNICATION,
    ResponseCode.RESPONSE_TIMEOUT: Reason.TIMEOUT,
    ResponseCode.NOT_SUPPORTED: Reason.NOT_SUPPORTED,
    ResponseCode.ICC_NOT_PRESENT: Reason.NO_CARD,
    ResponseCode.NO_SUCH_DEVICE: Reason.NO_DEVICE,
    ResponseCode.ERROR_INSUFFICIENT_BUFFER: Reason.INSUFFICIENT_BUFFER,
}
_PRESENCES: dict[int, Presence] = {
    ResponseCode.ICC_PRESENT: Presence.PRESENT,
    ResponseCode.ICC_NOT_PRESENT: Presence.ABSENT,
}


def driver_error(code: int) -> DriverError:
    """The error for a response code that is not success; its detail holds the number."""
    return DriverError(_REASONS.get(code, Reason.COMMUNICATION), describe(code))


def presence(code: int) -> Presence:
    """What IFDHICCPresence said; any failure means UNKNOWN."""
    return _PRESENCES.get(code, Presence.UNKNOWN)
