"""Coroutines run in the caller's stack, bounded in time, or in the background."""

import asyncio
import contextlib
import gc
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from pypcscd import eager
from pypcscd.driver import Answer
from pypcscd.eager import Alarm, Background, Bounded, Finished, Running, start

T = TypeVar("T")

#: longer than any test may take
NEVER = 3600.0


class TooLateError(Exception):
    """What a Bounded of these tests raises at its end."""


def bounded(coroutine: Coroutine[Any, Any, str], seconds: float = 0.0) -> Bounded[str]:
    return Bounded(coroutine, seconds, TooLateError)


async def turn() -> None:
    """Let everything run that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


class Recorder:
    """A coroutine that waits for ``gate`` and writes down what happens to it."""

    def __init__(self) -> None:
        self.gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.events: list[str] = []

    async def run(self) -> str:
        self.events.append("begun")
        try:
            return await self.gate
        except BaseException as error:
            self.events.append(type(error).__name__)
            raise
        finally:
            await asyncio.sleep(0)
            self.events.append("cleaned up")


async def ended(outcome: Finished[T] | Running[T]) -> T:
    """What a started coroutine returns in the end, or raises."""
    assert isinstance(outcome, Running)
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outcome.add_done_callback(lambda _: end.set_result(None))
    await end
    return outcome.result()


# --- start ------------------------------------------------------------------------------------


async def test_coroutine_that_does_not_wait_is_finished_at_once() -> None:
    async def answer() -> int:
        return 42

    before = asyncio.all_tasks()
    outcome = start(answer())
    assert isinstance(outcome, Finished)
    assert outcome.value == 42
    assert asyncio.all_tasks() == before


def test_coroutine_that_does_not_wait_needs_no_event_loop() -> None:
    async def answer() -> int:
        return 42

    outcome = start(answer())
    assert isinstance(outcome, Finished)


async def test_first_step_runs_before_start_returns_and_the_rest_without_a_task() -> None:
    recorder = Recorder()
    before = asyncio.all_tasks()
    outcome = start(recorder.run())
    assert recorder.events == ["begun"]
    assert asyncio.all_tasks() == before
    recorder.gate.set_result("done")
    assert await ended(outcome) == "done"
    assert recorder.events == ["begun", "cleaned up"]


async def test_the_end_is_told_in_the_turn_in_which_it_comes() -> None:
    async def run(gate: asyncio.Future[None]) -> int:
        await gate
        return 42

    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outcome = start(run(gate))
    assert isinstance(outcome, Running)
    results: list[int] = []
    outcome.add_done_callback(lambda running: results.append(running.result()))
    gate.set_result(None)
    await asyncio.sleep(0)
    assert results == [42]
    outcome.add_done_callback(lambda running: results.append(running.result()))
    assert results == [42, 42], "a late listener is told at once"


async def test_a_listener_that_fails_costs_nobody_anything() -> None:
    def fail(running: Running[None]) -> None:
        raise ValueError("a defect")

    async def run(gate: Answer[None]) -> None:
        await gate

    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    gate: Answer[None] = Answer(loop)
    outcome = start(run(gate))
    assert isinstance(outcome, Running)
    outcome.add_done_callback(fail)
    gate.set_result(None)
    assert [str(complaint["exception"]) for complaint in complaints] == ["a defect"]


async def test_one_runner_for_one_coroutine_after_the_other() -> None:
    """Whichever way the one before has ended."""
    ends: list[str] = []
    running: Running[str] = Running(lambda ended: ends.append(ended.take() if not ended.error else "failed"))

    async def run(gate: Answer[str]) -> str:
        return await gate

    loop = asyncio.get_running_loop()
    for number in range(3):
        gate: Answer[str] = Answer(loop)
        assert not running.begin(run(gate))
        if number == 1:
            running.cancel()
            await asyncio.sleep(0)
        else:
            gate.set_result(f"done {number}")
    assert ends == ["done 0", "failed", "done 2"]


async def test_what_was_taken_is_forgotten() -> None:
    class Result:
        pass

    async def make() -> Result:
        return Result()

    running: Running[Result] = Running()
    assert running.begin(make())
    taken = weakref.ref(running.take())
    gc.collect()
    assert taken() is None, "kept while nothing runs"


async def test_wait_that_ends_at_once() -> None:
    recorder = Recorder()
    outcome = start(recorder.run())
    recorder.gate.set_exception(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await ended(outcome)
    assert recorder.events == ["begun", "OSError", "cleaned up"]


async def test_bare_yields_are_waits_too() -> None:
    async def answer() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done"

    outcome = start(answer())
    assert await ended(outcome) == "done"


async def test_exception_in_the_first_step_is_raised_by_start() -> None:
    async def fail() -> None:
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        start(fail())


async def test_exception_later_is_raised_by_the_result() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    outcome = start(fail())
    with pytest.raises(ValueError, match="later") as caught:
        await ended(outcome)
    assert caught.value.__context__ is None


async def test_coroutine_that_survives_an_exception_goes_on() -> None:
    async def stubborn(gates: list[asyncio.Future[None]]) -> int:
        failures = 0
        for gate in gates:
            try:
                await gate
            except OSError:
                failures += 1
        return failures

    loop = asyncio.get_running_loop()
    gates: list[asyncio.Future[None]] = [loop.create_future() for _ in range(3)]
    outcome = start(stubborn(gates))
    for gate in gates:
        gate.set_exception(OSError())
    assert await ended(outcome) == 3


@pytest.mark.parametrize("settle", [turn, None], ids=["in mid-wait", "at once"])
async def test_cancelling_lets_the_coroutine_clean_up(
    settle: Callable[[], Awaitable[None]] | None,
) -> None:
    recorder = Recorder()
    outcome = start(recorder.run())
    assert isinstance(outcome, Running)
    if settle is not None:
        await settle()
    outcome.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(outcome)
    assert outcome.cancelled()
    assert recorder.events == ["begun", "CancelledError", "cleaned up"]


async def test_a_cancellation_may_be_survived() -> None:
    async def stubborn(gate: asyncio.Future[None]) -> str:
        try:
            await gate
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "survived"
        return "not cancelled"

    outcome = start(stubborn(asyncio.get_running_loop().create_future()))
    assert isinstance(outcome, Running)
    outcome.cancel()
    assert await ended(outcome) == "survived"


async def test_cancelling_in_a_bare_yield() -> None:
    async def yielding() -> None:
        while True:
            await asyncio.sleep(0)

    outcome = start(yielding())
    assert isinstance(outcome, Running)
    outcome.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(outcome)


# --- Alarm ------------------------------------------------------------------------------------


async def test_alarm_rings_once_and_in_time() -> None:
    alarm, rung = Alarm(), list[float]()
    loop = asyncio.get_running_loop()
    began = loop.time()
    alarm.set(0.02, lambda: rung.append(loop.time() - began))
    await asyncio.sleep(0.06)
    assert len(rung) == 1
    assert rung[0] >= 0.02


async def test_alarm_set_anew_rings_at_its_new_time() -> None:
    alarm, rung = Alarm(), list[str]()
    alarm.set(0.01, lambda: rung.append("first"))
    alarm.set(0.04, lambda: rung.append("later"))
    await asyncio.sleep(0.02)
    assert rung == []
    await asyncio.sleep(0.04)
    assert rung == ["later"]
    alarm.set(NEVER, lambda: rung.append("never"))
    alarm.set(0.01, lambda: rung.append("sooner"))
    await asyncio.sleep(0.03)
    assert rung == ["later", "sooner"]
    alarm.stop()


async def test_alarm_that_is_cleared_is_silent() -> None:
    alarm, rung = Alarm(), list[str]()
    alarm.set(0.01, lambda: rung.append("rung"))
    alarm.clear()
    await asyncio.sleep(0.03)
    assert rung == []


async def test_many_commands_share_an_alarm() -> None:
    alarm = Alarm()

    async def quick() -> str:
        await asyncio.sleep(0)
        return "quick"

    for _ in range(3):
        assert await Bounded(quick(), 0.05, TooLateError, alarm) == "quick"
    with pytest.raises(TooLateError):
        await Bounded(Recorder().run(), 0.02, TooLateError, alarm)
    assert await Bounded(quick(), NEVER, TooLateError, alarm) == "quick"
    alarm.stop()


# --- Bounded ----------------------------------------------------------------------------------


async def test_bounded_returns_the_result_in_time() -> None:
    recorder = Recorder()
    task = asyncio.ensure_future(bounded(recorder.run(), NEVER))
    await turn()
    recorder.gate.set_result("done")
    assert await task == "done"


async def test_bounded_that_does_not_wait_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer() -> str:
        return "done"

    async def wait() -> str:
        await asyncio.sleep(0)
        return "done"

    timers: list[float] = []
    loop = asyncio.get_running_loop()
    set_timer = loop.call_at

    def call_at(when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return set_timer(when, *arguments, **options)

    monkeypatch.setattr(loop, "call_at", call_at)
    assert await bounded(answer(), NEVER) == "done"
    assert timers == []
    assert await bounded(wait(), NEVER) == "done"
    (when,) = timers
    assert NEVER - 60 < when - loop.time() <= NEVER


@pytest.mark.parametrize("outcome", ["result", "exception", "cancellation"])
async def test_bounded_leaves_no_timer_behind(outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    set_timer = loop.call_at
    timers: list[asyncio.TimerHandle] = []

    def call_at(*arguments: Any) -> asyncio.TimerHandle:
        timers.append(set_timer(*arguments))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", call_at)
    recorder = Recorder()
    task = asyncio.ensure_future(bounded(recorder.run(), NEVER))
    await turn()
    if outcome == "result":
        recorder.gate.set_result("done")
    elif outcome == "exception":
        recorder.gate.set_exception(OSError())
    else:
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is not None or task.result() == "done"
    assert len(timers) == 1
    assert timers[0].cancelled()


async def test_bounded_expires_with_the_given_error_after_the_clean_up() -> None:
    recorder = Recorder()
    with pytest.raises(TooLateError) as caught:
        await bounded(recorder.run())
    assert recorder.events == ["begun", "CancelledError", "cleaned up"]
    # compiled, "from None" is not carried out
    assert caught.value.__suppress_context__ or eager.__file__.endswith(".so")


async def test_bounded_expires_not_before_its_time() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TooLateError):
        await bounded(Recorder().run(), 0.05)
    # the clock of the loop may be coarser than the timer
    assert loop.time() - began > 0.05 - time.get_clock_info("monotonic").resolution - 0.001


async def test_bounded_passes_on_what_the_coroutine_makes_of_the_expiry() -> None:
    async def translate(gate: asyncio.Future[None]) -> str:
        try:
            await gate
        except asyncio.CancelledError:
            raise OSError("aborted") from None
        return "not cancelled"

    async def survive(gate: asyncio.Future[None]) -> str:
        try:
            await gate
        except asyncio.CancelledError:
            return "survived"
        return "not cancelled"

    loop = asyncio.get_running_loop()
    with pytest.raises(OSError, match="aborted"):
        await bounded(translate(loop.create_future()))
    assert await bounded(survive(loop.create_future())) == "survived"


async def test_bounded_cancelled_from_outside_stays_cancelled() -> None:
    recorder = Recorder()
    task = asyncio.ensure_future(bounded(recorder.run(), NEVER))
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.events == ["begun", "CancelledError", "cleaned up"]


@pytest.mark.parametrize("first", ["timer", "outside"])
async def test_cancelled_from_outside_in_the_turn_of_the_expiry_stays_cancelled(first: str) -> None:
    recorder = Recorder()
    limited = bounded(recorder.run(), NEVER)

    async def run() -> str:
        return await limited

    task = asyncio.ensure_future(run())
    await turn()
    steps: list[Callable[[], object]] = [limited._expire, task.cancel]
    for step in steps if first == "timer" else reversed(steps):
        step()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.events == ["begun", "CancelledError", "cleaned up"]


async def test_expiry_during_the_clean_up_of_a_cancelled_task() -> None:
    """A task that was cancelled may still use Bounded; its expiry is no second cancellation."""
    seen: list[str] = []

    async def run() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            try:
                await bounded(Recorder().run())
            except TooLateError:
                seen.append("too late")

    task = asyncio.ensure_future(run())
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["too late"]


async def test_bounded_started_in_the_stack_of_a_cancelled_task() -> None:
    """Whoever started it has nothing to do with it any more."""
    outcomes: list[Finished[str] | Running[str]] = []

    async def limited() -> str:
        return await bounded(Recorder().run())

    async def starter() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            outcomes.append(start(limited()))

    task = asyncio.ensure_future(starter())
    await turn()
    task.cancel()
    await asyncio.wait([task])
    (outcome,) = outcomes
    with pytest.raises(TooLateError):
        await ended(outcome)


async def test_expiry_in_the_turn_in_which_a_wait_ends_is_not_lost() -> None:
    recorder = Recorder()
    first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def two_waits() -> str:
        await first
        return await recorder.run()

    limited = bounded(two_waits(), NEVER)

    async def run() -> str:
        return await limited

    task = asyncio.ensure_future(run())
    await turn()
    first.set_result(None)
    limited._expire()
    await turn()
    assert task.done()
    assert isinstance(task.exception(), TooLateError)


async def test_expiry_in_the_turn_in_which_a_wait_fails_is_not_lost() -> None:
    first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def forgiving() -> str:
        with contextlib.suppress(OSError):
            await first
        return await Recorder().run()

    limited = bounded(forgiving(), NEVER)

    async def run() -> str:
        return await limited

    task = asyncio.ensure_future(run())
    await turn()
    first.set_exception(OSError())
    limited._expire()
    await turn()
    assert task.done()
    assert isinstance(task.exception(), TooLateError)


async def test_expiry_stops_a_coroutine_that_only_yields() -> None:
    async def spin() -> str:
        for _ in range(10_000):
            await asyncio.sleep(0)
        return "never stopped"

    with pytest.raises(TooLateError):
        await bounded(spin())


async def test_bounded_in_bounded() -> None:
    async def inner() -> str:
        return await Bounded(Recorder().run(), NEVER, OSError)

    with pytest.raises(TooLateError):
        await bounded(inner())


async def test_bounded_run_by_start() -> None:
    async def limited() -> str:
        return await bounded(Recorder().run())

    with pytest.raises(TooLateError):
        await ended(start(limited()))


async def test_bounded_run_by_start_and_cancelled() -> None:
    async def limited() -> str:
        return await bounded(Recorder().run(), NEVER)

    outcome = start(limited())
    assert isinstance(outcome, Running)
    outcome.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(outcome)


async def test_bounded_that_is_dropped_closes_its_coroutine() -> None:
    events: list[str] = []

    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait() -> str:
        try:
            return await never
        except GeneratorExit:
            events.append("closed")
            raise

    steps = bounded(wait(), NEVER).__await__()
    next(steps)
    steps.close()
    del steps
    gc.collect()
    assert events == ["closed"]


# --- Background -------------------------------------------------------------------------------


@pytest.fixture
def background() -> Background:
    return Background(logging.getLogger("test.background"))


async def fail(when: str) -> None:
    if when == "later":
        await asyncio.sleep(0)
    raise ValueError(f"failed {when}")


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_failure_is_logged_once_with_its_traceback(
    when: str, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    background.run(fail(when))
    await background.drain()
    await turn()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.name == "test.background"
    assert f"ValueError: failed {when}" in caplog.text
    assert "in fail" in caplog.text


@pytest.mark.parametrize("method", ["run", "adopt"])
async def test_drain_waits_for_all(method: str, background: Background) -> None:
    recorders = [Recorder() for _ in range(3)]

    async def run(recorder: Recorder) -> None:
        await recorder.run()

    for recorder in recorders:
        if method == "run":
            background.run(run(recorder))
        else:
            background.adopt(asyncio.ensure_future(run(recorder)))
    draining = asyncio.ensure_future(background.drain())
    for recorder in recorders:
        await turn()
        assert not draining.done()
        recorder.gate.set_result("done")
    await draining
    assert [recorder.events for recorder in recorders] == [["begun", "cleaned up"]] * 3


async def test_drain_waits_for_what_the_drained_start(background: Background) -> None:
    gate = asyncio.Event()

    async def second() -> None:
        await gate.wait()

    async def first() -> None:
        await asyncio.sleep(0)
        background.run(second())

    background.run(first())
    draining = asyncio.ensure_future(background.drain())
    await turn()
    assert not draining.done()
    gate.set()
    await draining


async def test_drain_of_nothing(background: Background) -> None:
    await background.drain()


async def test_tasks_are_kept_alive(background: Background) -> None:
    gates: list[asyncio.Future[None]] = []
    ended: list[str] = []

    async def wait() -> None:
        # nothing outside refers to this future, so only the task set keeps the pair alive
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate.add_done_callback(lambda _: ended.append("gate"))
        gates.append(gate)
        await gate
        ended.append("task")

    background.run(wait())
    await turn()
    gate = gates.pop()
    loop = asyncio.get_running_loop()
    loop.call_soon(gate.set_result, None)
    del gate
    gc.collect()
    await background.drain()
    assert ended == ["gate", "task"]


@pytest.mark.parametrize("settle", [turn, None], ids=["in mid-wait", "before the task's first step"])
async def test_cancel_reaches_all_and_is_no_failure(
    settle: Callable[[], Awaitable[None]] | None, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    recorders = [Recorder() for _ in range(3)]

    async def run(recorder: Recorder) -> None:
        await recorder.run()

    for recorder in recorders:
        background.run(run(recorder))
    if settle is not None:
        await settle()
    background.cancel()
    await background.drain()
    assert [recorder.events for recorder in recorders] == [["begun", "CancelledError", "cleaned up"]] * 3
    assert not caplog.records


async def test_cancelled_in_its_first_step_is_no_failure_of_the_caller(
    background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    async def wait() -> None:
        await cancelled

    background.run(wait())
    assert not caplog.records
