"""Who is at the other end of a client socket."""

import socket
import struct
from pathlib import Path

from pypcscd.text import safe_text

#: struct ucred: process, user and group; the last two have no sign
_CREDENTIALS = struct.Struct("iII")
_SO_PEERGROUPS = 59
#: the most that Python's getsockopt takes
_GROUPS_BYTES = 1024


class Peer:
    """The process that connected, as the kernel names it (unix(7), SO_PEERCRED).

    Behind a forwarded socket that is the forwarder: sshd, with the user who has logged in.
    """

    __slots__ = ("_name", "groups", "number", "pid", "uid")

    def __init__(self, number: int = 0) -> None:
        #: of the client, to tell those of one process apart
        self.number = number
        #: 0 if it lives in a PID namespace that we do not see
        self.pid = 0
        self.uid = -1
        self.groups: frozenset[int] = frozenset()
        self._name: str | None = None

    def identify(self, connection: socket.socket, *, with_groups: bool) -> None:
        """Ask the kernel who has connected this socket, and for the groups only where they matter."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, gid = _CREDENTIALS.unpack(raw)
        if with_groups:
            self.groups = self._supplementary_groups(connection) | {gid}

    def _supplementary_groups(self, connection: socket.socket) -> frozenset[int]:
        try:
            listed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
            return frozenset(struct.unpack(f"{len(listed) // 4}I", listed))
        except OSError:
            # It has more groups than fit, 256.
            return self._listed_groups()

    def _listed_groups(self) -> frozenset[int]:
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(errors="replace")
        except OSError:
            return frozenset()
        _, _, groups = status.partition("\nGroups:")
        return frozenset(int(group) for group in groups.partition("\n")[0].split())

    def __str__(self) -> str:
        if self._name is None:
            try:
                name = Path(f"/proc/{self.pid}/comm").read_text(errors="replace")
                self._name = safe_text(name.strip())
            except OSError:
                self._name = "unknown program"
        return f"client {self.number} ({self._name}, pid {self.pid}, uid {self.uid})"

    def executable(self) -> str:
        """The path of the program as its own file system names it; "" if it cannot be told."""
        try:
            return str(Path(f"/proc/{self.pid}/exe").readlink())
        except OSError:
            return ""

    def is_elsewhere(self) -> bool:
        """The process sees another root directory than we do: a flatpak, a container, a chroot.

        A daemon that is not root cannot tell it of other users' processes, and says no.
        """
        if self.pid == 0:
            return True  # not even its number exists where we are
        try:
            return not Path(f"/proc/{self.pid}/root").samefile("/")
        except OSError:
            return False
