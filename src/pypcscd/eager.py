"""Run a coroutine now, and the rest of it, if it has to wait, without a task.

Most PC/SC calls finish without waiting. Their coroutines are stepped in the caller's own stack, so
that such a call costs neither a task nor a turn of the event loop. The others wait for one thing
mostly, the card: a task would cost them two turns more.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from pypcscd.answer import Answer, Waiter

T = TypeVar("T")


class Finished(Generic[T]):
    """The result of a coroutine that did not wait."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class _Failed:
    """What a coroutine raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _carry_out() -> Generator[Any, Any, None]:
    """Sent a coroutine, it yields what that waits for, at last Finished or _Failed; then it wants another.

    Coroutines themselves tell their result by an exception, which costs as much as all the rest.
    """
    outcome: Any = None
    while True:
        coroutine = yield outcome
        try:
            outcome = Finished((yield from coroutine.__await__()))
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            outcome = _Failed(error)


class Running(Waiter, Generic[T]):
    """Runs a coroutine. Like a task, but cheaper: neither its first step nor its end costs a turn of the
    event loop, and it can run another one afterwards.

    There is no current task while it runs, so what it awaits must not ask for one.
    """

    def __init__(self, done: "Callable[[Running[T]], None] | None" = None) -> None:
        """``done``: see add_done_callback."""
        self._done = done
        self._has_ended = True
        #: cancelled at a moment at which there was no wait to cancel
        self._is_cancelled = False
        #: what is waited for
        self._waiting: Any = None
        #: what the coroutine raised, or else returned, once it has ended
        self.error: BaseException | None = None
        self.value: Any = None
        self._steps = _carry_out()
        self._steps.send(None)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> bool:
        """Run the coroutine up to its first wait. True: it has not waited, and has ended.

        Otherwise ``done`` is called in the turn in which it ends. The one before must have ended.
        """
        self._has_ended = False
        self.error = self.value = None
        return self._heed(self._steps.send(coroutine))

    def add_done_callback(self, done: Callable[["Running[T]"], None]) -> None:
        """``done`` is called once, in the turn in which the coroutine ends. There can be one only."""
        self._done = done
        if self._has_ended:
            done(self)

    def cancel(self) -> None:
        """Raise CancelledError in the coroutine, in a coming turn."""
        if self._waiting is None or not self._waiting.cancel():
            self._is_cancelled = True

    def cancelled(self) -> bool:
        return isinstance(self.error, asyncio.CancelledError)

    def exception(self) -> BaseException | None:
        """``error``, as tasks have it."""
        return self.error

    def result(self) -> T:
        """What the coroutine returned, or raised; it has ended."""
        if self.error is not None:
            raise self.error
        result: T = self.value
        return result

    def take(self) -> T:
        """``result``, which is forgotten: who waits for the next call may have to wait for long."""
        result = self.result()
        self.value = None
        return result

    def wake(self) -> None:
        self._waiting = None
        if self._is_cancelled:
            self._is_cancelled = False
            step = self._steps.throw(asyncio.CancelledError())
        else:
            step = self._steps.send(None)
        if self._heed(step) and self._done is not None:
            try:
                self._done(self)
            except Exception as error:
                # whoever ended the wait has nothing to do with it
                context = {"message": "the end of a call could not be handled", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    def _heed(self, step: Any) -> bool:
        """See to what the coroutine waits for. True: for nothing, it has ended."""
        if isinstance(step, Answer):
            self._waiting = step
            step.set_waiter(self)
            return False
        if isinstance(step, Finished):
            # the generator keeps it until the next one, and it may be long
            self.value, step.value = step.value, None
            self._has_ended = True
            return True
        if isinstance(step, _Failed):
            self.error = step.error
            self._has_ended = True
            return True
        self._waiting = step
        if step is None:  # a bare yield, such as sleep(0)
            asyncio.get_running_loop().call_soon(self.wake)
        else:
            # the promise that a task gives to a future that it has seen
            step._asyncio_future_blocking = False  # noqa: SLF001
            step.add_done_callback(self._settled)
        return False

    def _settled(self, _future: object) -> None:
        self.wake()


def start(
    coroutine: Coroutine[Any, Any, T], done: Callable[[Running[T]], None] | None = None
) -> Finished[T] | Running[T]:
    """Run the coroutine up to its first wait.

    Returns its result if it finished, else what runs the rest, and calls ``done`` with itself at the
    end. What the coroutine raises in its first step is raised here.
    """
    running: Running[T] = Running(done)
    return Finished(running.result()) if running.begin(coroutine) else running


class Alarm:
    """A timer that costs little to set: it is not taken back, but looks at the clock when it rings."""

    __slots__ = ("_due", "_ring", "_timer")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._ring: Callable[[], None] | None = None

    def set(self, seconds: float, ring: Callable[[], None]) -> None:
        """Call ``ring`` after that time, unless it is cleared or set anew before."""
        loop = asyncio.get_running_loop()
        self._ring = ring
        self._due = due = loop.time() + seconds
        timer = self._timer
        if timer is None or timer.when() > due:
            if timer is not None:
                timer.cancel()
            self._timer = loop.call_at(due, self._look)

    def clear(self) -> None:
        """What was set is not wanted any more; the clock is looked at once all the same."""
        self._ring = None

    def stop(self) -> None:
        """Nothing will be set any more: take the timer back."""
        self._ring = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        ring, loop = self._ring, asyncio.get_running_loop()
        if ring is None:
            return
        if loop.time() < self._due:
            self._timer = loop.call_at(self._due, self._look)
            return
        self._ring = None
        ring()


class Bounded(Generic[T]):
    """Await a coroutine, but cancel it after ``seconds``; then ``expired()`` is raised.

    Unlike ``asyncio.timeout`` it needs no current task, and nothing at all for a coroutine that
    does not wait.
    """

    __slots__ = (
        "_alarm",
        "_coroutine",
        "_expired",
        "_has_expired",
        "_has_own_alarm",
        "_is_due",
        "_seconds",
        "_waiting",
    )

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        seconds: float,
        expired: Callable[[], Exception],
        alarm: Alarm | None = None,
    ) -> None:
        """``alarm`` may serve many, one after the other; without one there is a timer for this alone."""
        self._has_own_alarm = alarm is None
        self._alarm = alarm or Alarm()
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
        self._alarm.set(self._seconds, self._expire)
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
            if self._has_expired and (task is None or task.cancelling() == cancelled_before):
                raise self._expired() from None
            raise
        finally:
            self._alarm.clear()
            if self._has_own_alarm:
                self._alarm.stop()


class Background:
    """Coroutines that nobody awaits: kept alive, their failures logged, cancelled together."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._running: set[Running[None] | asyncio.Task[None]] = set()
        self._drained: asyncio.Future[None] | None = None

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run the coroutine to its first wait, and the rest when that is over."""
        try:
            outcome = start(coroutine)
        except asyncio.CancelledError:
            return
        except Exception:
            self._logger.exception("a background command failed; please report this")
            return
        if isinstance(outcome, Running):
            self.adopt(outcome)

    async def see_through(self, command: Coroutine[Any, Any, None]) -> None:
        """Wait for a command that is carried out even if whoever waits goes away before its end."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.run(_tell_of_end(command, ended))
        await ended

    def adopt(self, running: Running[None] | asyncio.Task[None]) -> None:
        """Take over what somebody else started."""
        self._running.add(running)
        running.add_done_callback(self._ended)

    async def drain(self) -> None:
        """Wait until all are done."""
        while self._running:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def cancel(self) -> None:
        for running in list(self._running):
            running.cancel()

    def _ended(self, running: Running[None] | asyncio.Task[None]) -> None:
        self._running.discard(running)
        if not running.cancelled() and (error := running.exception()) is not None:
            self._logger.error("a background command failed; please report this", exc_info=error)
        if not self._running and self._drained is not None:
            self._drained.set_result(None)
            self._drained = None


async def _tell_of_end(command: Coroutine[Any, Any, None], ended: asyncio.Future[None]) -> None:
    try:
        await command
    finally:
        if not ended.done():
            ended.set_result(None)
