"""One CCID interface as a device: opening, card movements, removal, closing."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from pypcscd.driver import Device, DeviceOpenError, DriverError, Presence, Reason
from pypcscd_ccid import descriptor as descriptors
from pypcscd_ccid import messages, quirks
from pypcscd_ccid.commands import Commands
from pypcscd_ccid.descriptor import DescriptorError, Endpoint, Interface
from pypcscd_ccid.libusb import Kind, Status
from pypcscd_ccid.messages import Command
from pypcscd_ccid.quirks import Quirk
from pypcscd_ccid.reader import ReaderFacts
from pypcscd_ccid.slot import CcidSlot
from pypcscd_ccid.transfer import Transfer, UsbError
from pypcscd_ccid.usb import UsbHandle

_log = logging.getLogger("pypcscd.ccid")

#: seconds between two looks at a reader that does not tell by itself
_POLL_INTERVAL = 0.4
#: seconds for standard and class requests
_REQUEST_TIMEOUT = 2.0
#: seconds for the first question; what is left of an earlier user may have to be thrown away
_FIRST_TIMEOUT = 1.0

_CLASS_IN = 0xA1
_GET_DATA_RATES = 0x03
_STANDARD_IN = 0x80
_GET_DESCRIPTOR = 0x06
_STRING = 0x0300
_MAX_STRING = 255
_ENGLISH = 0x0409

#: seconds in which what the interrupt pipe tells may be from before it was listened to; it is asked for
#: every 255 ms at least
_OLD_NEWS = 1.0

_SLOT_CHANGE = 0x50
_HARDWARE_ERROR = 0x51
#: what a reset at the port or a suspension without power leaves: neither cards nor parameters are kept
_WAS_TAKEN = "the system took it away: it was reset, or unplugged"
#: failures of the interrupt pipe in a row, after which the reader is polled
_MAX_FAILURES = 10


@dataclass(frozen=True)
class FoundInterface:
    """What is known of an interface before it is talked to; it is open and claimed."""

    handle: UsbHandle
    interface: Interface
    #: how messages name the reader
    title: str
    vendor: int
    product: int
    firmware: int
    #: indices of string descriptors, 0: there is none
    manufacturer_index: int
    serial_index: int
    bus: int
    address: int


class CcidDevice(Device):
    """A reader. ``open`` makes one."""

    def __init__(self, handle: UsbHandle, commands: Commands, facts: ReaderFacts, number: int) -> None:
        super().__init__()
        self._handle = handle
        self._commands = commands
        self._slots = [CcidSlot(facts, commands, index) for index in range(facts.descriptor.slots)]
        self.facts = facts
        #: bInterfaceNumber
        self.interface = number
        self._interrupt: Transfer | None = None
        self._failures = 0
        self._is_certain_from = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._clearing: asyncio.Task[None] | None = None
        self._is_closed = False
        self.is_lost = False

    @property
    def slots(self) -> Sequence[CcidSlot]:
        return self._slots

    async def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._commands.stop("it was closed")
        await self._handle.close()

    # --- card movements -----------------------------------------------------------------------

    def watch(self, interrupt: Endpoint | None) -> None:
        """Follow the cards from now on: by the interrupt pipe, or by asking."""
        if interrupt is None:
            self._poll_later()
            return
        # a byte, and two bits for each slot; bytes that do not fit would be an error
        size = 1 + (2 * len(self._slots) + 7) // 8
        packet = max(interrupt.max_packet, 1)
        size = -(-max(size, 8) // packet) * packet
        self._interrupt = self._handle.transfer(interrupt.address, Kind.INTERRUPT, size, self._interrupted)
        self._is_certain_from = monotonic() + _OLD_NEWS
        self._listen()

    def _listen(self) -> None:
        assert self._interrupt is not None
        if self._is_closed:
            return
        try:
            self._interrupt.submit()
        except UsbError as error:
            self._interrupt_failed(error.status)

    def _interrupted(self, status: int, length: int) -> None:
        if self._is_closed:
            return
        if status == Status.CANCELLED:
            # Not by us: the kernel took the interface away, as it does around a reset at the port, and now
            # and then when a device is unplugged. Which of the two it is shows soon.
            self._commands.stop(_WAS_TAKEN)
            self._commands.is_unplugged = True
            self.note_loss(_WAS_TAKEN)
            return
        assert self._interrupt is not None
        if status != Status.COMPLETED:
            self._interrupt_failed(Status(status))
            return
        self._failures = 0
        packet = bytes(self._interrupt.buffer[:length])
        self._listen()
        if packet[:1] == bytes((_SLOT_CHANGE,)) and len(packet) > 1:
            self._slots_changed(packet[1:])
            return
        if packet[:1] == bytes((_HARDWARE_ERROR,)):
            _log.warning(
                "%s: the reader reports a hardware error: %s", self.facts.title, packet[1:].hex(" ").upper()
            )
        # A card may have lost its power, and a reader that says nothing that is known may mean a card.
        self._ask_all()

    def _slots_changed(self, bits: bytes) -> None:
        """Two bits for each slot: a card is present, and the slot has changed (CCID 1.1, section 6.3.1)."""
        # What a reader had to say while nobody listened is out of date if it has no room for what came then.
        is_certain = monotonic() >= self._is_certain_from
        for index, slot in enumerate(self._slots[: 4 * len(bits)]):
            state = bits[index // 4] >> 2 * (index % 4)
            if state & 0x02:
                slot.notified(bool(state & 0x01), is_certain=is_certain)
            elif len(self._slots) == 1 and bool(state & 0x01) is not (slot.presence is Presence.PRESENT):
                # It forgets to say that this is a change.
                slot.notified(bool(state & 0x01), is_certain=False)

    def _interrupt_failed(self, status: Status) -> None:
        if status is Status.NO_DEVICE or self._is_closed:
            # The bulk pipe tells the same, and fails what waits.
            return
        self._failures += 1
        assert self._interrupt is not None
        if self._failures >= _MAX_FAILURES:
            _log.warning(
                "%s: the interrupt pipe does not work (%s); asking for cards every %.1f s instead",
                self.facts.title,
                status.name,
                _POLL_INTERVAL,
            )
            self._poll_later()
            return
        loop = self._handle.usb.loop
        self._timer = loop.call_later(0.01 * 2**self._failures, self._listen_again, status)

    def _listen_again(self, status: Status) -> None:
        if status is Status.STALL:
            self._clearing = self._handle.usb.loop.create_task(self._clear_halt())
        else:
            self._go_on()

    async def _clear_halt(self) -> None:
        assert self._interrupt is not None
        try:
            await self._handle.clear_halt(self._interrupt.endpoint)
        except UsbError as error:
            _log.debug("%s: the interrupt pipe stays halted: %s", self.facts.title, error)
        self._go_on()

    def _go_on(self) -> None:
        if self._is_closed:
            return
        self._listen()
        # What could not be received does not come again.
        self._ask_all()

    def _ask_all(self) -> None:
        for slot in self._slots:
            slot.ask_status()

    def _poll_later(self) -> None:
        self._timer = self._handle.usb.loop.call_later(_POLL_INTERVAL, self._poll)

    def _poll(self) -> None:
        for slot in self._slots:
            slot.poll()
        self._poll_later()

    # --- what the commands tell -------------------------------------------------------------

    def note_loss(self, why: str) -> None:
        """The bulk pipes are dead; commands fail already."""
        self._is_closed = self.is_lost = True
        self.is_unplugged = self._commands.is_unplugged
        if self._timer is not None:
            self._timer.cancel()
        self.lost(why)

    def note_card(self, slot: int, reply: bytes) -> None:
        self._slots[slot].card_changed(reply)


async def open_device(found: FoundInterface, *, allows_escape: bool) -> CcidDevice:
    """Ask the reader what must be known, and start it. Raises DeviceOpenError; the handle is closed then."""
    try:
        return await _open(found, allows_escape)
    except DescriptorError as error:
        await found.handle.close()
        raise DeviceOpenError(str(error), permanent=True) from error
    except UsbError as error:
        await found.handle.close()
        raise DeviceOpenError(
            f"talking to the reader failed: {error}",
            is_gone=error.status is Status.NO_DEVICE,
            reset_may_help=True,
        ) from error
    except BaseException:
        await found.handle.close()
        raise


async def _open(found: FoundInterface, allows_escape: bool) -> CcidDevice:
    raw = descriptors.find_descriptor(found.interface)
    if raw is None:
        raise DescriptorError(f"interface {found.interface.number} has no CCID descriptor")
    pipes = descriptors.find_pipes(found.interface)
    quirk = quirks.find(found.vendor, found.product, found.firmware)
    descriptor = quirks.apply(quirk, descriptors.parse(raw))
    facts = ReaderFacts(
        title=found.title,
        vendor=found.vendor,
        product=found.product,
        firmware=found.firmware,
        manufacturer=await _read_string(found, found.manufacturer_index),
        serial=await _read_string(found, found.serial_index),
        bus=found.bus,
        address=found.address,
        descriptor=descriptor,
        quirk=quirk,
        rates=await _read_rates(found, descriptor.rate_count),
        allows_escape=allows_escape,
    )
    # Some say that they take far more than there is to send, which would be memory for nothing.
    max_message = longest = messages.HEADER_SIZE + messages.MAX_DATA
    if descriptor.max_message != quirks.LYING_MAX_MESSAGE:
        max_message = min(descriptor.max_message, longest)
    # The slots need the commands, and these call the device.
    device: CcidDevice
    commands = Commands(
        found.handle,
        found.interface.number,
        pipes,
        slots=descriptor.slots,
        busy_slots=descriptor.busy_slots,
        max_message=max_message,
        title=found.title,
        lost=lambda why: device.note_loss(why),
        card_changed=lambda slot, reply: device.note_card(slot, reply),
    )
    device = CcidDevice(found.handle, commands, facts, found.interface.number)
    try:
        commands.start()
        await _wake_up(commands, quirk)
        await _look_at_slots(device, commands)
        if device.is_lost:
            # In the very moment in which it answered; nobody has listened to the device yet.
            raise _lost_while_opening(commands)
    except BaseException:
        commands.stop("it could not be opened")
        raise
    device.watch(pipes.interrupt)
    return device


def _lost_while_opening(commands: Commands) -> DeviceOpenError:
    if commands.is_unplugged:
        return DeviceOpenError("it was unplugged while it was opened", is_gone=True)
    return DeviceOpenError("USB transfers failed again and again while it was opened", reset_may_help=True)


async def _wake_up(commands: Commands, quirk: Quirk) -> None:
    """Get the reader to answer.

    What it had to say to an earlier user is dropped on the way, and with the first packet in each
    direction both ends agree again on the numbers of packets.
    """
    for seconds in (_FIRST_TIMEOUT, quirk.opening_timeout):
        try:
            await commands.run(Command.GET_SLOT_STATUS, 0, seconds)
            return
        except DriverError as error:
            if error.reason is Reason.NO_DEVICE:
                raise _lost_while_opening(commands) from error
            why = error
    raise DeviceOpenError(
        f"the reader does not answer ({why}); unplug it and plug it in again", reset_may_help=True
    )


async def _look_at_slots(device: CcidDevice, commands: Commands) -> None:
    """Note which slots have a card."""
    seconds = device.facts.quirk.opening_timeout
    replies = await asyncio.gather(
        *(commands.run(Command.GET_SLOT_STATUS, index, seconds) for index in range(len(device.slots))),
        return_exceptions=True,
    )
    for slot, reply in zip(device.slots, replies, strict=True):
        if isinstance(reply, bytes):
            slot.note_status(reply)
        elif isinstance(reply, DriverError) and reply.reason is Reason.NO_DEVICE:
            raise _lost_while_opening(commands) from reply
        else:
            slot.note_silence()


async def _read_rates(found: FoundInterface, count: int) -> tuple[int, ...]:
    """The reader's list of data rates, empty if it has none or does not tell it (section 5.3.3)."""
    if not count:
        return ()
    try:
        data = await found.handle.control(
            _CLASS_IN, _GET_DATA_RATES, 0, found.interface.number, 4 * count, _REQUEST_TIMEOUT
        )
    except UsbError as error:
        if error.status is Status.NO_DEVICE:
            raise
        return ()
    if len(data) % 4:
        return ()
    return tuple(int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4))


async def _read_string(found: FoundInterface, index: int) -> str:
    """A string descriptor in English, or in the first language of the device; empty if there is none."""
    if not index:
        return ""
    data = await _get_string(found, index, _ENGLISH)
    if data is None:
        languages = await _get_string(found, 0, 0) or b""
        data = await _get_string(found, index, int.from_bytes(languages[2:4], "little"))
    return data[2 : data[0]].decode("utf-16-le", "replace").rstrip("\0") if data else ""


async def _get_string(found: FoundInterface, index: int, language: int) -> bytes | None:
    """The descriptor as it is; None if the device refuses it, empty if it does not answer."""
    try:
        return await found.handle.control(
            _STANDARD_IN, _GET_DESCRIPTOR, _STRING | index, language, _MAX_STRING, _REQUEST_TIMEOUT
        )
    except UsbError as error:
        if error.status is Status.NO_DEVICE:
            raise
        return None if error.status is Status.STALL else b""
