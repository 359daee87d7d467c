"""What becomes of the card at a reconnect, at the end of a transaction and at a disconnect.

SCARD_LEAVE_CARD, SCARD_RESET_CARD and SCARD_UNPOWER_CARD, with the results of pcscd.
"""

from pypcscd.driver import DriverError, Reason
from pypcscd.manager import results
from pypcscd.manager.reader import Reader
from pypcscd.scard import Disposition, PcscError, ReaderState, ReturnCode, ShareMode


async def continue_card(reader: Reader, share_mode: int) -> None:
    """SCardReconnect with LEAVE; the caller holds ``reader.commands``."""
    if ReaderState.ABSENT in reader.state:
        raise PcscError(ReturnCode.E_NO_SMARTCARD)
    if ReaderState.SWALLOWED in reader.state:
        raise PcscError(ReturnCode.W_UNRESPONSIVE_CARD)
    if share_mode != ShareMode.DIRECT:
        await reader.power_up()


async def restart_card(reader: Reader, *, cold: bool) -> None:
    """SCardReconnect with RESET, or with UNPOWER (cold); the caller holds ``reader.commands``."""
    reader.mark_handles(ReturnCode.W_RESET_CARD)
    try:
        await reader.reset(cold=cold)
    except DriverError as error:
        no_card = error.reason is Reason.NO_CARD
        code = ReturnCode.E_NO_SMARTCARD if no_card else ReturnCode.W_UNRESPONSIVE_CARD
        raise PcscError(code) from error


async def after_transaction(reader: Reader, *, cold: bool) -> PcscError | None:
    """SCardEndTransaction with RESET, or with UNPOWER (cold): what went wrong, if anything.

    Everybody is told of the reset, the caller too.
    """
    async with reader.commands:
        # Whoever goes away before its turn has come has reset nothing.
        try:
            reader.check_available()
            await reader.reset(cold=cold)
        except DriverError as error:
            return results.translate(results.POWER, error)
        except PcscError as error:
            return error
        finally:
            reader.mark_handles(ReturnCode.W_RESET_CARD)
    return None


async def after_disconnect(reader: Reader, disposition: int) -> None:
    """SCardDisconnect with RESET or UNPOWER. A failure is in the log and in the state word only."""
    async with reader.commands:
        if reader.is_gone:
            return
        # Not earlier: if the client goes away while it waits, its lock still asks for a reset.
        reader.mark_handles(ReturnCode.W_RESET_CARD)
        try:
            if disposition == Disposition.RESET:
                await reader.reset(cold=False)
            else:
                await reader.unpower()
        except DriverError:
            return


async def reset_abandoned(reader: Reader) -> None:
    """Reset a card whose owner went away; a failure is in the log and in the state word only."""
    async with reader.commands:
        if reader.is_gone or not reader.has_card:
            return
        try:
            await reader.reset(cold=False)
        except DriverError:
            return
