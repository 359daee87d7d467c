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
from typing import NamedTuple, Protocol, TypeVar

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
        time.sleep(0.01)


class Needs(NamedTuple):
    """What a scenario wants of our daemon."""

    #: our own settings, not the quick ones
    default_settings: bool = False
    #: pcscd's driver for vpcd, not our own readers
    native_driver: bool = False
    #: on both sides the scripted driver (tests/native), which obeys the files in SCRIPT
    scripted_driver: bool = False


#: where the scripted driver finds its orders
SCRIPT = Path("/run/script")
#: names the scripted driver's library, for stages
LIBRARY_VARIABLE = "SCRIPTED_IFD_LIBRARY"


def _reader_conf(port: int, needs: Needs) -> str:
    library, device = str(VPCD_LIBRARY), f"/dev/null:{port}"
    if needs.scripted_driver:
        library, device = os.environ[LIBRARY_VARIABLE], str(SCRIPT)
        shutil.rmtree(SCRIPT, ignore_errors=True)
        SCRIPT.mkdir()
    path = Path("/run/reader.conf")
    path.write_text(f'FRIENDLYNAME "{READER}"\nDEVICENAME {device}\nLIBPATH {library}\nCHANNELID {port}\n')
    return str(path)


class Daemon(Protocol):
    def clients(self) -> int:
        """How many connections it has, or had and is still cleaning up after."""

    def terminate(self) -> int | None:
        """SIGTERM; the exit status."""

    def stop(self) -> None: ...

    @property
    def log(self) -> str: ...


class Reference:
    """Debian's pcscd with the native vpcd driver."""

    def __init__(self, port: int, needs: Needs) -> None:
        program = shutil.which("pcscd", path="/usr/sbin:/sbin")
        if program is None:
            raise FileNotFoundError("pcscd is not installed")
        self._log = Path("/run/reference.log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-f", "-c", _reader_conf(port, needs)], stdout=log, stderr=log
            )
        self._idle = 0
        self._idle = wait_serving(self._tasks)

    def _tasks(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def clients(self) -> int:
        return self._tasks() - self._idle

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def terminate(self) -> int | None:
        self._process.terminate()
        return self._process.wait(5)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for path in SOCKET.parent.iterdir():
            path.unlink()


class Ours:
    """pypcscd with its own vpcd readers."""

    def __init__(self, port: int, needs: Needs) -> None:
        self._log = Path("/run/ours.log")
        self._process = processes.Process(target=_serve, args=(port, needs, str(self._log)))
        self._process.start()
        wait_serving(self.clients)

    def clients(self) -> int:
        connected = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        return sum(words[5] == "03" and words[-1] == str(SOCKET) for words in connected)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def terminate(self) -> int | None:
        assert self._process.pid is not None
        if self._process.exitcode is None:
            os.kill(self._process.pid, signal.SIGTERM)
        self._process.join(5)
        return self._process.exitcode

    def stop(self) -> None:
        status = self.terminate()
        self._process.kill()
        if status != 0:
            raise LateError(f"pypcscd ended with {status}:\n{self.log}")
        if "Traceback" in self.log:
            raise LateError(f"pypcscd has a defect:\n{self.log}")


def _serve(port: int, needs: Needs, log: str) -> None:
    import logging

    from pypcscd import lifecycle
    from pypcscd.configuration.config import Config
    from pypcscd.configuration.device_options import vpcd_device
    from pypcscd.daemon import Daemon

    logging.basicConfig(filename=log, filemode="w", level=logging.INFO)
    if needs.native_driver or needs.scripted_driver:
        config = Config(reader_conf=Path(_reader_conf(port, needs)))
    else:
        config = Config(devices=(replace(vpcd_device(SLOTS, port, "127.0.0.1"), name=READER),))
    if not needs.default_settings:
        config = replace(config, settings=replace(config.settings, power_down_delay=QUICK_POWER_DOWN))
    lifecycle.run(Daemon(config))
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
