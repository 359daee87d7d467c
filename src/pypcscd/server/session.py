"""One client: its socket, its requests in their order, and its end."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from pypcscd import eager
from pypcscd.manager.handles import Client, UnknownHandleError
from pypcscd.protocol.connection import Pieces, RemoteProtocolError, Request, ServerConnection
from pypcscd.scard import PcscError, ReturnCode
from pypcscd.server.access import Peer
from pypcscd.server.calls import Calls, NoAnswerError
from pypcscd.server.door import Authority, Door

if TYPE_CHECKING:
    # Costly to import, and there is none before somebody watches.
    from pypcscd.protocol.observer import Tap

log = logging.getLogger("pypcscd.session")

#: bytes that a client may send ahead while its request is being carried out
_READ_AHEAD = 256 * 1024


class Session:
    """A client's connection: what the event loop takes for an ``asyncio.Protocol``.

    It is not derived from that, because a compiled class is quick only without interpreted ancestors.
    A request that needs no waiting is answered within ``data_received``; while one must wait, the
    client's further requests wait for it. A client that goes away, at any byte, is
    forgotten at once, whatever it was doing.
    """

    def __init__(self, door: Door, ended: Callable[["Session"], None]) -> None:
        """``ended`` is called once, with this session."""
        self._door = door
        self._ended = ended
        self._peer = Peer()
        self._connection = ServerConnection()
        self._client = door.manager.add_client(self._peer, self._notify, door.view, door)
        self._peer.number = self._client.number
        self._calls = Calls(door.manager, self._client, self._connection, door.tables)
        self._transport: asyncio.Transport | None = None
        #: it sends several pieces in one go, and well
        self._takes_pieces = False
        #: set while somebody watches this connection
        self.tap: Tap | None = None
        self._is_refused = False
        #: carries out the calls that may have to wait; few clients that are idle have made any
        self._running: eager.Running[Pieces] | None = None
        #: what is waited for: a call, or whether the client may make any
        self._pending: eager.Running[Pieces] | eager.Running[bool] | None = None
        #: the request that the call belongs to
        self._request: Any = None
        self._is_congested = False
        #: it has sent so far ahead that it is not read from for now
        self._is_paused = False

    # --- what may be looked at ----------------------------------------------------------------

    @property
    def peer(self) -> Peer:
        return self._peer

    @property
    def connection(self) -> ServerConnection:
        return self._connection

    @property
    def client(self) -> Client:
        return self._client

    @property
    def is_busy(self) -> bool:
        """A request is being carried out."""
        return self._pending is not None

    # --- called by the event loop -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # asyncio's own put them together up to Python 3.11, and later may miss that the client is slow, or
        # gone: then they spoil the connection of whoever gets its descriptor (CPython issues 127655, 136234).
        self._takes_pieces = not isinstance(transport, asyncio.Transport)
        if self._is_refused:
            self._transport.close()
            return
        # A reload may have come since the session was made: what is shown goes with who is let in.
        self._client.view = self._door.view
        access = self._door.config.access
        authority = self._door.authority if access.is_open else None
        with_groups = not access.is_open or (authority is not None and authority.needs_groups)
        self._peer.identify(transport.get_extra_info("socket"), with_groups=with_groups)
        self._door.adapt(self._connection, self._peer)
        if not access.allows(self._peer):
            log.warning("%s", self._door.denial(self._peer))
        elif authority is not None and not authority.trusts(self._peer):
            self._ask(authority)
        else:
            self._calls.admit()
        if self._door.opened is not None:
            self._door.opened(self)
        log.debug("%s connected", self._peer)

    def _ask(self, authority: Authority) -> None:
        """Nothing that the client sends is looked at before the authority has answered."""
        self._calls.may_use = lambda reader: authority.may_use(self._peer, reader)
        outcome = eager.start(authority.may_connect(self._peer), self._decide)
        if isinstance(outcome, eager.Running):
            self._pending = outcome
        elif outcome.value:
            self._calls.admit()

    def _decide(self, asked: eager.Running[bool]) -> None:
        self._pending = None
        if asked.cancelled():
            return
        if asked.exception() is None and asked.result():
            self._calls.admit()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self.tap is not None:
            self.tap.received(data)
        self._connection.receive_data(data)
        if self._pending is None and not self._is_congested:
            self._serve()
        elif self._transport is not None and self._connection.buffered > _READ_AHEAD:
            self._is_paused = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._is_congested = True

    def resume_writing(self) -> None:
        self._is_congested = False
        self._go_on()

    def eof_received(self) -> None:
        """Whoever ends one direction has ended both."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    # --- requests -----------------------------------------------------------------------------

    def refuse(self) -> None:
        """Hang up as soon as the connection is made."""
        self._is_refused = True

    def close(self) -> None:
        """Hang up, when what is owed has been sent; a client that does not read is forgotten all the same."""
        if self._transport is not None:
            _take_no_more(self._transport)
            self._transport.close()
            self._end()

    def _go_on(self) -> None:
        if self._transport is not None and self._pending is None and not self._is_congested:
            if self._is_paused and not self._transport.is_closing():
                self._is_paused = False
                self._transport.resume_reading()
            self._serve()

    def _serve(self) -> None:
        """Answer what has been received, as far as that can be done now."""
        connection = self._connection
        while (
            connection.buffered
            and self._pending is None
            and not self._is_congested
            and self._transport is not None
        ):
            try:
                request = connection.next_request()
            except RemoteProtocolError as error:
                self._drop(f"it sent {error}")
                return
            if request is None:
                return
            self._begin(request)

    def _begin(self, request: Request) -> None:
        try:
            answering = self._calls.answer(request)
            if isinstance(answering, bytes):
                answer: Pieces = answering
            else:
                if self._running is None:
                    self._running = eager.Running(self._complete)
                running = self._running
                if not running.begin(answering):
                    # It has not ended: what it waits for is settled later than in this call.
                    self._pending = running
                    self._request = request
                    return
                answer = running.take()
        except (Exception, asyncio.CancelledError) as error:
            self._answer_failure(request, error)
        else:
            self._send(answer)

    def _complete(self, running: eager.Running[Pieces]) -> None:
        request = self._request
        self._pending = self._request = None
        error = running.error
        if error is None:
            self._send(running.take())
        elif self._transport is None:  # cancelled
            return
        else:
            # Cancelled is then what a driver waits for, and not this call.
            self._answer_failure(request, error)
        if self._connection.buffered or self._is_paused:
            self._go_on()

    def _answer_failure(self, request: Request, error: BaseException) -> None:
        """A call has failed: mostly as calls may, which the client is told."""
        if isinstance(error, NoAnswerError | UnknownHandleError):
            self._drop(f"{request.command.name}: {error}")
            return
        if not isinstance(error, PcscError):
            self._log_defect(request, error)
            if request.body is None:
                self._drop("the daemon has no answer")
                return
            error = PcscError(ReturnCode.F_INTERNAL_ERROR)
        if self._transport is not None:
            self._send(self._calls.refusal(request, error))

    def _notify(self, rv: ReturnCode) -> None:
        self._send(self._connection.event(rv))

    def _send(self, data: Pieces) -> None:
        if self._transport is None:
            return
        if self.tap is not None:
            for piece in (data,) if isinstance(data, bytes) else data:
                self.tap.sent(piece)
        if isinstance(data, bytes):
            self._transport.write(data)
        elif self._takes_pieces:
            self._transport.writelines(data)
        else:
            self._transport.write(b"".join(data))

    # --- when things go wrong -----------------------------------------------------------------

    def _drop(self, why: str) -> None:
        log.warning("%s: connection closed because %s", self._peer, why)
        if self._transport is not None:
            self._transport.abort()
            self._end()

    def _end(self) -> None:
        """Forget the client, now and once."""
        if self._transport is None:
            return
        self._transport = None
        if self._pending is not None:
            self._pending.cancel()
        self._door.manager.remove_client(self._client)
        if self.tap is not None:
            self.tap.closed()
        self._ended(self)
        log.debug("%s disconnected", self._peer)

    def _log_defect(self, request: Request, error: BaseException) -> None:
        """This call fails by our fault; everything else goes on."""
        why = "%s: %s failed inside the daemon; please report this"
        log.error(why, self._peer, request.command.name, exc_info=error)


def _take_no_more(transport: asyncio.Transport) -> None:
    """Leave nothing unread: a client takes an end before it was heard (ECONNRESET) for a denial of access."""
    if transport.is_closing():
        return  # the descriptor may be another client's by now
    number = transport.get_extra_info("socket").fileno()
    with (
        contextlib.suppress(OSError),
        socket.fromfd(number, socket.AF_UNIX, socket.SOCK_STREAM) as connection,
    ):
        connection.setblocking(False)
        connection.shutdown(socket.SHUT_RD)
        while connection.recv(_READ_AHEAD):
            pass
