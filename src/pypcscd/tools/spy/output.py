"""A thread for decoding and writing, so that neither ever keeps a client waiting."""

import queue
import threading
import time
from collections.abc import Callable

from pypcscd.control.stream import Closed, Data, Record
from pypcscd.tools.spy.watcher import Watcher

#: bytes of messages that may wait for a slow terminal or disk
_MOST_WAITING = 64 * 1024 * 1024
#: a record takes so much in addition
_RECORD_COST = 200
#: seconds between two looks for calls that are complete
_TICK = 0.1


class WatchThread:
    """Runs a watcher; ``put`` may be called from an event loop and returns at once."""

    def __init__(self, watcher: Watcher, now: Callable[[], float]) -> None:
        self._watcher = watcher
        self._now = now
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._put_bytes = 0
        self._taken_bytes = 0
        self._given_up: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="spy", daemon=True)
        #: why nothing is written any more
        self.failure: OSError | None = None

    def start(self) -> None:
        self._thread.start()

    def put(self, record: Record) -> None:
        number = getattr(record, "number", 0)
        if number in self._given_up or self.failure is not None:
            return
        if isinstance(record, Data):
            if self._put_bytes - self._taken_bytes > _MOST_WAITING:
                self._given_up.add(number)
                why = "it is not followed any more, because what is to be shown of it is not taken"
                record = Closed(number, record.time, why)
            else:
                self._put_bytes += len(record.data) + _RECORD_COST
        self._queue.put(record)

    def finish(self) -> None:
        """Write all that was put, and the summary; returns when that is done."""
        self._queue.put(None)
        # In slices, so that Ctrl-C ends the wait for a terminal that takes nothing.
        while self._thread.is_alive():
            self._thread.join(_TICK)

    def _run(self) -> None:
        try:
            self._watch()
        except OSError as error:
            self.failure = error

    def _watch(self) -> None:
        ticked = time.monotonic()
        while True:
            try:
                record = self._queue.get(timeout=_TICK)
            except queue.Empty:
                self._watcher.tick(self._now())
                continue
            if record is None:
                self._watcher.finish(self._now(), "the spy ended")
                return
            if isinstance(record, Data):
                self._taken_bytes += len(record.data) + _RECORD_COST
            self._watcher.feed(record)
            if time.monotonic() - ticked > _TICK:
                ticked = time.monotonic()
                if self._queue.empty():
                    self._watcher.tick(self._now())
