"""A USB device with CCID interfaces: transfers of the host in, completed transfers out."""

import errno
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .ccid import Ccid
from .descriptors import Device
from .usbip import URB_SHORT_NOT_OK, Submit, Unlink, submit_reply, unlink_reply

CCID_ABORT, CCID_CLOCKS, CCID_RATES = 1, 2, 3


class Request(IntEnum):
    """Standard requests (USB 2.0 table 9-4)."""

    GET_STATUS = 0
    CLEAR_FEATURE = 1
    SET_FEATURE = 3
    GET_DESCRIPTOR = 6
    GET_CONFIGURATION = 8
    SET_CONFIGURATION = 9
    GET_INTERFACE = 10
    SET_INTERFACE = 11


@dataclass
class InPipe:
    """What waits on an IN endpoint: transfers of the host, and packets of the device."""

    packets: deque[bytes] = field(default_factory=deque)
    waiting: deque[Submit] = field(default_factory=deque)
    #: what the first of the waiting transfers has got already
    filled: bytearray = field(default_factory=bytearray)
    halted: bool = False


class SimulatedDevice:
    """``feed`` and ``advance`` return what goes to the host. ``gone`` says that it was unplugged."""

    def __init__(self, description: Device) -> None:
        self.description = description
        self.ccids = [Ccid(interface) for interface in description.interfaces]
        self.counters: Counter[str] = Counter()
        self.gone = False
        #: it hears no commands until it is reset
        self.hung = False
        self._configuration = 0
        self._out: list[bytes] = []
        self._pipes: dict[int, InPipe] = {}
        self._bulk_out: dict[int, tuple[int, bytearray]] = {}
        self._bulk_in: list[InPipe] = []
        self._interrupt: list[InPipe] = []
        self._halted_out: set[int] = set()
        #: requests without an answer, once it has gone deaf
        self._unheard: list[Submit] | None = None
        for number in range(len(self.ccids)):
            out, bulk, interrupt = description.endpoints(number)
            self._bulk_out[out] = (number, bytearray())
            self._bulk_in.append(InPipe())
            self._interrupt.append(InPipe())
            self._pipes[bulk] = self._bulk_in[-1]
            if description.interfaces[number].interrupt:
                self._pipes[interrupt] = self._interrupt[-1]

    def feed(self, message: Submit | Unlink, now: float) -> None:
        if isinstance(message, Unlink):
            self._unlink(message)
        elif message.endpoint & 0x7F == 0:
            self._control(message, now)
        elif message.endpoint & 0x80:
            pipe = self._pipes.get(message.endpoint)
            if pipe is None or pipe.halted:
                self._complete(message, -errno.EPIPE)
            else:
                pipe.waiting.append(message)
                self._serve(pipe)
        else:
            self._receive(message, now)

    def advance(self, now: float) -> bytes:
        """Let happen what is due, and take everything that goes to the host."""
        for number, ccid in enumerate(self.ccids):
            for frame in ccid.due(now):
                self._queue(self._bulk_in[number], frame)
            for effect in ccid.effects:
                self._effect(effect, number)
            ccid.effects.clear()
            if self._configuration and self.description.interfaces[number].interrupt:
                notice = self._interrupt[number].waiting and ccid.notification()
                if notice:
                    self._queue(self._interrupt[number], notice)
        data = b"".join(self._out)
        self._out.clear()
        return data

    def next_due(self) -> float | None:
        return min((due for ccid in self.ccids if (due := ccid.next_due()) is not None), default=None)

    def state(self) -> dict[str, Any]:
        return {"counters": dict(self.counters), "interfaces": [ccid.state() for ccid in self.ccids]}

    # IN

    def _queue(self, pipe: InPipe, message: bytes) -> None:
        """Cut a message into packets; a short one, which may be empty, ends the transfer."""
        size = self.description.packet_size
        for start in range(0, len(message), size):
            pipe.packets.append(message[start : start + size])
        if len(message) % size == 0 and self.description.zero_length_packets:
            pipe.packets.append(b"")
        self._serve(pipe)

    def _serve(self, pipe: InPipe) -> None:
        size = self.description.packet_size
        while pipe.waiting and pipe.packets:
            transfer, packet = pipe.waiting[0], pipe.packets.popleft()
            if len(pipe.filled) + len(packet) > transfer.length:
                self.counters["overflows"] += 1
                self._finish(pipe, -errno.EOVERFLOW)
                continue
            pipe.filled += packet
            if len(packet) < size or len(pipe.filled) == transfer.length:
                self._finish(pipe, 0)

    def _finish(self, pipe: InPipe, status: int) -> None:
        transfer, data = pipe.waiting.popleft(), bytes(pipe.filled)
        pipe.filled.clear()
        if status == 0 and len(data) < transfer.length and transfer.flags & URB_SHORT_NOT_OK:
            status = -errno.EREMOTEIO
        self._complete(transfer, status, data)

    def _complete(self, transfer: Submit, status: int, data: bytes = b"") -> None:
        actual = len(data) if transfer.endpoint & 0x80 else transfer.length if not status else 0
        self._out.append(submit_reply(transfer.seqnum, status, actual, data))

    def _unlink(self, message: Unlink) -> None:
        self.counters["unlinks"] += 1
        for request in self._unheard or ():
            if request.seqnum == message.target:
                self._out.append(unlink_reply(message.seqnum, -errno.ECONNRESET))
                return
        for pipe in self._pipes.values():
            for transfer in pipe.waiting:
                if transfer.seqnum == message.target:
                    if transfer is pipe.waiting[0] and pipe.filled:
                        # what came is given to the host, as a controller does
                        self._finish(pipe, 0)
                        self._out.append(unlink_reply(message.seqnum, 0))
                    else:
                        pipe.waiting.remove(transfer)
                        self._out.append(unlink_reply(message.seqnum, -errno.ECONNRESET))
                    return
        # completed in the meantime
        self._out.append(unlink_reply(message.seqnum, 0))

    # OUT

    def _receive(self, message: Submit, now: float) -> None:
        if message.endpoint in self._halted_out or message.endpoint not in self._bulk_out:
            self._complete(message, -errno.EPIPE)
            return
        number, received = self._bulk_out[message.endpoint]
        self._complete(message, 0)
        if self.hung:
            return
        received += message.data
        # commands are told apart by their lengths; a nonsensical one ends with its transfer
        while len(received) >= 10:
            end = 10 + int.from_bytes(received[1:5], "little")
            if end > max(len(received), self.ccids[number].functional.max_message):
                end = len(received)
            if len(received) < end:
                break
            frame = bytes(received[:end])
            del received[:end]
            self.ccids[number].command(frame, now)

    def _effect(self, effect: str, number: int) -> None:
        self.counters[effect] += 1
        out, bulk, _ = self.description.endpoints(number)
        if effect == "unplug":
            self.gone = True
        elif effect == "stall_out":
            self._halted_out.add(out)
        else:
            if effect == "deaf":
                self._unheard = []
            pipe = self._pipes[bulk]
            pipe.halted = True
            pipe.packets.clear()
            while pipe.waiting:
                self._finish(pipe, -errno.EPIPE)

    # control

    def _control(self, message: Submit, now: float) -> None:
        if self._unheard is not None:
            self._unheard.append(message)
            return
        setup = message.setup
        kind, request = setup[0], setup[1]
        value, index, length = (int.from_bytes(setup[i : i + 2], "little") for i in (2, 4, 6))
        answer: bytes | None
        if kind & 0x60 == 0x20:
            answer = self._class_request(request, value, index, now)
        elif kind & 0x60 == 0:
            answer = self._standard(kind & 0x1F, request, value, index)
        else:
            answer = None
        if answer is None:
            self.counters["stalled requests"] += 1
            self._complete(message, -errno.EPIPE)
        else:
            self._complete(message, 0, answer[:length])

    def _standard(self, recipient: int, request: int, value: int, index: int) -> bytes | None:
        description = self.description
        match request:
            case Request.GET_DESCRIPTOR if value >> 8 == 1:
                return description.device_descriptor()
            case Request.GET_DESCRIPTOR if value >> 8 == 2:
                return description.configuration_descriptor()
            case Request.GET_DESCRIPTOR if value >> 8 == 3:
                return description.string_descriptor(value & 0xFF)
            case Request.GET_DESCRIPTOR if value >> 8 == 6 and description.high_speed:
                return description.qualifier_descriptor()
            case Request.GET_STATUS:
                pipe = self._pipes.get(index)
                halted = index in self._halted_out or (pipe is not None and pipe.halted)
                return bytes([halted if recipient == 2 else 0, 0])
            case Request.CLEAR_FEATURE if recipient == 2:
                self.counters["cleared halts"] += 1
                self._halted_out.discard(index)
                if index in self._pipes:
                    self._pipes[index].halted = False
                return b""
            case Request.CLEAR_FEATURE | Request.SET_FEATURE | Request.SET_INTERFACE:
                return b""
            case Request.GET_CONFIGURATION:
                return bytes([self._configuration])
            case Request.SET_CONFIGURATION:
                self.counters["configured"] += 1
                self._configuration = value
                self.hung = False
                for number, ccid in enumerate(self.ccids):
                    ccid.reset()
                    self._bulk_in[number].packets.clear()
                for _, received in self._bulk_out.values():
                    received.clear()
                return b""
            case Request.GET_INTERFACE:
                return b"\x00"
        return None

    def _class_request(self, request: int, value: int, index: int, now: float) -> bytes | None:
        if index >= len(self.ccids):
            return None
        ccid, interface = self.ccids[index], self.description.interfaces[index]
        if request == CCID_ABORT:
            return b"" if ccid.abort_control(value & 0xFF, value >> 8, now) else None
        values = {CCID_CLOCKS: interface.clocks, CCID_RATES: interface.data_rates}.get(request)
        if values is None:
            return None
        return b"".join(each.to_bytes(4, "little") for each in values)
