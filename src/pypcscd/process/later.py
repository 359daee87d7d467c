"""Keeps log lines from taking the time of those who are just being told what happened.

A line costs as much time as several APDUs, and it is said in the middle of things: a card has come, some
clients know it already, others and their next questions wait. So it is written some milliseconds later.
Warnings and what is worse are written at once, after all that came before them.
"""

import asyncio
import logging
from collections.abc import Sequence

from pypcscd.process.relay import Relay

#: seconds
_PAUSE = 0.005


class Later(Relay):
    """Writes lines when the event loop has been through what it is at."""

    def __init__(self, handlers: Sequence[logging.Handler]) -> None:
        super().__init__(handlers)
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.append(record)
            if record.levelno >= logging.WARNING:
                self.flush()
            elif len(self._waiting) == 1:
                self._flush_soon()
        except Exception:
            self.handleError(record)

    def _flush_soon(self) -> None:
        try:
            asyncio.get_running_loop().call_later(_PAUSE, self.flush)
        except RuntimeError:
            # In a thread, or at the end of the process, there is nothing that would do it later.
            self.flush()

    def flush(self) -> None:
        """Write what has not been written yet."""
        self.acquire()
        try:
            waiting, self._waiting = self._waiting, []
            for record in waiting:
                self.pass_on(record)
        finally:
            self.release()

    def close(self) -> None:
        self.flush()
        super().close()
