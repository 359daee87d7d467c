"""docs/remote.md: clients in containers and flatpaks, which see another root directory than the daemon."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from documented import DOCS, adapted, blocks
from harness import Background, Daemon, client_env, need, wait_for

PAGE = "remote.md"
CONTAINER, FLATPAK, ROOTLESS = "In a container", "In a flatpak", "Without root"
HELLO, MEMORY = "Virtual hello 00 00", "Virtual sle4442 01 00"
CARDS = ("--virtual", "hello", "--virtual", "sle4442")
NO_SERVICE = "SCardEstablishContext: Service not available."
NOBODY = 65534

StartDaemon = Callable[..., Daemon]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def home(short_dir: Path) -> Path:
    """The directory of the socket, which others may see."""
    short_dir.chmod(0o755)
    home = short_dir / "pcscd"
    home.mkdir()
    return home


def start(home: Path, stack: ExitStack, *args: str | Path, readers: int) -> Daemon:
    daemon = stack.enter_context(Daemon(home, args))
    daemon.wait_ready(readers)
    return daemon


def container(directory: Path, *more: str | Path) -> str:
    """The page's container without its program, with that directory at /run/pcscd."""
    need("bwrap", "pcsc_scan")
    command = blocks(PAGE, "sh")[CONTAINER][0]
    if subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a container")
    mounts = " ".join(map(str, more))
    text = adapted(command, {"--ro-bind /run/pcscd ": f"{mounts} --ro-bind {directory} ", "pcsc_scan -r": ""})
    return " ".join(text.replace("\\\n", " ").split())


def run(command: str, prefix: Sequence[str] = (), **env: str) -> str:
    words = [*prefix, "sh", "-c", command]
    done = subprocess.run(
        words, env=client_env(None, env), capture_output=True, text=True, timeout=30, check=False
    )
    print(f"$ {command}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Inside:
    """A container that lives on, in which one program after another is run."""

    def __init__(self, command: str, directory: Path, stack: ExitStack) -> None:
        script = 'while read line; do sh -c "$line" 2>&1; echo done; done'
        log = directory / "container.log"
        words = ["sh", "-c", f"exec {command} sh -c '{script}'"]
        self._process = stack.enter_context(Background(words, log, client_env(None)))

    def run(self, line: str) -> str:
        begin = len(self._process.log)
        stdin = self._process.process.stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        stdin.flush()
        end = self._process.wait_for_line("done\n", begin)
        return self._process.log[begin:end].removesuffix("done\n")


def test_a_mounted_directory_survives_a_restart(home: Path, short_dir: Path, stack: ExitStack) -> None:
    first = start(home, stack, *CARDS, readers=2)
    assert run(f"{container(home)} pcsc_scan -r") == f"0: {HELLO}\n1: {MEMORY}\n"
    inside = Inside(container(home), short_dir, stack)
    assert inside.run("pcsc_scan -r") == f"0: {HELLO}\n1: {MEMORY}\n"
    assert "Hello world!" in inside.run("opensc-tool -r 0 -s 00A404000AA00000006203010C0601 -s 00000000")
    first.stop()
    assert inside.run("pcsc_scan -r") == f"{NO_SERVICE}\n"
    start(home, stack, "--virtual", "hello", readers=1)
    assert inside.run("pcsc_scan -r") == f"0: {HELLO}\n"


def test_a_mounted_file_does_not(home: Path, short_dir: Path, stack: ExitStack) -> None:
    """This is what a flatpak with --socket=pcsc has."""
    first = start(home, stack, *CARDS, readers=2)
    command = adapted(
        container(home),
        {
            f"--ro-bind {home} /run/pcscd": f"--ro-bind {first.path} /run/pcscd/pcscd.comm "
            "--setenv PCSCLITE_CSOCK_NAME /run/pcscd/pcscd.comm"
        },
    )
    inside = Inside(command, short_dir, stack)
    assert inside.run("pcsc_scan -r") == f"0: {HELLO}\n1: {MEMORY}\n"
    first.stop()
    start(home, stack, "--virtual", "hello", readers=1)
    assert inside.run("pcsc_scan -r") == f"{NO_SERVICE}\n"
    page = (DOCS / PAGE).read_text()
    assert f"`{NO_SERVICE}`" in page
    again = Inside(command, short_dir, stack)
    assert again.run("pcsc_scan -r") == f"0: {HELLO}\n"


def test_a_container_with_a_socket_of_its_own(home: Path, short_dir: Path, stack: ExitStack) -> None:
    directory, settings = short_dir / "ci", short_dir / "pypcscd.toml"
    changes = {"/run/pcscd-ci": directory, "SIM bank *": "* sle4442 *"}
    settings.write_text(adapted(blocks(PAGE, "toml")[CONTAINER][0], changes))
    start(home, stack, *CARDS, "--settings", settings, readers=2)
    assert run(f"{container(directory)} pcsc_scan -r") == f"0: {MEMORY}\n"


#: prints how many records the table has that a 4.4 client gets
RECORDS = "import sys; from test_sockets import records, Path; print(records(Path(sys.argv[1])))"


def test_a_rule_for_one_program_elsewhere(home: Path, short_dir: Path, stack: ExitStack) -> None:
    """It gets the longer table, the same program here does not, nor does another one elsewhere."""
    settings = short_dir / "pypcscd.toml"
    program = Path(sys.executable).resolve()
    settings.write_text(adapted(blocks(PAGE, "toml")[FLATPAK][0], {"/app/bin/gnucash": program}))
    daemon = start(home, stack, *CARDS, "--settings", settings, readers=2)
    paths = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    python = {sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), *paths.split(":")} - {""}
    mounts = [f"--ro-bind {path} {path}" for path in sorted(python, key=len) if not path.startswith("/usr/")]
    inside = container(home, "--tmpfs /tmp", *mounts, f"--setenv PYTHONPATH {paths}")
    assert run(f'{inside} {sys.executable} -c "{RECORDS}" /run/pcscd/pcscd.comm') == "48\n"
    assert run(f'{sys.executable} -c "{RECORDS}" {daemon.path}', PYTHONPATH=paths) == "16\n"
    assert run(f"{container(home)} pcsc_scan -r") == f"0: {HELLO}\n1: {MEMORY}\n"


def test_without_root(short_dir: Path, stack: ExitStack) -> None:
    """The daemon, its client and a container, all of a user who may do nothing special."""
    reading: list[str] = []
    user: list[str] = []
    run_dir = short_dir / "run"
    run_dir.mkdir()
    if os.geteuid() == 0:
        need("setpriv")
        short_dir.chmod(0o755)
        os.chown(run_dir, NOBODY, NOBODY)
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all"]
        # the checkout may lie where nobody else may look
        rights = "-all,+dac_read_search"
        reading = [*user[:-1], f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set={rights}"]
    serving, listing = blocks(PAGE, "sh")[ROOTLESS]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"XDG_RUNTIME_DIR": str(run_dir), "PATH": path}
    command = [*reading, "sh", "-c", f"exec {serving}"]
    daemon = stack.enter_context(Background(command, short_dir / "daemon.log", client_env(None, env)))
    daemon.wait_for_line("serving on")
    assert run(listing, user, **env) == f"0: {HELLO}\n"
    if run("unshare --user true", user):
        pytest.skip("this machine lets no ordinary user make a container")
    assert run(f"{container(run_dir / 'pcscd')} pcsc_scan -r", user, **env) == f"0: {HELLO}\n"
    assert daemon.end(signal.SIGTERM) == 0
    wait_for(lambda: not list((run_dir / "pcscd").iterdir()), "nothing is left")
