"""A private /run and a private loopback, so that any number of daemons can have the socket and the
ports that are compiled into the programs.

Unsharing happens in the process itself, before it starts anything.
"""

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

_NEW_MOUNTS, _NEW_NETWORK, _NEW_USERS = 0x00020000, 0x40000000, 0x10000000
_REC, _PRIVATE = 0x4000, 0x40000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1


def enter() -> None:
    """Raises OSError where the system does not allow it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int, what: str) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    uid, gid = os.geteuid(), os.getegid()
    flags = _NEW_MOUNTS | _NEW_NETWORK | (0 if uid == 0 else _NEW_USERS)
    checked(libc.unshare(flags), "unshare")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    checked(libc.mount(b"none", b"/", None, _REC | _PRIVATE, None), "mount")
    checked(libc.mount(b"none", b"/run", b"tmpfs", 0, None), "mount of /run")
    _raise_loopback()


def _raise_loopback() -> None:
    with socket.socket() as control:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack("16xH22x", fcntl.ioctl(control, _GET_FLAGS, request))[0]
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH22x", b"lo", flags | _UP))
