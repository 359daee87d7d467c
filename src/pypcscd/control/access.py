"""Who may use the admin socket: root, and whoever the daemon itself is."""

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")
_SO_PEERGROUPS = 59
#: the most that Python's getsockopt takes
_GROUPS_BYTES = 1024


def describe_peer(connection: socket.socket) -> tuple[int, int, int]:
    """pid, uid and gid of whoever connected (unix(7), SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


def is_admin(connection: socket.socket) -> bool:
    """Root, the daemon's user, or a member of the daemon's group."""
    _, uid, gid = describe_peer(connection)
    if uid in (0, os.geteuid()) or gid == os.getegid():
        return True
    return os.getegid() in _supplementary_groups(connection)


def _supplementary_groups(connection: socket.socket) -> frozenset[int]:
    try:
        listed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return frozenset()  # more than fit: such a user has to be named by the primary group
    return frozenset(struct.unpack(f"{len(listed) // 4}I", listed))
