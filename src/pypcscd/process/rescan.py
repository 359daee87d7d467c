"""``pypcscd --hotplug``: have the running daemon look for readers again."""

import fcntl
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from pypcscd.paths import pid_path_of

#: the daemon that we take the place of holds no lock on its pid file
_OTHER_DAEMON = "pcscd"


def ask_for_rescan(socket: Path) -> int:
    """Send SIGUSR1 to the daemon on this socket; returns the exit status, 0 or 1."""
    pid_path = pid_path_of(socket)
    try:
        pid = _running(pid_path)
        if pid:
            os.kill(pid, signal.SIGUSR1)
    except OSError as error:
        todo = "; become root, or the user who runs it" if isinstance(error, PermissionError) else ""
        return _fail(f"the daemon of {pid_path} cannot be told to look for readers: {error.strerror}{todo}")
    if not pid:
        return _fail(
            f"no daemon is running on {socket} (pid file {pid_path}); start one, or name its --socket"
        )
    return 0


def _running(pid_path: Path) -> int:
    """The process number in the pid file, 0 if it is not that of a living daemon. Raises OSError."""
    try:
        with pid_path.open("rb") as file:
            text = file.read().strip(b"\0\n ")
            is_locked = _is_locked(file.fileno())
    except FileNotFoundError:
        return 0
    if not text.isdigit():
        return 0
    name = ""
    with suppress(OSError):
        name = Path(f"/proc/{int(text)}/comm").read_text().strip()
    # A number that was left by a dead daemon may be anybody's by now.
    return int(text) if is_locked or name == _OTHER_DAEMON else 0


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _fail(text: str) -> int:
    sys.stderr.write(f"pypcscd: {text}\n")
    return 1
