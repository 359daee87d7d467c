"""From the messages of one connection to calls of the PC/SC interface.

Most calls are one request and its reply. The others: SCardEstablishContext is VERSION and
ESTABLISH; SCardListReaders is a look at the reader table; SCardStatus is such a look, and STATUS;
SCardGetStatusChange is described in ``waits``. A call that is refused because of another's
transaction is repeated by the client library; that is one call too.
"""

from collections.abc import Iterator, Mapping

from pypcscd.protocol.messages import Command, LongStatus, Status, Version
from pypcscd.protocol.observer import NotUnderstood, Seen, SeenEvent, SeenReply, SeenRequest
from pypcscd.redact import Parts
from pypcscd.scard import ReaderStatus, ReturnCode
from pypcscd.tools.spy.model import Call, Connection, Note, Parameter, Shown
from pypcscd.tools.spy.parameters import CALL_NAMES, Parameters, number, result
from pypcscd.tools.spy.waits import Wait

#: seconds after which a look at the table is no part of another call any more
_LOOK_SETTLED = 0.05
#: seconds within which a client library repeats a call that was refused
_RETRY_SETTLED = 0.5

_REPEATED = (Command.BEGIN_TRANSACTION, Command.TRANSMIT, Command.STATUS, Command.RECONNECT)
_LOOKS = (Command.GET_READERS_STATE, Command.READERS_STATE_SIZE, Command.READERS_STATE_ARRAY)
_WAITS = (
    Command.WAIT_READER_STATE_CHANGE,
    Command.STOP_WAITING_READER_STATE_CHANGE,
    Command.GET_READER_EVENTS,
)


