"""The resource manager: one method for each PC/SC call, named as in PC/SC.

Methods raise PcscError with what the client is to be told, and UnknownHandleError for a card handle
that is not the client's own. The order of checks in each call is that of pcscd, because clients see
it. Every change of state happens on the event loop.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from pypcscd.driver import DriverError, Reason, Slot
from pypcscd.eager import Background
from pypcscd.manager import checks, dispositions, negotiation, results
from pypcscd.manager.handles import Client, Handle, Identifiers, InsufficientBufferError, UnknownHandleError
from pypcscd.manager.reader import Reader
from pypcscd.manager.roster import Roster, View, reader_name
from pypcscd.manager.settings import Settings
from pypcscd.scard import Attribute, Disposition, PcscError, Protocol, ReturnCode, Scope, ShareMode

log = logging.getLogger("pypcscd.manager")

# plain numbers: operations on flags cost as much as ten lines of code
_CHOOSABLE: Final = int(Protocol.T0 | Protocol.T1 | Protocol.RAW | Protocol.ANY_OLD)
_EXCLUSIVE: Final = int(ShareMode.EXCLUSIVE)
_DIRECT: Final = int(ShareMode.DIRECT)
_LEAVE: Final = int(Disposition.LEAVE)
_SHARE_MODES: Final = frozenset(map(int, ShareMode))
_DISPOSITIONS = frozenset(Disposition)
_SCOPES = frozenset(Scope)


class Manager:
    """Readers, and the clients that use them."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.roster = Roster()
        self._background = Background(log)
        #: how many there have been
        self._clients = 0
        self._identifiers = Identifiers()
        self._contexts: dict[int, Client] = {}
        self._handles: dict[int, Handle] = {}
        #: clients that wait for a change, in the order in which they came
        self._waiting: dict[Client, None] = {}

    # --- readers come and go ------------------------------------------------------------------

    async def add_readers(self, base: str, number: int, slots: Sequence[Slot]) -> list[Reader]:
        """Announce the slots of a device as readers, each when its card has been powered.

        ``number`` comes from ``roster.allocate_number``. Raises ValueError if a name is taken.
        """
        readers = [
            Reader(
                reader_name(base, number, index),
                slot,
                self.settings,
                self._background,
                touched=self.roster.touch,
                signal=lambda reader: self._signal((reader,)),
            )
            for index, slot in enumerate(slots)
        ]
        failure: BaseException | None = None
        try:
            await asyncio.gather(*(reader.start() for reader in readers))
            self.roster.add(readers)
        except BaseException as error:
            failure = error
        if failure is not None:
            # The device is given up before anybody has seen them; some may have powered their cards.
            for reader in readers:
                reader.retire()
            await asyncio.gather(*(reader.power_off() for reader in readers))
            raise failure
        log.info("reader added: %s", ", ".join(reader.name for reader in readers))
        self._signal(readers)
        return readers

    async def remove_readers(self, readers: Sequence[Reader]) -> None:
        """Withdraw readers, and power their cards off if the slots still can."""
        for reader in readers:
            reader.retire()
        self._signal(readers)
        self.roster.remove(readers)
        log.info("reader removed: %s", ", ".join(reader.name for reader in readers))
        await asyncio.gather(*(reader.power_off() for reader in readers))

    # --- clients ------------------------------------------------------------------------------

    def add_client(
        self,
        label: object,
        notify: Callable[[ReturnCode], None],
        view: View | None = None,
        way: object = None,
    ) -> Client:
        """A new connection. ``view``: what it sees of the readers, mostly everything. ``way``: see Client."""
        self._clients += 1
        view = view or self.roster.everything
        return Client(self._clients, label, notify, view, way or view)

    def remove_client(self, client: Client) -> None:
        """The connection is gone: its wait, its context, its locks and its handles go at once.

        A card that it had to itself is reset in the background.
        """
        self._waiting.pop(client, None)
        self._contexts.pop(client.context, None)
        for handle in list(client.handles.values()):
            needs_reset = self._abandon(handle)
            if needs_reset:
                self._background.run(dispositions.reset_abandoned(handle.reader))

    def establish_context(self, client: Client, scope: int) -> int:
        """SCardEstablishContext. A second one on the same connection takes the place of the first."""
        if scope not in _SCOPES:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        self._contexts.pop(client.context, None)
        client.context = self._identifiers.new(self._contexts)
        self._contexts[client.context] = client
        return client.context

    async def release_context(self, client: Client, context: int) -> None:
        """SCardReleaseContext: closes the handles too; a card held by one of them is reset."""
        checks.is_own_context(client, context)
        self._waiting.pop(client, None)
        del self._contexts[context]
        client.context = 0
        for handle in list(client.handles.values()):
            if self._abandon(handle):
                # Else whoever comes next would find the card with what the client had unlocked.
                await self._background.see_through(dispositions.reset_abandoned(handle.reader))

    def _abandon(self, handle: Handle) -> bool:
        """Close a handle without asking; True if the card must be reset after it."""
        reader = handle.reader
        held = reader.lock.holder is handle
        self._forget(handle)
        must_reset = held and handle.event is None and not reader.is_gone
        if must_reset:
            reader.mark_handles(ReturnCode.W_RESET_CARD)
        reader.remove_handle(handle)
        return must_reset

    # --- waiting for changes ------------------------------------------------------------------

    def wait(self, client: Client) -> None:
        """``client.notify`` is to be called at the next change."""
        self._waiting[client] = None

    def stop_waiting(self, client: Client) -> bool:
        """False if the client was not waiting (any more): then it has been notified."""
        return self._waiting.pop(client, self) is None

    def is_waiting(self, client: Client) -> bool:
        return client in self._waiting

    def cancel(self, canceller: Client, context: int) -> None:
        """SCardCancel, from any connection that came the same way. One who does not wait is left alone."""
        client = self._contexts.get(context)
        if client is None or client.way is not canceller.way:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        if self.stop_waiting(client):
            client.notify(ReturnCode.E_CANCELLED)

    def _signal(self, readers: Sequence[Reader]) -> None:
        """Something about these readers has changed: tell the waiting clients that see one of them."""
        for client in list(self._waiting):
            if any(client.view.shows(reader) for reader in readers):
                del self._waiting[client]
                client.notify(ReturnCode.SUCCESS)

    # --- connections to a card ----------------------------------------------------------------

    async def connect(
        self, client: Client, context: int, name: str, share_mode: int, protocols: int
    ) -> tuple[int, Protocol]:
        """SCardConnect: the new handle and the active protocol.

        Waits until another connection's transaction ends.
        """
        wanted = protocols & _CHOOSABLE
        checks.wants_a_protocol(share_mode, wanted)
        if share_mode not in _SHARE_MODES:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        reader = client.view.find(name)
        if reader is None:
            raise PcscError(ReturnCode.E_UNKNOWN_READER)
        reader.check_available()
        if reader.is_exclusive:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION)
        holder = reader.lock.holder
        # A client cannot end its own transaction while it waits here, so it is let through.
        if holder is not None and holder.owner is not client:
            await reader.lock.wait_until_free(None, client)
        turn = reader.commands.take()
        if turn is not None:
            await turn
        try:
            if reader.is_gone:
                raise PcscError(ReturnCode.E_READER_UNAVAILABLE)
            reader.check_available()
            try:
                if share_mode != _DIRECT and not reader.is_ready:
                    await reader.power_up()
                if negotiation.is_due(reader, share_mode, wanted):
                    await negotiation.negotiate(reader, wanted)
                checks.has_room(client, reader, share_mode, self.settings)
                checks.is_own_context(client, context)
            except BaseException:
                # refused, or the client went away
                reader.let_rest()
                raise
            if share_mode != _DIRECT:
                # the last of the others may have left meanwhile
                reader.use_card()
            return self._open_handle(client, reader, share_mode).identifier, reader.protocol
        finally:
            reader.commands.leave()

    def _open_handle(self, client: Client, reader: Reader, share_mode: int) -> Handle:
        handle = Handle(self._identifiers.new(self._handles), client, reader)
        self._handles[handle.identifier] = handle
        client.handles[handle.identifier] = handle
        reader.add_handle(handle, exclusive=share_mode == _EXCLUSIVE)
        return handle

    async def reconnect(
        self, client: Client, card: int, share_mode: int, protocols: int, initialization: int
    ) -> Protocol:
        """SCardReconnect: the active protocol. Forgets a reset or removal that the handle was told of."""
        handle = self._handle(client, card)
        reader = handle.reader
        wanted = protocols & _CHOOSABLE
        if initialization not in (Disposition.LEAVE, Disposition.RESET, Disposition.UNPOWER):
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        if share_mode not in _SHARE_MODES:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        checks.wants_a_protocol(share_mode, wanted)
        reader.check_available()
        await self._await_lock(handle)
        async with reader.commands:
            reader.check_available()
            if initialization == _LEAVE:
                await dispositions.continue_card(reader, share_mode)
            else:
                await dispositions.restart_card(reader, cold=initialization == Disposition.UNPOWER)
            if negotiation.is_due(reader, share_mode, wanted):
                await negotiation.negotiate(reader, wanted)
            if share_mode != _DIRECT:
                reader.use_card()
            if share_mode != _EXCLUSIVE:
                reader.make_shared(handle)
            elif not reader.is_exclusive:
                if len(reader.handles) != 1:
                    raise PcscError(ReturnCode.E_SHARING_VIOLATION)
                reader.make_exclusive(handle)
            handle.event = None
            return reader.protocol

    def disconnect_now(self, client: Client, card: int, disposition: int) -> bool:
        """``disconnect``, if it need not wait; else nothing is done, and False."""
        if disposition != _LEAVE:
            return False
        self._close(self._handle(client, card))
        return True

    async def disconnect(self, client: Client, card: int, disposition: int) -> None:
        """SCardDisconnect. Once the disposition is valid it succeeds, whatever the card does."""
        if self.disconnect_now(client, card, disposition):
            return
        handle = self._handle(client, card)
        reader = handle.reader
        if disposition not in _DISPOSITIONS:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        if reader.lock.is_held_by_other(handle):
            holder = reader.lock.holder
            if holder is not None and holder.owner is client:
                raise PcscError(ReturnCode.E_SHARING_VIOLATION)
            await reader.lock.wait_until_free(None, client)
        try:
            if disposition != Disposition.EJECT and not reader.is_gone:
                await dispositions.after_disconnect(reader, disposition)
        finally:
            self._close(handle)

    def _close(self, handle: Handle) -> None:
        self._forget(handle)
        handle.reader.remove_handle(handle)

    def _forget(self, handle: Handle) -> None:
        self._handles.pop(handle.identifier, None)
        handle.client.handles.pop(handle.identifier, None)

    # --- transactions -------------------------------------------------------------------------

    def begin_transaction_now(self, client: Client, card: int) -> bool:
        """``begin_transaction``, if it need not wait; else nothing is done, and False."""
        handle = self._handle(client, card)
        reader = handle.reader
        reader.check_available()
        checks.has_no_event(handle)
        return reader.lock.try_acquire(handle)

    async def begin_transaction(self, client: Client, card: int) -> None:
        """SCardBeginTransaction: first come, first served."""
        if self.begin_transaction_now(client, card):
            return
        handle = self._handle(client, card)
        reader = handle.reader
        holder = reader.lock.holder
        if holder is not None and holder.owner is client:
            # The same connection cannot end that transaction before it has this answer.
            raise PcscError(ReturnCode.E_SHARING_VIOLATION)
        if not await reader.lock.acquire(handle, self.settings.transaction_bound):
            raise PcscError(ReturnCode.E_SHARING_VIOLATION)
        try:
            reader.check_available()
            checks.has_no_event(handle)
        except PcscError:
            reader.lock.release(handle)
            raise

    def end_transaction_now(self, client: Client, card: int, disposition: int) -> bool:
        """``end_transaction``, if it is in order and need not wait; else nothing is done, and False."""
        handle = self._handle(client, card)
        is_simple = disposition == _LEAVE and handle.event is None
        return is_simple and not handle.reader.is_gone and handle.reader.release(handle)

    async def end_transaction(self, client: Client, card: int, disposition: int) -> None:
        """SCardEndTransaction. The transaction ends also when the card action fails."""
        handle = self._handle(client, card)
        reader = handle.reader
        if disposition not in _DISPOSITIONS:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        if reader.is_gone:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        checks.has_no_event(handle)
        is_foreign = reader.lock.is_held_by_other(handle)
        if disposition != _LEAVE and is_foreign:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION)
        failure: PcscError | None = None
        if disposition in (Disposition.RESET, Disposition.UNPOWER):
            failure = await dispositions.after_transaction(reader, cold=disposition == Disposition.UNPOWER)
        elif disposition == Disposition.EJECT:
            failure = PcscError(ReturnCode.E_UNSUPPORTED_FEATURE)
        if is_foreign:
            raise PcscError(ReturnCode.E_SHARING_VIOLATION)
        if not reader.release(handle) and failure is None:
            failure = PcscError(ReturnCode.E_NOT_TRANSACTED)
        if failure is not None:
            raise failure

    # --- using a card -------------------------------------------------------------------------

    def status_now(self, client: Client, card: int) -> bool:
        """``status``, if it need not wait; else nothing is done, and False."""
        handle = self._handle(client, card)
        if handle.reader.is_gone:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        if handle.reader.lock.is_held_by_other(handle):
            return False
        checks.has_no_event(handle)
        handle.reader.check_available()
        return True

    async def status(self, client: Client, card: int) -> None:
        """SCardStatus: only says if the handle is in order; the rest is in ``readers()``."""
        if self.status_now(client, card):
            return
        handle = self._handle(client, card)
        await self._await_lock(handle)
        checks.has_no_event(handle)
        handle.reader.check_available()

    async def transmit(
        self, client: Client, card: int, protocol: int, apdu: bytes, room: int
    ) -> tuple[Protocol, bytes]:
        """SCardTransmit: the protocol used, and the response of at most ``room`` bytes."""
        # The checks are written out here: this is done for every APDU, and each call would cost 2 %.
        handle = client.handles.get(card) or self._handle(client, card)
        reader = handle.reader
        if reader.is_gone:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        holder = reader.lock.holder
        if holder is not None and holder is not handle:
            await self._await_lock(handle)
        turn = reader.commands.take()
        if turn is not None:
            await turn
        try:
            if reader.is_gone or reader.is_silent:
                reader.check_available()
            if handle.event is not None:
                raise PcscError(handle.event)
            sent = used = reader.protocol
            if protocol == 0 or protocol != used or not reader.has_card:
                used = checks.usable_protocol(reader, protocol)
                # A client of a direct connection may say "none", as the reader does: that is T=0.
                sent = used or Protocol.T0
            try:
                response = await reader.transmit(sent, apdu)
            except DriverError as error:
                if error.reason is Reason.NO_CARD:
                    reader.card_is_missing()
                self._log_failure(handle, "SCardTransmit", error)
                raise results.translate(results.TRANSMIT, error) from error
        finally:
            reader.commands.leave()
        if len(response) > room:
            raise InsufficientBufferError(len(response))
        return used, response

    async def control(self, client: Client, card: int, code: int, data: bytes, room: int) -> bytes:
        """SCardControl: a command to the reader; needs no card and is not concerned by resets."""
        handle = self._handle(client, card)
        reader = handle.reader
        checks.is_free(handle)
        async with reader.commands:
            reader.check_available()
            try:
                response = await reader.control(code, data)
            except DriverError as error:
                self._log_failure(handle, f"SCardControl 0x{code:08X}", error)
                raise results.translate(results.CONTROL, error) from error
        checks.fits(response, room)
        return response

    async def get_attrib(self, client: Client, card: int, attribute: int, room: int) -> bytes:
        """SCardGetAttrib. The names of the reader are known here, unless the driver knows better."""
        handle = self._handle(client, card)
        reader = handle.reader
        checks.is_free(handle)
        async with reader.commands:
            reader.check_available()
            checks.has_no_event(handle)
            try:
                value = await reader.get_attribute(attribute)
            except DriverError as error:
                if error.reason is not Reason.UNKNOWN_ATTRIBUTE or attribute not in (
                    Attribute.DEVICE_FRIENDLY_NAME,
                    Attribute.DEVICE_SYSTEM_NAME,
                ):
                    raise results.translate(results.GET_ATTRIBUTE, error) from error
                value = reader.name.encode("utf-8", "surrogateescape") + b"\0"
        checks.fits(value, room)
        return value

    async def set_attrib(self, client: Client, card: int, attribute: int, value: bytes) -> None:
        """SCardSetAttrib."""
        handle = self._handle(client, card)
        reader = handle.reader
        checks.is_free(handle)
        async with reader.commands:
            reader.check_available()
            checks.has_no_event(handle)
            try:
                await reader.set_attribute(attribute, value)
            except DriverError as error:
                raise results.translate(results.SET_ATTRIBUTE, error) from error

    # --- handles ------------------------------------------------------------------------------

    def _handle(self, client: Client, card: int) -> Handle:
        try:
            return client.handles[card]
        except KeyError:
            raise UnknownHandleError(f"card handle 0x{card & 0xFFFFFFFF:08X} is not its own") from None

    async def _await_lock(self, handle: Handle) -> None:
        """Wait a little for another's transaction; the client library repeats the call."""
        lock = handle.reader.lock
        if lock.holder is None or lock.holder is handle:
            return
        if lock.holder.owner is handle.owner or not await lock.wait_until_free(
            self.settings.busy_bound, handle
        ):
            raise PcscError(ReturnCode.E_SHARING_VIOLATION)

    def _log_failure(self, handle: Handle, call: str, error: DriverError) -> None:
        log.warning("%s: %s by %s failed: %s", handle.reader.name, call, handle.client.label, error)

    async def close(self) -> None:
        """The daemon stops: wait until nothing runs in the background any more."""
        self._background.cancel()
        await self._background.drain()
