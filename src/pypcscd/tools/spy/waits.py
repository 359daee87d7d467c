"""SCardGetStatusChange, put together again from the messages that a client library makes of it.

The call and its result are nowhere on the wire: a library compares the reader table with what its
caller knows, and tells nobody. Up to 4.3 it sends

    table [WAIT (event | STOP) table]…              and from 4.4 on
    WAIT+table [event WAIT+table | STOP WAIT+table]… STOP

A STOP that comes a while after the table is the time-out, and the library looks once more; one that
comes at once is the end of the call. Only a call with time-out 0 that changes nothing cannot be told
from two calls by that: WAIT STOP WAIT STOP. It is taken for one if the tables are the same and there
were less than five milliseconds between the two halves.
"""

import enum

from pypcscd.protocol.messages import Command, Waiting
from pypcscd.protocol.observer import SeenEvent, SeenReply, SeenRequest
from pypcscd.scard import ReaderStatus, ReturnCode

#: a STOP that comes so soon after the table, seconds, was not waited for
_AT_ONCE = 0.02
#: the pause, seconds, between the two halves of a call with time-out 0 is shorter
_HALVES = 0.005
#: nothing of a call follows after so long, seconds
_SETTLED = 0.05

_LOOKS = (Command.GET_READERS_STATE, Command.READERS_STATE_SIZE, Command.READERS_STATE_ARRAY)


class _Phase(enum.Enum):
    #: the table has been asked for
    LOOKING = enum.auto()
    #: the client has the table
    WAITING = enum.auto()
    #: something happened; the client will look again
    WOKEN = enum.auto()
    STOPPING = enum.auto()
    #: the time is over; the client will look again
    TIMED_OUT = enum.auto()
    #: this may have been all
    RESTING = enum.auto()
    OVER = enum.auto()


class Wait:
    """One call, from its first message on, which was seen at ``started``."""

    def __init__(
        self, started: float, first_look: tuple[ReaderStatus, ...] | None = None, *, is_old: bool = False
    ) -> None:
        """``is_old``: protocol 4.3 or older, where the first look is the request before."""
        self.started = started
        self.ended = started
        #: milliseconds, where the protocol tells
        self.timeout: int | None = None
        self.first = first_look
        self.last = first_look
        self._is_old = is_old
        self._phase = _Phase.WAITING if first_look is not None else _Phase.LOOKING
        #: an event or the time-out was waited for
        self.has_waited = False
        self._is_cancelled = False
        self._stopped_late = False
        self._looked_at = started

    @property
    def is_over(self) -> bool:
        return self._phase is _Phase.OVER

    @property
    def is_quick(self) -> bool:
        """Looked once and did not wait."""
        return self._phase in (_Phase.RESTING, _Phase.OVER) and not self.has_waited

    def is_settled(self, now: float) -> bool:
        """Nothing more is to be expected."""
        may_be_all = self._phase in (_Phase.RESTING, _Phase.TIMED_OUT)
        return self.is_over or (may_be_all and now - self.ended > _SETTLED)

    def takes(self, command: Command) -> bool:
        """The request belongs to this call."""
        if command is Command.GET_READER_EVENTS:
            return self._phase is not _Phase.RESTING
        if command is Command.WAIT_READER_STATE_CHANGE:
            if self._is_old:
                return self._phase is _Phase.RESTING
            return self._phase in (_Phase.WOKEN, _Phase.TIMED_OUT, _Phase.LOOKING)
        if command is Command.STOP_WAITING_READER_STATE_CHANGE:
            return self._phase in (_Phase.WAITING, _Phase.WOKEN, _Phase.LOOKING)
        if command in _LOOKS:
            if self._is_old:
                return self._phase in (_Phase.WOKEN, _Phase.TIMED_OUT)
            return self._phase is _Phase.LOOKING
        return False

    def may_go_on(self, command: Command, now: float) -> bool:
        """The request may be the second half of a call with time-out 0."""
        return (
            command is Command.WAIT_READER_STATE_CHANGE
            and not self._is_old
            and self._phase is _Phase.RESTING
            and self.is_quick
            and now - self.ended < _HALVES
        )

    def joins(self, first_half: "Wait") -> bool:
        """This is the second half of a call with time-out 0; the whole is in this object then."""
        if not self.is_quick or self.last != first_half.last:
            return False
        self.started = first_half.started
        self._stopped_late = True
        self._phase = _Phase.OVER
        return True

    def requested(self, request: SeenRequest, now: float) -> None:
        self.ended = now
        if request.command is Command.STOP_WAITING_READER_STATE_CHANGE:
            self._stopped_late = now - self._looked_at > _AT_ONCE or self._is_old
            self.has_waited |= self._stopped_late
            self._phase = _Phase.STOPPING
        elif request.command is not Command.GET_READER_EVENTS:
            if isinstance(request.body, Waiting) and self.timeout is None:
                self.timeout = request.body.timeout
            is_old_wait = self._is_old and request.command is Command.WAIT_READER_STATE_CHANGE
            self._phase = _Phase.WAITING if is_old_wait else _Phase.LOOKING

    def answered(self, reply: SeenReply, now: float) -> None:
        self.ended = now
        if reply.command is Command.STOP_WAITING_READER_STATE_CHANGE:
            self._phase = _Phase.TIMED_OUT if self._stopped_late else _Phase.RESTING
            if isinstance(reply.body, Waiting) and reply.body.rv == ReturnCode.E_CANCELLED:
                self._cancel()
        elif reply.body is None:
            self._looked_at = now
            if self.first is None:
                self.first = reply.readers
            self.last = reply.readers
            self._phase = _Phase.RESTING if self._is_old else _Phase.WAITING

    def notified(self, event: SeenEvent, now: float) -> None:
        self.ended = now
        self.has_waited = True
        self._stopped_late = False
        self._phase = _Phase.WOKEN
        if event.rv == ReturnCode.E_CANCELLED:
            self._cancel()

    def _cancel(self) -> None:
        self._is_cancelled = True
        self._phase = _Phase.OVER

    @property
    def rv(self) -> ReturnCode | None:
        """What the library must have returned; None if the connection ended first."""
        if self._is_cancelled:
            return ReturnCode.E_CANCELLED
        if self._phase is _Phase.TIMED_OUT:
            # It did not look again, so it had what it wanted; the STOP was late for another reason.
            return ReturnCode.SUCCESS
        if self._phase not in (_Phase.RESTING, _Phase.OVER):
            return None
        if self.has_waited or self._phase is _Phase.OVER:
            return ReturnCode.E_TIMEOUT if self._is_unchanged() else ReturnCode.SUCCESS
        return ReturnCode.SUCCESS

    def _is_unchanged(self) -> bool:
        def facts(readers: tuple[ReaderStatus, ...] | None) -> list[object]:
            return [(reader.name, reader.state, reader.event_counter) for reader in readers or ()]

        return facts(self.first) == facts(self.last)