class _Look:
    """A look at the reader table, of which it is not known yet what call it belongs to."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.ended = started
        self.readers: tuple[ReaderStatus, ...] | None = None


class Folder:
    """The calls of one connection. Times are given by the caller and must not run backwards."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._parameters = Parameters()
        #: a request that is one call, and is not answered yet
        self._open: tuple[SeenRequest, Call] | None = None
        #: a call that was refused and may be repeated
        self._refused: tuple[SeenRequest, Call] | None = None
        self._look: _Look | None = None
        self._wait: Wait | None = None
        #: a wait that may turn out to be the first half of ``_wait``
        self._half: Wait | None = None
        #: SCardEstablishContext, from VERSION to ESTABLISH
        self._opening: Call | None = None

    def join(self, context: int, handles: Mapping[int, str]) -> None:
        """What is known of a connection that was open before: its context, and the handles' readers."""
        self._parameters.context = context
        self._parameters.readers.update(handles)

    def feed(self, seen: Seen, now: float, secret: Parts = ()) -> list[Shown]:
        """The calls and notes that are complete with this message. ``secret``: parts of its data."""
        if isinstance(seen, SeenRequest):
            shown = self._request(seen, now, secret)
        elif isinstance(seen, SeenReply):
            shown = self._reply(seen, now)
        elif isinstance(seen, SeenEvent):
            shown = self._event(seen, now)
        else:
            shown = self._strange(seen, now)
        return list(shown)

    def tick(self, now: float) -> list[Shown]:
        """The calls that are complete because nothing more of them has come."""
        shown: list[Shown] = []
        if self._refused is not None and now - self._refused[1].ended > _RETRY_SETTLED:
            shown += self._end_refused()
        look = self._look
        if look is not None and look.readers is not None and now - look.ended > _LOOK_SETTLED:
            shown += self._end_look()
        if self._wait is not None and self._wait.is_settled(now):
            shown += self._end_wait()
        return shown

    def end(self, now: float, why: str) -> list[Shown]:
        """The connection is over. ``why``: who ended it, as a sentence without its full stop."""
        shown: list[Shown] = [*self._end_held()]
        if self._opening is not None and self._opening.rv is not None:
            shown.append(self._opening)
        elif self._opening is not None and self._open is None:
            shown.append(self._unanswered(self._opening, now, why))
        if self._open is not None:
            shown.append(self._unanswered(self._open[1], now, why))
        self._open = self._opening = None
        return shown

    # --- requests -----------------------------------------------------------------------------

    def _request(self, seen: SeenRequest, now: float, secret: Parts) -> Iterator[Shown]:
        command = seen.command
        if self._open is not None:
            # Only a wait may be interrupted; whatever this is, it will not be answered any more.
            yield self._unanswered(self._open[1], now, "the client sent another request")
            self._open = None
        wait = self._wait
        if wait is not None and wait.takes(command):
            wait.requested(seen, now)
            return
        if command in _WAITS:
            yield from self._begin_wait(seen, now)
            return
        yield from self._end_wait()
        if command in _LOOKS:
            yield from self._begin_look(seen, now)
            return
        if command is Command.STATUS and self._refused is not None and self._look is not None:
            self._look = None
        if self._refused is not None and not self._is_repeated(seen):
            yield from self._end_refused()
        if command is Command.VERSION:
            if self._opening is None:
                self._opening = Call(CALL_NAMES[command], self.connection, now)
            self._opening.rv = None
            self._open = seen, self._opening
            yield from self._end_look()
            return
        if self._opening is not None and command is not Command.ESTABLISH_CONTEXT:
            if self._opening.rv is not None:
                yield self._opening
            self._opening = None
        yield from self._begin_call(seen, now, secret)

    def _begin_call(self, seen: SeenRequest, now: float, secret: Parts) -> Iterator[Shown]:
        if self._refused is not None:
            _, call = self._refused
            call.attempts += 1
            self._refused = None
        elif seen.command is Command.ESTABLISH_CONTEXT and self._opening is not None:
            call, self._opening = self._opening, None
            call.inputs = self._parameters.inputs(seen)
        else:
            call = Call(CALL_NAMES[seen.command], self.connection, now)
            call.inputs = self._parameters.inputs(seen, secret)
            call.reader = self._parameters.reader(seen)
            if seen.command is Command.STATUS and self._look is not None:
                call.started = self._look.started
                call.outputs = self._status_outputs(seen, self._look)
                self._look = None
        yield from self._end_look()
        self._open = seen, call

    def _status_outputs(self, seen: SeenRequest, look: _Look) -> list[Parameter]:
        assert isinstance(seen.body, Status | LongStatus)
        return self._parameters.status(seen.body.card, look.readers or ())

    def _is_repeated(self, seen: SeenRequest) -> bool:
        return self._refused is not None and self._refused[0].raw == seen.raw

    def _begin_look(self, seen: SeenRequest, now: float) -> Iterator[Shown]:
        if seen.command is Command.READERS_STATE_ARRAY and self._look is not None:
            return
        is_for_status = self._refused is not None and self._refused[0].command is Command.STATUS
        if not is_for_status:
            yield from self._end_refused()
        yield from self._end_look()
        self._look = _Look(now)

    def _begin_wait(self, seen: SeenRequest, now: float) -> Iterator[Shown]:
        yield from self._end_refused()
        previous = self._wait
        if previous is not None and previous.may_go_on(seen.command, now) and self._half is None:
            self._half, self._wait = previous, None
        else:
            yield from self._end_wait()
        look = self._look
        if seen.dialect.wait_has_body and look is not None and look.readers is not None:
            self._wait = Wait(look.started, look.readers, is_old=True)
            self._look = None
        else:
            yield from self._end_look()
            self._wait = Wait(now, is_old=seen.dialect.wait_has_body)
        self._wait.requested(seen, now)

    # --- answers ------------------------------------------------------------------------------

    def _reply(self, seen: SeenReply, now: float) -> Iterator[Shown]:
        if self._open is not None:
            yield from self._complete(seen, now)
        elif self._look is not None:
            self._look.ended = now
            if seen.body is None:
                self._look.readers = seen.readers
        elif self._wait is not None:
            self._wait.answered(seen, now)
            yield from self._join_halves()
            if self._wait is not None and self._wait.is_over:
                yield from self._end_wait()

    def _complete(self, seen: SeenReply, now: float) -> Iterator[Shown]:
        assert self._open is not None
        request, call = self._open
        self._open = None
        call.ended = now
        call.rv = result(seen.body)
        if request.command is Command.VERSION:
            self._complete_version(seen, call)
            return
        call.outputs += self._parameters.outputs(request, seen)
        if call.rv == ReturnCode.E_SHARING_VIOLATION and request.command in _REPEATED:
            self._refused = request, call
            return
        if call.rv != ReturnCode.SUCCESS and request.command is Command.STATUS:
            call.outputs.clear()
        yield call

    def _complete_version(self, seen: SeenReply, call: Call) -> None:
        assert isinstance(seen.body, Version)
        if seen.body.rv != ReturnCode.SUCCESS:
            named = f"{seen.body.major}.{seen.body.minor}"
            call.remarks.append(f"the daemon refused the client's protocol version and named {named}")
        else:
            call.rv = None

    def _event(self, seen: SeenEvent, now: float) -> Iterator[Shown]:
        if self._wait is None:
            yield Note(self.connection, now, "an event came that nobody waited for")
            return
        self._wait.notified(seen, now)
        yield from self._join_halves()
        if self._wait.is_over:
            yield from self._end_wait()

    def _strange(self, seen: NotUnderstood, now: float) -> Iterator[Shown]:
        who = "the client" if seen.from_client else "the daemon"
        text = f"{who} sent {len(seen.raw)} bytes that are passed on as they are: {seen.why}"
        yield Note(self.connection, now, text)

    # --- what was held back -------------------------------------------------------------------

    def _join_halves(self) -> Iterator[Shown]:
        """Decide if the wait before was the first half of this one, as soon as that can be told."""
        if self._half is None or self._wait is None:
            return
        half = self._half
        if self._wait.rv is None and not self._wait.has_waited:
            return
        self._half = None
        if not self._wait.joins(half):
            yield self._wait_call(half)

    def _end_held(self) -> Iterator[Shown]:
        yield from self._end_refused()
        yield from self._end_look()
        yield from self._end_wait()

    def _end_refused(self) -> Iterator[Shown]:
        if self._refused is not None:
            _, call = self._refused
            self._refused = None
            yield call

    def _end_look(self) -> Iterator[Shown]:
        look, self._look = self._look, None
        if look is None:
            return
        call = Call("SCardListReaders", self.connection, look.started, look.ended)
        call.inputs, call.outputs = self._parameters.list_readers(look.readers or ())
        if look.readers is None:
            call.outputs.clear()
            call.remarks.append("the table of the readers did not come")
        else:
            call.rv = ReturnCode.SUCCESS if look.readers else ReturnCode.E_NO_READERS_AVAILABLE
            call.is_inferred = True
        yield call

    def _end_wait(self) -> Iterator[Shown]:
        half, self._half = self._half, None
        wait, self._wait = self._wait, None
        if half is not None:
            yield self._wait_call(half)
        if wait is not None:
            yield self._wait_call(wait)

    def _wait_call(self, wait: Wait) -> Call:
        call = Call("SCardGetStatusChange", self.connection, wait.started, wait.ended)
        call.inputs = self._parameters.list_readers(())[0]
        if wait.timeout is not None:
            call.inputs.append(number("dwTimeout", wait.timeout))
        call.outputs = self._parameters.states(wait.first or (), wait.last or ())
        call.rv = wait.rv
        call.is_inferred = wait.rv != ReturnCode.E_CANCELLED  # which the daemon says
        if wait.rv is None:
            call.remarks.append("it was still waiting when the connection ended")
        return call

    def _unanswered(self, call: Call, now: float, why: str) -> Call:
        call.ended = now
        call.rv = None
        call.remarks.append(f"no answer: {why}")
        return call
