"""docs/remote.md: sockets forwarded by ssh, by the commands that the page shows."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import pytest
from documented import DOCS, adapted, blocks
from emulator import Emulator, MemoryCard, Power
from harness import CLIENTS, Background, Daemon, children, client_env, free_ports, need, need_root, wait_for
from sshd import USERS, Sshd
from wire import WireClient

PAGE = "remote.md"
SOCKET = "/run/pcscd/pcscd.comm"
THERE, HERE = "Use the readers of another machine", "Let another machine use our readers"
STALE, ONE, DEATH = (
    "The socket file that is left behind",
    "Show one reader only",
    "When the connection breaks",
)
HELLO, MEMORY = "Virtual hello 00 00", "Virtual sle4442 01 00"
CARDS = ("--virtual", "hello", "--virtual", "sle4442")

WITHOUT_DAEMON = ("Service not available", "Access denied", "RPC transport error")

StartDaemon = Callable[..., Daemon]


def script(heading: str, number: int) -> str:
    return blocks(PAGE, "sh")[heading][number]


def said_in_page(*texts: str) -> None:
    """What programs say, the page must say too."""
    page = (DOCS / PAGE).read_text()
    for text in texts:
        assert f"`{text}" in page, f"{text!r} is not in {PAGE}"


class Machines:
    """Two machines in one: ``ssh HOST`` reaches this one, whatever HOST is."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        need("pcsc_scan")
        self.directory = directory
        self.run_dir = directory / "run"
        self.run_dir.mkdir()
        self._stack = stack
        self._tunnels = 0
        self.sshd: Sshd | None = None

    def start_sshd(self, *options: str) -> Sshd:
        directory = self.directory / "ssh"
        directory.mkdir()
        self.sshd = self._stack.enter_context(Sshd(directory, *options))
        return self.sshd

    def env(self, socket: Path | None = None) -> dict[str, str]:
        assert self.sshd is not None
        path = f"{Path(sys.executable).parent}:{self.sshd.path}"
        return client_env(socket, {"PATH": path, "XDG_RUNTIME_DIR": str(self.run_dir)})

    def run(self, text: str, socket: Path | None = None) -> str:
        """What a script says; a failing one says so at the end."""
        command = ["sh", "-c", text]
        env = self.env(socket)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
        said = f"{done.stdout}{done.stderr}(ended with {done.returncode})\n"
        print(f"$ {text}\n{said}")
        return said

    def start(self, text: str) -> Background:
        """A command that goes on running."""
        self._tunnels += 1
        log = self.directory / f"background{self._tunnels}.log"
        return self._stack.enter_context(Background(["sh", "-c", f"exec {text}"], log, self.env()))

    def forward(self, target: Path, name: str = "desk.comm", host: str = "desk") -> tuple[Background, Path]:
        """The page's ``ssh -L``, and the socket that it makes here."""
        changes = {SOCKET: target, "desk.comm": name, " desk\n": f" {host}\n"}
        path = self.run_dir / name
        tunnel = self.start(adapted(script(THERE, 0), changes))
        wait_for(lambda: tunnel.process.poll() is not None or answers(path), f"a tunnel at {path}")
        assert tunnel.process.poll() is None, tunnel.log
        return tunnel, path


def answers(path: Path) -> bool:
    try:
        WireClient(path).socket.close()
    except OSError:
        return False
    return True


@pytest.fixture
def machines(short_dir: Path) -> Iterator[Machines]:
    short_dir.chmod(0o755)
    with ExitStack() as stack:
        yield Machines(short_dir, stack)


def test_everything_in_the_page_is_run() -> None:
    """Here or in test_containers.py."""
    numbers = {heading: len(found) for heading, found in blocks(PAGE, "sh").items()}
    container, rootless = "In a container", "Without root"
    assert numbers == {THERE: 2, HERE: 2, STALE: 2, ONE: 2, container: 1, rootless: 2}
    assert list(blocks(PAGE, "toml")) == [ONE, container, "In a flatpak"]
    assert list(blocks(PAGE, "text")) == [DEATH]


# --- both directions ------------------------------------------------------------------------------


