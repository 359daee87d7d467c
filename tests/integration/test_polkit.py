"""Clients that polkit lets in, and clients that it does not: the real polkitd, on a bus of its own."""

import asyncio
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dbus_fast.aio  # noqa: F401  before anybody becomes a user who may not read it
import pytest
from harness import Background, Daemon, WireClient, client_env, missing, need, need_root, wait_for
from wire import VERSION

from pypcscd.server.access import Peer
from pypcscd.server.polkit import Polkit
from pypcscd.server.rules import EVERYBODY, AccessRule

POLKITD = Path("/usr/lib/polkit-1/polkitd")
POLICY = Path(__file__).parents[2] / "systemd/pypcscd.policy"
CONNECT = 0x04
SECURITY_VIOLATION = 0x8010006A
NOBODY, DAEMON = 65534, 1

BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/>
    <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
RULES = """\
polkit.addRule(function (action, subject) {
    if (action.id == "org.debian.pcsc-lite.access_pcsc" && subject.user == "nobody") {
        return polkit.Result.YES;
    }
    if (action.id == "org.debian.pcsc-lite.access_card" && subject.user == "nobody") {
        return action.lookup("reader") == "Virtual hello 00 00" ? polkit.Result.YES : polkit.Result.NO;
    }
});
"""


class Bed:
    """A system bus, polkitd with our policy, and daemons that ask it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bus = directory / "bus"
        self.environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.bus}"}
        self.polkitd: Background | None = None

    def start_bus(self) -> Background:
        config = self.directory / "bus.conf"
        config.write_text(BUS.format(path=self.bus))
        args = ["dbus-daemon", f"--config-file={config}", "--nofork"]
        daemon = Background(args, self.directory / "bus.log", client_env(None))
        wait_for(self.bus.is_socket, "the bus")
        return daemon

    def start_polkitd(self) -> Background:
        for name in ("actions", "rules"):
            (self.directory / name).mkdir(exist_ok=True)
        # There is no user pcscd here; the daemon that asks is somebody else.
        policy = POLICY.read_text().replace("unix-user:pcscd", "unix-user:daemon")
        (self.directory / "actions/org.debian.pcsc-lite.policy").write_text(policy)
        (self.directory / "rules/10-test.rules").write_text(RULES)
        script = (
            'mount --bind "$0/actions" /usr/share/polkit-1/actions; '
            'mount --bind "$0/rules" /usr/share/polkit-1/rules.d; exec "$1"'
        )
        args = ["unshare", "--mount", "sh", "-ec", script, self.directory, POLKITD]
        daemon = Background(args, self.directory / "polkitd.log", client_env(None, self.environment))
        daemon.wait_for_line("Acquired the name")
        self.polkitd = daemon
        return daemon

    def signal(self, number: int) -> None:
        assert self.polkitd is not None
        os.kill(self.polkitd.process.pid, number)


@pytest.fixture
def bed(short_dir: Path) -> Iterator[Bed]:
    need("dbus-daemon", "unshare")
    need_root()
    if not POLKITD.exists():
        missing("polkitd is not installed")
    short_dir.chmod(0o755)
    bed = Bed(short_dir)
    with bed.start_bus(), bed.start_polkitd():
        yield bed
        with suppress(ProcessLookupError):
            bed.signal(signal.SIGCONT)


class AskingDaemon(Daemon):
    """A daemon that asks polkit, with the settings given besides."""

    def __init__(self, bed: Bed, settings: str = "") -> None:
        file = bed.directory / "pypcscd.toml"
        file.write_text(f"[access]\npolkit = true\n{settings}")
        os.environ |= bed.environment
        try:
            super().__init__(bed.directory, ["--settings", file, "--virtual", "hello", "--virtual", "echo"])
        finally:
            del os.environ["DBUS_SYSTEM_BUS_ADDRESS"]


@pytest.fixture
def daemon(bed: Bed) -> Iterator[AskingDaemon]:
    with AskingDaemon(bed) as daemon:
        daemon.wait_ready(2)
        yield daemon
        daemon.stop()


def as_user(uid: int, work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a process of that user, without groups."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def be_them() -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        results.put(work())

    process = context.Process(target=be_them)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    return results.get()


def ask_version(path: Path) -> int:
    with WireClient(path) as client:
        *_, rv = struct.unpack("=iiI", client.call(VERSION, struct.pack("=iiI", 4, 4, 0), 12))
        return int(rv)


def connect(path: Path, reader: str) -> int:
    """The return code of an SCardConnect."""
    with WireClient(path) as client:
        body = struct.pack("=I128sIIiII", client.establish(), reader.encode(), 2, 3, 0, 0, 0)
        reply = client.call(CONNECT, body, len(body))
        return int(struct.unpack_from("=I", reply, len(reply) - 4)[0])


def test_who_is_allowed_and_for_which_reader(daemon: AskingDaemon) -> None:
    path = daemon.path
    assert as_user(NOBODY, lambda: connect(path, "Virtual hello 00 00")) == 0
    assert as_user(NOBODY, lambda: connect(path, "Virtual echo 01 00")) == SECURITY_VIOLATION
    assert "denied access to reader Virtual echo 01 00: polkit says no; to allow it" in daemon.log
    assert "org.debian.pcsc-lite.access_card and uid 65534 in /etc/polkit-1/rules.d" in daemon.log


def test_who_is_not_allowed_is_told_so(daemon: AskingDaemon) -> None:
    assert as_user(DAEMON, lambda: ask_version(daemon.path)) == SECURITY_VIOLATION
    assert "the action org.debian.pcsc-lite.access_pcsc and uid 1 in" in daemon.log


def test_root_is_not_asked_about(daemon: AskingDaemon, bed: Bed) -> None:
    bed.signal(signal.SIGSTOP)
    assert connect(daemon.path, "Virtual echo 01 00") == 0


def test_a_slow_answer_delays_nobody_else(daemon: AskingDaemon, bed: Bed) -> None:
    bed.signal(signal.SIGSTOP)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def wait_for_it() -> int:
        with WireClient(daemon.path, timeout=15) as client:
            client.socket.sendall(struct.pack("=IIiiI", 12, VERSION, 4, 4, 0))
            theirs.send("waiting")
            return int(struct.unpack("=iiI", client.receive(12))[2])

    def go_on() -> None:
        assert ours.recv() == "waiting"
        assert connect(daemon.path, "Virtual hello 00 00") == 0
        bed.signal(signal.SIGCONT)

    other = context.Process(target=go_on)
    other.start()
    assert as_user(NOBODY, wait_for_it) == 0
    other.join(10)
    assert other.exitcode == 0


def test_a_client_that_goes_away_while_polkit_thinks(daemon: AskingDaemon, bed: Bed) -> None:
    bed.signal(signal.SIGSTOP)
    as_user(NOBODY, lambda: WireClient(daemon.path).socket.close())
    bed.signal(signal.SIGCONT)
    assert as_user(NOBODY, lambda: connect(daemon.path, "Virtual hello 00 00")) == 0


def test_polkit_may_be_restarted(daemon: AskingDaemon, bed: Bed) -> None:
    assert bed.polkitd is not None
    bed.polkitd.end(signal.SIGKILL)
    assert as_user(NOBODY, lambda: ask_version(daemon.path)) == SECURITY_VIOLATION
    assert "polkit could not" in daemon.log
    with bed.start_polkitd():
        assert as_user(NOBODY, lambda: ask_version(daemon.path)) == 0


def test_without_a_bus_only_those_named_are_let_in(bed: Bed, short_dir: Path) -> None:
    bed.environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={short_dir}/nowhere"}
    with AskingDaemon(bed, "users = [1]\n") as daemon:
        daemon.wait_ready(2)
        assert as_user(DAEMON, lambda: connect(daemon.path, "Virtual echo 01 00")) == 0
        assert as_user(NOBODY, lambda: ask_version(daemon.path)) == SECURITY_VIOLATION
        assert "the system bus cannot be reached" in daemon.log
        daemon.stop()


def test_rules_of_a_socket_decide_alone(bed: Bed) -> None:
    own = bed.directory / "pcscd.comm"
    with AskingDaemon(bed, f"\n[[socket]]\npath = '{own}'\nusers = [1]\n") as daemon:
        daemon.wait_ready(2)
        assert as_user(DAEMON, lambda: connect(daemon.path, "Virtual echo 01 00")) == 0
        assert as_user(NOBODY, lambda: ask_version(daemon.path)) == SECURITY_VIOLATION
        daemon.stop()


def question(bed: Bed, *, patience: float = 10.0, trusted: AccessRule = EVERYBODY) -> bool:
    """Ask, as the user who runs this process, about a process of nobody's."""

    async def ask() -> bool:
        polkit = Polkit(trusted, patience=patience)
        peer = Peer(1)
        peer.pid, peer.uid = os.getppid(), NOBODY
        try:
            return await polkit.may_connect(peer)
        finally:
            polkit.close()

    os.environ |= bed.environment
    return asyncio.run(ask())


def test_a_daemon_that_is_not_root_may_ask(bed: Bed) -> None:
    """By the annotation in the policy; another user may not."""
    sleeper = subprocess.Popen(["sleep", "30"], user=NOBODY, group=NOBODY, extra_groups=())

    def ask() -> bool:
        os.getppid = lambda: sleeper.pid  # type: ignore[method-assign]
        return question(bed)

    try:
        assert as_user(DAEMON, ask) is True
        assert as_user(2, ask) is False
    finally:
        sleeper.kill()
        sleeper.wait()


def test_patience_ends(bed: Bed) -> None:
    bed.signal(signal.SIGSTOP)
    assert as_user(0, lambda: question(bed, patience=0.2)) is False


def test_the_bus_is_real(bed: Bed) -> None:
    """So that a refusal above is polkit's, not that of a bus that is not there."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(bed.bus))
    listed = subprocess.run(
        ["pkaction"], env=client_env(None, bed.environment), capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == ["org.debian.pcsc-lite.access_card", "org.debian.pcsc-lite.access_pcsc"]
