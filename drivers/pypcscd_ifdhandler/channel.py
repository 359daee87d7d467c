"""The daemon's end of a slot's socket: one command at a time, each a future."""

import asyncio
from collections.abc import Callable
from socket import SO_SNDBUF, SOL_SOCKET, socket

from pypcscd.driver import Answer, DriverError, Reason
from pypcscd_ifdhandler.wire import HEADER, MAX_PAYLOAD, SEND_BUFFER, Kind

#: Seconds that a driver may still take over a cancelled command before it counts as stuck.
GIVEN_UP_LIMIT = 120.0
#: Seconds that a command may take; the longest wait is twice that, see ``_look_after``.
COMMAND_LIMIT = 600.0


class CommandChannel:
    """Sends commands to a slot of the helper; passes on what the helper sees of the card.

    A native call cannot be aborted. So when the coroutine of a command is cancelled, its late
    response is dropped, and the next command waits for that before it is sent.
    """

    def __init__(
        self, sock: socket, buffer: bytearray, presence: Callable[[int], None], stuck: Callable[[], None]
    ) -> None:
        """``buffer``: room for one message, which all channels of a loop may share.
        ``presence``: called with the response code of IFDHICCPresence at each change.
        ``stuck``: called when a cancelled command still runs after ``GIVEN_UP_LIMIT``."""
        sock.setblocking(False)
        sock.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)
        self._socket = sock
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._presence = presence
        self._stuck = stuck
        self._stuck_timer: asyncio.TimerHandle | None = None
        #: looks after the command that was under way when it was set
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        #: the command that the helper is busy with; cancelled when nobody wants the response
        self._pending: Answer[tuple[int, bytes]] | None = None
        #: commands that wait for the end of a cancelled one, in order
        self._waiting: list[asyncio.Future[None]] = []
        self._failure: str | None = None
        self._loop.add_reader(sock.fileno(), self._readable)

    async def call(self, kind: Kind, argument: int = 0, payload: bytes = b"") -> tuple[int, bytes]:
        """Have the helper carry out a command; returns the response code and the answer.

        Raises DriverError: INVALID_PARAMETER for a payload that does not fit, NO_DEVICE when the
        helper has ended.
        """
        if len(payload) > MAX_PAYLOAD:
            raise DriverError(Reason.INVALID_PARAMETER, f"{len(payload)} bytes; at most {MAX_PAYLOAD} fit")
        while self._pending is not None:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._next_turn()
                raise
        if self._failure is not None:
            raise DriverError(Reason.NO_DEVICE, self._failure)
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        try:
            self._socket.send(HEADER.pack(kind, self._sequence, argument) + payload)
        except OSError as error:
            self._next_turn()
            raise DriverError(Reason.NO_DEVICE, f"the driver helper cannot be reached: {error}") from None
        response: Answer[tuple[int, bytes]] = Answer(self._loop)
        self._pending = response
        if self._watch is None:
            self._watch = self._loop.call_later(COMMAND_LIMIT, self._look_after, response)
        try:
            return await response
        except asyncio.CancelledError:
            self._expect_end(response)
            raise

    def _look_after(self, response: Answer[tuple[int, bytes]]) -> None:
        """Give up a command that lasts too long; one timer serves all within its time."""
        self._watch = None
        pending = self._pending
        if pending is None or pending.done():
            return
        if pending is response:
            self._expect_end(response)
            pending.set_exception(DriverError(Reason.TIMEOUT, f"no answer within {COMMAND_LIMIT:g} seconds"))
        else:
            self._watch = self._loop.call_later(COMMAND_LIMIT, self._look_after, pending)

    def _expect_end(self, response: Answer[tuple[int, bytes]]) -> None:
        """Nobody waits for this command any more; if it is under way it must still come to its end."""
        if self._pending is response and self._stuck_timer is None:
            self._stuck_timer = self._loop.call_later(GIVEN_UP_LIMIT, self._stuck)

    def _settle(self) -> Answer[tuple[int, bytes]] | None:
        """The helper is no longer busy; returns what the command waits for if somebody awaits it."""
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None
        pending, self._pending = self._pending, None
        return None if pending is None or pending.done() else pending

    def fail(self, why: str) -> None:
        """The helper has ended: commands fail from now on, those under way at once."""
        if self._failure is not None:
            return
        self._readable()
        self._failure = why
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if (pending := self._settle()) is not None:
            pending.set_exception(DriverError(Reason.NO_DEVICE, why))
        while self._waiting:
            self._next_turn()

    def _next_turn(self) -> None:
        while self._waiting and self._pending is None:
            turn = self._waiting.pop(0)
            if not turn.done():
                turn.set_result(None)
                return

    def _readable(self) -> None:
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            if size < HEADER.size:
                # The end of the helper; how it ended is known when its process is reaped.
                self._loop.remove_reader(self._socket.fileno())
                return
            kind, sequence, argument = HEADER.unpack_from(self._buffer)
            if kind == Kind.PRESENCE:
                self._presence(argument)
            elif kind == Kind.RESPONSE and sequence == self._sequence and self._pending is not None:
                pending = self._settle()
                self._next_turn()
                if pending is not None:
                    pending.set_result((argument, bytes(self._view[HEADER.size : size])))
                return
