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
import math
from collections import deque
from collections.abc import Callable

from pypcscd import driver
from pypcscd.driver import DriverError, Reason
from pypcscd_ccid import messages
from pypcscd_ccid.descriptor import Pipes
from pypcscd_ccid.frames import Assembler, Broken
from pypcscd_ccid.libusb import Kind, Status
from pypcscd_ccid.messages import (
    COMMAND_FAILED,
    COMMAND_MASK,
    ERROR,
    ICC_MASK,
    SEQ,
    SLOT,
    STATUS,
    TIME_EXTENSION,
    Answer,
    Command,
    SlotError,
)
from pypcscd_ccid.pending import Counters, Pending
from pypcscd_ccid.usb import Transfer, UsbError, UsbHandle

_log = logging.getLogger("pypcscd.ccid")

#: bytes; larger buffers cost time, and long messages are put together
_LARGEST_BUFFER = 4096
#: seconds that a reader may take for each half of the abort sequence
_ABORT_TIMEOUT = 2.0
_ABORT_REQUEST = 0x01
#: plain numbers, because they are compared for every transfer
_COMPLETED = int(Status.COMPLETED)
_CANCELLED = int(Status.CANCELLED)
_CLASS_OUT = 0x21
#: seconds between repetitions of a command that a busy slot refused, at most
_LONGEST_PAUSE = 0.1
#: seconds before a failed transfer is tried again, doubled up to the second
_FIRST_RETRY = 0.005
_LONGEST_RETRY = 0.5
#: failures in a row after which the reader is given up; this takes about two seconds
_MAX_FAILURES = 10
#: a frame is sent again after this many stalls
_MAX_STALLS = 2


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
        self._timer: asyncio.TimerHandle | None = None
        #: when the timer fires
        self._next_look = math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        packet = max(pipes.bulk_in.max_packet, 8)
        size = -(-min(max_message, _LARGEST_BUFFER) // packet) * packet
        self._assembler = Assembler(size, packet)
        self._in = handle.transfer(pipes.bulk_in.address, Kind.BULK, size, self._received)
        self._out: Transfer = handle.transfer(pipes.bulk_out.address, Kind.BULK, max_message, self._sent)
        self._out_frames: deque[bytearray] = deque()
        #: stalls of bulk-OUT in a row
        self._out_stalls = 0

    def start(self) -> None:
        """Listen to the reader. Raises UsbError."""
        self._in.submit()

    def stop(self, why: str) -> None:
        """Fail all commands with NO_DEVICE, now and later. The handle is closed by its owner."""
        self._is_stopped = True
        self._why_lost = self._why_lost or why
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        waiting = [pending for pending in self._active if pending is not None]
        waiting += self._queue
        self._active = [None] * len(self._active)
        self._in_flight = 0
        self._queue.clear()
        self._out_frames.clear()
        for pending in waiting:
            if pending.is_abort:
                pending.reply.cancel()
            else:
                self._fail(pending, self._gone())

    # --- commands ---------------------------------------------------------------------------

    def submit(self, frame: bytearray, seconds: float) -> Pending:
        """Send a command of ``messages.encode``; its ``reply`` is to be awaited.

        ``seconds`` pass at most until the reply or a request for more time, counted from when the
        command is sent. It may raise DriverError. Whoever stops waiting calls ``abandon``.
        """
        if self._why_lost:
            raise self._gone()
        pending = Pending(frame, seconds, driver.Answer(self._loop))
        # What is queued waits for its own slot if the reader takes more, so it is not passed over.
        if self._in_flight >= self._limit or self._active[pending.slot] is not None:
            self._queue.append(pending)
        else:
            self._begin(pending)
        return pending

    async def run(self, frame: bytearray, seconds: float) -> bytes:
        """``submit``, and wait for the reply. Cancelling aborts the command."""
        pending = self.submit(frame, seconds)
        try:
            return await pending.reply
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
        self._send(pending)

    def _send(self, pending: Pending) -> None:
        frame = pending.frame
        frame[SEQ] = self._sequence
        self._sequence = (self._sequence + 1) & 0xFF
        pending.deadline = deadline = self._loop.time() + pending.seconds
        if deadline < self._next_look:
            self._watch(deadline)
        self._queue_frame(frame)

    def _queue_frame(self, frame: bytearray) -> None:
        """Send it when those before it have been sent."""
        self._out_frames.append(frame)
        if len(self._out_frames) == 1 and not self._out.is_busy:
            self._send_next()

    def _send_next(self) -> None:
        """Send the first frame of the queue; it stays there until it has been sent."""
        try:
            self._out.send(self._out_frames[0])
        except UsbError as error:
            self._out_failed(error.status)

    def _finish(self, pending: Pending) -> None:
        """The slot is free for its next command, and the reader for another one."""
        self._active[pending.slot] = None
        self._in_flight -= 1
        if not self._queue:
            return
        for waiting in tuple(self._queue):
            if self._in_flight >= self._limit:
                return
            if self._active[waiting.slot] is None:
                self._queue.remove(waiting)
                if not waiting.reply.done():
                    self._begin(waiting)

    def _fail(self, pending: Pending, error: DriverError) -> None:
        if not pending.reply.done():
            pending.reply.set_exception(error)

    def _gone(self) -> DriverError:
        return DriverError(Reason.NO_DEVICE, f"{self._title}: {self._why_lost}")

    # --- bulk-OUT ---------------------------------------------------------------------------

    def _sent(self, status: int, _length: int) -> None:
        if status == _COMPLETED:
            self._out_stalls = 0
            if self._out_frames:
                self._out_frames.popleft()
            if self._out_frames and not self._is_stopped:
                self._send_next()
        elif not self._is_stopped:
            self._out_failed(Status(status))

    def _out_failed(self, status: Status) -> None:
        """The first frame did not get out: its command failed, and the others go on."""
        if status is Status.NO_DEVICE:
            self.is_unplugged = True
            self._lose("it was unplugged")
            return
        if status is not Status.CANCELLED:
            self._note_failure(status, "bulk-OUT")
            if self._why_lost:
                return
        if status is Status.STALL:
            self._clear_halt(self._pipes.bulk_out.address)
            self._out_stalls += 1
            if self._out_stalls <= _MAX_STALLS:
                # The reader halted the pipe because of the frame before: this one was not looked at.
                self._send_next()
                return
        self._out_stalls = 0
        frame = self._out_frames.popleft()
        pending = self._active[frame[SLOT]]
        if pending is not None and pending.frame is frame:
            self._fail(
                pending, DriverError(Reason.COMMUNICATION, f"{self._title}: the command could not be sent")
            )
            self._finish(pending)
        if self._out_frames and not self._out.is_busy and not self._why_lost:
            self._send_next()

    # --- bulk-IN ----------------------------------------------------------------------------

    def _received(self, status: int, length: int) -> None:
        if self._is_stopped:
            return
        if status != _COMPLETED and status != _CANCELLED:
            self._in_failed(Status(status))
            return
        data = bytes(self._in.buffer[:length])
        try:
            self._in.submit()
        except UsbError as error:
            self._in_failed(error.status)
        if status == _COMPLETED or data:
            self._failures = 0
            for message in self._assembler.feed(data):
                if isinstance(message, bytes):
                    self._dispatch(message)
                else:
                    self._drop_broken(message)
        if status == _CANCELLED:
            self._give_late_ones_up()

    def _dispatch(self, reply: bytes) -> None:
        slot = reply[SLOT]
        pending = self._active[slot] if slot < len(self._active) else None
        if pending is None or pending.frame[SEQ] != reply[SEQ]:
            self.counters.dropped += 1
            _log.debug("%s: a reply that nobody waits for was dropped: %s", self._title, reply[:10].hex(" "))
            return
        status = reply[STATUS]
        if status & COMMAND_MASK == TIME_EXTENSION:
            pending.is_late = False
            pending.deadline = self._loop.time() + pending.seconds * max(reply[ERROR], 1)
            self._watch(pending.deadline)
            return
        has_failed = status & COMMAND_MASK == COMMAND_FAILED
        if has_failed and reply[ERROR] == SlotError.SLOT_BUSY and self._try_later(pending):
            return
        self._finish(pending)
        if status & ICC_MASK:
            self._card_changed(slot, reply)
        # The waiter comes last: it may go on with its next command at once.
        if reply[0] == pending.answer or (has_failed and reply[0] == Answer.SLOT_STATUS):
            if not pending.reply.done():
                pending.reply.set_result(reply)
            return
        self.counters.broken += 1
        self._fail(
            pending,
            DriverError(
                Reason.COMMUNICATION,
                f"{self._title}: the reader answered command 0x{pending.frame[0]:02X} with a message of "
                f"type 0x{reply[0]:02X}",
            ),
        )

    def _drop_broken(self, broken: Broken) -> None:
        self.counters.broken += 1
        start = broken.start
        has_header = len(start) == messages.HEADER_SIZE
        pending = self._active[start[SLOT]] if has_header and start[SLOT] < len(self._active) else None
        error = DriverError(
            Reason.COMMUNICATION, f"{self._title}: the reader sent a message that is not valid: {broken.why}"
        )
        if pending is not None and pending.frame[SEQ] == start[SEQ]:
            self._fail(pending, error)
            self._finish(pending)
        else:
            self._fail_the_only_one(error)

    def _fail_the_only_one(self, error: DriverError) -> None:
        """Something was lost; if one command is under way it was that one's. Others have deadlines."""
        active = [pending for pending in self._active if pending is not None]
        if len(active) == 1 and not active[0].is_abort:
            self._fail(active[0], error)
            self._abort(active[0])

    def _in_failed(self, status: Status) -> None:
        if status is Status.NO_DEVICE:
            self.is_unplugged = True
            self._lose("it was unplugged")
            return
        self._note_failure(status, "bulk-IN")
        if self._why_lost:
            return
        self._assembler.clear()
        pause = min(_FIRST_RETRY * 2**self._failures, _LONGEST_RETRY)
        self._loop.call_later(pause, self._listen_again, status)
        why = f"{self._title}: receiving from the reader failed ({status.name})"
        self._fail_the_only_one(DriverError(Reason.COMMUNICATION, why))

    def _listen_again(self, status: Status) -> None:
        if self._is_stopped or self._why_lost:
            return
        if status is Status.STALL:
            self._clear_halt(self._pipes.bulk_in.address)
        try:
            self._in.submit()
        except UsbError as error:
            self._in_failed(error.status)

    def _clear_halt(self, endpoint: int) -> None:
        try:
            self._handle.clear_halt(endpoint)
        except UsbError as error:
            _log.warning("%s: endpoint 0x%02X stays halted: %s", self._title, endpoint, error)

    def _note_failure(self, status: Status, pipe: str) -> None:
        self.counters.transfer_failures += 1
        self._failures += 1
        _log.debug("%s: a transfer on %s failed: %s", self._title, pipe, status.name)
        if self._failures >= _MAX_FAILURES:
            self._lose(f"{self._failures} USB transfers in a row failed")

    def _lose(self, why: str) -> None:
        if not self._why_lost:
            self.stop(why)
            self._tell_lost(why)

    # --- deadlines, aborts, busy slots ------------------------------------------------------

    def _watch(self, deadline: float) -> None:
        """Have the deadlines looked at in time. The timer is not set back for each command that ends."""
        if deadline < self._next_look:
            if self._timer is not None:
                self._timer.cancel()
            self._next_look = deadline
            self._timer = self._loop.call_at(deadline, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._timer = None
        self._next_look = math.inf
        now = self._loop.time()
        for pending in tuple(self._active):
            if pending is not None and pending.deadline <= now:
                self._expire(pending)
        left = [pending.deadline for pending in self._active if pending is not None]
        if left and not self._is_stopped:
            self._watch(min(left))

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
            _log.warning(
                "%s: slot %d did not confirm the abort of a command; using it all the same",
                self._title,
                pending.slot,
            )
            self._finish(pending)
            return
        self.counters.timeouts += 1
        self._fail(
            pending,
            DriverError(Reason.TIMEOUT, f"{self._title}: no answer within {pending.seconds:.1f} seconds"),
        )
        self._abort(pending)

    def _abort(self, pending: Pending) -> None:
        """Let the reader give a command up; until then nothing is sent to the slot (section 5.3.1)."""
        if self._why_lost:
            return
        if self._out_frames and self._out_frames[0] is pending.frame and self._out.is_busy:
            self._out.cancel()
        elif pending.frame in self._out_frames:
            self._out_frames.remove(pending.frame)
        self.counters.aborts += 1
        abort = Pending(
            messages.encode(Command.ABORT, pending.slot), _ABORT_TIMEOUT, driver.Answer(self._loop)
        )
        abort.is_abort = True
        abort.frame[SEQ] = self._sequence
        abort.deadline = self._loop.time() + 2 * _ABORT_TIMEOUT
        self._sequence = (self._sequence + 1) & 0xFF
        self._active[pending.slot] = abort
        self._watch(abort.deadline)
        task = self._loop.create_task(self._send_abort(abort))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_abort(self, abort: Pending) -> None:
        value = abort.frame[SEQ] << 8 | abort.slot
        try:
            await self._handle.control(
                _CLASS_OUT, _ABORT_REQUEST, value, self._interface, b"", _ABORT_TIMEOUT
            )
        except UsbError as error:
            # Many readers do not know the request, but may know the message that follows.
            _log.debug("%s: the abort request failed: %s", self._title, error)
        if self._active[abort.slot] is abort and not self._why_lost:
            # both halves of the sequence carry the same number
            self._queue_frame(abort.frame)

    def _try_later(self, pending: Pending) -> bool:
        """Repeat a command that the slot was too busy for, if its time allows."""
        now = self._loop.time()
        if pending.is_abort or pending.reply.done() or now + pending.pause >= pending.deadline:
            return False
        self.counters.busy += 1
        self._loop.call_later(pending.pause, self._repeat, pending, pending.deadline)
        # the answer to the refused one must not be taken for that of the next
        pending.frame[SEQ] = self._sequence
        self._sequence = (self._sequence + 1) & 0xFF
        pending.pause = min(2 * pending.pause, _LONGEST_PAUSE)
        return True

    def _repeat(self, pending: Pending, deadline: float) -> None:
        if self._active[pending.slot] is pending and not self._why_lost:
            self._send(pending)
            pending.deadline = deadline
