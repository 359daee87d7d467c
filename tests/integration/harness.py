"""Daemons, emulators and client programs as the integration tests start and stop them."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self, TypeVar

import pytest
from emulator import Emulator
from wire import ReaderState, WireClient

CLIENTS = Path(__file__).parent.parent / "clients"
PYPCSCD = Path(sys.executable).with_name("pypcscd")
VPCD_LIBRARY = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")

T = TypeVar("T")


def missing(what: str) -> NoReturn:
    """Skip at home, fail in CI: there, a test that silently does not run is worse than a red one."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}; make setup installs it")
    pytest.skip(f"{what}; make setup installs it")


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            missing(f"{program} is not installed")


def need_root() -> None:
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("only root can test this")
        pytest.skip("only root can test this")


def wait_for(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Poll until the condition holds, and return its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {what}")
        time.sleep(0.02)


def free_ports(count: int) -> int:
    """The first of ``count`` consecutive free ports, below those that outgoing connections get."""
    while True:
        first = random.randrange(20000, 32000)
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
            return first


def client_env(path: Path | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    env = {**os.environ, "LC_ALL": "C.UTF-8", **(extra or {})}
    env.pop("PCSCLITE_CSOCK_NAME", None)
    if path is not None:
        env["PCSCLITE_CSOCK_NAME"] = str(path)
    return env


def children(pid: int) -> list[int]:
    """All living descendants of a process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents.setdefault(int(parent), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        new = parents.get(todo.pop(), [])
        found += new
        todo += new
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Background:
    """A process whose output goes to a file, so that a test can look at it while it runs."""

    def __init__(self, args: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> None:
        self.log_path = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(arg) for arg in args],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=dict(env),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_line(self, text: str, after: int = 0, timeout: float = 10.0) -> int:
        """Wait until the output contains the text beyond the position; the position after it."""

        def position() -> int:
            return self.log.find(text, after) + 1

        try:
            return wait_for(position, f"{text!r} in the output", timeout) - 1 + len(text)
        except BaseException:
            print(f"--- {self.log_path.name}:\n{self.log}")
            raise

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def end(self, signum: int = signal.SIGTERM, timeout: float = 5.0) -> int:
        """Signal the process unless it is gone already; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.wait(timeout)

    def wait(self, timeout: float = 5.0) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            pytest.fail(f"{self.process.args!r} does not end; its output:\n{self.log}")
        finally:
            self.close_stdin()


class Daemon(Background):
    """A daemon on a socket of its own."""

    def __init__(self, directory: Path, args: Sequence[str | Path]) -> None:
        self.path = directory / "pcscd.comm"
        number = len(list(directory.glob("daemon*.log")))
        super().__init__(self.command(args), directory / f"daemon{number}.log", client_env(None))

    def command(self, args: Sequence[str | Path]) -> list[str | Path]:
        return [PYPCSCD, "-f", "--socket", self.path, *args]

    def readers(self) -> list[ReaderState]:
        """The readers as a new client sees them; nothing while the daemon does not serve."""
        with suppress(OSError, EOFError), WireClient(self.path) as client:
            client.establish()
            return client.readers()
        return []

    def wait_readers(
        self, holds: Callable[[list[ReaderState]], object], what: str, timeout: float = 15.0
    ) -> list[ReaderState]:
        def condition() -> list[ReaderState] | None:
            if self.process.poll() is not None:
                pytest.fail(f"the daemon ended with {self.process.returncode}:\n{self.log}")
            found = self.readers()
            return found if holds(found) else None

        try:
            found = wait_for(condition, what, timeout)
        except BaseException:
            print(f"--- {self.log_path.name}:\n{self.log}\n--- readers: {self.readers()}")
            raise
        assert found is not None
        return found

    def wait_ready(self, readers: int) -> list[ReaderState]:
        return self.wait_readers(lambda found: len(found) == readers, f"{readers} readers")

    def stop(self, timeout: float = 3.0) -> None:
        """Stop in order, and check that it was in order."""
        helpers = children(self.process.pid)
        status = self.end(timeout=timeout)
        assert status == 0, f"exit status {status}:\n{self.log}"
        assert "Traceback" not in self.log, self.log
        left = [pid for pid in helpers if alive(pid)]
        assert not left, f"processes {left} are left:\n{self.log}"


class Reference(Daemon):
    """Debian's C daemon. Its socket's directory is compiled in, so it gets a private /run."""

    def command(self, args: Sequence[str | Path]) -> list[str | Path]:
        prepare = 'mount -t tmpfs none /run; mkdir /run/pcscd; mount --bind "$0" /run/pcscd'
        script = f'{prepare}; exec {self._program()} -f "$@"'
        return [*self._namespace(), "sh", "-ec", script, self.path.parent, *args]

    @staticmethod
    def _program() -> str | None:
        return shutil.which("pcscd", path="/usr/sbin:/sbin")

    @staticmethod
    def _namespace() -> list[str | Path]:
        return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]

    @classmethod
    def usable(cls) -> bool:
        test = [*cls._namespace(), "mount", "-t", "tmpfs", "none", "/run"]
        return bool(cls._program()) and subprocess.run(test, capture_output=True, check=False).returncode == 0


class Vicc(Background):
    """The card emulator of the vsmartcard project, in its role of an ISO 7816 card."""

    def __init__(self, directory: Path, port: int) -> None:
        # Debian 12 puts the emulator's modules where no interpreter looks, and its crypto library
        # under another name: the program runs unchanged, in our virtual environment, with a path to them
        need("vicc")
        for base in ("/usr/lib/python3/site-packages/virtualsmartcard", "/usr/lib/python3/dist-packages"):
            modules = Path(base, "virtualsmartcard")
            if (modules / "VirtualSmartcard.py").exists():
                break
        else:
            missing("python3-virtualsmartcard is not installed")
        (directory / "vicc").mkdir(exist_ok=True)
        link = directory / "vicc" / "virtualsmartcard"
        if not link.exists():
            link.symlink_to(modules)
        env = {"PYTHONPATH": str(link.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        program = shutil.which("vicc") or ""
        args = [sys.executable, program, "--hostname", "127.0.0.1", "--port", str(port)]
        super().__init__(args, directory / "vicc.log", client_env(None, env))


@dataclass
class Backend:
    """A daemon with two cards: one that answers the exchange below, and an SLE4442."""

    name: str
    daemon: Daemon
    atr: str
    #: commands and the regular expressions that their answers match, in hexadecimal
    exchange: list[tuple[str, str]]
    states: list[ReaderState] = field(default_factory=list)
    #: the second reader's card, where it is one of ours
    emulator: Emulator | None = None

    @property
    def readers(self) -> list[str]:
        return [state.name for state in self.states]

    def run(
        self, args: Sequence[str | Path], timeout: float = 40.0, stdin: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a client to its end; a failing one shows all its output."""
        return run_client(self.daemon, args, timeout, stdin, **env)

    def watch(self, args: Sequence[str | Path], log: Path) -> Background:
        """Start a client that runs until it is stopped."""
        return Background(args, log, client_env(self.daemon.path))


def run_client(
    daemon: Daemon, args: Sequence[str | Path], timeout: float = 40.0, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(arg) for arg in args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=client_env(daemon.path, env),
        check=False,
    )
    if result.returncode:
        print(f"--- {result.args} ended with {result.returncode}\n{result.stdout}{result.stderr}")
        print(f"--- daemon:\n{daemon.log[-4000:]}")
    return result
