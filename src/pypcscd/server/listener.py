"""The client socket: made, kept and removed."""

import asyncio
import logging
import os
import socket
from pathlib import Path

from pypcscd.server.door import Door
from pypcscd.server.rules import SocketConfig
from pypcscd.server.session import Session

log = logging.getLogger("pypcscd.server")

_BACKLOG = 128


def open_socket(config: SocketConfig) -> socket.socket:
    """A listening socket, in a directory that exists. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(config.path))
        # Nobody can connect before listen(), when only those may whom owner and mode let in.
        if config.owner is not None or config.group is not None:
            _give_to(config.path, config.owner, config.group)
        config.path.chmod(config.mode)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


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
        self._max_clients = max_clients
        self._server: asyncio.Server | None = None
        self._connections = 0
        self._sessions: set[Session] = set()

    @property
    def door(self) -> Door:
        return self._door

    @property
    def sessions(self) -> frozenset[Session]:
        """The connections that are open now."""
        return frozenset(self._sessions)

    async def start(self) -> None:
        """Serve those who have connected already, and all who will."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            self._make_session, sock=self._listening, backlog=_BACKLOG
        )

    def close(self) -> None:
        """Accept nobody any more and hang up on everybody."""
        if self._server is not None:
            self._server.close()
        self._listening.close()
        for session in list(self._sessions):
            session.close()

    def _make_session(self) -> Session:
        self._connections += 1
        session = Session(self._door, self._connections, self._sessions.discard)
        if len(self._sessions) >= self._max_clients:
            log.warning(
                "connection %d is one too many: %d clients are connected; the limit is [limits] clients",
                self._connections,
                self._max_clients,
            )
            session.refuse()
        self._sessions.add(session)
        return session
