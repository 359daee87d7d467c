"""Commands on their way to the reader: bulk-OUT, which carries one at a time.

Source: CCID specification 1.1, section 6.1.
"""

from collections import deque
from collections.abc import Callable

from pypcscd_ccid.libusb import Kind, Status
from pypcscd_ccid.pending import Pending
from pypcscd_ccid.transfer import Transfer, UsbError
from pypcscd_ccid.usb import UsbHandle

#: plain number, because it is compared for every transfer
_COMPLETED = int(Status.COMPLETED)
#: a frame is sent again after this many times that it was not taken
_MAX_REFUSALS = 2


class Outgoing:
    """The pipe, and what waits for it."""

    def __init__(
        self,
        handle: UsbHandle,
        endpoint: int,
        size: int,
        *,
        active: list[Pending | None],
        failed: Callable[[Status], bool],
        unsent: Callable[[Pending], None],
    ) -> None:
        """``size``: of the longest frame, bytes. ``active``: what is under way by slot, None among it.

        ``failed`` is called when sending failed; it answers whether there is still a reader, and sees to
        it that ``go_on`` is called when the pipe may be used again, unless the transfer was only cancelled.
        ``unsent`` is called for a command that is under way but could not be sent.
        """
        self._active = active
        self._tell_failed = failed
        self._tell_unsent = unsent
        self._out: Transfer = handle.transfer(endpoint, Kind.BULK, size, self._sent, is_quiet=True)
        #: what was given to the pipe last, and what waits until that has been sent
        self._last: Pending | None = None
        self._waiting: deque[Pending] = deque()
        self._is_held = False
        self._is_stopped = False

    def stop(self) -> None:
        """Send nothing more."""
        self._is_stopped = True
        self._waiting.clear()

    def send(self, pending: Pending) -> None:
        """Send it when those before it have been sent."""
        if self._waiting or self._is_held or not self._give_out(pending):
            self._waiting.append(pending)

    def go_on(self) -> None:
        """The pipe may be used again."""
        self._is_held = False
        self._send_waiting()

    def withdraw(self, pending: Pending) -> None:
        """Do not send it, or do not go on with that."""
        if self._last is pending and self._out.is_busy:
            self._out.cancel()
        else:
            self.drop(pending)

    def drop(self, pending: Pending) -> None:
        """Do not send it if that has not begun."""
        if pending in self._waiting:
            self._waiting.remove(pending)

    def _give_out(self, pending: Pending) -> bool:
        """Give it to the pipe. False: the one before has not been sent."""
        try:
            if not self._out.send(pending.frame):
                return False
        except UsbError as error:
            self._last = pending
            self._failed(error.status, has_left=False)
        else:
            self._last = pending
        return True

    def _send_waiting(self) -> None:
        while self._waiting and not self._is_held and not self._is_stopped:
            pending = self._waiting.popleft()
            if not self._give_out(pending):
                self._waiting.appendleft(pending)
                return

    def _sent(self, status: int, _length: int) -> None:
        """The pipe is free, which is told if something waits for it; or sending failed."""
        if status == _COMPLETED:
            self._send_waiting()
        elif not self._is_stopped:
            self._failed(Status(status), has_left=True)

    def _failed(self, status: Status, *, has_left: bool) -> None:
        """The last frame did not get out: its command failed, and the others go on."""
        self._is_held = status is not Status.CANCELLED
        if not self._tell_failed(status):
            return
        pending = self._last
        assert pending is not None, "nothing was sent"
        # A reader that halts the pipe does so because of the frame before: this one was not looked at.
        was_refused = status is Status.STALL or not has_left
        if was_refused:
            pending.refusals += 1
        if self._active[pending.slot] is pending:
            if was_refused and pending.refusals <= _MAX_REFUSALS:
                self._waiting.appendleft(pending)
            else:
                self._tell_unsent(pending)
        self._send_waiting()
