"""One slot as clients see it: state, card, power, and who uses it.

The power of a card follows ``pcscd``: it is powered when it is inserted, stays so while a handle
uses it, and is powered down some seconds after the last one. The state word and the ATR keep
saying "powered" then, because the next connection powers the card again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from pypcscd.driver import DriverError, Presence, Reason, Slot
from pypcscd.eager import Alarm, Background, Bounded
from pypcscd.manager.lock import CommandQueue, TransactionLock
from pypcscd.manager.settings import Settings
from pypcscd.scard import MAX_ATR_SIZE, PcscError, Protocol, ReaderState, ReaderStatus, ReturnCode

T = TypeVar("T")

log = logging.getLogger("pypcscd.reader")

_CARD_READY = ReaderState.PRESENT | ReaderState.POWERED | ReaderState.NEGOTIABLE
_CARD_MUTE = ReaderState.PRESENT | ReaderState.SWALLOWED
#: a power-up that failed for these reasons may succeed the next time
_WORTH_ANOTHER_TRY = (Reason.POWER, Reason.COMMUNICATION)


class User:
    """Who uses a reader: a card handle, as far as the reader is concerned."""

    __slots__ = ("event", "owner")

    def __init__(self, owner: object) -> None:
        #: whose handle it is; two with the same owner must not wait for each other
        self.owner = owner
        #: W_RESET_CARD or W_REMOVED_CARD until the next reconnect
        self.event: ReturnCode | None = None


class Reader:
    """A reader with one slot.

    ``commands`` is the queue in front of the card: whoever talks to the slot holds it, and the
    methods that do so say so.
    """

    def __init__(
        self,
        name: str,
        slot: Slot,
        settings: Settings,
        background: Background,
        *,
        touched: Callable[[], None],
        signal: Callable[["Reader"], None],
    ) -> None:
        """``touched``: what clients see has changed. ``signal``: waiting clients shall be told too."""
        self.name = name
        self.slot = slot
        self.commands = CommandQueue()
        self.lock: TransactionLock[User] = TransactionLock(settings.retry_window)
        self.handles: set[User] = set()
        self.is_exclusive = False
        #: the device is gone for good; only handles of old clients still know this object
        self.is_gone = False
        self.state = ReaderState.ABSENT
        self.atr = b""
        self.protocol = Protocol.UNDEFINED
        self.event_counter = 0
        self._settings = settings
        self._background = background
        self._touched = touched
        self._signal = signal
        #: keeps the deadline of the one command that can be under way
        self._alarm = Alarm()
        self._is_powered = False
        #: it was given power, or begun to be given some, and nothing has cut it since: who was about to
        #: power a card may go away in the middle, and then it is neither known to have power nor to have none
        self._may_have_power = False
        self._is_in_use = False
        #: the time at which an unused card is powered down
        self._rest = Alarm()
        #: the presence that clients were last told of; the state word alone may already know better
        self._told_presence = Presence.ABSENT
        #: grows with each change of presence, so that a command knows if its card was taken away
        self.generation = 0
        self._is_announced = False

    # --- what clients see -------------------------------------------------------------------

    @property
    def status(self) -> ReaderStatus:
        sharing = -1 if self.is_exclusive else len(self.handles)
        return ReaderStatus(self.name, self.event_counter, self.state, sharing, self.atr, self.protocol)

    @property
    def state(self) -> ReaderState:
        """The state word."""
        return self._state

    @state.setter
    def state(self, state: ReaderState) -> None:
        self._state = state
        # Looked at for every command, and flags are slow.
        self.has_card = ReaderState.PRESENT in state
        self.is_silent = ReaderState.UNKNOWN in state
        self._is_shown_powered = ReaderState.POWERED in state

    @property
    def is_ready(self) -> bool:
        """There is a card, it has power, and clients see it: a connection needs nothing else."""
        return self.has_card and self._is_powered and self._is_shown_powered

    @property
    def is_powered(self) -> bool:
        """The card has power now, whatever the state word says."""
        return self._is_powered

    def check_available(self) -> None:
        """Raise INVALID_VALUE if the reader is gone and READER_UNAVAILABLE if it does not work."""
        if self.is_gone:
            raise PcscError(ReturnCode.E_INVALID_VALUE)
        if self.is_silent:
            raise PcscError(ReturnCode.E_READER_UNAVAILABLE)

    def _show(self, state: ReaderState, answer_to_reset: bytes) -> None:
        """Publish a card state that is no event: waiting clients need not look."""
        self.state = state
        self.atr = answer_to_reset
        self.protocol = Protocol.UNDEFINED
        self._touched()

    def _tell(self, presence: Presence, state: ReaderState, answer_to_reset: bytes) -> None:
        """Publish that a card came or went, or that the reader fell silent."""
        self._told_presence = presence
        self._show(state, answer_to_reset)
        if not self._is_announced:
            return
        if presence is not Presence.UNKNOWN:
            self.event_counter = (self.event_counter + 1) & 0xFFFF
        self._signal(self)

    # --- handles ------------------------------------------------------------------------------

    def add_handle(self, handle: User, *, exclusive: bool) -> None:
        self.handles.add(handle)
        if exclusive:
            self.make_exclusive(handle)
        else:
            self._sharing_changed()

    def remove_handle(self, handle: User) -> None:
        """Forget a handle, its lock and its place in the queue; the last one frees the card's power."""
        self.handles.discard(handle)
        if not self.handles:
            self.is_exclusive = False
        self.lock.release_all(handle)
        self.let_rest()
        self._sharing_changed()

    def make_exclusive(self, handle: User) -> None:
        """Exclusive access is a transaction that cannot be ended by SCardEndTransaction."""
        self.is_exclusive = self.lock.try_acquire(handle)
        self._sharing_changed()

    def make_shared(self, handle: User) -> None:
        if self.is_exclusive:
            self.is_exclusive = False
            self.lock.release(handle)
            self._sharing_changed()

    def release(self, handle: User) -> bool:
        """End one transaction of the handle; False if there is none."""
        return self.lock.release(handle, floor=1 if self.is_exclusive else 0)

    def mark_handles(self, event: ReturnCode) -> None:
        """Note a reset or removal for every handle, to be told at its next call."""
        for handle in self.handles:
            handle.event = event

    def _sharing_changed(self) -> None:
        self._touched()
        self._signal(self)

    # --- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over the slot and power the card that is in it, within a bounded time."""
        self.slot.presence_changed = self._presence_changed
        if self.slot.presence is Presence.UNKNOWN:
            self._tell(Presence.UNKNOWN, ReaderState.UNKNOWN, b"")
        elif self.slot.presence is Presence.PRESENT:
            first = asyncio.ensure_future(self._follow_insertion(self.generation))
            self._background.adopt(first)
            bound = self._settings.announce_bound
            await asyncio.wait((first,), timeout=bound)
            if not first.done():
                log.warning(
                    "%s: the card has not answered within %.0f s; the reader is announced without it",
                    self.name,
                    bound,
                )
        self._is_announced = True

    def retire(self) -> None:
        """The device is gone or given up: no command reaches the slot from now on."""
        self.is_gone = True
        self.generation += 1
        self._rest.stop()
        self.mark_handles(ReturnCode.W_REMOVED_CARD)
        self.lock.abandon()

    async def power_off(self) -> None:
        """Cut the card's power before the slot is closed, within a bounded time. Never raises."""
        self._rest.stop()
        if not self._may_have_power:
            return
        self._is_powered = self._may_have_power = False
        try:
            await Bounded(self._power_off_now(), self._settings.retire_bound, self._timed_out)
        except DriverError as error:
            if error.reason is not Reason.NO_DEVICE:
                log.warning("%s: the card could not be powered off: %s", self.name, error)

    async def _power_off_now(self) -> None:
        async with self.commands:
            await self.slot.power_off()

    # --- cards come and go --------------------------------------------------------------------

    def _presence_changed(self, presence: Presence) -> None:
        if self.is_gone:
            return
        self.generation += 1
        if presence is Presence.PRESENT:
            self._background.run(self._follow_insertion(self.generation))
        elif presence is Presence.ABSENT:
            self._card_removed()
        else:
            log.warning("%s: the reader does not answer any more", self.name)
            self._lose_power()
            self._tell(Presence.UNKNOWN, ReaderState.UNKNOWN, b"")

    def _card_removed(self) -> None:
        self._lose_power()
        if self._told_presence is Presence.ABSENT:
            return
        self.mark_handles(ReturnCode.W_REMOVED_CARD)
        # What was begun with that card is over; its holder may not know yet, or never come back.
        self.lock.abandon()
        if self.is_exclusive:
            # the reader stays its owner's, whatever card is in it
            for owner in self.handles:
                self.lock.try_acquire(owner)
        self._tell(Presence.ABSENT, ReaderState.ABSENT, b"")
        log.info("%s: card removed", self.name)

    async def _follow_insertion(self, generation: int) -> None:
        """Power a new card; it is shown only together with its ATR."""
        async with self.commands:
            if generation != self.generation:
                return
            state, answer = _CARD_MUTE, b""
            try:
                answer = await self._power_on()
                state = _CARD_READY
            except DriverError as error:
                log.warning("%s: the card could not be powered: %s", self.name, error)
            if generation != self.generation:
                return
            self._is_powered = state is _CARD_READY
            self._is_in_use = False
            self._tell(Presence.PRESENT, state, answer)
            self._schedule_power_down()
            # those who wait for it come first
            log.info("%s: card inserted, ATR %s", self.name, answer.hex(" ").upper() or "none")

    # --- commands to the card; the caller holds ``commands`` -----------------------------------

    def _run(self, command: Coroutine[Any, Any, T], deadline: float | None) -> Awaitable[T]:
        """The command, ended after ``deadline`` seconds; None: the driver ends it itself."""
        if deadline is None:
            return command
        return Bounded(command, deadline, self._timed_out, self._alarm)

    async def _power_on(self) -> bytes:
        """Power the card, with a second try where that may help. Raises DriverError."""
        generation = self.generation
        for _ in range(self._settings.power_up_attempts - 1):
            try:
                return await self._run_for_atr(self.slot.power_on())
            except DriverError as error:
                if error.reason not in _WORTH_ANOTHER_TRY:
                    raise
                log.debug("%s: the card could not be powered, trying again: %s", self.name, error)
                failure = error
            await asyncio.sleep(self._settings.power_up_pause)
            if generation != self.generation:
                # there is another card by now, or none, or not even a reader
                raise failure
        return await self._run_for_atr(self.slot.power_on())

    async def _run_for_atr(self, command: Coroutine[Any, Any, bytes]) -> bytes:
        self._may_have_power = True
        try:
            answer = await self._run(command, self.slot.command_deadline)
        except DriverError:
            self._may_have_power = False
            raise
        if len(answer) > MAX_ATR_SIZE:
            raise DriverError(Reason.POWER, f"the driver gave an ATR of {len(answer)} bytes")
        return answer

    async def power_up(self) -> None:
        """Make the card ready for a connection. Raises NO_SMARTCARD or W_UNPOWERED_CARD."""
        if not self.has_card:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        if not self._is_powered:
            generation = self.generation
            try:
                answer = await self._power_on()
            except DriverError as error:
                log.warning("%s: the card could not be powered: %s", self.name, error)
                self.check_same_card(generation)
                self._show(_CARD_MUTE, b"")
                raise PcscError(ReturnCode.W_UNPOWERED_CARD) from error
            self.check_same_card(generation)
            self._is_powered = True
            self._show(_CARD_READY, answer)
        if not self._is_shown_powered:
            raise PcscError(ReturnCode.W_UNPOWERED_CARD)
        self.use_card()

    def check_same_card(self, generation: int) -> None:
        """Raise NO_SMARTCARD if the card was taken away since; clients have been shown that already."""
        if generation != self.generation:
            raise PcscError(ReturnCode.E_NO_SMARTCARD)

    def use_card(self) -> None:
        """A connection uses the card: keep its power until the last handle is gone."""
        self._is_in_use = True
        self._rest.clear()

    def let_rest(self) -> None:
        """A connection did not come about: if nobody else uses the card, its power is not needed."""
        if not self.handles:
            self._is_in_use = False
            self._schedule_power_down()

    async def reset(self, *, cold: bool) -> None:
        """Reset the card, or power it down and up again. Raises DriverError; the state is shown."""
        self._rest.clear()
        self.select(Protocol.UNDEFINED)
        generation = self.generation
        try:
            if cold:
                await self._power_down_quietly()
                answer = await self._power_on()
            else:
                answer = await self._run_for_atr(self.slot.reset())
        except DriverError as error:
            self._fail_card(error)
            raise
        except BaseException:
            # The client went away in the middle: the next one must not take the card for powered.
            self._is_powered = False
            raise
        if generation != self.generation:
            raise DriverError(Reason.NO_CARD, "the card was taken away while it was reset")
        self._is_powered = True
        self._show(_CARD_READY, answer)
        self._schedule_power_down()

    async def unpower(self) -> None:
        """Power the card down until it is connected again. Raises DriverError."""
        self._rest.clear()
        try:
            await self._run(self.slot.power_off(), self.slot.command_deadline)
            self._may_have_power = False
        except DriverError as error:
            self._fail_card(error)
            raise
        finally:
            self._is_powered = False
        # a driver need not mind that there is nothing to power down
        self._show(ReaderState.PRESENT if self.has_card else self.state, self.atr)

    def _fail_card(self, error: DriverError) -> None:
        log.warning("%s: the card could not be reset: %s", self.name, error)
        self._is_powered = False
        if self.has_card:
            state = ReaderState.ABSENT if error.reason is Reason.NO_CARD else _CARD_MUTE
            self._show(state, b"")

    async def set_protocol(self, protocol: Protocol) -> None:
        """Agree on it with the card. Raises DriverError."""
        try:
            await self._run(self.slot.set_protocol(protocol), self.slot.command_deadline)
        except DriverError:
            raise
        except BaseException:
            # The client went away in the middle, and a card agrees on a protocol once per power-up.
            self._is_powered = False
            raise

    def select(self, protocol: Protocol) -> None:
        """This protocol is in force."""
        self.protocol = protocol
        self._touched()

    def transmit(self, protocol: Protocol, apdu: bytes) -> Awaitable[bytes]:
        """One exchange with the card. Awaiting it raises DriverError."""
        return self._run(self.slot.transmit(protocol, apdu), self.slot.transmit_deadline)

    async def control(self, code: int, data: bytes) -> bytes:
        """One command to the reader. Raises DriverError."""
        return await self._run(self.slot.control(code, data), self.slot.transmit_deadline)

    async def get_attribute(self, attribute: int) -> bytes:
        return await self._run(self.slot.get_attribute(attribute), self.slot.command_deadline)

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        await self._run(self.slot.set_attribute(attribute, value), self.slot.command_deadline)

    def card_is_missing(self) -> None:
        """A command found no card. The removal itself is reported by the driver."""
        self._show(ReaderState.ABSENT, b"")

    def _timed_out(self) -> DriverError:
        return DriverError(Reason.TIMEOUT, "the command was given up")

    # --- power of an unused card --------------------------------------------------------------

    def _schedule_power_down(self) -> None:
        delay = self._settings.power_down_delay_of(self.name)
        if delay is None or not self._may_have_power or self._is_in_use or self.is_gone:
            self._rest.clear()
        else:
            self._rest.set(delay, self._rest_is_due)

    def _rest_is_due(self) -> None:
        self._background.run(self._power_down_unused())

    def _lose_power(self) -> None:
        self._is_powered = self._may_have_power = False
        self._rest.clear()

    async def _power_down_unused(self) -> None:
        async with self.commands:
            if self._is_in_use or not self._may_have_power or self.is_gone:
                return
            log.debug("%s: nobody uses the card; it is powered down", self.name)
            self._is_powered = False
            self.select(Protocol.UNDEFINED)
            await self._power_down_quietly()

    async def _power_down_quietly(self) -> None:
        try:
            await self._run(self.slot.power_off(), self.slot.command_deadline)
            self._may_have_power = False
        except DriverError as error:
            log.warning("%s: the card could not be powered down: %s", self.name, error)
