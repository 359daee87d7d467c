"""The two locks of a reader: transactions of clients, and commands to the card.

A client library holds its context's mutex while it waits for a reply, and when it is refused it
sleeps 100 ms and asks again. So a waiter is answered after a bounded time at the latest, and its
*ticket* keeps the place in the queue for the next try. When the lock frees it goes to the first
ticket whose owner is waiting at that moment.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Hashable
from typing import Any, Generic, TypeVar

Holder = TypeVar("Holder", bound=Hashable)


class CommandQueue:
    """The queue in front of a card: one command at a time, first come, first served.

    ``async with`` it; or, where a coroutine less counts: ``take``, await what it returns, if anything,
    and ``leave`` at the end. Nearly always there is nobody to wait for.
    """

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def locked(self) -> bool:
        return self._is_taken

    def take(self) -> Coroutine[Any, Any, None] | None:
        """Take the turn. What is returned must be awaited first, None: it has come already."""
        if self._is_taken:
            return self._wait()
        self._is_taken = True
        return None

    def leave(self) -> None:
        """The command is over."""
        if self._waiting:
            self._pass_on()
        else:
            self._is_taken = False

    async def __aenter__(self) -> None:
        turn = self.take()
        if turn is not None:
            await turn

    async def __aexit__(self, *_exception: object) -> None:
        self.leave()

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # its turn had come already
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False


class _Ticket(Generic[Holder]):
    """A place in the queue. ``holder`` is None for one who only waits until the lock is free."""

    __slots__ = ("expiry", "holder", "since", "turn", "waiter")

    def __init__(self, holder: Holder | None, waiter: object) -> None:
        self.holder = holder
        #: who this is, for people
        self.waiter = waiter
        self.since = time.monotonic()
        #: True when it is this ticket's turn, False at the bound; None while its owner does not wait
        self.turn: asyncio.Future[bool] | None = None
        self.expiry: asyncio.TimerHandle | None = None


class TransactionLock(Generic[Holder]):
    """A recursive lock. All methods belong to the event loop's thread."""

    def __init__(self, retry_window: float) -> None:
        """``retry_window``: seconds for which a refused holder keeps its place in the queue."""
        self.holder: Holder | None = None
        self.depth = 0
        #: the time, by ``time.monotonic``, at which the holder got the lock
        self.held_since = 0.0
        self._retry_window = retry_window
        self._queue: list[_Ticket[Holder]] = []

    def is_held_by_other(self, holder: Holder) -> bool:
        return self.holder is not None and self.holder != holder

    def try_acquire(self, holder: Holder) -> bool:
        """Take the lock, or take it once more, if nobody else holds it."""
        if self.is_held_by_other(holder):
            return False
        self._discard(holder)
        if self.depth == 0:
            self.held_since = time.monotonic()
        self.holder = holder
        self.depth += 1
        return True

    async def acquire(self, holder: Holder, bound: float) -> bool:
        """Take the lock within ``bound`` seconds. False: refused; the place is kept for a retry."""
        if self.try_acquire(holder):
            return True
        ticket = self._ticket_of(holder)
        if ticket is None:
            ticket = _Ticket(holder, holder)
            self._queue.append(ticket)
        elif ticket.expiry is not None:
            ticket.expiry.cancel()
            ticket.expiry = None
        if await self._wait_turn(ticket, bound):
            return True
        ticket.expiry = asyncio.get_running_loop().call_later(self._retry_window, self._drop, ticket)
        return False

    async def wait_until_free(self, bound: float | None, waiter: object = None) -> bool:
        """Wait for a moment at which nobody holds the lock, without taking it. ``waiter``: who this is.

        True: this is the moment; the caller may do one thing before the next holder can. False:
        ``bound`` seconds have passed. None waits for ever.
        """
        if self.holder is None:
            return True
        ticket: _Ticket[Holder] = _Ticket(None, waiter)
        self._queue.append(ticket)
        if await self._wait_turn(ticket, bound):
            return True
        self._drop(ticket)
        return False

    def release(self, holder: Holder, floor: int = 0) -> bool:
        """Undo one acquire. False if there is none above ``floor`` to undo."""
        if self.holder != holder or self.depth <= floor:
            return False
        self.depth -= 1
        if self.depth == 0:
            self._free()
        return True

    def release_all(self, holder: Holder) -> None:
        """Give the lock back however often it was taken, and the place in the queue with it."""
        self._discard(holder)
        if self.holder == holder:
            self.depth = 0
            self._free()

    def abandon(self) -> None:
        """There is nothing to lock any more: everybody's turn has come, and nobody holds it."""
        queue, self._queue = self._queue, []
        self.holder = None
        self.depth = 0
        for ticket in queue:
            self._drop(ticket)
            if ticket.turn is not None and not ticket.turn.done():
                ticket.turn.set_result(True)

    @property
    def queue(self) -> list[tuple[object, float]]:
        """Everybody who waits, in their order, and since when (``time.monotonic``)."""
        return [(ticket.waiter, ticket.since) for ticket in self._queue]

    def _free(self) -> None:
        self.holder = None
        for ticket in list(self._queue):
            turn = ticket.turn
            if turn is None or turn.done():
                continue
            self._queue.remove(ticket)
            if ticket.holder is not None:
                self.holder = ticket.holder
                self.depth = 1
                self.held_since = time.monotonic()
            turn.set_result(True)
            if ticket.holder is not None:
                return

    async def _wait_turn(self, ticket: _Ticket[Holder], bound: float | None) -> bool:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        ticket.turn = turn
        timer = None if bound is None else loop.call_later(bound, _end_wait, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            self._drop(ticket)
            raise
        finally:
            ticket.turn = None
            if timer is not None:
                timer.cancel()

    def _ticket_of(self, holder: Holder) -> _Ticket[Holder] | None:
        return next((ticket for ticket in self._queue if ticket.holder == holder), None)

    def _discard(self, holder: Holder) -> None:
        if self._queue and (ticket := self._ticket_of(holder)) is not None:
            self._drop(ticket)

    def _drop(self, ticket: _Ticket[Holder]) -> None:
        if ticket.expiry is not None:
            ticket.expiry.cancel()
            ticket.expiry = None
        if ticket in self._queue:
            self._queue.remove(ticket)


def _end_wait(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
