"""A CCID interface without its cable: commands in, replies and the times at which they leave out."""

import heapq
import struct
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .cards import Card, ParityError
from .descriptors import CHARACTER, EXTENDED_APDU, TPDU, Interface

HEADER = struct.Struct("<BIBB3s")

SET_PARAMETERS, POWER_ON, POWER_OFF, SLOT_STATUS, SECURE = 0x61, 0x62, 0x63, 0x65, 0x69
T0_APDU, ESCAPE, GET_PARAMETERS, RESET_PARAMETERS, CLOCK = 0x6A, 0x6B, 0x6C, 0x6D, 0x6E
XFR_BLOCK, MECHANICAL, ABORT, SET_RATE = 0x6F, 0x71, 0x72, 0x73
DATA_BLOCK, STATUS, PARAMETERS, ESCAPE_REPLY, RATE_REPLY = 0x80, 0x81, 0x82, 0x83, 0x84
REPLY_TYPE = {
    **dict.fromkeys((POWER_ON, XFR_BLOCK, SECURE), DATA_BLOCK),
    **dict.fromkeys((SET_PARAMETERS, GET_PARAMETERS, RESET_PARAMETERS), PARAMETERS),
    ESCAPE: ESCAPE_REPLY,
    SET_RATE: RATE_REPLY,
}

ACTIVE, INACTIVE, ABSENT = 0, 1, 2
FAILED, MORE_TIME = 0x40, 0x80
NOT_SUPPORTED, BAD_LENGTH, BAD_SLOT = 0x00, 0x01, 0x05
ABORTED, MUTE, PARITY, SLOT_BUSY = 0xFF, 0xFE, 0xFD, 0xE0

DEFAULT_PARAMETERS = {0: bytes.fromhex("1100000A00"), 1: bytes.fromhex("11100045002000")}


@dataclass
class Fault:
    """What goes wrong with the next ``count`` commands of a type after ``skip`` good ones.

    Of the reply: ``silent``, ``short``, ``garbage``, ``wrong_slot``, ``wrong_seq``, ``wrong_type``,
    ``oversized``, ``undersized``, ``duplicate``, ``late`` (by ``ms``), ``extensions`` (every ``ms``,
    without end), ``error`` (``code`` as bError). Of the device: ``stall`` and ``stall_out`` of an
    endpoint, ``deaf`` (``stall``, and no request is answered any more), ``unplug``; with ``ms`` later, so
    that the command is under way.
    """

    kind: str
    slot: int | None = None
    command: int | None = XFR_BLOCK
    count: int = 1
    skip: int = 0
    ms: float = 0.0
    code: int = MUTE
    #: with ``silent``: the slot stays busy until an abort
    hang: bool = False


@dataclass
class Slot:
    card: Card | None = None
    powered: bool = False
    changed: bool = False
    #: the command that has not been answered yet; the replies of earlier ones are void
    busy: bool = False
    generation: int = 0
    clock_stopped: int = 0
    protocol: int = 0
    parameters: dict[int, bytes] = field(default_factory=lambda: dict(DEFAULT_PARAMETERS))
    command: bytearray = field(default_factory=bytearray)
    answer: bytes = b""
    #: of the abort that came by one of the two ways and waits for the other
    abort_control: int | None = None
    abort_bulk: int | None = None

    @property
    def status(self) -> int:
        if self.card is None:
            return ABSENT
        return ACTIVE if self.powered else INACTIVE


