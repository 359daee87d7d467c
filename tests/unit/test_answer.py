"""What a driver's command waits for: settled in tasks and without them."""

import asyncio

import pytest

from pypcscd.driver import Answer
from pypcscd.eager import Running, start


def make() -> Answer[str]:
    return Answer(asyncio.get_running_loop())


async def wait(answer: Answer[str], log: list[str]) -> str:
    result = await answer
    log.append(result)
    return result


async def test_the_waiter_goes_on_in_the_call_that_settles() -> None:
    answer, log = make(), list[str]()
    start(wait(answer, log))
    assert not answer.done()
    answer.set_result("now")
    assert log == ["now"]
    assert answer.done()


async def test_a_task_goes_on_in_its_own_turn() -> None:
    answer, log = make(), list[str]()
    task = asyncio.ensure_future(wait(answer, log))
    await asyncio.sleep(0)
    answer.set_result("later")
    assert log == []
    assert await task == "later"


async def test_settled_before_anybody_waits() -> None:
    answer = make()
    answer.set_result("early")
    assert await answer == "early"


async def test_settled_between_the_wait_and_the_watch() -> None:
    """Nobody does that, but tasks must not hang if somebody does."""
    answer = make()
    answer.set_result("early")
    seen: list[str] = []
    answer.add_done_callback(lambda settled: seen.append(settled.result()))
    await asyncio.sleep(0)
    assert seen == ["early"]


@pytest.mark.parametrize("in_task", [False, True])
async def test_errors_and_cancellation_reach_the_waiter(in_task: bool) -> None:
    for settle, expected in (
        (lambda answer: answer.set_exception(OSError("gone")), OSError),
        (lambda answer: answer.cancel(), asyncio.CancelledError),
    ):
        answer, log = make(), list[str]()
        coroutine = wait(answer, log)
        waiter = asyncio.ensure_future(coroutine) if in_task else start(coroutine)
        assert isinstance(waiter, asyncio.Task | Running)
        await asyncio.sleep(0)
        ended = asyncio.Event()
        waiter.add_done_callback(lambda _, ended=ended: ended.set())
        settle(answer)
        assert not ended.is_set(), "not in the call itself"
        async with asyncio.timeout(5):
            await ended.wait()
        with pytest.raises(expected):
            waiter.result()


async def test_it_is_settled_once() -> None:
    answer = make()
    assert answer.cancel()
    assert not answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    settled = make()
    settled.set_result("x")
    assert not settled.cancel()
    assert await settled == "x"


async def test_a_cancelled_task_cancels_it() -> None:
    answer, log = make(), list[str]()
    task = asyncio.ensure_future(wait(answer, log))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answer.done()
