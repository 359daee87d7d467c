"""Which protocol a connection speaks with the card."""

import logging
from typing import Final

from pypcscd import atr
from pypcscd.driver import DriverError, Reason
from pypcscd.manager.reader import Reader
from pypcscd.scard import PcscError, Protocol, ReturnCode, ShareMode

log = logging.getLogger("pypcscd.reader")

# numbers, because operations on flags are slow
_RAW: Final = int(Protocol.RAW)
_DIRECT: Final = int(ShareMode.DIRECT)


def is_due(reader: Reader, share_mode: int, protocols: int) -> bool:
    """A connection that asks for these protocols has to agree on one first; mostly one is in force."""
    if protocols & _RAW:
        return True
    return share_mode != _DIRECT and not protocols & int(reader.protocol)


async def negotiate(reader: Reader, protocols: int) -> None:
    """Agree on one of these protocols, where that ``is_due``. T=1 comes first.

    Raises PROTO_MISMATCH, also if another one is in force; W_UNRESPONSIVE_CARD; or NO_SMARTCARD if the card
    is taken away.
    """
    wanted = Protocol(protocols)
    if Protocol.RAW in wanted:
        reader.select(Protocol.RAW)
        return
    if reader.protocol:
        raise PcscError(ReturnCode.E_PROTO_MISMATCH)
    if Protocol.ANY_OLD in wanted:
        wanted = Protocol.T0 | Protocol.T1
    try:
        card = atr.parse(reader.atr)
    except ValueError as error:
        log.warning("%s: no protocol can be chosen: %s", reader.name, error)
        raise PcscError(ReturnCode.E_PROTO_MISMATCH) from None
    wanted &= card.protocols & (Protocol.T0 | Protocol.T1)
    if not wanted:
        raise PcscError(ReturnCode.E_PROTO_MISMATCH)
    chosen = Protocol.T1 if Protocol.T1 in wanted else Protocol.T0
    generation = reader.generation
    default = card.default_protocol
    refusal = await _refusal(reader, chosen)
    if refusal is not None and refusal.reason is Reason.PROTOCOL_UNSUPPORTED and wanted != default:
        if default not in wanted:
            raise PcscError(ReturnCode.E_PROTO_MISMATCH) from refusal
        chosen = default
        refusal = await _refusal(reader, chosen)
    if refusal is not None:
        if refusal.reason is not Reason.NOT_SUPPORTED:
            log.warning("%s: the card refuses the protocol: %s", reader.name, refusal)
            raise PcscError(ReturnCode.W_UNRESPONSIVE_CARD) from refusal
        chosen = default
    reader.check_same_card(generation)
    reader.select(chosen)


async def _refusal(reader: Reader, protocol: Protocol) -> DriverError | None:
    """Set the protocol; what is returned is why that cannot be."""
    try:
        await reader.set_protocol(protocol)
    except DriverError as error:
        return error
    return None
