"""Who is at the other end of a client socket."""

import socket
import struct
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")


class Peer:
    """The process that connected, as the kernel names it (unix(7), SO_PEERCRED)."""

    __slots__ = ("_name", "number", "pid", "uid")

    def __init__(self, number: int) -> None:
        #: the how many-th connection this is, to tell those of one process apart
        self.number = number
        self.pid = 0
        self.uid = -1
        self._name: str | None = None

    def identify(self, connection: socket.socket) -> None:
        """Ask the kernel who has connected this socket."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, _gid = _CREDENTIALS.unpack(raw)

    def __str__(self) -> str:
        if self._name is None:
            try:
                self._name = Path(f"/proc/{self.pid}/comm").read_text(errors="replace").strip()
            except OSError:
                self._name = "unknown program"
        return f"client {self.number} ({self._name}, pid {self.pid}, uid {self.uid})"
