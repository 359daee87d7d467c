"""The client socket: made, kept and removed."""

import asyncio
import logging
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pypcscd.server.door import Door
from pypcscd.server.rules import SocketConfig
from pypcscd.server.session import Session

log = logging.getLogger("pypcscd.server")

_BACKLOG = 128
#: connections that are accepted before anything else has its turn
_ACCEPTED_AT_ONCE = 128
#: seconds until one that could not be accepted, for lack of descriptors or memory, is tried again
_PAUSE = 1.0


def open_socket(config: SocketConfig) -> socket.socket:
    """A listening socket, in a directory that exists. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(config.path))
        # Nobody can connect before listen(), when only those may whom owner and mode let in.
        set_permissions(config)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def set_permissions(config: SocketConfig) -> None:
    """Owner and mode of the socket's file. Raises OSError."""
    if config.owner is not None or config.group is not None:
        _give_to(config.path, config.owner, config.group)
    config.path.chmod(config.mode)


def _give_to(path: Path, owner: int | None, group: int | None) -> None:
    try:
        os.chown(path, -1 if owner is None else owner, -1 if group is None else group)
    except PermissionError as error:
        reason = "only root may give it to another owner, or to a group of which one is not a member"
        raise PermissionError(error.errno, reason) from error


class Listener:
    """Accepts clients on a listening socket and keeps their sessions."""

    def __init__(self, door: Door, listening: socket.socket, max_clients: int) -> None:
        """``max_clients``: a connection beyond so many is closed at once, as in pcscd."""
        self._door = door
        self._listening = listening
        self.max_clients = max_clients
        #: called whenever a connection has come or gone
        self.changed: Callable[[], None] | None = None
        #: those that are accepted but have no session yet
        self._arriving: set[asyncio.Task[None]] = set()
        self._sessions: set[Session] = set()
        self._resumption: asyncio.TimerHandle | None = None

    @property
    def door(self) -> Door:
        return self._door

    @property
    def sessions(self) -> frozenset[Session]:
        """The connections that are open now."""
        return frozenset(self._sessions)

    @property
    def is_used(self) -> bool:
        """Somebody is connected."""
        return bool(self._sessions or self._arriving)

    @property
    def has_queue(self) -> bool:
        """Somebody has connected and is not accepted yet."""
        if self._listening.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        return bool(poll.poll(0))

    def start(self) -> None:
        """Serve those who have connected already, and all who will."""
        self._resumption = None
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def stop_accepting(self) -> None:
        """Accept nobody any more. Who is not accepted waits for whoever else has this socket, if any."""
        if self._listening.fileno() < 0:
            return
        if self._resumption is not None:
            self._resumption.cancel()
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()

    def close(self) -> None:
        """Accept nobody any more and hang up on everybody."""
        self.stop_accepting()
        for task in list(self._arriving):
            task.cancel()
        for session in list(self._sessions):
            session.close()

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error(
                    "no client can be accepted on %s: %s; trying again in %.0f s, more descriptors may help "
                    "(ulimit -n, LimitNOFILE=)",
                    self._door.config.path,
                    error.strerror,
                    _PAUSE,
                )
                loop.remove_reader(self._listening)
                self._resumption = loop.call_later(_PAUSE, self.start)
                return
            task = loop.create_task(self._welcome(connection))
            self._arriving.add(task)
            task.add_done_callback(self._note_arrival)

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self._make_session, connection)
        except BaseException:
            connection.close()
            raise

    def _make_session(self) -> asyncio.Protocol:
        session = Session(self._door, self._forget)
        if len(self._sessions) >= self.max_clients:
            log.warning(
                "connection %d is one too many: %d clients are connected; the limit is [limits] clients",
                session.client.number,
                self.max_clients,
            )
            session.refuse()
        self._sessions.add(session)
        return cast(asyncio.Protocol, session)

    def _note_arrival(self, task: asyncio.Task[None]) -> None:
        self._arriving.discard(task)
        self._note_change()

    def _forget(self, session: Session) -> None:
        self._sessions.discard(session)
        self._note_change()

    def _note_change(self) -> None:
        if self.changed is not None:
            self.changed()
