"""A CCID reader on the libusb that is written in Python, written by the specification."""

import asyncio
import struct
from collections import deque
from collections.abc import Callable

from fake_libusb import FakeLibusb, Urb
from t1_card import T1Card

from pypcscd_ccid.descriptor import Endpoint, Interface
from pypcscd_ccid.device import CcidDevice, FoundInterface, open_device
from pypcscd_ccid.libusb import Status
from pypcscd_ccid.usb import AsyncUsb, UsbHandle

OUT, IN, INTERRUPT = 0x01, 0x82, 0x83
TPDU, SHORT, EXTENDED, CHARACTER = 0x10000, 0x20000, 0x40000, 0
PLAIN_ATR = bytes.fromhex("3B 02 14 50")
#: T=0 and T=1, TA1 96
FAST_ATR = bytes.fromhex("3B 95 96 80 B1 FE 45 1F 03 11 22 33 44 55")

#: what happens to one message: the replies, or None for the usual ones
Fault = Callable[[bytes], list[bytes] | None]


def descriptor(
    level: int = EXTENDED,
    *,
    slots: int = 1,
    busy: int = 1,
    features: int = 0xBA,
    voltages: int = 7,
    max_message: int = 271,
    rate_count: int = 0,
    max_rate: int = 344086,
    pin: int = 0,
) -> bytes:
    return struct.pack(
        "<BBHBBIIIBIIBIIIIIBBHBB",
        *(54, 0x21, 0x110, slots - 1, voltages, 3, 4000, 4000, 0, 10752, max_rate, rate_count, 254, 0, 0),
        *(level | features, max_message, 0, 0, 0, pin, busy),
    )


def echo(apdu: bytes) -> bytes:
    return apdu[::-1] + b"\x90\x00"


class Card:
    """A card as the reader sees it; ``respond`` answers APDUs, ``t1`` blocks if the reader passes them."""

    def __init__(self, atr: bytes = PLAIN_ATR, respond: Callable[[bytes], bytes] = echo) -> None:
        self.atr = atr
        self.respond = respond
        self.t1 = T1Card(respond, ifsc=254)
        #: the card's answer to a PPS request
        self.pps: Callable[[bytes], bytes] = lambda request: request
        #: bPowerSelect values with which it does not start
        self.refuses_power: tuple[int, ...] = ()
        self.is_t1 = False


