"""Keeps a log readable in which one line repeats itself, as when a card fails with each of its APDUs.

The first few alike go through. The others are counted, and every some seconds the last of them is said
with their number. Warnings and what is worse are limited, nothing else.
"""

import asyncio
import copy
import logging
import re
import time
from collections.abc import Hashable, Sequence

from pypcscd.process.relay import Relay
from pypcscd.server.access import Peer

#: seconds for which lines are counted together
_ROUND = 10.0
#: so many alike go through in a round
_FEW = 5
#: kinds of lines that are told apart in a round; what comes after them goes through
_MOST_KINDS = 256
#: numbers of any base, bytes in hexadecimal, and what is left of digits
_NUMBERS = re.compile(r"\b(?:0x)?[0-9A-F]*[0-9][0-9A-F]*\b|\b[0-9A-F]{2}\b|[0-9]+")


class _Kind:
    """Lines that are alike, in one round."""

    __slots__ = ("last", "left_out", "said")

    def __init__(self, said: int) -> None:
        self.said = said
        self.left_out = 0
        self.last: logging.LogRecord | None = None


class Repeats(Relay):
    """Lets lines through, but not all that are alike."""

    def __init__(self, handlers: Sequence[logging.Handler]) -> None:
        super().__init__(handlers)
        self._kinds: dict[Hashable, _Kind] = {}
        self._begun = self._ends = 0.0
        self._has_timer = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.levelno < logging.WARNING:
                self.pass_on(record)
            else:
                self._limit(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Say what has not been said yet, and close the other handlers."""
        self._tell()
        super().close()

    def _limit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._ends:
            self._begin_round(now)
        key = _key(record)
        kind = self._kinds.get(key)
        if kind is None:
            kind = _Kind(0)
            if len(self._kinds) < _MOST_KINDS:
                self._kinds[key] = kind
        kind.said += 1
        if kind.said <= _FEW:
            self.pass_on(record)
            return
        kind.left_out += 1
        kind.last = record
        if not self._has_timer:
            self._set_timer(self._ends - now)

    def _begin_round(self, now: float) -> None:
        self._tell()
        # Of what goes on without a pause everybody has seen enough.
        goes_on = now < self._ends + _ROUND
        self._kinds = {key: _Kind(_FEW) for key, kind in self._kinds.items() if goes_on and kind.said > _FEW}
        self._begun, self._ends = now, now + _ROUND

    def _set_timer(self, seconds: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # A thread has nothing that could wake it: it is said with the next warning of anybody.
            return
        # It is never cancelled, which other threads may not do; too early a summary does no harm.
        loop.call_later(seconds, self._round_over)
        self._has_timer = True

    def _round_over(self) -> None:
        self._has_timer = False
        self._tell()

    def _tell(self) -> None:
        self.acquire()
        try:
            seconds = time.monotonic() - self._begun
            for kind in self._kinds.values():
                record, count = kind.last, kind.left_out
                kind.last, kind.left_out = None, 0
                if record is not None:
                    self.pass_on(record if count == 1 else _summary(record, count, seconds))
        finally:
            self.release()


def _key(record: logging.LogRecord) -> Hashable:
    """The same for lines that are alike."""
    arguments = record.args if isinstance(record.args, tuple) else (record.args,)
    defect = record.exc_info[0] if record.exc_info else None
    return (record.name, record.levelno, str(record.msg), defect, *map(_gist, arguments))


def _gist(argument: object) -> Hashable:
    """What counts of an argument: a reader's name to the letter, but not the numbers in an error."""
    if isinstance(argument, str | int | float):
        return argument
    gist = _NUMBERS.sub("", str(argument))
    # The next connection of a program, and the next run of it, have other numbers.
    return (gist, argument.uid) if isinstance(argument, Peer) else gist


def _summary(record: logging.LogRecord, count: int, seconds: float) -> logging.LogRecord:
    """The last of so many lines."""
    summary = copy.copy(record)
    # as it was said with the first ones
    summary.exc_info = summary.exc_text = None
    layout, arguments = str(record.msg), record.args
    if not isinstance(arguments, tuple) or not arguments:
        layout, arguments = "%s", (record.getMessage(),)
    summary.msg = f"{layout} (said %s times more in %.0f s)"
    summary.args = (*arguments, f"{count:,}", seconds)
    return summary
