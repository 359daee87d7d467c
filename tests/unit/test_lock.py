"""The transaction lock: who gets it when, and who waits how long."""

import asyncio
import time

from pypcscd.manager.lock import CommandQueue, TransactionLock

BOUND = 5.0
SHORT = 0.01


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def make() -> TransactionLock[str]:
    return TransactionLock(retry_window=BOUND)


def waiting(lock: TransactionLock[str]) -> list[object]:
    """Who is in line, first come first."""
    return [waiter for waiter, _since in lock.queue]


async def test_is_recursive_and_counts() -> None:
    lock = make()
    assert lock.try_acquire("a")
    assert lock.try_acquire("a")
    assert not lock.try_acquire("b")
    assert lock.release("a")
    assert lock.holder == "a"
    assert lock.release("a")
    assert lock.holder is None
    assert not lock.release("a")


async def test_release_by_another_changes_nothing() -> None:
    lock = make()
    lock.try_acquire("a")
    assert not lock.release("b")
    lock.release_all("b")
    assert (lock.holder, lock.depth) == ("a", 1)


async def test_the_floor_of_an_exclusive_holder_holds() -> None:
    lock = make()
    lock.try_acquire("a")
    assert not lock.release("a", floor=1)
    lock.try_acquire("a")
    assert lock.release("a", floor=1)
    assert lock.holder == "a"


async def test_first_come_first_served() -> None:
    lock = make()
    lock.try_acquire("holder")
    order: list[str] = []

    async def client(name: str) -> None:
        assert await lock.acquire(name, BOUND)
        order.append(name)
        await asyncio.sleep(0)
        lock.release(name)

    tasks = [asyncio.create_task(client(name)) for name in "abcde"]
    await turn()
    assert waiting(lock) == list("abcde")
    lock.release("holder")
    await asyncio.gather(*tasks)
    assert order == list("abcde")
    assert waiting(lock) == []


async def test_a_holder_that_asks_again_at_once_does_not_pass_the_waiting() -> None:
    lock = make()
    lock.try_acquire("a")
    waiter = asyncio.create_task(lock.acquire("b", BOUND))
    await turn()
    lock.release("a")
    assert not lock.try_acquire("a")
    assert await waiter


async def test_refused_at_the_bound_and_the_place_is_kept() -> None:
    lock = make()
    lock.try_acquire("holder")
    assert not await lock.acquire("first", SHORT)
    second = asyncio.create_task(lock.acquire("second", BOUND))
    await turn()
    retry = asyncio.create_task(lock.acquire("first", BOUND))
    await turn()
    assert waiting(lock) == ["first", "second"]
    lock.release("holder")
    assert await retry
    assert not second.done()
    lock.release("first")
    assert await second


async def test_who_does_not_wait_right_now_is_passed_over_but_keeps_the_place() -> None:
    lock = make()
    lock.try_acquire("holder")
    assert not await lock.acquire("first", SHORT)
    second = asyncio.create_task(lock.acquire("second", BOUND))
    await turn()
    lock.release("holder")
    assert await second
    assert waiting(lock) == ["first"]


async def test_a_place_is_dropped_when_no_retry_comes() -> None:
    lock: TransactionLock[str] = TransactionLock(retry_window=SHORT)
    lock.try_acquire("holder")
    assert not await lock.acquire("first", SHORT)
    async with asyncio.timeout(BOUND):
        while waiting(lock):
            await asyncio.sleep(SHORT)


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    lock = make()
    lock.try_acquire("holder")
    gone = asyncio.create_task(lock.acquire("gone", BOUND))
    next_one = asyncio.create_task(lock.acquire("next", BOUND))
    await turn()
    gone.cancel()
    await turn()
    assert gone.cancelled()
    assert waiting(lock) == ["next"]
    lock.release("holder")
    assert await next_one