class SimulatedReader:
    """The device end. Replies go out at once, or when ``release`` is called if ``holds`` is set."""

    def __init__(self, libusb: FakeLibusb, raw: bytes) -> None:
        self.libusb = libusb
        self.level = int.from_bytes(raw[40:44], "little") & 0x70000
        self.max_message = int.from_bytes(raw[44:48], "little")
        self.cards: list[Card | None] = [None] * (raw[4] + 1)
        self.powered = [False] * len(self.cards)
        self.received: list[bytes] = []
        self.controls: list[bytes] = []
        self.control_data: dict[int, bytes] = {}
        self.refuses_control = False
        self.parameters: list[bytes] = []
        self.faults: deque[Fault] = deque()
        self.holds = False
        self.held: list[bytes] = []
        self.cleared: list[int] = []
        self.out_status: deque[Status] = deque()
        self.in_status: deque[Status] = deque()
        self.interrupt_status: deque[Status] = deque()
        self.leaves_out_empty_packets = False
        self._in: Urb | None = None
        self._interrupt: Urb | None = None
        self._replies: deque[bytes] = deque()
        self._interrupts: deque[bytes] = deque()
        self._command = [b""] * len(self.cards)
        self._response = [b""] * len(self.cards)
        self._arrived = asyncio.Event()
        libusb.device = self

    # --- USB ----------------------------------------------------------------------------------

    def submitted(self, urb: Urb) -> None:
        if urb.endpoint == 0:
            self._control(urb)
        elif urb.endpoint == OUT:
            status = self.out_status.popleft() if self.out_status else Status.COMPLETED
            urb.complete(status=status)
            if status is Status.COMPLETED:
                self._receive(urb.data)
        elif urb.endpoint == IN:
            self._in = urb
            self._send()
        else:
            self._interrupt = urb
            self._notify()

    def halt_cleared(self, endpoint: int) -> None:
        self.cleared.append(endpoint)

    def _control(self, urb: Urb) -> None:
        self.controls.append(urb.data)
        request = urb.data[1]
        if self.refuses_control or (urb.data[0] & 0x80 and request not in self.control_data):
            urb.complete(status=Status.STALL)
        else:
            urb.complete(self.control_data.get(request, b""))

    def _send(self) -> None:
        if self._in is None or not (self._replies or self.in_status):
            return
        if self.in_status:
            urb, self._in = self._in, None
            urb.complete(status=self.in_status.popleft())
            return
        reply = self._replies[0]
        if self.leaves_out_empty_packets and len(reply) % 64 == 0 and len(reply) < self._in.length:
            # The controller has the bytes, but nothing has ended the transfer.
            return
        urb, self._in = self._in, None
        part, rest = reply[: urb.length], reply[urb.length :]
        self._replies.popleft()
        if rest:
            self._replies.appendleft(rest)
        urb.complete(part)

    def fail_in(self, status: Status) -> None:
        """The next bulk-IN transfer fails, also one that is waiting."""
        self.in_status.append(status)
        self._send()

    def reply(self, *replies: bytes) -> None:
        """Say something, asked or not."""
        self._replies.extend(replies)
        self._send()

    def release(self) -> None:
        """Send what was held."""
        held, self.held = self.held, []
        self.reply(*held)

    def interrupt(self, packet: bytes) -> None:
        self._interrupts.append(packet)
        self._notify()

    def fail_interrupt(self, status: Status) -> None:
        self.interrupt_status.append(status)
        self._notify()

    def _notify(self) -> None:
        urb = self._interrupt
        if urb is not None and self.interrupt_status:
            self._interrupt = None
            urb.complete(status=self.interrupt_status.popleft())
        elif urb is not None and self._interrupts:
            self._interrupt = None
            urb.complete(self._interrupts.popleft())

    async def until_received(self, count: int, command: int | None = None) -> None:
        """Wait until so many messages (of a type) have come."""
        while len(self.of_type(command)) < count:
            self._arrived.clear()
            await self._arrived.wait()

    def of_type(self, command: int | None) -> list[bytes]:
        return [message for message in self.received if command in (None, message[0])]

    # --- CCID ---------------------------------------------------------------------------------

    def _receive(self, message: bytes) -> None:
        assert len(message) == 10 + int.from_bytes(message[1:5], "little")
        self.received.append(message)
        self._arrived.set()
        replies: list[bytes] | None = None
        if self.faults:
            replies = self.faults.popleft()(message)
        if replies is None:
            replies = [self.answer(message)]
        if self.holds:
            self.held += replies
        else:
            self.reply(*replies)

    def status(self, slot: int) -> int:
        if self.cards[slot] is None:
            return 2
        return 0 if self.powered[slot] else 1

    def make(self, kind: int, message: bytes, data: bytes = b"", error: int = 0, specific: int = 0) -> bytes:
        """A reply to the message."""
        slot = message[5]
        status = self.status(slot) | (0x40 if error else 0)
        return (
            struct.pack("<BIBBBBB", kind, len(data), slot, message[6], status, error & 0xFF, specific) + data
        )

    def answer(self, message: bytes) -> bytes:
        command, slot, data = message[0], message[5], message[10:]
        card = self.cards[slot]
        if command == 0x65 or command == 0x72:
            return self.make(0x81, message)
        if command == 0x6B:
            return self.make(0x83, message, b"escaped " + data)
        if command == 0x63:
            self.powered[slot] = False
            return self.make(0x81, message)
        if card is None:
            return self.make(0x82 if command == 0x61 else 0x80, message, error=0xFE)
        if command == 0x62:
            return self._power_on(message, card)
        if command == 0x61:
            self.parameters.append(message[7:8] + data)
            card.is_t1 = message[7] == 1
            return self.make(0x82, message, data, specific=message[7])
        if command == 0x69:
            return self.make(0x80, message, card.respond(b"PIN"))
        assert command == 0x6F
        return self._transfer(message, card)

    def _power_on(self, message: bytes, card: Card) -> bytes:
        slot = message[5]
        self.powered[slot] = message[7] not in card.refuses_power
        card.is_t1 = False
        if not self.powered[slot]:
            return self.make(0x80, message, error=0xFE)
        card.t1 = T1Card(card.respond, ifsc=254)
        return self.make(0x80, message, card.atr)

    def _transfer(self, message: bytes, card: Card) -> bytes:
        slot, data = message[5], message[10:]
        if not self.powered[slot]:
            return self.make(0x80, message, error=0xFE)
        if self.level == EXTENDED:
            return self._transfer_extended(message, card)
        if self.level in (TPDU, CHARACTER):
            if data[:1] == b"\xff" and len(data) in (3, 4):
                answer = card.pps(data)
                return self.make(0x80, message, answer, error=0 if answer else 0xFE)
            if card.is_t1:
                return self.make(0x80, message, card.t1.receive(data))
        return self.make(0x80, message, card.respond(data))

    def _transfer_extended(self, message: bytes, card: Card) -> bytes:
        slot, data = message[5], message[10:]
        level = int.from_bytes(message[8:10], "little")
        size = self.max_message - 10
        if level == 0x10:
            rest = self._response[slot]
            self._response[slot] = rest[size:]
            return self.make(0x80, message, rest[:size], specific=3 if rest[size:] else 2)
        self._command[slot] = data if level in (0, 1) else self._command[slot] + data
        if level in (1, 3):
            return self.make(0x80, message, specific=0x10)
        response = card.respond(self._command[slot])
        self._response[slot] = response[size:]
        return self.make(0x80, message, response[:size], specific=1 if response[size:] else 0)


