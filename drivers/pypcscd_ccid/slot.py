"""One slot of a CCID reader: power, protocol, APDUs, and what part 10 adds."""

import asyncio
import math
from dataclasses import asdict, replace
from time import monotonic

from pypcscd import atr as atrs
from pypcscd.driver import Answer, DriverError, Presence, Reason, Slot
from pypcscd.scard import MAX_ATR_SIZE, Protocol
from pypcscd_ccid import features, messages, parameters
from pypcscd_ccid.commands import Commands
from pypcscd_ccid.descriptor import Feature, Level
from pypcscd_ccid.exchange import BlockT1, ByteT0, ChainedApdu, response_of
from pypcscd_ccid.messages import (
    COMMAND_MASK,
    ERROR,
    HEADER_SIZE,
    SPECIFIC,
    STATUS,
    Command,
    IccStatus,
    SlotError,
)
from pypcscd_ccid.parameters import DEFAULT_FI_DI, Selection
from pypcscd_ccid.pending import LONGEST_EXCHANGE
from pypcscd_ccid.quirks import LYING_MAX_MESSAGE
from pypcscd_ccid.reader import ReaderFacts
from pypcscd_ccid.t1 import T1

#: seconds for commands that do not depend on the card's speed
_STATUS_TIMEOUT = 3.0
_POWER_TIMEOUT = 30.0
_PPS_TIMEOUT = 3.0
_ESCAPE_TIMEOUT = 30.0
#: … and for APDUs while no protocol was selected
_DEFAULT_TIMEOUT = 60.0
#: seconds until a reader is asked again that could not tell if there is a card
_ASK_AGAIN = 5.0
#: pseudo-APDUs FF C2 01 may ask for a PIN (part 10, section 2.7)
_PPDU = b"\xff\xc2\x01"
_PPDU_TIMEOUT = 90.0
#: bPowerSelect: 5 V, 1.8 V, 3 V, in the order in which they are tried, with the descriptor's bits
_VOLTAGES = ((1, 0x01), (3, 0x04), (2, 0x02))
_AUTOMATIC_VOLTAGE = 0
#: the parameters were not accepted because of the byte at this offset: the reader keeps to its own
_BYTE_OFFSETS = range(0x01, 0x80)

_XFR_BLOCK = int(Command.XFR_BLOCK)


