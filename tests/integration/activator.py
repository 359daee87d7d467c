"""What systemd does for a socket unit: listens, starts the daemon when somebody connects, and again
when it has ended. The sockets stay; so do those who wait in their queues."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from harness import PYPCSCD, client_env, wait_for

# The variable needs the daemon's own number, so it is set by the process that becomes the daemon.
_BECOME = """
import os, sys
descriptors, names, program = [int(w) for w in sys.argv[1].split(",")], sys.argv[2], sys.argv[3:]
spare = [os.dup2(descriptor, 100 + number) for number, descriptor in enumerate(descriptors)]
for number, descriptor in enumerate(spare):
    os.dup2(descriptor, 3 + number, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(spare)))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(program[0], program)
"""


def listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(128)
    return listening


class Activator:
    """Runs from ``with`` to its end, when the daemon is told to end too."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        args: Sequence[str | Path],
        log: Path,
        *,
        names: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._sockets = sockets
        self._args = args
        self.log_path = log
        self._names = names
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        #: exit statuses of the daemons that have ended
        self.statuses: list[int] = []
        self._end_reading, self._end_writing = os.pipe()
        self._thread = threading.Thread(target=self._run)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._end_writing, b"x")
        self._thread.join()
        for descriptor in (self._end_reading, self._end_writing):
            os.close(descriptor)
        for listening in self._sockets:
            listening.close()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the daemon now."""
        descriptors = [listening.fileno() for listening in self._sockets]
        command = [sys.executable, "-S", "-c", _BECOME, ",".join(map(str, descriptors)), self._names]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(PYPCSCD), "-f", *map(str, self._args)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=client_env(None, self._env),
                pass_fds=descriptors,
            )
        self.starts += 1
        return self._process

    def stop_daemon(self) -> None:
        """As ``systemctl stop`` of the service, but not of the socket; returns when it has ended."""
        assert self._process is not None
        ended = len(self.statuses)
        self._process.terminate()
        wait_for(lambda: len(self.statuses) > ended, "the end of the daemon")

    def _run(self) -> None:
        while True:
            poll = select.poll()
            for descriptor in (self._end_reading, *self._sockets):
                poll.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._end_reading in ready:
                return
            process = self.start()
            pidfd = os.pidfd_open(process.pid)
            both = select.poll()
            both.register(pidfd, select.POLLIN)
            both.register(self._end_reading, select.POLLIN)
            if self._end_reading in {descriptor for descriptor, _ in both.poll()}:
                process.send_signal(signal.SIGTERM)
            os.close(pidfd)
            self.statuses.append(process.wait())
