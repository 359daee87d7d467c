"""What an administrator's tool may ask for, and the connections that ask; docs/admin-protocol.md."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from pypcscd import __version__
from pypcscd.control import stream
from pypcscd.control.access import describe_peer, is_admin
from pypcscd.control.changes import ChangeWatch
from pypcscd.control.sessions import ListenerLike
from pypcscd.control.status import Helpers, StatusReport, measure
from pypcscd.control.taps import Taps, Watch
from pypcscd.manager.manager import Manager

log = logging.getLogger("pypcscd.control")

VERSION = 1
_LONGEST_REQUEST = 64 * 1024
#: bytes that may wait for a watcher that does not read
_MOST_WAITING = 4 * 1024 * 1024
_LONGEST_MEASUREMENT = 10.0
#: seconds for which a stream's lines are gathered, so that a client's message costs no system call
_GATHERING = 0.01


class _RequestError(Exception):
    """The request cannot be carried out; the message says why."""


class AdminService:
    """Serves the tools of one daemon's administrators."""

    def __init__(
        self,
        path: Path,
        manager: Manager,
        listeners: Sequence[ListenerLike],
        helpers: Helpers,
        started: float,
    ) -> None:
        """``path``: of the admin socket. ``started``: when the daemon did, by the monotonic clock."""
        self.path = path
        self.manager = manager
        self.taps = Taps(listeners)
        self.report = StatusReport(manager, listeners, helpers, started)
        self._connections: set[_Connection] = set()

    @property
    def is_watched(self) -> bool:
        """Somebody follows what happens; a connection that only asks does not count."""
        return any(connection.is_watching for connection in self._connections)

    def new_connection(self) -> asyncio.Protocol:
        """Somebody has connected."""
        connection = _Connection(self, self._connections.discard)
        self._connections.add(connection)
        return connection

    def close(self) -> None:
        """Hang up on all."""
        for connection in list(self._connections):
            connection.close()


class _Connection(asyncio.Protocol):
    """One administrator's tool."""

    def __init__(self, service: AdminService, ended: Callable[["_Connection"], None]) -> None:
        self._service = service
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pid = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: Watch | None = None
        #: lines of the stream that are to be sent together
        self._gathered: list[str] = []
        self._changes: ChangeWatch | None = None
        self._requests: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "status": self._status,
            "watch": self._follow_changes,
            "spy": self._spy,
        }

    @property
    def is_watching(self) -> bool:
        return self._watch is not None or self._changes is not None

    # --- called by the event loop -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        connection = transport.get_extra_info("socket")
        self._pid, uid, _ = describe_peer(connection)
        if not is_admin(connection):
            log.warning(
                "pid %d of uid %d was refused at the admin socket %s: it is for root and the daemon's own "
                "user and group",
                self._pid,
                uid,
                self._service.path,
            )
            self._send({"error": "this socket is for root and the daemon's own user and group"})
            self._transport.close()
            return
        self._send({"admin": "pypcscd", "version": VERSION, "daemon": __version__})

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            task = asyncio.ensure_future(self._answer(line))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if len(self._buffer) > _LONGEST_REQUEST:
            self._send({"error": f"a request of more than {_LONGEST_REQUEST} bytes"})
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for task in self._tasks:
            task.cancel()
        self._stop_watching()
        self._ended(self)

    def close(self) -> None:
        self._send_gathered()
        if self._transport is not None:
            self._transport.close()

    # --- answers ------------------------------------------------------------------------------

    def _send(self, content: dict[str, Any]) -> None:
        self._send_line(json.dumps(content))

    def _send_line(self, line: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > _MOST_WAITING:
            log.warning("a watcher (pid %d) does not read what it asked for; it is dropped", self._pid)
            self._stop_watching()
            self._transport.abort()
            return
        self._transport.write(line.encode() + b"\n")

    def _gather(self, record: stream.Record) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_later(_GATHERING, self._send_gathered)
        self._gathered.append(stream.encode(record))

    def _send_gathered(self) -> None:
        lines, self._gathered = self._gathered, []
        if lines:
            self._send_line("\n".join(lines))

    async def _answer(self, line: bytes) -> None:
        identifier: Any = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise _RequestError("a request is a JSON object")
            identifier = request.get("id")
            method = self._requests.get(str(request.get("request")))
            if method is None:
                known = ", ".join(self._requests)
                raise _RequestError(f"unknown request {request.get('request')!r}; there are {known}")
            self._send({"id": identifier, "result": await method(request)})
            self._begin()
        except (ValueError, OverflowError, RecursionError) as error:
            self._send({"id": identifier, "error": f"no valid request: {error}"})
        except _RequestError as error:
            self._send({"id": identifier, "error": str(error)})

    def _begin(self) -> None:
        """What follows the answer of ``spy`` must not come before it."""
        watch = self._watch
        if watch is not None and not watch.is_active:
            watch.is_active = True
            self._service.taps.add(watch)

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        seconds = _number(request, "measure", float, 0.0)
        rates = {}
        taps = self._service.taps
        if seconds > 0:
            seconds = min(seconds, _LONGEST_MEASUREMENT)
            counts = taps.count()
            try:
                await asyncio.sleep(seconds)
                rates = measure(counts, seconds)
            finally:
                taps.stop_counting(counts)
        return self._service.report.make(taps.sessions(), rates)

    async def _follow_changes(self, request: dict[str, Any]) -> str:
        if self._changes is None:
            self._changes = ChangeWatch(self._service.manager, self._send)
        return "watching"

    async def _spy(self, request: dict[str, Any]) -> str:
        if self._watch is not None:
            raise _RequestError("this connection spies already")
        shows_secrets = request.get("secrets", False) is True
        if shows_secrets:
            log.warning("pid %d watches all clients, PINs included (spy --show-secrets)", self._pid)
        self._watch = Watch(
            self._gather,
            pid=_number(request, "pid", int, None),
            uid=_number(request, "uid", int, None),
            shows_secrets=shows_secrets,
        )
        return "spying"

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._service.taps.remove(self._watch)
            self._watch = None
        if self._changes is not None:
            self._changes.stop()
            self._changes = None


def _number(request: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = request.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _RequestError(f"{key} is a number, not {value!r}")
    return kind(value)
