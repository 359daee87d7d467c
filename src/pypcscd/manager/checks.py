"""What calls check before they do anything. Each raises PcscError with what the client is to be told."""

from typing import Final

from pypcscd.manager.handles import Client, Handle, InsufficientBufferError
from pypcscd.manager.reader import Reader
from pypcscd.manager.settings import Settings
from pypcscd.scard import PcscError, Protocol, ReturnCode, ShareMode

# plain numbers: members of an enumeration are slow
_EXCLUSIVE: Final = int(ShareMode.EXCLUSIVE)
_DIRECT: Final = int(ShareMode.DIRECT)


def is_own_context(client: Client, context: int) -> None:
    if client.context == 0:
        raise PcscError(ReturnCode.E_INVALID_HANDLE)
    if client.context != context:
        raise PcscError(ReturnCode.E_INVALID_VALUE)


def wants_a_protocol(share_mode: int, protocols: int) -> None:
    if share_mode != _DIRECT and not protocols:
        raise PcscError(ReturnCode.E_PROTO_MISMATCH)


def has_room(client: Client, reader: Reader, share_mode: int, settings: Settings) -> None:
    """One more handle, in this share mode, does not contradict those that there are."""
    if reader.is_exclusive or (share_mode == _EXCLUSIVE and reader.handles):
        raise PcscError(ReturnCode.E_SHARING_VIOLATION)
    if len(reader.handles) >= settings.handles_per_reader:
        raise PcscError(ReturnCode.F_INTERNAL_ERROR)
    if len(client.handles) >= settings.handles_per_client:
        raise PcscError(ReturnCode.E_NO_MEMORY)


def usable_protocol(reader: Reader, protocol: int) -> Protocol:
    """The protocol to be used when the client does not simply name the active one."""
    if protocol == Protocol.RAW:
        return Protocol.RAW
    if not reader.has_card:
        raise PcscError(ReturnCode.E_NO_SMARTCARD)
    if protocol not in (reader.protocol, Protocol.ANY_OLD):
        raise PcscError(ReturnCode.E_PROTO_MISMATCH)
    return reader.protocol


def has_no_event(handle: Handle) -> None:
    """The card was neither reset nor removed behind the client's back."""
    if handle.event is not None:
        raise PcscError(handle.event)


def is_free(handle: Handle) -> None:
    """For calls that the client library does not repeat: no waiting for another's transaction."""
    if handle.reader.is_gone:
        raise PcscError(ReturnCode.E_INVALID_VALUE)
    if handle.reader.lock.is_held_by_other(handle):
        raise PcscError(ReturnCode.E_SHARING_VIOLATION)


def fits(response: bytes, room: int) -> None:
    if len(response) > room:
        raise InsufficientBufferError(len(response))
