"""The commands of one CCID interface: many under way at a time, each with its answer and its deadline.

A command goes to the reader as soon as its slot has none under way and the reader takes another
(bMaxCCIDBusySlots); what waits is served in the order in which it came. All slots share one sequence
counter, and a reply belongs to the command with its slot and number, or to nobody. Callbacks of
transfers do the work; whoever waits for a reply goes on within them.

Source: CCID specification 1.1, sections 5.3.1 (abort), 6.1 and 6.2, and the CCID fact that readers
differ: what is not a proper answer costs the command that it may belong to, and no other.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from pypcscd.driver import DriverError, Reason
from pypcscd_ccid import messages
from pypcscd_ccid.deadlines import Deadlines
from pypcscd_ccid.descriptor import Pipes
from pypcscd_ccid.frames import Assembler, Broken
from pypcscd_ccid.libusb import Kind, Status
from pypcscd_ccid.messages import (
    COMMAND_FAILED,
    COMMAND_MASK,
    HEADER_SIZE,
    ICC_MASK,
    SEQ,
    SLOT,
    TIME_EXTENSION,
    Answer,
    Command,
    SlotError,
)
from pypcscd_ccid.outgoing import Outgoing
from pypcscd_ccid.pending import Counters, Pending
from pypcscd_ccid.transfer import UsbError
from pypcscd_ccid.usb import UsbHandle

_log = logging.getLogger("pypcscd.ccid")

#: bytes; larger buffers cost time, and long messages are put together
_LARGEST_BUFFER = 4096
#: seconds that a reader may take for each half of the abort sequence
_ABORT_TIMEOUT = 2.0
_ABORT_REQUEST = 0x01
#: plain numbers, because they are compared for every transfer
_COMPLETED, _CANCELLED = int(Status.COMPLETED), int(Status.CANCELLED)
_pack_header = messages.COMMAND_HEADER.pack
_unpack_header = messages.REPLY_HEADER.unpack_from
_CLASS_OUT = 0x21
#: seconds between repetitions of a command that a busy slot refused, at most
_LONGEST_PAUSE = 0.1
#: seconds before a failed transfer is tried again, doubled up to the second
_FIRST_RETRY = 0.005
_LONGEST_RETRY = 0.5
#: failures in a row after which the reader is given up; this takes about two seconds
_MAX_FAILURES = 10


class Commands:
    """The bulk pipes of an interface, from ``start`` to ``stop``."""

    def __init__(
        self,
        handle: UsbHandle,
        interface: int,
        pipes: Pipes,
        *,
        slots: int,
        busy_slots: int,
        max_message: int,
        title: str,
        lost: Callable[[str], None],
        card_changed: Callable[[int, bytes], None],
    ) -> None:
        """``lost`` is called once if the reader is gone; ``card_changed(slot, reply)`` for each reply
        that says that the card is not active."""
        self.counters = Counters()
        self._handle = handle
        self._loop = handle.usb.loop
        self._interface = interface
        self._pipes = pipes
        self._limit = busy_slots
        self._title = title
        self._tell_lost = lost
        self._card_changed = card_changed
        self._sequence = 0
        self._active: list[Pending | None] = [None] * slots
        self._in_flight = 0
        self._queue: deque[Pending] = deque()
        self._why_lost = ""
        self.is_unplugged = False
        self._is_stopped = False
        self._deadlines = Deadlines(self._loop, self._active, self._expire)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        packet = max(pipes.bulk_in.max_packet, 8)
        size = -(-min(max_message, _LARGEST_BUFFER) // packet) * packet
        self._assembler = Assembler(size, packet)
        self._in = handle.transfer(pipes.bulk_in.address, Kind.BULK, size, self._received)
        self._in_memory = self._in.memory
        self._outgoing = Outgoing(
            handle,
            pipes.bulk_out.address,
            max_message,
            active=self._active,
            failed=self._out_failed,
            unsent=self._not_sent,
        )

    def start(self) -> None:
        """Listen to the reader. Raises UsbError."""
        self._in.submit()

    def stop(self, why: str) -> None:
        """Fail all commands with NO_DEVICE, now and later. The handle is closed by its owner."""
        self._is_stopped = True
        self._why_lost = self._why_lost or why
        self._deadlines.stop()
        self._outgoing.stop()
        for task in self._tasks:
            task.cancel()
        waiting = [pending for pending in (*self._active, *self._queue) if pending is not None]
        self._active[:] = [None] * len(self._active)
        self._in_flight = 0
        self._queue.clear()
        for pending in waiting:
            if pending.is_abort:
                pending.cancel()
            else:
                pending.fail(self._gone())

    # --- commands ---------------------------------------------------------------------------

    def submit(
        self, command: int, slot: int, seconds: float, data: bytes = b"", byte7: int = 0, level: int = 0
    ) -> Pending:
        """Send a command; await what is returned for the reply. Raises DriverError.

        ``seconds`` pass at most until the reply or a request for more time, counted from when the
        command is sent. ``byte7`` is bPowerSelect, bProtocolNum or bBWI; ``level`` is wLevelParameter.
        Whoever stops waiting calls ``abandon``.
        """
        if self._why_lost:
            raise self._gone()
        sequence = self._sequence
        self._sequence = (sequence + 1) & 0xFF
        frame = _pack_header(command, len(data), slot, sequence, byte7, level) + data
        pending = Pending(self._loop, command, slot, sequence, frame, seconds)
        # What is queued waits for its own slot if the reader takes more, so it is not passed over.
        if self._in_flight >= self._limit or self._active[slot] is not None:
            self._queue.append(pending)
        else:
            self._begin(pending)
        return pending

    async def run(
        self, command: int, slot: int, seconds: float, data: bytes = b"", byte7: int = 0, level: int = 0
    ) -> bytes:
        """``submit``, and wait for the reply. Cancelling aborts the command."""
        pending = self.submit(command, slot, seconds, data, byte7, level)
        try:
            return await pending
        except asyncio.CancelledError:
            self.abandon(pending)
            raise

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for this command any more: abort it. Its slot is usable when that is done."""
        if self._active[pending.slot] is pending:
            self._abort(pending)
        elif pending in self._queue:
            self._queue.remove(pending)

    def is_idle(self, slot: int) -> bool:
        """No command of the slot waits or is under way."""
        return self._active[slot] is None and all(pending.slot != slot for pending in self._queue)

    def _begin(self, pending: Pending) -> None:
        self._active[pending.slot] = pending
        self._in_flight += 1
        pending.deadline = deadline = monotonic() + pending.seconds
        if deadline < self._deadlines.next_look:
            self._deadlines.watch(deadline)
        self._outgoing.send(pending)

    def _finish(self, pending: Pending) -> None:
        """The slot is free for its next command, and the reader for another one."""
        self._active[pending.slot] = None
        self._in_flight -= 1
        if self._queue:
            self._begin_waiting()

    def _begin_waiting(self) -> None:
        for waiting in tuple(self._queue):
            if self._in_flight >= self._limit:
                return
            # If one could not be sent, those behind it have had their turn within this one's.
            if self._active[waiting.slot] is None and waiting in self._queue:
                self._queue.remove(waiting)
                if not waiting.done():
                    self._begin(waiting)

    def _gone(self) -> DriverError:
        return DriverError(Reason.NO_DEVICE, f"{self._title}: {self._why_lost}")

    # --- bulk-OUT ---------------------------------------------------------------------------

    def _out_failed(self, status: Status) -> bool:
        """Whether there is still a reader."""
        if status is Status.CANCELLED:
            return True
        if self._is_the_end(status, "bulk-OUT"):
            return False
        if status is Status.STALL:
            self._work(self._clear_halt(self._pipes.bulk_out.address, self._outgoing.go_on))
        else:
            self._loop.call_later(self._pause, self._outgoing.go_on)
        return True

    def _not_sent(self, pending: Pending) -> None:
        pending.fail(DriverError(Reason.COMMUNICATION, f"{self._title}: the command could not be sent"))
        self._finish(pending)

    # --- bulk-IN ----------------------------------------------------------------------------

    def _received(self, status: int, length: int) -> None:
        if status != _COMPLETED or self._is_stopped:
            self._received_nothing(status, length)
            return
        data: bytes = self._in_memory[:length]
        self._failures = 0
        try:
            self._in.submit()
        except UsbError as error:
            self._listen_later(error.status)
        if not self._assembler.is_between or length < HEADER_SIZE:
            self._feed(data)
            return
        kind, size, slot, sequence, state, _, _ = _unpack_header(data)
        if size + HEADER_SIZE != length or slot >= len(self._active):
            self._feed(data)
            return
        pending = self._active[slot]
        # state: it failed, or asks for time, or the card is not active
        if state or pending is None or pending.sequence != sequence or pending.expected != kind:
            self._dispatch(data)
            return
        # Nearly all replies come this way, so it has no calls to spare.
        self._active[slot] = None
        self._in_flight -= 1
        if self._queue:
            self._begin_waiting()
        # The waiter comes last: it may go on with its next command at once.
        if not pending.done():
            pending.set_result(data)

    def _received_nothing(self, status: int, length: int) -> None:
        """Or less than was wanted: the transfer failed, or was cancelled to see what it has."""
        if self._is_stopped:
            return
        if status != _CANCELLED:
            self._in_failed(Status(status))
            return
        data: bytes = self._in_memory[:length]
        self._listen()
        if data:
            self._failures = 0
            self._feed(data, is_cut=True)
        self._give_late_ones_up()

    def _listen(self) -> None:
        try:
            self._in.submit()
        except UsbError as error:
            # nothing has been lost by that
            self._listen_later(error.status)

    def _listen_later(self, status: Status) -> None:
        if not self._is_the_end(status, "bulk-IN"):
            self._loop.call_later(self._pause, self._listen_again, status)

    def _feed(self, data: bytes, *, is_cut: bool = False) -> None:
        for message in self._assembler.feed(data, is_cut=is_cut):
            if isinstance(message, bytes):
                self._dispatch(message)
            else:
                self._drop_broken(message)

    def _dispatch(self, reply: bytes) -> None:
        kind, _, slot, sequence, status, error, _ = _unpack_header(reply)
        pending = self._active[slot] if slot < len(self._active) else None
        if pending is None or pending.sequence != sequence:
            self.counters.dropped += 1
            _log.debug("%s: a reply that nobody waits for was dropped: %s", self._title, reply[:10].hex(" "))
            return
        if status & COMMAND_MASK == TIME_EXTENSION:
            if pending.extend(max(error, 1)):
                self._deadlines.watch(pending.deadline)
            return
        has_failed = status & COMMAND_MASK == COMMAND_FAILED
        if has_failed and error == SlotError.SLOT_BUSY and self._try_later(pending):
            return
        if has_failed and error == SlotError.ABORTED and not pending.is_abort:
            # An earlier user left an abort half done: until it is complete the slot does nothing else.
            self._abort(pending)
        else:
            self._finish(pending)
        if status & ICC_MASK:
            self._card_changed(slot, reply)
        # The waiter comes last: it may go on with its next command at once.
        if kind == pending.expected or (has_failed and kind == Answer.SLOT_STATUS):
            if not pending.done():
                pending.set_result(reply)
            return
        self.counters.broken += 1
        why = f"the reader answered command 0x{pending.frame[0]:02X} with a message of type 0x{kind:02X}"
        pending.fail(DriverError(Reason.COMMUNICATION, f"{self._title}: {why}"))

    def _drop_broken(self, broken: Broken) -> None:
        self.counters.broken += 1
        start = broken.start
        has_header = len(start) == messages.HEADER_SIZE
        pending = self._active[start[SLOT]] if has_header and start[SLOT] < len(self._active) else None
        error = DriverError(
            Reason.COMMUNICATION, f"{self._title}: the reader sent a message that is not valid: {broken.why}"
        )
        if pending is not None and pending.sequence == start[SEQ]:
            pending.fail(error)
            self._finish(pending)
        else:
            self._fail_the_only_one(error)

    def _fail_the_only_one(self, error: DriverError) -> None:
        """Something was lost; if one command is under way it was that one's. Others have deadlines."""
        active = [pending for pending in self._active if pending is not None]
        if len(active) == 1 and not active[0].is_abort:
            active[0].fail(error)
            self._abort(active[0])

    def _in_failed(self, status: Status) -> None:
        self._listen_later(status)
        if self._why_lost:
            return
        self._assembler.clear()
        why = f"{self._title}: receiving from the reader failed ({status.name})"
        self._fail_the_only_one(DriverError(Reason.COMMUNICATION, why))

    def _listen_again(self, status: Status) -> None:
        if self._is_stopped or self._why_lost:
            return
        if status is Status.STALL:
            self._work(self._clear_halt(self._pipes.bulk_in.address, self._listen))
        else:
            self._listen()

    async def _clear_halt(self, endpoint: int, go_on: Callable[[], None]) -> None:
        try:
            await self._handle.clear_halt(endpoint)
        except UsbError as error:
            if self._is_stopped:
                return
            _log.warning("%s: endpoint 0x%02X stays halted: %s", self._title, endpoint, error)
        go_on()

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what takes time, until the reader is lost or closed."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_the_end(self, status: Status, pipe: str) -> bool:
        """A transfer failed. True: the reader is lost now."""
        if status is Status.NO_DEVICE:
            self._lose("it was unplugged", is_unplugged=True)
            return True
        self.counters.transfer_failures += 1
        self._failures += 1
        _log.debug("%s: a transfer on %s failed: %s", self._title, pipe, status.name)
        if self._failures >= _MAX_FAILURES:
            self._lose(f"{self._failures} USB transfers in a row failed")
        return bool(self._why_lost)

    @property
    def _pause(self) -> float:
        """Seconds to wait after a failure."""
        return min(_FIRST_RETRY * (1 << self._failures), _LONGEST_RETRY)

    def _lose(self, why: str, *, is_unplugged: bool = False) -> None:
        if not self._why_lost:
            self.is_unplugged = is_unplugged
            self.stop(why)
            self._tell_lost(why)

    # --- deadlines, aborts, busy slots ------------------------------------------------------

    def _expire(self, pending: Pending) -> None:
        if pending.is_late or not self._in.is_busy:
            self._time_out(pending)
            return
        # A reply that fills its last packet may be in the buffer: then nothing ended the transfer.
        pending.is_late = True
        pending.deadline += _ABORT_TIMEOUT
        self._in.cancel()

    def _give_late_ones_up(self) -> None:
        for pending in tuple(self._active):
            if pending is not None and pending.is_late:
                self._time_out(pending)

    def _time_out(self, pending: Pending) -> None:
        if pending.is_abort:
            self._outgoing.drop(pending)
            _log.warning(
                "%s: slot %d did not confirm the abort of a command; using it all the same",
                self._title,
                pending.slot,
            )
            self._finish(pending)
            return
        self.counters.timeouts += 1
        self._assembler.give_up(pending.slot, pending.sequence)
        pending.fail(
            DriverError(Reason.TIMEOUT, f"{self._title}: no answer within {pending.seconds:.1f} seconds"),
        )
        self._abort(pending)

    def _abort(self, pending: Pending) -> None:
        """Let the reader give a command up; until then nothing is sent to the slot (section 5.3.1)."""
        if self._why_lost:
            return
        self._outgoing.withdraw(pending)
        self.counters.aborts += 1
        slot, sequence = pending.slot, self._next_number()
        frame = _pack_header(Command.ABORT, 0, slot, sequence, 0, 0)
        abort = Pending(self._loop, Command.ABORT, slot, sequence, frame, _ABORT_TIMEOUT)
        abort.is_abort = True
        abort.deadline = monotonic() + 2 * _ABORT_TIMEOUT
        self._active[slot] = abort
        self._deadlines.watch(abort.deadline)
        self._work(self._send_abort(abort))

    async def _send_abort(self, abort: Pending) -> None:
        value = abort.sequence << 8 | abort.slot
        try:
            await self._handle.control(
                _CLASS_OUT, _ABORT_REQUEST, value, self._interface, b"", _ABORT_TIMEOUT
            )
        except UsbError as error:
            # Many readers do not know the request, but may know the message that follows.
            _log.debug("%s: the abort request failed: %s", self._title, error)
        if self._active[abort.slot] is abort and not self._why_lost:
            # both halves of the sequence carry the same number
            self._outgoing.send(abort)

    def _try_later(self, pending: Pending) -> bool:
        """Repeat a command that the slot was too busy for, if its time allows."""
        if pending.is_abort or pending.done() or monotonic() + pending.pause >= pending.deadline:
            return False
        self.counters.busy += 1
        self._loop.call_later(pending.pause, self._repeat, pending)
        # the answer to the refused one must not be taken for that of the next
        pending.renumber(self._next_number())
        pending.pause = min(2 * pending.pause, _LONGEST_PAUSE)
        return True

    def _repeat(self, pending: Pending) -> None:
        if self._active[pending.slot] is pending and not self._why_lost:
            self._outgoing.send(pending)

    def _next_number(self) -> int:
        sequence = self._sequence
        self._sequence = (sequence + 1) & 0xFF
        return sequence
