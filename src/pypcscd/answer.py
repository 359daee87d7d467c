"""What a driver's command waits for; drivers take it from ``pypcscd.driver``."""

import contextvars
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

T = TypeVar("T")


#: states of an Answer; plain numbers, because they are looked at for every APDU
_PENDING: Final = 0
_RESULT: Final = 1
_ERROR: Final = 2
_CANCELLED: Final = 3


class Waiter:
    """Who runs coroutines otherwise than a task does."""

    def wake(self) -> None:
        """What was waited for is settled."""
        raise NotImplementedError


class Answer(Generic[T]):
    """What a command waits for: a future whose waiter goes on in the very call that settles it.

    ``asyncio.Future`` wakes its waiter in the next turn of the event loop, which costs as much as all
    else that is done for an APDU. A driver may await either. As the waiter may begin its next command
    at once, ``set_result`` comes last in whatever the driver does.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_context", "_loop", "_state", "_value", "_waiter")

    def __init__(self, loop: "AbstractEventLoop") -> None:
        self._loop = loop
        #: part of what tasks expect of a future
        self._asyncio_future_blocking = False
        self._callback: Callable[[Answer[T]], object] | None = None
        self._context: contextvars.Context | None = None
        self._waiter: Waiter | None = None
        self._state = _PENDING
        self._value: Any = None

    def done(self) -> bool:
        return self._state != _PENDING

    def set_result(self, value: T) -> None:
        """Settle it; the waiter goes on before this returns, unless it is a task."""
        self._state = _RESULT
        self._value = value
        waiter, callback = self._waiter, self._callback
        if waiter is not None:
            waiter.wake()
        elif callback is None:
            return
        elif self._context is None:
            callback(self)
        else:
            self._loop.call_soon(callback, self, context=self._context)

    def set_exception(self, error: Exception) -> None:
        """Settle it with an error; the waiter goes on in the next turn."""
        self._settle(_ERROR, error)

    def cancel(self, msg: object = None) -> bool:
        """Have CancelledError raised in the waiter. False: it is settled already."""
        if self._state != _PENDING:
            return False
        self._settle(_CANCELLED, None)
        return True

    def result(self) -> T:
        if self._state == _ERROR:
            raise self._value
        if self._state == _CANCELLED:
            # not at the top: the command line reads about devices without an event loop
            from asyncio import CancelledError

            raise CancelledError
        return cast(T, self._value)

    def get_loop(self) -> "AbstractEventLoop":
        return self._loop

    def add_done_callback(
        self, callback: Callable[["Answer[T]"], object], *, context: contextvars.Context | None = None
    ) -> None:
        """For what runs coroutines; there is one waiter only. Tasks give a context."""
        self._callback, self._context = callback, context
        if self._state != _PENDING:
            self._loop.call_soon(callback, self, context=context)

    def set_waiter(self, waiter: Waiter) -> None:
        """``add_done_callback`` for one that is no task; it is pending."""
        self._asyncio_future_blocking = False
        self._waiter = waiter

    def __await__(self) -> Generator[Any, None, T]:
        if self._state == _PENDING:
            self._asyncio_future_blocking = True
            yield self
        if self._state != _RESULT:
            return self.result()
        value: T = self._value
        return value

    def _settle(self, state: int, value: Any) -> None:
        self._state, self._value = state, value
        if self._waiter is not None:
            self._loop.call_soon(self._waiter.wake)
        elif self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)
