"""Run a coroutine now, and only make a task of it if it has to wait.

Most PC/SC calls finish without waiting. Their coroutines are stepped in the caller's own stack, so
that such a call costs neither a task nor a turn of the event loop (``asyncio.eager_task_factory``
does the same, but only from Python 3.12 on).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Continued(Awaitable[T]):
    """The rest of a coroutine whose first step has been run and which waits for ``waiting``.

    It pauses once before that wait, for ``start`` to step it there. A task that is cancelled before
    its first step throws into what it runs; a coroutine that has not begun would end without a word
    to the one in here.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], waiting: Any) -> None:
        self._coroutine = coroutine
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine, waiting = self._coroutine, self._waiting
        try:
            try:
                yield
            except BaseException as error:
                waiting = coroutine.throw(error)
            while True:
                try:
                    yield waiting
                except BaseException as error:  # whatever is thrown belongs to the coroutine
                    waiting = coroutine.throw(error)
                else:
                    waiting = coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result


async def _continue(coroutine: Coroutine[Any, Any, T], waiting: Any) -> T:
    return await _Continued(coroutine, waiting)


class Finished(Generic[T]):
    """The result of a coroutine that did not wait."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


def start(coroutine: Coroutine[Any, Any, T]) -> Finished[T] | asyncio.Task[T]:
    """Run the coroutine up to its first wait.

    Returns its result if it finished, else a task that runs the rest. What the coroutine raises in
    its first step is raised here.
    """
    try:
        waiting = coroutine.send(None)
    except StopIteration as stop:
        return Finished(stop.value)
    rest = _continue(coroutine, waiting)
    rest.send(None)
    return asyncio.get_running_loop().create_task(rest)


class Bounded(Generic[T]):
    """Await a coroutine, but cancel it after ``seconds``; then ``expired()`` is raised.

    Unlike ``asyncio.timeout`` it needs no current task, and nothing at all for a coroutine that
    does not wait.
    """

    __slots__ = ("_coroutine", "_expired", "_has_expired", "_is_due", "_seconds", "_waiting")

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], seconds: float, expired: Callable[[], Exception]
    ) -> None:
        self._coroutine = coroutine
        self._seconds = seconds
        self._expired = expired
        self._waiting: Any = None
        self._has_expired = False
        #: expired, but there was no wait to cancel at that moment
        self._is_due = False

    def _expire(self) -> None:
        self._has_expired = True
        # The wait may have ended in this very turn, or be a mere ``sleep(0)``.
        self._is_due = self._waiting is None or not self._waiting.cancel()

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine = self._coroutine
        try:
            self._waiting = coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        starter = asyncio.current_task()
        cancelled_before = starter.cancelling() if starter else 0
        try:
            while True:
                try:
                    yield self._waiting
                    if self._is_due:
                        raise asyncio.CancelledError
                except BaseException as error:  # whatever is thrown belongs to the coroutine
                    if self._is_due and isinstance(error, Exception):
                        error = asyncio.CancelledError()
                    self._is_due = False
                    self._waiting = coroutine.throw(error)
                else:
                    self._waiting = coroutine.send(None)
        except StopIteration as stop:
            result = stop.value
            return result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not starter:
                cancelled_before = 0
            if self._has_expired and task is not None and task.cancelling() == cancelled_before:
                raise self._expired() from None
            raise
        finally:
            timer.cancel()


class Background:
    """Coroutines that nobody awaits: kept alive, their failures logged, cancelled together."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run the coroutine to its first wait, and the rest as a task."""
        try:
            outcome = start(coroutine)
        except asyncio.CancelledError:
            return
        except Exception:
            self._logger.exception("a background command failed; please report this")
            return
        if isinstance(outcome, asyncio.Task):
            self.adopt(outcome)

    def run_later(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """``run(make())``, for timers: a coroutine must not be made before it is run."""
        self.run(make())

    def adopt(self, task: asyncio.Task[None]) -> None:
        """Take over a task that somebody else started."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def drain(self) -> None:
        """Wait until all are done."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("a background command failed; please report this", exc_info=error)
