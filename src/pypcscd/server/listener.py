"""The client socket: made, kept and removed."""

import asyncio
import logging
import socket
from pathlib import Path

from pypcscd.manager.manager import Manager
from pypcscd.server.calls import TableCache
from pypcscd.server.session import Session

log = logging.getLogger("pypcscd.server")

#: everybody may connect; who may do what is decided per connection
_SOCKET_MODE = 0o666
_BACKLOG = 128
_RECEIVE_BUFFER_SIZE = 128 * 1024


def open_socket(path: Path) -> socket.socket:
    """A listening socket at ``path``, whose directory exists. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(path))
        path.chmod(_SOCKET_MODE)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


class Listener:
    """Accepts clients on a listening socket and keeps their sessions."""

    def __init__(self, manager: Manager, listening: socket.socket, max_clients: int) -> None:
        """``max_clients``: a connection beyond so many is closed at once, as in pcscd."""
        self._manager = manager
        self._listening = listening
        self._max_clients = max_clients
        self._server: asyncio.Server | None = None
        self._connections = 0
        self._sessions: set[Session] = set()
        self._tables = TableCache()
        self._receive_buffer = memoryview(bytearray(_RECEIVE_BUFFER_SIZE))

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
        session = Session(
            self._manager, self._connections, self._receive_buffer, self._tables, self._sessions.discard
        )
        if len(self._sessions) >= self._max_clients:
            log.warning(
                "connection %d is one too many: %d clients are connected; the limit is [limits] clients",
                self._connections,
                self._max_clients,
            )
            session.refuse()
        self._sessions.add(session)
        return session