class CcidSlot(Slot):
    """A slot; ``index`` counts from 0."""

    #: all that is waited for ends by LONGEST_EXCHANGE, or soon after
    transmit_deadline = None

    def __init__(self, facts: ReaderFacts, commands: Commands, index: int) -> None:
        super().__init__()
        self.title = f"{facts.title} slot {index:02X}"
        self.max_data = min(facts.max_data, messages.MAX_DATA)
        self._facts = facts
        self._commands = commands
        self._index = index
        self._atr = b""
        self._protocol = Protocol.UNDEFINED
        self._timeout = _DEFAULT_TIMEOUT
        self._is_asking = False
        #: the slot has changed since it was asked
        self._must_ask_again = False
        #: a timer is set for asking again
        self._will_ask_again = False
        #: when an exchange of several messages is given up, by time.monotonic
        self._end = math.inf
        level = facts.descriptor.level
        self._takes_apdus = level in (Level.SHORT_APDU, Level.EXTENDED_APDU)
        self._chain = ChainedApdu(self) if level is Level.EXTENDED_APDU else None
        #: how APDUs are sent, None: as they are, in one message
        self._exchange: BlockT1 | ByteT0 | None = None
        self._longest = self.max_data
        if facts.descriptor.max_message == LYING_MAX_MESSAGE:
            self._longest = messages.MAX_DATA

    def counters(self) -> dict[str, int]:
        """Those of the interface, which all slots share."""
        return asdict(self._commands.counters)

    # --- the way of an APDU -------------------------------------------------------------------

    async def transmit(self, protocol: Protocol, apdu: bytes) -> bytes:
        if self._exchange is not None or len(apdu) > self._longest:
            response = await self._transmit_in_blocks(apdu)
        else:
            # One message each way, for most readers and cards; hence no coroutine of its own.
            if not self._takes_apdus and not self._protocol:
                raise DriverError(
                    Reason.COMMUNICATION, f"{self.title}: no protocol was selected for the card"
                )
            seconds = self._timeout if apdu[:3] != _PPDU else max(self._timeout, _PPDU_TIMEOUT)
            pending = self._commands.submit(_XFR_BLOCK, self._index, seconds, apdu)
            try:
                reply = await pending
            except asyncio.CancelledError:
                self._commands.abandon(pending)
                raise
            if self._chain is not None and reply[SPECIFIC]:
                self._end = monotonic() + LONGEST_EXCHANGE
                response = await self._chain.collect(reply)
            elif reply[STATUS] & COMMAND_MASK:
                response = response_of(reply, self.title)
            else:
                response = reply[HEADER_SIZE:]
        if len(response) < 2:
            raise DriverError(
                Reason.COMMUNICATION, f"{self.title}: the card answered {len(response)} bytes, no status word"
            )
        return response

    async def _transmit_in_blocks(self, apdu: bytes) -> bytes:
        self._end = monotonic() + LONGEST_EXCHANGE
        if self._exchange is not None:
            return await self._exchange.transmit(apdu)
        if self._chain is not None:
            return await self._chain.transmit(apdu)
        raise self._too_long(Reason.COMMUNICATION, apdu)

    def _too_long(self, reason: Reason, data: bytes) -> DriverError:
        return DriverError(
            reason,
            f"{self.title}: the reader takes commands of {self._longest} bytes, this one has {len(data)}",
        )

    async def transfer(self, data: bytes, level: int = 0, wtx: int = 0) -> bytes:
        if monotonic() > self._end:
            raise DriverError(Reason.TIMEOUT, f"{self.title}: the exchange with the card has no end")
        seconds = min(self._timeout * max(wtx, 1), LONGEST_EXCHANGE)
        return await self._commands.run(_XFR_BLOCK, self._index, seconds, data, wtx, level)

    async def secure(self, payload: bytes, seconds: float) -> bytes:
        if len(payload) > self._longest:
            raise self._too_long(Reason.INVALID_PARAMETER, payload)
        return await self._commands.run(Command.SECURE, self._index, seconds, payload)

    # --- power ------------------------------------------------------------------------------

    async def power_on(self) -> bytes:
        self._forget_card()
        supported = self._facts.descriptor.voltages
        voltages = [select for select, bit in _VOLTAGES if supported & bit] or [_VOLTAGES[0][0]]
        if self._facts.descriptor.features & (Feature.AUTO_VOLTAGE | Feature.AUTO_ACTIVATION):
            voltages = [_AUTOMATIC_VOLTAGE]
        error = DriverError(Reason.POWER)
        for voltage in voltages:
            try:
                return await self._power_on_with(voltage)
            except DriverError as failed:
                if failed.reason in (Reason.NO_CARD, Reason.NO_DEVICE, Reason.TIMEOUT):
                    raise
                error = failed
        raise DriverError(Reason.POWER, error.detail)

    async def _power_on_with(self, voltage: int) -> bytes:
        reply = await self._ask_for_power(voltage)
        leaves_emv = self._facts.quirk.leaves_emv
        if messages.has_failed(reply) and reply[ERROR] == SlotError.EMV_PROTOCOL and leaves_emv:
            await self._commands.run(Command.ESCAPE, self._index, _STATUS_TIMEOUT, leaves_emv)
            reply = await self._ask_for_power(voltage)
        if messages.has_failed(reply):
            raise messages.failure(reply, self.title)
        answer = reply[HEADER_SIZE : HEADER_SIZE + MAX_ATR_SIZE]
        if len(answer) < 2:
            raise DriverError(Reason.POWER, f"{self.title}: the reader gave no ATR")
        self._atr = answer
        return answer

    async def _ask_for_power(self, voltage: int) -> bytes:
        return await self._commands.run(Command.ICC_POWER_ON, self._index, _POWER_TIMEOUT, byte7=voltage)

    async def power_off(self) -> None:
        self._forget_card()
        reply = await self._commands.run(Command.ICC_POWER_OFF, self._index, _STATUS_TIMEOUT)
        if messages.has_failed(reply) and messages.icc_status(reply) != IccStatus.ABSENT:
            raise DriverError(Reason.POWER, messages.failure(reply, self.title).detail)

    async def reset(self) -> bytes:
        """A second power-on is a warm reset (CCID 1.1, section 6.1.1)."""
        return await self.power_on()

    def _forget_card(self) -> None:
        self._atr = b""
        self._protocol = Protocol.UNDEFINED
        self._exchange = None
        self._timeout = _DEFAULT_TIMEOUT
        self._end = math.inf

    # --- protocol ---------------------------------------------------------------------------

    async def set_protocol(self, protocol: Protocol) -> None:
        selection: Selection | None = None
        try:
            selection = self._select(protocol)
        except DriverError as error:
            if error.reason is not Reason.PROTOCOL_REFUSED or not parameters.may_offer_other(self._card()):
                raise
        if selection is None:
            await self.reset()
            selection = self._select(protocol)
        if selection.pps and self._facts.quirk.skips_pps:
            raise DriverError(
                Reason.PROTOCOL_UNSUPPORTED, f"{self.title}: the reader knows a card's first protocol only"
            )
        try:
            await self._apply(selection)
        except DriverError as error:
            is_fast = selection.fi_di != DEFAULT_FI_DI
            if error.reason is Reason.NO_DEVICE or not is_fast or selection.card.is_specific:
                raise
        else:
            return
        # A card that did not follow must be reset before it is spoken to again.
        await self.power_off()
        await self.power_on()
        pps = parameters.pps_request(protocol, DEFAULT_FI_DI) if selection.pps else b""
        if protocol is selection.card.default_protocol:
            pps = b""
        await self._apply(replace(selection, fi_di=DEFAULT_FI_DI, pps=pps))

    def _card(self) -> atrs.Atr:
        try:
            return atrs.parse(self._atr)
        except ValueError as error:
            raise DriverError(Reason.PROTOCOL_REFUSED, f"{self.title}: {error}") from error

    def _select(self, protocol: Protocol) -> Selection:
        return parameters.select(self._card(), protocol, self._facts.descriptor, self._facts.rates)

    async def _apply(self, selection: Selection) -> None:
        descriptor = self._facts.descriptor
        is_by_character = descriptor.level is Level.CHARACTER
        fi_di = selection.fi_di
        self._end = monotonic() + LONGEST_EXCHANGE
        if selection.pps:
            self._timeout = _PPS_TIMEOUT
            reply = await self.transfer(selection.pps, len(selection.pps) if is_by_character else 0)
            if messages.has_failed(reply):
                raise DriverError(
                    Reason.PROTOCOL_REFUSED, messages.failure(reply, f"{self.title}: PPS").detail
                )
            fi_di = parameters.check_pps(selection.pps, reply[HEADER_SIZE:])
        if selection.sets_parameters:
            await self._set_parameters(selection, fi_di)
        exchange = self._begin(selection, fi_di)
        if isinstance(exchange, BlockT1) and selection.ifsd:
            await exchange.tell_ifsd(selection.ifsd)
        self._exchange = exchange
        self._protocol = selection.protocol

    def _begin(self, selection: Selection, fi_di: int) -> BlockT1 | ByteT0 | None:
        """Time-out and way of an exchange with a card that speaks this protocol from now on."""
        descriptor = self._facts.descriptor
        is_by_character = descriptor.level is Level.CHARACTER
        self._timeout = min(selection.timeout(descriptor.default_clock, fi_di), LONGEST_EXCHANGE)
        if not self._takes_apdus and selection.protocol is Protocol.T1:
            card = selection.card
            engine = T1(uses_crc=card.uses_crc, ifsc=card.ifsc, longest_block=self._longest)
            return BlockT1(self, engine, is_by_character=is_by_character)
        return ByteT0(self) if is_by_character else None

    async def _set_parameters(self, selection: Selection, fi_di: int) -> None:
        number = 1 if selection.protocol is Protocol.T1 else 0
        structure = selection.structure(fi_di)
        reply = await self._commands.run(
            Command.SET_PARAMETERS, self._index, _STATUS_TIMEOUT, structure, byte7=number
        )
        if not messages.has_failed(reply) or reply[ERROR] in _BYTE_OFFSETS:
            return
        detail = messages.failure(reply, f"{self.title}: SetParameters").detail
        if reply[ERROR] == SlotError.COMMAND_NOT_SUPPORTED:
            # So the card's first protocol stays in force, and who hears of this goes on with it.
            stays = replace(selection, protocol=selection.card.default_protocol)
            self._exchange = self._begin(stays, fi_di)
            self._protocol = stays.protocol
            raise DriverError(Reason.NOT_SUPPORTED, detail)
        raise DriverError(Reason.PROTOCOL_REFUSED, detail)

    # --- the reader itself --------------------------------------------------------------------

    async def control(self, code: int, data: bytes) -> bytes:
        pin_support = self._facts.descriptor.pin_support
        if code == features.ESCAPE:
            return await self._escape(data)
        if code == features.VERIFY_PIN and pin_support:
            return await self._enter_pin(features.verify_command(data, self._facts.quirk))
        if code == features.MODIFY_PIN and pin_support:
            return await self._enter_pin(features.modify_command(data, self._facts.quirk))
        return self._facts.answer_control(code)

    async def _escape(self, data: bytes) -> bytes:
        if not self._facts.may_escape(data):
            raise DriverError(
                Reason.COMMUNICATION,
                f"{self.title}: commands to the reader itself (Escape) are not allowed; "
                "they are with the device's option escape=yes",
            )
        if len(data) > self._longest:
            raise self._too_long(Reason.INVALID_PARAMETER, data)
        reply = await self._commands.run(Command.ESCAPE, self._index, _ESCAPE_TIMEOUT, data)
        if messages.has_failed(reply):
            raise messages.failure(reply, f"{self.title}: Escape")
        return reply[HEADER_SIZE:]

    async def _enter_pin(self, command: features.PinCommand) -> bytes:
        seconds = command.timeout
        self._end = monotonic() + LONGEST_EXCHANGE
        if isinstance(self._exchange, BlockT1):
            return await self._exchange.secure(command.payload, command.prologue, command.apdu, seconds)
        return response_of(await self.secure(command.payload, seconds), self.title)

    async def get_attribute(self, attribute: int) -> bytes:
        return self._facts.answer_attribute(
            attribute, atr=self._atr, is_present=self.presence is Presence.PRESENT
        )

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        raise DriverError(
            Reason.UNKNOWN_ATTRIBUTE, f"{self.title}: attribute 0x{attribute:08X} cannot be set"
        )

    # --- presence ---------------------------------------------------------------------------

    def notified(self, is_present: bool, *, is_certain: bool) -> None:
        """The interrupt pipe says that the slot has changed."""
        # an answer that is on its way may have been given before
        self._must_ask_again = self._is_asking
        if not is_certain or (is_present and self.presence is Presence.PRESENT):
            # That it is still there: taken out and put back so fast that it is one message.
            self.ask_status()
        elif not is_present:
            self._note_absence()
        else:
            self.update_presence(Presence.PRESENT)

    def ask_status(self) -> None:
        """Ask the reader for the card, unless that is being done."""
        if self._is_asking:
            return
        try:
            pending = self._commands.submit(Command.GET_SLOT_STATUS, self._index, _STATUS_TIMEOUT)
        except DriverError:
            return
        self._is_asking = True
        pending.add_done_callback(self._status_came)

    def poll(self) -> None:
        """``ask_status``, unless a command is under way: its reply tells the same."""
        if self._commands.is_idle(self._index):
            self.ask_status()

    def _status_came(self, answer: Answer[bytes]) -> None:
        self._is_asking = False
        if self._must_ask_again:
            self._must_ask_again = False
            self.ask_status()
            return
        try:
            reply = answer.result()
        except DriverError as error:
            if error.reason is not Reason.NO_DEVICE:
                self.note_silence()
            return
        self.note_status(reply)

    def note_status(self, reply: bytes) -> None:
        """The answer to GetSlotStatus."""
        status = messages.icc_status(reply)
        # A mute card is one that is there; after other failures the reader does not know.
        has_failed = messages.has_failed(reply) and reply[ERROR] != SlotError.ICC_MUTE
        if status == IccStatus.ABSENT:
            self._note_absence()
        elif has_failed or status == IccStatus.RESERVED:
            self.note_silence()
        else:
            if status == IccStatus.INACTIVE and self._atr:
                # We gave it power and it has none: it is another card, or was out.
                self._note_absence()
            self.update_presence(Presence.PRESENT)

    def card_changed(self, reply: bytes) -> None:
        """A reply says that the card is not active. Some readers do not mean it, so ask."""
        is_surprise = bool(self._atr) or messages.icc_status(reply) == IccStatus.ABSENT
        if is_surprise and self.presence is Presence.PRESENT:
            self.ask_status()

    def note_silence(self) -> None:
        """The reader cannot say if there is a card; it may be able to later."""
        self._forget_card()
        self.update_presence(Presence.UNKNOWN)
        if not self._will_ask_again:
            self._will_ask_again = True
            asyncio.get_running_loop().call_later(_ASK_AGAIN, self._ask_again)

    def _ask_again(self) -> None:
        self._will_ask_again = False
        self.ask_status()

    def _note_absence(self) -> None:
        self._forget_card()
        self.update_presence(Presence.ABSENT)