def test_the_readers_of_another_machine(start_daemon: StartDaemon, machines: Machines) -> None:
    daemon = start_daemon(*CARDS, readers=2)
    machines.start_sshd()
    _, path = machines.forward(daemon.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert machines.run(script(THERE, 1)) == f"0: {HELLO}\n1: {MEMORY}\n(ended with 0)\n"
    exchange = f"python {CLIENTS}/exchange.py hello 00A404000AA00000006203010C0601 00000000"
    assert f"answer {b'Hello world!'.hex().upper()}9000\n" in machines.run(exchange, path)


def test_events_come_through(start_daemon: StartDaemon, machines: Machines) -> None:
    port = free_ports(1)
    daemon = start_daemon("--vpcd", "1", "--vpcd-port", str(port), readers=1)
    machines.start_sshd()
    _, path = machines.forward(daemon.path)
    emulator = Emulator(port, MemoryCard())
    monitor = [sys.executable, CLIENTS / "monitor.py"]
    with Background(monitor, machines.directory / "monitor.log", client_env(path)) as monitoring:
        try:
            monitoring.wait_for_line("reader + ")
            emulator.plug()
            monitoring.wait_for_line("card + ")
        finally:
            emulator.unplug()
        monitoring.wait_for_line("card - ")
        monitoring.close_stdin()
        assert monitoring.wait(10) == 0


def test_another_machine_uses_ours(start_daemon: StartDaemon, machines: Machines) -> None:
    """The second script is typed into the session that the first one opens."""
    daemon = start_daemon(*CARDS, readers=2)
    machines.start_sshd()
    there = {"/run/user/1000": machines.run_dir}
    session = machines.start(adapted(script(HERE, 0), {SOCKET: daemon.path, **there}))
    assert session.process.stdin is not None
    session.process.stdin.write(adapted(script(HERE, 1), there).encode() + b"exit 5\n")
    session.process.stdin.flush()
    assert session.wait(20) == 5
    assert f"0: {HELLO}\n1: {MEMORY}\n" in session.log


# --- files that are left behind ---------------------------------------------------------------------


def test_a_file_that_ssh_left_here(start_daemon: StartDaemon, machines: Machines) -> None:
    daemon = start_daemon(*CARDS, readers=2)
    machines.start_sshd()
    tunnel, path = machines.forward(daemon.path)
    tunnel.end(signal.SIGKILL)
    assert path.is_socket()
    no_service = "SCardEstablishContext: Service not available."
    assert machines.run(script(THERE, 1)).startswith(no_service)
    assert machines.run("opensc-tool -l", path).startswith("No smart card readers found.")
    assert "Connection refused" in machines.run(script(STALE, 1))
    keeping = adapted(script(THERE, 0), {SOCKET: daemon.path, "StreamLocalBindUnlink=yes": "BatchMode=yes"})
    refused = machines.run(keeping)
    assert "unix_listener: cannot bind to path" in refused
    assert "Address already in use\nCould not request local forwarding.\n(ended with 255)" in refused
    said_in_page("unix_listener: cannot bind to path", "Could not request local forwarding.", no_service)
    said_in_page("No smart card readers found.", "Connection refused", "No such file or directory")
    machines.forward(daemon.path)
    assert machines.run(script(THERE, 1)) == f"0: {HELLO}\n1: {MEMORY}\n(ended with 0)\n"
    path.unlink()
    assert "No such file or directory" in machines.run(script(STALE, 1))


@pytest.mark.parametrize("server_unlinks", [False, True])
def test_a_file_that_sshd_left_there(
    start_daemon: StartDaemon, machines: Machines, server_unlinks: bool
) -> None:
    daemon = start_daemon(*CARDS, readers=2)
    machines.start_sshd(*["StreamLocalBindUnlink yes"] if server_unlinks else [])
    said_in_page("StreamLocalBindUnlink yes", "Error: remote port forwarding failed for listen path")
    there = {"/run/user/1000": machines.run_dir}
    opening = adapted(script(HERE, 0), {SOCKET: daemon.path, **there}).replace(
        "ssh ", "ssh -o StreamLocalBindUnlink=yes ", 1
    )
    path = machines.run_dir / "pcscd.comm"
    first = machines.start(opening)
    wait_for(lambda: answers(path), f"a tunnel at {path}")
    first.end(signal.SIGKILL)
    wait_for(lambda: not answers(path), "the end of that tunnel")
    assert path.is_socket()
    if not server_unlinks:
        refused = machines.run(opening)
        assert "Error: remote port forwarding failed for listen path" in refused, (
            "ssh's own option is no help"
        )
        assert "ended with 0" in machines.run(adapted(script(STALE, 0), there))
        assert not path.exists()
    second = machines.start(opening)
    wait_for(lambda: answers(path), f"a tunnel at {path}")
    assert second.process.poll() is None


def test_ssh_works_but_there_is_no_daemon(machines: Machines) -> None:
    machines.start_sshd()
    tunnel, path = machines.forward(machines.directory / "nothing.comm")
    said = machines.run("pcsc_scan -r", path)
    # it depends on which of the two is quicker, the library or ssh
    possible = [f"SCardEstablishContext: {what}." for what in WITHOUT_DAEMON]
    assert said.splitlines()[0] in possible
    tunnel.wait_for_line("open failed: connect failed")
    said_in_page(*possible)
    assert "open failed: connect failed`" in (DOCS / PAGE).read_text()


# --- one reader for one user ------------------------------------------------------------------------


def one_reader(machines: Machines) -> tuple[list[str | Path], Path]:
    """The page's settings for a socket that shows one reader to anna, as an option, and that socket."""
    settings, path = machines.directory / "pypcscd.toml", machines.directory / "signing.comm"
    changes = {
        "/run/pcscd/signing.comm": path,
        '"anna"': str(USERS["anna"]),
        "Alcor Micro AU9560 [CCID Interface] 00 00": HELLO,
    }
    settings.write_text(adapted(blocks(PAGE, "toml")[ONE][0], changes))
    return ["--settings", settings], path


def test_one_reader_for_one_user(start_daemon: StartDaemon, machines: Machines) -> None:
    """To the daemon the client is sshd, as the user who has logged in."""
    need_root()
    option, target = one_reader(machines)
    daemon = start_daemon(*CARDS, *option, readers=2)
    machines.start_sshd()
    changes = {"/run/pcscd/signing.comm": target}
    path = machines.run_dir / "signing.comm"
    anna = machines.start(adapted(script(ONE, 0), changes))
    wait_for(lambda: answers(path), f"a tunnel at {path}")
    assert machines.run(script(ONE, 1)) == f"0: {HELLO}\n(ended with 0)\n"
    assert "denied" not in daemon.log
    anna.end()
    machines.start(adapted(script(ONE, 0), {**changes, "anna@desk": "ben@desk"}))
    wait_for(lambda: answers(path), f"a tunnel at {path}")
    assert machines.run(script(ONE, 1)).startswith("SCardEstablishContext: Access denied.\n")
    line = next(line for line in daemon.log.splitlines() if "denied" in line)
    assert re.search(rf"\(sshd\S*, pid \d+, uid {USERS['ben']}\) was denied access to {target}\b", line), line


# --- several computers and one card -------------------------------------------------------------------


def marks(emulator: Emulator) -> list[int]:
    """Who has written to the memory card, in order."""
    return [frame[5] for frame in emulator.frames if frame.startswith(bytes.fromhex("FFD0004002"))]


def test_several_computers_on_one_card(start_daemon: StartDaemon, machines: Machines) -> None:
    """Two over ssh and one here, all as fast as they can: none disturbs another, and each has its share."""
    machines.start_sshd()
    rounds = 150
    port = free_ports(1)
    daemon = start_daemon("--vpcd", "1", "--vpcd-port", str(port), readers=1)
    emulator = Emulator(port, MemoryCard())
    emulator.plug()
    (reader,) = daemon.wait_readers(lambda found: found and found[0].present, "the card")
    paths = [machines.forward(daemon.path, f"{name}.comm")[1] for name in ("one", "two")] + [daemon.path]
    try:
        with ExitStack() as stack:
            clients = []
            for number, path in enumerate(paths):
                command = [sys.executable, CLIENTS / "sharing.py", reader.name, f"A{number}", str(rounds)]
                log = machines.directory / f"client{number}.log"
                clients.append(stack.enter_context(Background(command, log, client_env(path))))
            daemon.wait_readers(lambda found: found[0].sharing == 3, "all three have connected")
            for client in clients:
                client.close_stdin()
            for client in clients:
                assert client.wait(60) == 0, client.log
                assert client.log.splitlines()[-1] == f"{rounds} rounds"
    finally:
        emulator.unplug()
    order = marks(emulator)
    # while all three are at it: from the last one's first turn until the first one's last
    begin = max(order.index(mark) for mark in set(order))
    end = len(order) - max(order[::-1].index(mark) for mark in set(order))
    shared = order[begin:end]
    shares = sorted(shared.count(mark) / len(shared) for mark in set(order))
    longest = max(len(list(run)) for _, run in groupby(shared))
    print(f"{len(shared)} of {len(order)} turns while all three were there: {shares}, longest run {longest}")
    assert len(set(order)) == 3
    assert len(order) == 3 * rounds
    assert len(shared) > rounds
    assert shares[0] > 0.2
    assert longest < 20


# --- connections that break ---------------------------------------------------------------------------


def say_go(client: Background) -> None:
    assert client.process.stdin is not None
    client.process.stdin.write(b"go\n")
    client.process.stdin.flush()


def kill_ssh(machines: Machines, tunnel: Background) -> None:
    tunnel.process.send_signal(signal.SIGKILL)


def kill_sshd(machines: Machines, tunnel: Background) -> None:
    """The server's processes for this connection, not the server itself."""
    assert machines.sshd is not None
    for pid in children(machines.sshd.process.pid):
        os.kill(pid, signal.SIGKILL)


def freeze_ssh(machines: Machines, tunnel: Background) -> None:
    """As if the cable were cut: nothing comes any more, and nothing says so."""
    tunnel.process.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize(
    ("breaks", "bound"), [(kill_ssh, 2.0), (kill_sshd, 2.0), (freeze_ssh, 10.0)], ids=["ssh", "sshd", "cable"]
)
def test_a_connection_breaks_in_a_transaction(
    start_daemon: StartDaemon,
    machines: Machines,
    breaks: Callable[[Machines, Background], None],
    bound: float,
) -> None:
    """Who waits for the card gets it, and it has been reset: nobody inherits the PIN."""
    # the page's five seconds, fifteen times as impatient
    machines.start_sshd(*adapted(blocks(PAGE, "text")[DEATH][0], {"5\n": "1\n", "3\n": "1\n"}).splitlines())
    port = free_ports(1)
    daemon = start_daemon("--vpcd", "1", "--vpcd-port", str(port), readers=1)
    emulator = Emulator(port, MemoryCard())
    emulator.plug()
    (reader,) = daemon.wait_readers(lambda found: found and found[0].present, "the card")
    tunnel, path = machines.forward(daemon.path)
    command = [sys.executable, CLIENTS / "transaction.py", reader.name]
    logs = [machines.directory / name for name in ("holder.log", "waiter.log")]
    try:
        with (
            Background(command, logs[0], client_env(path)) as holder,
            Background(command, logs[1], client_env(daemon.path)) as waiter,
        ):
            for client in (holder, waiter):
                client.wait_for_line("connected\n")
            say_go(holder)
            holder.wait_for_line("begun")
            say_go(waiter)
            waiter.wait_for_line("waiting\n")
            assert "begun" not in waiter.log
            assert emulator.powers[-1] == Power.ON
            begin = time.monotonic()
            breaks(machines, tunnel)
            waiter.wait_for_line("reset\nbegun", timeout=bound)
            print(f"after {time.monotonic() - begin:.2f} s")
            assert emulator.powers[-1] == Power.RESET
            if breaks is freeze_ssh:
                tunnel.end(signal.SIGKILL)
            holder.close_stdin()
            assert holder.wait() == 0
            rv = holder.log.split()[-1]
            print("the client sees", rv)
            assert rv in ("8010001D", "8010001E", "80100013", "8010006A"), holder.log
            waiter.close_stdin()
            assert waiter.wait() == 0
            assert waiter.log.split()[-1] == "00000000"
    finally:
        emulator.unplug()
    daemon.wait_readers(lambda found: found and found[0].sharing == 0, "no users left")
