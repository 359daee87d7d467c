"""The files that belong to a client socket, by their names; nothing here opens or makes one."""

from pathlib import Path

#: what the name of an admin socket ends in
ADMIN_SUFFIX = ".admin"
#: bytes of a socket's path, as the kernel's sun_path holds them, without the final NUL
_LONGEST = 107


def pid_path_of(socket: Path) -> Path:
    """pcscd.pid for the socket pcscd.comm, as pcscd has it; bank.1.pid for bank.1."""
    return socket.with_name(f"{socket.name.removesuffix('.comm')}.pid")


def admin_path_of(socket: Path) -> Path:
    """pcscd.admin for the socket pcscd.comm, if that is the daemon's own."""
    return socket.with_suffix(ADMIN_SUFFIX)


def excess(path: Path) -> str:
    """In words, that a path is too long for a socket; "" if it is not."""
    length = len(bytes(path))
    if length <= _LONGEST:
        return ""
    return f"a socket's path has {_LONGEST} bytes at most; this one has {length}"


def resolved(path: Path) -> Path:
    """The same for all names of a file: /var/run is a link to /run."""
    return path.parent.resolve() / path.name
