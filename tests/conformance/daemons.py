"""The two daemons that are compared, each started afresh for a scenario, on the usual socket."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from wire import ReaderState, WireClient

SOCKET = Path("/run/pcscd/pcscd.comm")
VPCD_LIBRARY = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
READER = "Virtual PCD"
SLOTS = 2
#: pcscd looks every 400 ms at readers that it must poll and powers an unused card off at the second
#: look; with this, ours does it about as soon, so that scenarios need not wait for 5 seconds
QUICK_POWER_DOWN = 0.5

processes = multiprocessing.get_context("forkserver")

T = TypeVar("T")


class LateError(AssertionError):
    """Something did not happen that had to."""


def wait_for(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Poll until the condition holds, and return its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LateError(f"not within {timeout} s: {what}")
        time.sleep(0.004)


class Daemon(Protocol):
    def clients(self) -> int:
        """How many connections it has, or had and is still cleaning up after."""

    def stop(self) -> None: ...

    @property
    def log(self) -> str: ...


class Reference:
    """Debian's pcscd with the native vpcd driver."""

    def __init__(self, port: int, *, quick: bool) -> None:
        folder = Path("/run/reader.conf.d")
        folder.mkdir(exist_ok=True)
        (folder / "vpcd").write_text(
            f'FRIENDLYNAME "{READER}"\nDEVICENAME /dev/null:{port}\n'
            f"LIBPATH {VPCD_LIBRARY}\nCHANNELID {port}\n"
        )
        program = shutil.which("pcscd", path="/usr/sbin:/sbin")
        if program is None:
            raise FileNotFoundError("pcscd is not installed")
        self._log = Path("/run/reference.log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([program, "-f", "-c", str(folder)], stdout=log, stderr=log)
        self._idle = 0
        self._idle = wait_serving(self._tasks)

    def _tasks(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def clients(self) -> int:
        return self._tasks() - self._idle

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for path in SOCKET.parent.iterdir():
            path.unlink()


class Ours:
    """pypcscd with its own vpcd readers."""

    def __init__(self, port: int, *, quick: bool) -> None:
        self._log = Path("/run/ours.log")
        self._process = processes.Process(target=_serve, args=(port, quick, str(self._log)))
        self._process.start()
        self._idle = 0
        self._idle = wait_serving(self._sockets)

    def _sockets(self) -> int:
        count = 0
        for link in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with suppress(OSError):
                count += str(link.readlink()).startswith("socket:")
        return count

    def clients(self) -> int:
        return self._sockets() - self._idle

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.join(5)
        status = self._process.exitcode
        self._process.kill()
        if status != 0:
            raise LateError(f"pypcscd ended with {status}:\n{self.log}")
        if "Traceback" in self.log:
            raise LateError(f"pypcscd has a defect:\n{self.log}")


def _serve(port: int, quick: bool, log: str) -> None:
    import asyncio
    import logging

    from pypcscd.config import DEFAULT_SOCKET, Config, vpcd_device
    from pypcscd.daemon import serve

    logging.basicConfig(filename=log, filemode="w", level=logging.INFO)
    device = replace(vpcd_device(SLOTS, port, "127.0.0.1"), name=READER)
    config = Config(socket=DEFAULT_SOCKET, devices=(device,))
    if quick:
        config = replace(config, settings=replace(config.settings, power_down_delay=QUICK_POWER_DOWN))
    asyncio.run(serve(config))
    sys.exit(0)


DAEMONS: dict[str, Callable[..., Daemon]] = {"pcscd": Reference, "ours": Ours}


def table() -> list[ReaderState]:
    """The readers as a new client sees them; nothing while the daemon does not serve."""
    with suppress(OSError, EOFError), WireClient(SOCKET) as client:
        client.establish()
        return client.readers()
    return []


def wait_serving(connections: Callable[[], int]) -> int:
    """Wait until the readers are there; returns how many connections (or threads) that leaves."""
    wait_for(lambda: len(table()) == SLOTS, "readers")
    # the connections that asked are gone when the number does not fall any more
    last = connections()
    while True:
        time.sleep(0.01)
        now = connections()
        if now >= last:
            return now
        last = now