class Ccid:
    """Times are seconds of any clock. What falls due is fetched with ``due``; ``effects`` are orders to
    the device around: a word each."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.functional = interface.functional
        self.slots = [Slot() for _ in range(self.functional.slots)]
        self.faults: list[Fault] = []
        self.counters: Counter[str] = Counter()
        self.log: deque[str] = deque(maxlen=400)
        self.effects: list[str] = []
        self._queue: list[tuple[float, int, int, int, bool, bytes | str]] = []
        self._order = 0
        #: slots with endless time extensions: the command and the distance
        self._endless: dict[int, tuple[int, float]] = {}
        self._handlers: dict[int, Callable[[Slot, bytes, bytes], tuple[bytes, float]]] = {
            SET_PARAMETERS: self._set_parameters,
            GET_PARAMETERS: self._get_parameters,
            RESET_PARAMETERS: self._reset_parameters,
            POWER_ON: self._power_on,
            POWER_OFF: self._power_off,
            SLOT_STATUS: lambda slot, head, data: (b"", 0.0),
            SECURE: self._exchange,
            ESCAPE: self._escape,
            CLOCK: self._clock,
            XFR_BLOCK: self._exchange,
            SET_RATE: lambda slot, head, data: (data, 0.0),
        }

    def insert(self, number: int, card: Card) -> None:
        slot = self.slots[number]
        slot.card, slot.powered, slot.changed = card, False, True

    def remove(self, number: int) -> None:
        slot = self.slots[number]
        slot.card, slot.powered, slot.changed = None, False, True

    def reset(self) -> None:
        """The device was configured: everything starts anew, and present cards are announced."""
        self._queue.clear()
        for number, old in enumerate(self.slots):
            self.slots[number] = Slot(old.card, changed=old.card is not None)

    def notification(self) -> bytes | None:
        """RDR_to_PC_NotifySlotChange with what has changed since the last one."""
        if not any(slot.changed for slot in self.slots):
            return None
        bits = 0
        for number, slot in enumerate(self.slots):
            bits |= ((slot.card is not None) | slot.changed << 1) << 2 * number
            slot.changed = False
        self.counters["notifications"] += 1
        return b"\x50" + bits.to_bytes((2 * len(self.slots) + 7) // 8, "little")

    # commands

    def command(self, frame: bytes, now: float) -> None:
        kind, length, number, sequence, head = HEADER.unpack_from(frame)
        data = frame[10 : 10 + length]
        self.log.append(f"> {frame[:80].hex()}")
        self.counters[f"command {kind:02x}"] += 1
        if number >= len(self.slots):
            self._send(now, 0, self._frame(STATUS, number, sequence, FAILED | ABSENT, BAD_SLOT), False)
            return
        slot = self.slots[number]
        if kind == ABORT:
            slot.abort_bulk = sequence
            self._try_abort(number, now)
            return
        reply = REPLY_TYPE.get(kind, STATUS)
        error = None
        if slot.abort_control is not None:
            error = ABORTED
        elif slot.busy or sum(each.busy for each in self.slots) >= max(1, self.functional.max_busy_slots):
            self.counters["slot busy"] += 1
            error = SLOT_BUSY
        elif len(frame) > self.functional.max_message:
            self.counters["too long"] += 1
            error = BAD_LENGTH
        if error is not None:
            # without ending the command under way
            self._send(now, number, self._frame(reply, number, sequence, FAILED | slot.status, error), False)
            return
        slot.busy = True
        slot.generation += 1
        self.counters["most busy"] = max(self.counters["most busy"], sum(each.busy for each in self.slots))
        fault = self._fault(number, kind)
        if fault is not None and fault.kind == "error":
            answer = self._frame(reply, number, sequence, FAILED | slot.status, fault.code)
            self._send(now + fault.ms / 1000, number, answer)
            return
        specific = 0
        try:
            if kind not in self._handlers:
                raise _Refused(NOT_SUPPORTED)
            answer, took = self._handlers[kind](slot, head, data)
            if reply == PARAMETERS:
                specific = slot.protocol
            elif reply == STATUS:
                specific = slot.clock_stopped
            elif kind == XFR_BLOCK and self.functional.level == EXTENDED_APDU:
                answer, specific = self._piece(slot, answer, head)
            frame = self._frame(reply, number, sequence, slot.status, 0, specific, answer)
        except _Refused as refused:
            took = 0.0
            frame = self._frame(reply, number, sequence, FAILED | slot.status, refused.code)
        due = now + took
        extension = slot.card.extension_ms / 1000 if slot.card else 0.0
        if extension and kind == XFR_BLOCK:
            for count in range(1, int(took / extension) + 1):
                self._extend(now + count * extension, number, sequence, reply)
        if fault is not None:
            self._misbehave(fault, number, sequence, reply, frame, due)
        else:
            self._send(due, number, frame)

    def abort_control(self, number: int, sequence: int, now: float) -> bool:
        """The class request ABORT; until its bulk message comes, the slot refuses commands."""
        if number >= len(self.slots):
            return False
        self.counters["abort requests"] += 1
        self.slots[number].abort_control = sequence
        self._try_abort(number, now)
        return True

    def _try_abort(self, number: int, now: float) -> None:
        """Of the two messages the second completes the abort, in either order (CCID 5.3.1)."""
        slot = self.slots[number]
        if slot.abort_control is None or slot.abort_control != slot.abort_bulk:
            return
        sequence = slot.abort_control
        slot.abort_bulk = slot.abort_control = None
        # the reply of the command under way is void now
        slot.generation += 1
        self.counters["aborts"] += 1
        self._send(now, number, self._frame(STATUS, number, sequence, slot.status, 0))

    # what leaves, and when

    def next_due(self) -> float | None:
        return self._queue[0][0] if self._queue else None

    def due(self, now: float) -> list[bytes]:
        """The frames that leave by now; words for the device go to ``effects``."""
        frames = []
        while self._queue and self._queue[0][0] <= now:
            _, _, number, generation, final, frame = heapq.heappop(self._queue)
            slot = self.slots[number]
            if generation and generation != slot.generation:
                continue
            if final:
                slot.busy = False
            if isinstance(frame, str):
                self.effects.append(frame)
                continue
            self.log.append(f"< {frame[:80].hex()}")
            self.counters["replies"] += 1
            if len(frame) > 7 and frame[7] & MORE_TIME:
                # the next is planned when this one leaves, because there may be no end
                self._plan_extension(number, frame, now)
            frames.append(frame)
        return frames

    def _send(self, due: float, number: int, frame: bytes | str, final: bool = True) -> None:
        self._order += 1
        # a reply that ends nothing (busy, duplicates) is sent whatever happens to the slot
        generation = self.slots[number].generation if final else 0
        heapq.heappush(self._queue, (due, self._order, number, generation, final, frame))

    def _extend(self, due: float, number: int, sequence: int, reply: int) -> None:
        frame = self._frame(reply, number, sequence, MORE_TIME | self.slots[number].status, 1)
        self._order += 1
        heapq.heappush(self._queue, (due, self._order, number, self.slots[number].generation, False, frame))

    def _plan_extension(self, number: int, frame: bytes, now: float) -> None:
        endless = self._endless.get(number)
        if endless and endless[0] == self.slots[number].generation:
            self._extend(now + endless[1], number, frame[6], frame[0])

    @staticmethod
    def _frame(
        kind: int, slot: int, sequence: int, status: int, error: int, specific: int = 0, data: bytes = b""
    ) -> bytes:
        return HEADER.pack(kind, len(data), slot, sequence, bytes([status, error, specific])) + data

    # faults

    def _fault(self, number: int, kind: int) -> Fault | None:
        for fault in self.faults:
            if fault.slot in (None, number) and fault.command in (None, kind):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.count -= 1
                if fault.count <= 0:
                    self.faults.remove(fault)
                self.counters["faults"] += 1
                return fault
        return None

    def _misbehave(
        self, fault: Fault, number: int, sequence: int, reply: int, frame: bytes, due: float
    ) -> None:
        late = due + fault.ms / 1000
        broken = bytearray(frame)
        match fault.kind:
            case "silent":
                self.slots[number].busy = fault.hang
                return
            case "short":
                broken = broken[:5]
            case "garbage":
                broken = bytearray((i * 37 + 0xA5) & 0xFF for i in range(24))
            case "wrong_slot":
                # that of a neighbour, if there is one
                broken[5] = (number + 1) % len(self.slots) if len(self.slots) > 1 else 1
            case "wrong_seq":
                broken[6] = (sequence + 100) & 0xFF
            case "wrong_type":
                broken[0] = PARAMETERS if reply != PARAMETERS else STATUS
            case "oversized":
                broken[1:5] = (0x7FFFFFFF).to_bytes(4, "little")
            case "undersized":
                broken[1:5] = (0).to_bytes(4, "little")
            case "duplicate":
                self._send(due, number, frame)
                self._send(late, number, frame, False)
                return
            case "extensions":
                self._endless[number] = (self.slots[number].generation, max(fault.ms, 1.0) / 1000)
                self._extend(due, number, sequence, reply)
                return
            case "late":
                pass
            case "stall" | "stall_out" | "deaf" | "unplug":
                self._send(late, number, fault.kind)
                return
            case _:
                raise ValueError(f"no fault {fault.kind!r}")
        self._send(late, number, bytes(broken))

    # single commands

    def _set_parameters(self, slot: Slot, head: bytes, data: bytes) -> tuple[bytes, float]:
        self._need_power(slot)
        if head[0] not in DEFAULT_PARAMETERS or len(data) != len(DEFAULT_PARAMETERS[head[0]]):
            raise _Refused(7)
        slot.protocol = head[0]
        slot.parameters[slot.protocol] = data
        if slot.card is not None:
            slot.card.protocol = slot.protocol
        return data, 0.0

    def _get_parameters(self, slot: Slot, head: bytes, data: bytes) -> tuple[bytes, float]:
        self._need_power(slot)
        return slot.parameters[slot.protocol], 0.0

    def _reset_parameters(self, slot: Slot, head: bytes, data: bytes) -> tuple[bytes, float]:
        self._need_power(slot)
        slot.parameters = dict(DEFAULT_PARAMETERS)
        return slot.parameters[slot.protocol], 0.0

    def _power_on(self, slot: Slot, head: bytes, data: bytes) -> tuple[bytes, float]:
        slot.command.clear()
        slot.answer = b""
        slot.parameters = dict(DEFAULT_PARAMETERS)
        if slot.card is None:
            raise _Refused(MUTE)
        if head[0] and not slot.card.voltages & 1 << (head[0] - 1):
            slot.powered = False
            raise _Refused(MUTE)
        slot.powered = True
        answer = slot.card.reset()
        slot.protocol = slot.card.protocol
        return answer, slot.card.power_ms / 1000

    def _power_off(self, slot: Slot, head: bytes, data: bytes) -> tuple[bytes, float]:
        slot.powered = False
        return b"", 0.0

    def _clock(self, slot: Slot, head: bytes, data: bytes) -> tuple[bytes, float]:
        self._need_power(slot)
        slot.clock_stopped = head[0]
        return b"", 0.0

    def _escape(self, slot: Slot, head: bytes, data: bytes) -> tuple[bytes, float]:
        answer = self.interface.escapes.get(data.hex())
        if answer is None:
            raise _Refused(NOT_SUPPORTED)
        return bytes.fromhex(answer), 0.0

    def _need_power(self, slot: Slot) -> Card:
        if slot.card is None or not slot.powered:
            raise _Refused(MUTE)
        return slot.card

    def _exchange(self, slot: Slot, head: bytes, data: bytes) -> tuple[bytes, float]:
        card = self._need_power(slot)
        level = self.functional.level
        parameter = int.from_bytes(head[1:3], "little")
        if head[0] > 1:
            self.counters["most waiting time"] = max(self.counters["most waiting time"], head[0])
        try:
            if level == TPDU:
                answer = card.tpdu(data)
            elif level == CHARACTER:
                card.characters(data)
                answer = bytes(card.stream[:parameter]) if parameter else bytes(card.stream)
                del card.stream[: len(answer)]
            else:
                if level == EXTENDED_APDU:
                    if parameter == 0x0010:
                        return slot.answer, 0.0
                    slot.command += data
                    if parameter in (1, 3):
                        return b"", 0.0
                    data = bytes(slot.command)
                    slot.command.clear()
                answer = card.whole(data)
        except ParityError:
            raise _Refused(PARITY) from None
        if not answer and level in (TPDU, CHARACTER):
            raise _Refused(MUTE)
        return answer or b"", card.took_ms / 1000

    def _piece(self, slot: Slot, answer: bytes, head: bytes) -> tuple[bytes, int]:
        """The part of a long answer that fits one message, and the chain parameter."""
        parameter = int.from_bytes(head[1:3], "little")
        if parameter in (1, 3):
            return b"", 0x10
        room = self.functional.max_message - 10
        piece, slot.answer = answer[:room], answer[room:]
        if parameter == 0x0010:
            return piece, 3 if slot.answer else 2
        return piece, 1 if slot.answer else 0

    def state(self) -> dict[str, Any]:
        cards = [slot.card for slot in self.slots]
        return {
            "counters": dict(self.counters),
            "powered": [slot.powered for slot in self.slots],
            "present": [card is not None for card in cards],
            "pps": [card.pps.hex() if card else "" for card in cards],
            "t1": [dict(card.t1.seen) if card else {} for card in cards],
            "parameters": [slot.parameters[slot.protocol].hex() for slot in self.slots],
            "faults left": len(self.faults),
        }


class _Refused(Exception):  # noqa: N818 - it is an answer
    def __init__(self, code: int) -> None:
        self.code = code