async def test_waiting_until_free_takes_nothing() -> None:
    lock = make()
    assert await lock.wait_until_free(BOUND)
    lock.try_acquire("holder")
    passer = asyncio.create_task(lock.wait_until_free(None))
    waiter = asyncio.create_task(lock.acquire("waiter", BOUND))
    await turn()
    lock.release("holder")
    assert await passer
    assert await waiter
    assert lock.holder == "waiter"


async def test_waiting_until_free_ends_at_its_bound() -> None:
    lock = make()
    lock.try_acquire("holder")
    assert not await lock.wait_until_free(SHORT)
    lock.release("holder")
    assert lock.holder is None


async def test_abandon_wakes_everybody() -> None:
    lock = make()
    lock.try_acquire("holder")
    waiters = [asyncio.create_task(lock.acquire(name, BOUND)) for name in "ab"]
    passer = asyncio.create_task(lock.wait_until_free(None))
    await turn()
    lock.abandon()
    assert await asyncio.gather(*waiters, passer) == [True, True, True]


# --- what people are told ---------------------------------------------------------------------


async def test_since_when_the_holder_holds() -> None:
    lock = make()
    before = time.monotonic()
    assert lock.try_acquire("holder")
    since = lock.held_since
    assert before <= since <= time.monotonic()
    assert lock.try_acquire("holder")
    lock.release("holder")
    assert lock.held_since == since, "the first of nested transactions counts"
    waiter = asyncio.create_task(lock.acquire("waiter", BOUND))
    await turn()
    handed_over = time.monotonic()
    lock.release("holder")
    assert await waiter
    assert handed_over <= lock.held_since <= time.monotonic()


async def test_who_waits_and_since_when() -> None:
    lock = make()
    lock.try_acquire("holder")
    assert lock.queue == []
    before = time.monotonic()
    first = asyncio.create_task(lock.acquire("first", SHORT))
    second = asyncio.create_task(lock.wait_until_free(BOUND, "second"))
    await turn()
    assert [waiter for waiter, _ in lock.queue] == ["first", "second"]
    since = lock.queue[0][1]
    assert before <= since <= lock.queue[1][1]
    assert not await first
    again = asyncio.create_task(lock.acquire("first", BOUND))
    await turn()
    assert lock.queue[0] == ("first", since), "a retry waits since the first try"
    lock.release("holder")
    assert await again
    lock.release("first")
    assert await second
    assert lock.queue == []


# --- the queue of commands --------------------------------------------------------------------


async def visit(queue: CommandQueue, name: str, order: list[str], gate: asyncio.Event | None = None) -> None:
    async with queue:
        order.append(name)
        if gate is not None:
            await gate.wait()


async def test_commands_take_turns_in_their_order() -> None:
    queue, order, gate = CommandQueue(), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(visit(queue, name, order, gate)) for name in "abc"]
    await turn()
    assert order == ["a"]
    assert queue.locked()
    gate.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]
    assert not queue.locked()


async def test_a_newcomer_does_not_pass_one_whose_turn_has_come() -> None:
    queue, order, gate = CommandQueue(), list[str](), asyncio.Event()
    first = asyncio.create_task(visit(queue, "first", order, gate))
    second = asyncio.create_task(visit(queue, "second", order))
    await turn()
    gate.set()
    await first
    await visit(queue, "newcomer", order)
    await second
    assert order == ["first", "second", "newcomer"]


async def test_a_cancelled_command_leaves_the_queue_and_passes_its_turn_on() -> None:
    queue, order, gate = CommandQueue(), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(visit(queue, name, order, gate)) for name in "abcd"]
    await turn()
    tasks[1].cancel()
    await turn()
    gate.set()
    # c is given its turn in the next step, and cancelled in the same one
    await asyncio.wait([tasks[0]])
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert order in (["a", "d"], ["a", "c", "d"])
    assert not queue.locked()


async def test_a_failing_command_frees_the_queue() -> None:
    queue = CommandQueue()
    try:
        async with queue:
            raise ValueError
    except ValueError:
        pass
    assert not queue.locked()
