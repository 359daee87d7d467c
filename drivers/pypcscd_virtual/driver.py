"""Virtual readers: one slot each, with a card that is a Python object.

Options of a device: ``card``, a name as ``cards.find`` takes it (default ``hello``), or ``none`` for
an empty reader.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence

from pypcscd import atr as atrs
from pypcscd.driver import (
    Device,
    DeviceConfig,
    DeviceOpenError,
    Driver,
    DriverError,
    Presence,
    Reason,
    Slot,
)
from pypcscd.scard import MAX_ATR_SIZE, MAX_ATTRIBUTE_SIZE, MAX_BUFFER_SIZE_EXTENDED, Protocol
from pypcscd_virtual import cards
from pypcscd_virtual.apdu import MAX_RESPONSE_DATA
from pypcscd_virtual.attributes import answer_attribute, answer_control
from pypcscd_virtual.card import Card

_log = logging.getLogger("pypcscd.virtual")
_NO_CARD = "none"
_MAX_RESPONSE = MAX_RESPONSE_DATA + 2


class VirtualSlot(Slot):
    """A slot whose card is put in and pulled out by calling ``insert`` and ``remove``."""

    def __init__(self, reader: str) -> None:
        super().__init__()
        self._reader = reader
        self._card: Card | None = None
        #: the card's answer to reset while it has power, else empty
        self._atr = b""
        #: changes with every removal, also if the same card is put back
        self._removals = 0
        #: the rest of a card's method that waits for something
        self._waiting: asyncio.Future[object] | None = None
        self._is_closed = False

    @property
    def card(self) -> Card | None:
        """The card in the slot."""
        return self._card

    def insert(self, card: Card) -> None:
        """Put a card in; one that is there is pulled out first."""
        self.remove()
        self._card = card
        self.update_presence(Presence.PRESENT)

    def remove(self) -> None:
        """Pull the card out. A command that it is working on fails with NO_CARD."""
        self._card = None
        self._atr = b""
        self._removals += 1
        if self._waiting is not None:
            self._waiting.cancel()
        self.update_presence(Presence.ABSENT)

    def close(self) -> None:
        """Called by the device: from now on every command raises NO_DEVICE."""
        self._is_closed = True
        self.remove()

    async def power_on(self) -> bytes:
        card = self._inserted()
        await self._finish(card, "power_on", card.power_on)
        return await self._read_atr(card)

    async def reset(self) -> bytes:
        card = self._inserted()
        await self._finish(card, "reset", card.reset)
        return await self._read_atr(card)

    async def power_off(self) -> None:
        self._atr = b""
        card = self._present()
        if card is not None:
            await self._finish(card, "power_off", card.power_off)

    async def set_protocol(self, protocol: Protocol) -> None:
        self._powered()
        try:
            offered = atrs.parse(self._atr).protocols
        except ValueError as error:
            raise DriverError(Reason.PROTOCOL_UNSUPPORTED, f"the card's ATR is not valid: {error}") from error
        if not protocol & offered:
            raise DriverError(
                Reason.PROTOCOL_UNSUPPORTED, f"the card's ATR {self._atr.hex(' ').upper()} does not offer it"
            )

    async def transmit(self, protocol: Protocol, apdu: bytes) -> bytes:
        card = self._powered()
        response = await self._finish(card, "transmit", lambda: card.transmit(apdu), apdu[:4])
        return self._check(card, f"transmit of APDU {_header(apdu)}", response, 2, _MAX_RESPONSE)

    async def control(self, code: int, data: bytes) -> bytes:
        card = self._present()
        if card is not None:
            answer = await self._finish(card, "control", lambda: card.control(code, data))
            if answer is not None:
                return self._check(card, f"control(0x{code:08X})", answer, 0, MAX_BUFFER_SIZE_EXTENDED)
        return answer_control(code)

    async def get_attribute(self, attribute: int) -> bytes:
        card = self._present()
        if card is not None:
            answer = await self._finish(card, "attribute", lambda: card.attribute(attribute))
            if answer is not None:
                return self._check(card, f"attribute(0x{attribute:08X})", answer, 0, MAX_ATTRIBUTE_SIZE)
        return answer_attribute(
            attribute,
            atr=self._atr,
            present=self._card is not None,
            max_input=MAX_BUFFER_SIZE_EXTENDED,
        )

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        raise DriverError(Reason.UNKNOWN_ATTRIBUTE, f"attribute 0x{attribute:08X} cannot be set")

    def _present(self) -> Card | None:
        if self._is_closed:
            raise DriverError(Reason.NO_DEVICE, f"virtual reader {self._reader!r} was closed")
        return self._card

    def _inserted(self) -> Card:
        card = self._present()
        if card is None:
            raise DriverError(Reason.NO_CARD, f"virtual reader {self._reader!r} is empty")
        return card

    def _powered(self) -> Card:
        card = self._inserted()
        if not self._atr:
            raise DriverError(Reason.POWER, f"the card in virtual reader {self._reader!r} has no power")
        return card

    async def _finish(
        self, card: Card, method: str, call: Callable[[], object], header: bytes | None = None
    ) -> object:
        """Run a method of the card to its end, whatever the card's author did in there.

        ``header`` is that of the APDU at hand, for the log. Raises DriverError.
        """
        removals = self._removals
        try:
            result = call()
            if inspect.isawaitable(result):
                # a future of its own, which remove() can cancel
                self._waiting = asyncio.ensure_future(_contain(result))
                result = await self._waiting
        except asyncio.CancelledError:
            if self._removals == removals:
                raise
        except DriverError:
            raise
        except (Exception, SystemExit) as error:
            occasion = method if header is None else f"{method} of APDU {_header(header)}"
            _log.error(
                "card %s in virtual reader %r failed in %s; the client sees a failed exchange",
                type(card).__qualname__,
                self._reader,
                occasion,
                exc_info=error,
            )
            raise DriverError(
                Reason.COMMUNICATION, f"card {type(card).__qualname__} raised {type(error).__name__}"
            ) from error
        finally:
            self._waiting = None
        if self._removals != removals:
            raise DriverError(Reason.NO_CARD, f"the card was pulled out of virtual reader {self._reader!r}")
        return result

    async def _read_atr(self, card: Card) -> bytes:
        # a property is code too
        atr = await self._finish(card, "atr", lambda: card.atr)
        self._atr = self._check(card, "atr", atr, 2, MAX_ATR_SIZE)
        return self._atr

    def _check(self, card: Card, what: str, answer: object, least: int, most: int) -> bytes:
        """The card's answer, if it is one; else tell the card's author, and raise DriverError."""
        if isinstance(answer, bytes | bytearray) and least <= len(answer) <= most:
            return bytes(answer)
        got = f"{len(answer)} bytes" if isinstance(answer, bytes | bytearray) else type(answer).__name__
        message = (
            f"card {type(card).__qualname__} in virtual reader {self._reader!r}: {what} gave {got}; "
            f"it must give {least} to {most} bytes"
        )
        _log.error("%s", message)
        raise DriverError(Reason.COMMUNICATION, message)


async def _contain(awaitable: Awaitable[object]) -> object:
    """Await it. A SystemExit that left a task would end the daemon's event loop."""
    try:
        return await awaitable
    except SystemExit as error:
        raise RuntimeError(f"the card ended its program (SystemExit: {error})") from error


