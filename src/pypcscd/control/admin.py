"""The admin socket. What is served there is not loaded before somebody connects: few daemons are asked."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pypcscd.manager.manager import Manager

if TYPE_CHECKING:
    from pypcscd.control.service import AdminService
    from pypcscd.control.sessions import ListenerLike

_BACKLOG = 8


class AdminSocket:
    """The door for the administrator of one daemon."""

    def __init__(
        self,
        path: Path,
        manager: Manager,
        listeners: "Sequence[ListenerLike]",
        helpers: Callable[[], Mapping[int, str]],
        inherited: socket.socket | None = None,
    ) -> None:
        """``inherited``: a listening socket to be used; its file is somebody else's, and stays."""
        self.path = path
        self._manager = manager
        self._listeners = listeners
        self._helpers = helpers
        self._inherited = inherited
        self._started = time.monotonic()
        self._server: asyncio.Server | None = None
        self._service: AdminService | None = None

    @property
    def service(self) -> "AdminService":
        """What is behind the door."""
        if self._service is None:
            # Costly to import: a tenth of the start.
            from pypcscd.control.service import AdminService

            self._service = AdminService(
                self.path, self._manager, self._listeners, self._helpers, self._started
            )
        return self._service

    @property
    def is_watched(self) -> bool:
        """Somebody follows what happens; a connection that only asks does not count."""
        return self._service is not None and self._service.is_watched

    async def start(self) -> None:
        """Listen. Whatever is left of a dead daemon's socket is removed. Raises OSError."""
        listening = self._inherited or self._open()
        try:
            loop = asyncio.get_running_loop()
            # Whether the file goes with the server is decided in close().
            keeping: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            self._server = await loop.create_unix_server(
                lambda: self.service.new_connection(), sock=listening, backlog=_BACKLOG, **keeping
            )
        except BaseException:
            listening.close()
            raise

    def _open(self) -> socket.socket:
        if self.path.is_socket():
            self.path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Nobody else may connect in the moment before the mode is set.
            before = os.umask(0o117)
            try:
                listening.bind(str(self.path))
            finally:
                os.umask(before)
        except BaseException:
            listening.close()
            raise
        return listening

    def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._inherited is None:
            with suppress(OSError):
                self.path.unlink()
        if self._service is not None:
            self._service.close()
