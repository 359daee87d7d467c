"""Fixtures: the same tests on virtual readers, on the vpcd protocol, through a native driver, and on
Debian's C daemon, which shows that the tests expect what programs get today."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# pytest imports by path (importlib mode), so the helpers beside this file need a path of their own
sys.path.insert(0, str(Path(__file__).parent))

from emulator import SELECT_HELLO, Emulator, MemoryCard
from harness import (
    CLIENTS,
    VPCD_LIBRARY,
    Backend,
    Daemon,
    Reference,
    Vicc,
    free_ports,
    missing,
    need,
)

HELLO_EXCHANGE = [(SELECT_HELLO.hex().upper(), "9000"), ("00000000", b"Hello world!\x90\x00".hex().upper())]
# select the master file; eight random bytes; an instruction that does not exist
VICC_EXCHANGE = [("00A4000C023F00", "9000"), ("0084000008", "[0-9A-F]{16}9000"), ("00FF0000", "6D00")]
VICC_ATR = "3B951381018073FF01000B"


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's (pytest's own are too long)."""
    with tempfile.TemporaryDirectory(prefix="pypcscd-test-") as name:
        yield Path(name)


def _reader_conf(directory: Path, port: int) -> Path:
    if not VPCD_LIBRARY.exists():
        missing(f"{VPCD_LIBRARY} is not installed")
    folder = directory / "reader.conf.d"
    folder.mkdir()
    (folder / "vpcd").write_text(
        f'FRIENDLYNAME "Virtual PCD"\nDEVICENAME /dev/null:{port}\nLIBPATH {VPCD_LIBRARY}\nCHANNELID {port}\n'
    )
    return folder


def _start_backend(name: str, directory: Path, stack: ExitStack) -> Backend:
    def started(daemon: Daemon) -> Daemon:
        stack.callback(daemon.stop)
        daemon.wait_ready(2)
        return daemon

    if name == "virtual":
        daemon = started(Daemon(directory, ["--virtual", "hello", "--virtual", "sle4442"]))
        backend = Backend(name, daemon, "", HELLO_EXCHANGE)
    else:
        port = free_ports(2)
        if name == "vpcd":
            daemon = Daemon(directory, ["--vpcd", "2", "--vpcd-port", str(port)])
        elif name == "native":
            daemon = Daemon(directory, ["-c", _reader_conf(directory, port)])
        else:
            if not Reference.usable():
                pytest.skip("the comparison needs pcscd and a mount namespace")
            daemon = Reference(directory, ["-c", _reader_conf(directory, port)])
        started(daemon)
        vicc = Vicc(directory, port)
        stack.callback(vicc.end)
        emulator = Emulator(port + 1, MemoryCard())
        emulator.plug()
        stack.callback(emulator.unplug)
        backend = Backend(name, daemon, VICC_ATR, VICC_EXCHANGE, emulator=emulator)
    backend.states = daemon.wait_readers(
        lambda found: len(found) == 2 and all(state.present for state in found), "two readers with cards"
    )
    backend.atr = backend.atr or backend.states[0].atr.hex().upper()
    return backend


@pytest.fixture(scope="session", params=["virtual", "vpcd", "native", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A daemon with two cards, one for all tests of the session; tests leave the cards in."""
    with tempfile.TemporaryDirectory(prefix="pypcscd-test-") as name, ExitStack() as stack:
        yield _start_backend(request.param, Path(name), stack)


@pytest.fixture
def start_daemon(short_dir: Path) -> Iterator[Callable[..., Daemon]]:
    """Start a daemon with the given arguments and wait for its readers; stopped at the end."""
    with ExitStack() as stack:

        def start(*args: str | Path, readers: int | None = 0) -> Daemon:
            daemon = Daemon(short_dir, args)
            stack.callback(daemon.stop)
            if readers is not None:
                daemon.wait_ready(readers)
            return daemon

        yield start


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile a C program of tests/clients against libpcsclite-dev, or a driver with ``shared``."""
    need("gcc")
    if not Path("/usr/include/PCSC/winscard.h").exists():
        missing("libpcsclite-dev is not installed")
    folder = tmp_path_factory.mktemp("compiled")

    def compile_once(source: str, *, shared: bool = False, flags: tuple[str, ...] = ()) -> Path:
        # letters that reader.conf takes without quotes
        name = "".join(c for c in Path(source).stem + "".join(flags) if c.isalnum() or c in "_-")
        out = folder / (f"{name}.so" if shared else name)
        if not out.exists():
            kind = ["-shared", "-fPIC"] if shared else []
            command = ["gcc", "-Wall", "-Wextra", "-Werror", "-I/usr/include/PCSC", *kind, *flags]
            libraries = [] if shared else ["-lpcsclite"]
            subprocess.run([*command, "-o", str(out), str(CLIENTS / source), *libraries], check=True)
        return out

    return compile_once


@pytest.fixture(scope="session")
def libpcsclite() -> Path:
    """The client library, where the dynamic linker finds it."""
    ldconfig = shutil.which("ldconfig", path="/sbin:/usr/sbin") or "ldconfig"
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    found = [line for line in listing.splitlines() if line.strip().startswith("libpcsclite.so.1 ")]
    if not found:
        missing("libpcsclite1 is not installed")
    return Path(found[0].rpartition("=> ")[2])


@pytest.fixture
def native_conf(short_dir: Path, compiled: Callable[..., Path]) -> tuple[Path, Path]:
    """A reader.conf.d with a driver of our own (``aborting_ifd.c``), and that driver's library."""
    library = compiled("aborting_ifd.c", shared=True)
    folder = short_dir / "native.conf.d"
    folder.mkdir()
    (folder / "aborting").write_text(f'FRIENDLYNAME "Aborting"\nLIBPATH {library}\nCHANNELID 1\n')
    return folder, library
