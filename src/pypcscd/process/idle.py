"""Tells when nobody has been connected for some time (option --auto-exit)."""

import asyncio
from collections.abc import Callable


class IdleClock:
    """Runs while nobody is connected, from ``look`` on; a connection sets it back."""

    def __init__(self, seconds: float, is_used: Callable[[], bool], expired: Callable[[], bool]) -> None:
        """``expired`` is called when the time is over; if it returns false, the clock starts again."""
        self._seconds = seconds
        self._is_used = is_used
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Somebody has come or gone."""
        if self._is_used():
            self.stop()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self._is_used() or not self._expired():
            self.look()
