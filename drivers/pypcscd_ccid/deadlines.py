"""One timer for the deadlines of all commands of an interface."""

import math
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from time import monotonic

from pypcscd_ccid.pending import Pending

#: seconds; loops round to milliseconds
_SHORTEST = 0.001


class Deadlines:
    """Looks when the first command is due. It is not set back for each command that ends."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        active: list[Pending | None],
        expire: Callable[[Pending], None],
    ) -> None:
        """``active``: what is under way, None among it; ``expire`` is called for what is due."""
        self._loop = loop
        self._active = active
        self._expire = expire
        self._timer: TimerHandle | None = None
        #: when it looks, by time.monotonic
        self.next_look = math.inf

    def watch(self, deadline: float) -> None:
        """Look at that time at the latest."""
        if deadline < self.next_look:
            if self._timer is not None:
                self._timer.cancel()
            self.next_look = deadline
            # A loop may fire a moment early: then it is not to look again and again.
            delay = max(deadline - monotonic(), _SHORTEST)
            self._timer = self._loop.call_later(delay, self._look)

    def stop(self) -> None:
        """No command is under way any more."""
        self.next_look = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        self.next_look = math.inf
        now = monotonic()
        for pending in tuple(self._active):
            if pending is not None and pending.deadline <= now:
                self._expire(pending)
        left = [pending.deadline for pending in self._active if pending is not None]
        if left:
            self.watch(min(left))
