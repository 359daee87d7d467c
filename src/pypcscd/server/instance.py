"""One daemon per socket: its directory, its pid file, and what a dead daemon left behind."""

import contextlib
import fcntl
import logging
import os
import socket
from pathlib import Path

from pypcscd.paths import pid_path_of

log = logging.getLogger("pypcscd.server")

_OTHERWISE = "choose another path (--socket, or path in [[socket]])"


class InstanceError(Exception):
    """The socket cannot be had; the message says why and what to do."""


class Instance:
    """The right to serve a socket path: held from ``claim`` until ``release``.

    The pid file stands beside the socket and is locked for as long as the daemon lives; its content
    is for people and scripts.
    """

    def __init__(self, path: Path, *, is_inherited: bool = False) -> None:
        """``is_inherited``: the socket's file is the service manager's, and stays."""
        self.path = path
        self.pid_path = pid_path_of(path)
        self._is_inherited = is_inherited
        self._lock = -1

    def claim(self) -> None:
        """Make sure that nobody serves this socket, and that nobody else will. Raises InstanceError.

        An inherited socket is served also where no pid file can be made.
        """
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._lock_pid_file()
            if not self._is_inherited:
                self._check_socket()
            os.ftruncate(self._lock, 0)
            os.write(self._lock, f"{os.getpid()}\n".encode())
        except OSError as error:
            self._give_up()
            if self._is_inherited:
                log.info(
                    "no pid file %s: %s; --hotplug will not find this daemon", self.pid_path, error.strerror
                )
                return
            raise InstanceError(
                f"cannot serve {self.path}: {error.strerror or error}; "
                f"run as a user who may write there, or {_OTHERWISE}"
            ) from error
        except InstanceError:
            self._give_up()
            raise

    def release(self) -> None:
        """Remove the pid file, and the socket unless it is inherited."""
        if self._lock < 0:
            return
        for path in (self.pid_path,) if self._is_inherited else (self.path, self.pid_path):
            with contextlib.suppress(OSError):
                path.unlink()
        self._unlock()

    def _lock_pid_file(self) -> None:
        while True:
            self._lock = os.open(self.pid_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._unlock()
                raise self._running() from None
            # A daemon that was stopping may have removed the file between open and lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock), self.pid_path.stat()):
                    return
            self._unlock()

    def _check_socket(self) -> None:
        """Remove the socket of a daemon that has died; pcscd itself holds no lock, but answers."""
        if not self.path.is_socket():
            if self.path.exists():
                what = "a directory;" if self.path.is_dir() else "not a socket; remove it, or"
                raise InstanceError(f"{self.path} is {what} {_OTHERWISE}")
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # One that does not accept at this moment is there all the same.
            probe.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                try:
                    probe.connect(str(self.path))
                except ConnectionRefusedError:
                    self.path.unlink()
                    return
        raise self._running()

    def _running(self) -> InstanceError:
        pid = ""
        with contextlib.suppress(OSError):
            pid = self.pid_path.read_text(errors="replace").strip("\0\n ")
        who = f"a daemon (pid {pid})" if pid.isdecimal() else "a daemon"
        return InstanceError(f"{who} is already running on {self.path}; stop it first, or {_OTHERWISE}")

    def _give_up(self) -> None:
        """Leave everything as it was found: a pid file that is empty is the one just made."""
        if self._lock >= 0 and os.fstat(self._lock).st_size == 0:
            with contextlib.suppress(OSError):
                self.pid_path.unlink()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
