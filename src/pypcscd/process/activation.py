"""Sockets that the service manager has opened for us: sd_listen_fds(3)."""

import os
import stat
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pypcscd.configuration.config import DaemonError
from pypcscd.paths import ADMIN_SUFFIX

if TYPE_CHECKING:
    import socket

_FIRST_DESCRIPTOR = 3
_ADMIN_NAME = "admin"


class Inherited(NamedTuple):
    """The sockets handed over; their files belong to the service manager, and so do mode and owner."""

    #: for clients, by path, in the order in which they were handed over
    clients: "dict[Path, socket.socket]"
    admin: "socket.socket | None" = None


def inherited_sockets(environment: MutableMapping[str, str]) -> Inherited:
    """The sockets that LISTEN_FDS speaks of, if it is meant for this process. Raises DaemonError.

    The variables are taken out of the environment, so that no helper thinks that they mean it. The
    admin socket is the one that is named "admin" (FileDescriptorName=), or whose path ends in ".admin".
    """
    pid, count, names = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return Inherited({})
    clients: dict[Path, socket.socket] = {}
    admin: socket.socket | None = None
    labels = names.split(":")
    for index in range(int(count)):
        name = labels[index] if index < len(labels) else ""
        listening, path = _adopt(_FIRST_DESCRIPTOR + index, name)
        if name == _ADMIN_NAME or path.suffix == ADMIN_SUFFIX:
            if admin is not None:
                raise DaemonError(f"two admin sockets were handed over; the second is {path}")
            admin = listening
        elif path in clients:
            raise DaemonError(f"the socket {path} was handed over twice; list it once in the .socket units")
        else:
            clients[path] = listening
    return Inherited(clients, admin)


def _adopt(descriptor: int, name: str) -> "tuple[socket.socket, Path]":
    # Not needed by a daemon that opens its sockets itself.
    import socket

    what = f"the descriptor {descriptor}{f' ({name})' if name else ''} handed over by the service manager"
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise DaemonError(f"{what} cannot be used: {error.strerror}") from error
    if not is_socket:
        raise DaemonError(f"{what} is no socket; only ListenStream= with a path can be served")
    listening = socket.socket(fileno=descriptor)
    listening.set_inheritable(False)
    listening.setblocking(False)
    address = listening.getsockname() if listening.family == socket.AF_UNIX else ""
    is_listening = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (
        listening.type != socket.SOCK_STREAM
        or not is_listening
        or not isinstance(address, str)
        or not address
    ):
        raise DaemonError(
            f"{what} is no listening Unix socket with a path; correct ListenStream= in the unit"
        )
    return listening, Path(address)
