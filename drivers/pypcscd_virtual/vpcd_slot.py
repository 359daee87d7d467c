"""The slot of a reader for card emulators, and the connection of the emulator that is its card."""

import asyncio
import logging
import select
from collections import deque
from typing import cast

from pypcscd.driver import Answer, DriverError, Presence, Reason, Slot
from pypcscd.scard import MAX_ATR_SIZE, Protocol
from pypcscd_virtual import vpcd_protocol as wire
from pypcscd_virtual.attributes import answer_attribute, answer_control

_log = logging.getLogger("pypcscd.vpcd")

#: seconds that an emulator may take to tell its ATR …
ATR_TIMEOUT = 5.0
#: … and when it is still busy with a command that was given up, e.g. making a key
BUSY_ATR_TIMEOUT = 50.0
#: seconds that an emulator may take for an APDU
EXCHANGE_TIMEOUT = 600.0

_POWER_OFF = wire.encode_control(wire.Control.POWER_OFF)
_POWER_ON = wire.encode_control(wire.Control.POWER_ON)
_RESET = wire.encode_control(wire.Control.RESET)
_ASK_ATR = wire.encode_control(wire.Control.ATR)


class Emulator:
    """One emulator that has connected to the port of a slot.

    The event loop takes it for an ``asyncio.BufferedProtocol``. It is not derived from that, because a
    compiled class is quick only without interpreted ancestors.
    """

    def __init__(self, slot: "VpcdSlot", room: memoryview) -> None:
        """``room``: where the event loop puts what it receives; it may be the same for all emulators."""
        self._slot = slot
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._decoder = wire.Decoder()
        #: the answers to come, in order; those of commands that were given up are cancelled
        self._answers: deque[Answer[bytes]] = deque()
        self._has_ended = False
        #: looks after the answer that was to come first when it was set
        self._watch: asyncio.TimerHandle | None = None
        self.peer = ""

    # the fast path: question and answer

    def ask(self, frame: bytes) -> Answer[bytes]:
        """Send a frame; what is returned gets the payload of the answer, or a DriverError."""
        answer: Answer[bytes] = Answer(self._loop)
        self._answers.append(answer)
        self._transport.write(frame)
        if self._watch is None:
            self._watch = self._loop.call_later(EXCHANGE_TIMEOUT, self._look_after, answer)
        return answer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._room[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """What asyncio's own loop calls, which has buffers only for what is derived from its class."""
        payloads = self._decoder.feed(data)
        if len(payloads) == 1 and self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(payloads[0])
            return
        # all are taken before the first is given out: the next question may be asked right then
        expected = [self._answers.popleft() for _ in payloads[: len(self._answers)]]
        if len(payloads) > len(expected):
            surplus = payloads[len(expected)]
            self.drop(f"it sent a frame of {len(surplus)} bytes that nobody asked for")
        for answer, payload in zip(expected, payloads, strict=False):
            if not answer.done():
                answer.set_result(payload)

    # everything else

    def _look_after(self, answer: Answer[bytes]) -> None:
        """End a wait that lasts too long; one timer serves all questions within its time."""
        self._watch = None
        if not answer.done():
            why = (
                f"{self._slot.title}: emulator {self.peer} did not answer within {EXCHANGE_TIMEOUT:g} seconds"
            )
            answer.set_exception(DriverError(Reason.TIMEOUT, why))
        waiting = next((later for later in self._answers if not later.done()), None)
        if waiting is not None:
            self._watch = self._loop.call_later(EXCHANGE_TIMEOUT, self._look_after, waiting)

    def tell(self, frame: bytes) -> None:
        """Send a frame that has no answer."""
        self._transport.write(frame)

    async def ask_atr(self, order: bytes) -> bytes:
        """The ATR, after a frame that has no answer. Raises DriverError(POWER) if there is none in time."""
        seconds = BUSY_ATR_TIMEOUT if self._answers else ATR_TIMEOUT
        why = f"it did not answer the question for its ATR within {seconds:g} seconds"
        timer = self._loop.call_later(seconds, self.drop, why, Reason.POWER)
        try:
            # in one piece, so that the emulator is woken once
            atr = await self.ask(order + _ASK_ATR)
        finally:
            timer.cancel()
        if len(atr) > MAX_ATR_SIZE:
            why = f"it sent an ATR of {len(atr)} bytes; an ATR has at most {MAX_ATR_SIZE}"
            self.drop(why)
            raise DriverError(Reason.POWER, f"{self._slot.title}: emulator {self.peer}: {why}")
        if len(atr) < 2:
            raise DriverError(Reason.POWER, f"{self._slot.title}: emulator {self.peer} sent an empty ATR")
        return atr

    def drop(self, why: str, reason: Reason = Reason.COMMUNICATION) -> None:
        """End the connection because the emulator misbehaved."""
        if self._has_ended:
            return
        _log.warning("%s: dropping emulator %s: %s", self._slot.title, self.peer, why)
        self._end(DriverError(reason, f"{self._slot.title}: emulator {self.peer}: {why}"))

    def end_if_hung_up(self) -> None:
        """Notice an end that the event loop has not come to yet."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._transport.abort()
            self.connection_lost(None)

    def close(self) -> None:
        """End the connection because the reader is closed."""
        self._end(DriverError(Reason.NO_DEVICE, f"{self._slot.title} was closed"))

    def _end(self, error: DriverError) -> None:
        self._transport.abort()
        self._detach(error)

    def _detach(self, error: DriverError) -> None:
        self._has_ended = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        answers, self._answers = self._answers, deque()
        for answer in answers:
            if not answer.done():
                answer.set_exception(error)
        self._slot.emulator_gone()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = _address(transport.get_extra_info("peername"))
        if not self._slot.emulator_came(self):
            self._has_ended = True
            transport.close()
            return

    def eof_received(self) -> None:
        """An emulator that ends one direction has ended both."""

    def pause_writing(self) -> None:
        """One command at a time is sent, so nothing piles up."""

    def resume_writing(self) -> None:
        """See ``pause_writing``."""

    def connection_lost(self, error: Exception | None) -> None:
        if self._has_ended:
            return
        why = f"{self._slot.title}: emulator {self.peer} disconnected" + (f" ({error})" if error else "")
        self._detach(DriverError(Reason.NO_CARD, why))
        _log.info("%s", why)


class VpcdSlot(Slot):
    """The slot behind one TCP port. A connected emulator is an inserted card."""

    # A wait for an emulator ends after EXCHANGE_TIMEOUT, or at the latest after twice that.
    transmit_deadline = None

    def __init__(self, title: str, room: memoryview) -> None:
        """``room``: for what emulators send, see ``Emulator``."""
        super().__init__()
        #: which reader and slot this is, for messages
        self.title = title
        self._room = room
        self._emulator: Emulator | None = None
        self._atr = b""
        self._is_closed = False

    async def power_on(self) -> bytes:
        return await self._start(_POWER_ON)

    async def reset(self) -> bytes:
        return await self._start(_RESET)

    async def power_off(self) -> None:
        self._atr = b""
        emulator = self._present()
        if emulator is not None:
            emulator.tell(_POWER_OFF)

    async def set_protocol(self, protocol: Protocol) -> None:
        """Nothing to do: the vpcd protocol carries APDUs, whatever the card's own protocol."""
        self._connected()

    async def transmit(self, protocol: Protocol, apdu: bytes) -> bytes:
        emulator = self._emulator or self._connected()
        try:
            frame = wire.encode_apdu(apdu)
        except wire.LocalProtocolError as error:
            raise DriverError(Reason.INVALID_PARAMETER, f"{self.title}: {error}") from error
        response = await emulator.ask(frame)
        if len(response) < 2:
            raise DriverError(
                Reason.COMMUNICATION,
                f"{self.title}: emulator {emulator.peer} sent {len(response)} bytes, not even a status word",
            )
        return response

    async def control(self, code: int, data: bytes) -> bytes:
        self._present()
        return answer_control(code)

    async def get_attribute(self, attribute: int) -> bytes:
        emulator = self._present()
        return answer_attribute(
            attribute, atr=self._atr, present=emulator is not None, max_input=wire.MAX_PAYLOAD
        )

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        raise DriverError(Reason.UNKNOWN_ATTRIBUTE, f"attribute 0x{attribute:08X} cannot be set")

    def new_connection(self) -> asyncio.Protocol:
        """Somebody has connected to the port."""
        return cast(asyncio.Protocol, Emulator(self, self._room))

    def emulator_came(self, emulator: Emulator) -> bool:
        """An emulator has connected. False: the slot is occupied, and the connection to be closed."""
        if self._is_closed:
            return False
        if self._emulator is not None:
            self._emulator.end_if_hung_up()
        if self._emulator is not None:
            _log.warning(
                "%s: refused emulator %s because %s is connected; end that one, or connect to another slot",
                self.title,
                emulator.peer,
                self._emulator.peer,
            )
            return False
        self._emulator = emulator
        self.update_presence(Presence.PRESENT)
        _log.info("%s: emulator %s connected", self.title, emulator.peer)
        return True

    def emulator_gone(self) -> None:
        """The inserted emulator's connection has ended."""
        self._emulator = None
        self._atr = b""
        self.update_presence(Presence.ABSENT)

    def close(self) -> None:
        """Called by the device: from now on every command raises NO_DEVICE."""
        self._is_closed = True
        if self._emulator is not None:
            self._emulator.close()

    async def _start(self, frame: bytes) -> bytes:
        emulator = self._connected()
        self._atr = b""
        atr = await emulator.ask_atr(frame)
        if emulator is not self._emulator:
            raise DriverError(Reason.NO_CARD, f"{self.title}: emulator {emulator.peer} has disconnected")
        self._atr = atr
        return atr

    def _present(self) -> Emulator | None:
        if self._is_closed:
            raise DriverError(Reason.NO_DEVICE, f"{self.title} was closed")
        return self._emulator

    def _connected(self) -> Emulator:
        emulator = self._present()
        if emulator is None:
            raise DriverError(Reason.NO_CARD, f"{self.title}: no emulator is connected")
        return emulator


def _address(peername: tuple[str, int] | tuple[str, int, int, int] | None) -> str:
    """``"127.0.0.1:40000"``; a peer that is gone already has no name."""
    if peername is None:
        return "(gone)"
    host, port = peername[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