def _header(apdu: bytes) -> str:
    """CLA INS P1 P2 for the log. Never the data field: it may hold a PIN."""
    return apdu[:4].hex(" ").upper() or "without bytes"


class VirtualDevice(Device):
    """A virtual reader with one slot, for the daemon and for tests that work on a slot directly."""

    def __init__(self, card: Card | None = None, name: str = "Virtual reader") -> None:
        super().__init__()
        self.slot = VirtualSlot(name)
        if card is not None:
            self.slot.insert(card)

    @property
    def slots(self) -> Sequence[VirtualSlot]:
        return (self.slot,)

    async def close(self) -> None:
        self.slot.close()


class VirtualDriver(Driver):
    """Opens virtual readers."""

    async def open(self, config: DeviceConfig) -> VirtualDevice:
        """A reader with the card of option ``card`` in it. Raises DeviceOpenError."""
        unknown = sorted(set(config.options) - {"card"})
        if unknown:
            raise DeviceOpenError(f"unknown option {unknown[0]!r}; the only option is 'card'", permanent=True)
        name = config.options.get("card", "hello")
        if name == _NO_CARD:
            return VirtualDevice(name=config.name)
        try:
            # an import reads files and runs foreign code: that must not hold up the other readers
            card_class = await asyncio.to_thread(cards.find, name)
            return VirtualDevice(cards.build(card_class), config.name)
        except cards.CardNameError as error:
            raise DeviceOpenError(str(error), permanent=True) from error
