"""A socket in front of a daemon's: what passes through is handed to a watcher, after it was sent on."""

import asyncio
import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pypcscd.control.stream import Closed, Data, Opened, Record
from pypcscd.paths import excess
from pypcscd.tools.client import why_unreachable

_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 128
_CLIENT_ENDED = "the client went away"
_DAEMON_ENDED = "the daemon closed the connection"


class ProxyError(Exception):
    """The proxy cannot work; the message says what to do."""


class Clock:
    """The time of day, which never runs backwards while the clock lives."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()


class Proxy:
    """Connects each client of ``path`` to the daemon at ``upstream``."""

    def __init__(self, path: Path, upstream: Path, watch: Callable[[Record], None], mode: int) -> None:
        """``watch`` must return at once. ``mode``: who may connect; the daemon takes them for us."""
        self.clock = Clock()
        self.upstream = upstream
        self.watch = watch
        self._path = path
        self._mode = mode
        self._count = 0
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    async def start(self) -> None:
        """Listen. Raises ProxyError if there is no daemon or no place for the socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.upstream))
            except OSError as error:
                raise ProxyError(why_unreachable(self.upstream, error)) from error
        try:
            self._remove_dead_socket()
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            listening.bind(str(self._path))
            self._path.chmod(self._mode)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._accept, sock=listening, backlog=_BACKLOG)
        except OSError as error:
            reason = excess(self._path) or error.strerror or error
            raise ProxyError(f"cannot listen on {self._path}: {reason}; choose another path") from error

    def close(self) -> None:
        """Accept nobody any more and hang up on everybody."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        for link in list(self._links):
            link.close("the spy ended")

    def _remove_dead_socket(self) -> None:
        if not self._path.is_socket():
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
                return
        raise ProxyError(f"somebody serves {self._path} already; choose another path")

    def _accept(self) -> "_Side":
        self._count += 1
        link = _Link(self, self._count, self._links.discard)
        self._links.add(link)
        return link.client


class _Link:
    """A client's connection to us, and ours to the daemon on its behalf."""

    def __init__(self, proxy: Proxy, number: int, ended: Callable[["_Link"], None]) -> None:
        self._proxy = proxy
        self._number = number
        self._ended = ended
        self._is_over = False
        #: who was the first to say nothing more
        self._why = ""
        self.client = _Side(self, from_client=True)
        self.daemon = _Side(self, from_client=False)
        self._connecting: asyncio.Task[None] | None = None

    def client_connected(self, transport: asyncio.Transport) -> None:
        transport.pause_reading()
        raw = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        executable = ""
        with contextlib.suppress(OSError):
            executable = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - the text, not a path of ours
        self._proxy.watch(Opened(self._number, self._proxy.clock.now(), pid, uid, executable))
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self.daemon, str(self._proxy.upstream))
        except OSError as error:
            why = f"no daemon answers on {self._proxy.upstream}: {error.strerror or error}"
            self.close(why)
            return
        if self._is_over:
            self.daemon.hang_up()
        elif self.client.transport is not None:
            self.client.transport.resume_reading()

    def other(self, side: "_Side") -> "_Side":
        return self.daemon if side is self.client else self.client

    def passed(self, data: bytes, *, from_client: bool) -> None:
        self._proxy.watch(Data(self._number, self._proxy.clock.now(), from_client, data))

    def ended_by(self, side: "_Side") -> None:
        """There is nothing more to come from this side."""
        if side is self.client and not side.is_gone and self.daemon.transport is not None:
            # It only has nothing more to say; answers may still be on their way to it.
            self._why = _CLIENT_ENDED
            self.daemon.transport.write_eof()
        else:
            self.lost(side)

    def lost(self, side: "_Side") -> None:
        self.close(self._why or (_CLIENT_ENDED if side is self.client else _DAEMON_ENDED))

    def close(self, why: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._proxy.watch(Closed(self._number, self._proxy.clock.now(), why))
        self.client.hang_up()
        self.daemon.hang_up()
        self._ended(self)


class _Side(asyncio.Protocol):
    """One of the two connections of a link."""

    def __init__(self, link: _Link, *, from_client: bool) -> None:
        self._link = link
        self._from_client = from_client
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._from_client:
            self._link.client_connected(self.transport)

    def data_received(self, data: bytes) -> None:
        other = self._link.other(self).transport
        if other is not None:
            other.write(data)
        self._link.passed(data, from_client=self._from_client)

    def eof_received(self) -> bool:
        self._link.ended_by(self)
        return True  # it is the link that closes

    def pause_writing(self) -> None:
        other = self._link.other(self).transport
        if other is not None:
            other.pause_reading()

    def resume_writing(self) -> None:
        other = self._link.other(self).transport
        if other is not None:
            other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._link.lost(self)

    @property
    def is_gone(self) -> bool:
        """The other end is closed, and not only for writing."""
        if self.transport is None:
            return True
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def hang_up(self) -> None:
        """Send what is owed and close."""
        if self.transport is not None:
            self.transport.close()
