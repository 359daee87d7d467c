"""The daemons that are compared, each with readers and cards of its own, in one private namespace."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn, Self

from bench import processes
from bench.programs import BrokenError, Conversation, Programs
from pypcscd.scard import PcscError
from pypcscd.tools.client import Client, ClientError

VPCD_LIBRARY = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
#: slots of a reader of that library
LIBRARY_SLOTS = 2
#: bits of a reader's state
PRESENT = 0x04
RUN = Path("/run")
#: where libpcsclite's is compiled in; the directory is pcscd's alone
REFERENCE_SOCKET = RUN / "pcscd" / "pcscd.comm"


class Kind(NamedTuple):
    """One of the things that are compared."""

    key: str
    title: str
    #: of the first slot
    port: int
    is_ours: bool
    uses_library: bool

    @property
    def socket(self) -> Path:
        return RUN / self.key / "pcscd.comm" if self.is_ours else REFERENCE_SOCKET

    def command(self, readers: int, pypcscd: Path) -> list[str]:
        """The command line of a daemon with so many slots."""
        if not self.is_ours:
            program = shutil.which("pcscd", path="/usr/sbin:/sbin")
            if program is None:
                raise BrokenError("pcscd is not installed; make setup installs it")
            return [program, "-f", "-c", str(self._reader_conf(readers))]
        ours = [str(pypcscd), "-f", "--socket", str(self.socket)]
        if self.uses_library or not readers:
            return [*ours, "-c", str(self._reader_conf(readers))]
        return [*ours, "--vpcd", str(readers), "--vpcd-port", str(self.port)]

    def _reader_conf(self, readers: int) -> Path:
        folder = RUN / f"{self.key}-{readers}"
        libraries = RUN / f"{self.key}-libraries"
        for path in (folder, libraries):
            path.mkdir(exist_ok=True)
        text = ""
        for number in range(0, readers, LIBRARY_SLOTS):
            # A copy for each reader: the library keeps its state by a number that pcscd gives to the
            # first slot of every configured reader alike, so that two of them would mix up their cards.
            library = libraries / f"{number:02}.so"
            shutil.copyfile(VPCD_LIBRARY, library)
            port = self.port + number
            text += f'FRIENDLYNAME "Bench {number:02}"\nDEVICENAME /dev/null:{port}\n'
            text += f"LIBPATH {library}\nCHANNELID {port}\n"
        if text:
            (folder / "readers").write_text(text)
        return folder


PCSCD = Kind("pcscd", "pcscd", 20000, is_ours=False, uses_library=True)
VPCD = Kind("vpcd", "pypcscd, built-in vpcd", 21000, is_ours=True, uses_library=False)
NATIVE = Kind("native", "pypcscd, libifdvpcd", 22000, is_ours=True, uses_library=True)
KINDS = (PCSCD, VPCD, NATIVE)


class Daemon:
    """A running daemon with readers, and its cards, which are all in."""

    def __init__(self, kind: Kind, readers: int, programs: Programs, cpu: int | None) -> None:
        self.kind, self.cpu = kind, cpu
        self._programs = programs
        self.log = RUN / f"{kind.key}.log"
        kind.socket.parent.mkdir(exist_ok=True)
        pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*pinned, *kind.command(readers, programs.pypcscd)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._emulator: Conversation | None = None
        try:
            self.wait("its readers", lambda: self._ask(False) is not None and len(self.readers()) == readers)
            if readers:
                for number in range(readers):
                    self.emulator.ask(f"insert {number}")
                self.wait("its cards", lambda: len(self.readers(with_card=True)) == readers)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._emulator is not None:
            self._emulator.__exit__()
        # pcscd leaves its files where it was killed
        for path in self.kind.socket.parent.iterdir():
            path.unlink()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def emulator(self) -> Conversation:
        """The cards, see emulator.c."""
        if self._emulator is None:
            command: list[str | Path] = [self._programs["emulator"], str(self.kind.port), "128"]
            self._emulator = Conversation(command, os.environ, self.cpu, timeout=1000)
        return self._emulator

    def client(self, program: str, *arguments: object) -> Conversation:
        """A client of this daemon that is ready to measure."""
        env = {**os.environ, "PCSCLITE_CSOCK_NAME": str(self.kind.socket)}
        command: list[str | Path] = [self._programs[program], *map(str, arguments)]
        return Conversation(command, env, self.cpu).await_ready()

    def readers(self, with_card: bool = False) -> list[str]:
        """Their names, in the daemon's order."""
        return self._ask(with_card) or []

    def _ask(self, with_card: bool) -> list[str] | None:
        if self._process.poll() is not None:
            self._fail("ended")
        # it does not serve yet
        with suppress(ClientError, PcscError, OSError):
            client = Client(self.kind.socket)
            try:
                table = client.readers()
            finally:
                client.close()
            return [each.name for each in table if not with_card or (each.state & PRESENT and each.atr)]
        return None

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self._fail(f"does not show {what}")
            time.sleep(0.02)

    def _fail(self, what: str) -> NoReturn:
        raise BrokenError(f"{self.kind.title} {what}:\n{self.log.read_text(errors='replace')[-3000:]}")

    def cpu_seconds(self) -> float:
        return processes.cpu_seconds(self.pid)

    def pin(self, cpus: set[int]) -> None:
        processes.allow(self.pid, cpus)
        if self._emulator is not None:
            processes.allow(self._emulator.pid, cpus)