class Bench:
    """A simulated reader, and its driver once it is open."""

    def __init__(
        self,
        raw: bytes | None = None,
        *,
        has_interrupt: bool = True,
        vendor: int = 0x1234,
        product: int = 0x0001,
    ) -> None:
        self.raw = raw or descriptor()
        self.libusb = FakeLibusb()
        self.usb = AsyncUsb(self.libusb)
        self.usb.start()
        self.reader = SimulatedReader(self.libusb, self.raw)
        self.has_interrupt = has_interrupt
        self.vendor = vendor
        self.product = product
        self.closed = 0
        self.lost: list[str] = []
        self.allows_escape = False
        self.device: CcidDevice

    def insert(self, slot: int = 0, card: Card | None = None) -> Card:
        """Put a card in, without telling."""
        inserted = self.reader.cards[slot] = card or Card()
        self.reader.powered[slot] = False
        return inserted

    async def open(self) -> CcidDevice:
        endpoints = [Endpoint(OUT, 2, 64), Endpoint(IN, 2, 64)]
        if self.has_interrupt:
            endpoints.append(Endpoint(INTERRUPT, 3, 8))
        found = FoundInterface(
            handle=UsbHandle(self.usb, 1, self._close),
            interface=Interface(0, 0x0B, 0, endpoints, self.raw),
            title="Simulated reader",
            vendor=self.vendor,
            product=self.product,
            firmware=0x0102,
            manufacturer_index=1,
            serial_index=0,
            bus=3,
            address=4,
        )
        self.device = await open_device(found, allows_escape=self.allows_escape)
        self.device.lost = self.lost.append
        return self.device

    def _close(self) -> None:
        assert not self.libusb.pending
        self.closed += 1

    async def close(self) -> None:
        if hasattr(self, "device"):
            await self.device.close()
        self.usb.stop()
        assert self.closed == 1
        assert not self.libusb.records, "a transfer was not freed"
        self.libusb.close()
