"""Debian's own programs and libpcsclite of other machines and releases, run by qemu, at one daemon.

``make setup`` fetches them (``tests/foreign.sh``). s390x is big-endian, i386 has 32 bits. The library of
Debian 12 (bookworm) speaks protocol 4.4, that of 13 (trixie) 4.5, and that of 14 (forky) 4.6.
"""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulator import SELECT_HELLO, Emulator, HelloCard
from harness import Background, Daemon, children, client_env, free_ports, missing, need, run_client

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pypcscd-tests" / "foreign"
HELLO = b"Hello world!"


@dataclass(frozen=True)
class Machine:
    """An architecture and a release of Debian, and what its library speaks."""

    architecture: str
    release: str
    version: str
    #: what qemu and the directories of libraries call it
    cpu: str
    #: the dynamic linker
    linker: str

    def __str__(self) -> str:
        return f"{self.architecture}-{self.release}"

    @property
    def order(self) -> str:
        return "big" if self.architecture == "s390x" else "little"

    @property
    def may_be_missing(self) -> bool:
        """Debian 14 is still in the making, and not ours to keep in order."""
        return self.release == "forky"

    @property
    def root(self) -> Path:
        return CACHE / str(self)

    def command(self, program: str, *options: str) -> list[str | Path]:
        """A program of this machine, with the libraries of this machine and no others."""
        qemu = f"qemu-{self.cpu}-static"
        need(qemu)
        if self.may_be_missing and not self.root.exists():
            pytest.skip(f"{self.root} is not there; make foreign fetches it")
        if not self.root.exists():
            missing(f"{self.root} is not there")
        folders = [self.root / base / f"{self.cpu}-linux-gnu" for base in ("lib", "usr/lib")]
        linkers = [
            path for folder in ("lib", "usr/lib") if (path := self.root / folder / self.linker).exists()
        ]
        path = ":".join(str(folder) for folder in folders)
        executable = self.root / "usr/bin" / program
        return [qemu, "-L", self.root, linkers[0], "--library-path", path, executable, *options]


MACHINES = [
    Machine("i386", "bookworm", "4.4", "i386", "ld-linux.so.2"),
    Machine("arm64", "bookworm", "4.4", "aarch64", "ld-linux-aarch64.so.1"),
    Machine("s390x", "bookworm", "4.4", "s390x", "ld64.so.1"),
    Machine("s390x", "trixie", "4.5", "s390x", "ld64.so.1"),
    Machine("arm64", "forky", "4.6", "aarch64", "ld-linux-aarch64.so.1"),
    Machine("s390x", "forky", "4.6", "s390x", "ld64.so.1"),
]
machines = pytest.mark.parametrize("machine", MACHINES, ids=str)


@dataclass(frozen=True)
class Desk:
    """A daemon with two readers, one with an emulated card that can be pulled out."""

    daemon: Daemon
    emulator: Emulator
    hello: str
    emulated: str

    @property
    def readers(self) -> list[str]:
        return [state.name for state in self.daemon.readers()]


@pytest.fixture
def desk(start_daemon: Callable[..., Daemon]) -> Iterator[Desk]:
    port = free_ports(1)
    daemon = start_daemon("-d", "--virtual", "hello", "--vpcd", "1", "--vpcd-port", str(port), readers=2)
    emulator = Emulator(port, HelloCard())
    emulator.plug()
    states = daemon.wait_readers(lambda found: all(state.present for state in found), "two cards")
    emulated = next(state.name for state in states if "PCD" in state.name)
    hello = next(state.name for state in states if state.name != emulated)
    yield Desk(daemon, emulator, hello, emulated)
    emulator.unplug()


def has_spoken(daemon: Daemon, machine: Machine) -> bool:
    """The daemon has heard the machine's version and byte order from its qemu."""
    # the kernel keeps fifteen letters of a program's name
    program = f"qemu-{machine.cpu}-static"[:15]
    said = rf"\({program}, .*\) speaks protocol {machine.version}, {machine.order}-endian"
    return bool(re.search(said, daemon.log))


@machines
def test_the_programs_are_of_that_machine(machine: Machine) -> None:
    """Otherwise all the others would show nothing."""
    machine.command("opensc-tool")
    numbers = {"i386": (1, 1, 3), "arm64": (2, 1, 183), "s390x": (2, 2, 22)}
    for program in ("opensc-tool", "pcsc_scan"):
        head = (machine.root / "usr/bin" / program).read_bytes()[:20]
        order = "little" if head[5] == 1 else "big"
        # word size, byte order and machine (ELF specification, e_ident and e_machine)
        found = (head[4], head[5], int.from_bytes(head[18:20], order))  # type: ignore[arg-type]
        assert found == numbers[machine.architecture]


@machines
def test_list_connect_transmit(machine: Machine, desk: Desk) -> None:
    listed = run_client(desk.daemon, machine.command("pcsc_scan", "-r"))
    assert listed.returncode == 0
    assert re.findall(r"^\d+: (.*)$", listed.stdout, re.MULTILINE) == desk.readers

    listed = run_client(desk.daemon, machine.command("opensc-tool", "-l"))
    assert listed.returncode == 0
    for number, name in enumerate(desk.readers):
        assert re.search(rf"^{number} +Yes .* {re.escape(name)}$", listed.stdout, re.MULTILINE)

    select = SELECT_HELLO.hex(":")
    for name in (desk.hello, desk.emulated):
        number = str(desk.readers.index(name))
        sent = run_client(
            desk.daemon, machine.command("opensc-tool", "-r", number, "-s", select, "-s", "00:00:00:00")
        )
        assert sent.returncode == 0
        assert sent.stdout.count("Received (SW1=0x90, SW2=0x00)") == 2
        assert HELLO.hex(" ").upper() in sent.stdout
    shown = run_client(desk.daemon, machine.command("opensc-tool", "-r", number, "-a"))
    assert shown.stdout.strip() == HelloCard.atr.hex(":")

    assert has_spoken(desk.daemon, machine)


def test_all_wait_for_cards_at_once(desk: Desk, tmp_path: Path) -> None:
    """One pcsc_scan of each machine, the machine's own one among them."""
    need("script", "pcsc_scan")
    commands: dict[str, list[str | Path]] = {"own": [shutil.which("pcsc_scan") or "", "-n"]}
    there = [machine for machine in MACHINES if machine.root.exists() or not machine.may_be_missing]
    commands |= {str(machine): machine.command("pcsc_scan", "-n") for machine in there}
    with ExitStack() as stack:
        scans = []
        for name, command in commands.items():
            # on a terminal, where a program shows at once what it has to say
            words = ["script", "-qefc", " ".join(str(word) for word in command), "/dev/null"]
            background = Background(words, tmp_path / f"{name}.log", client_env(desk.daemon.path))
            scans.append(stack.enter_context(background))
        places = [scan.wait_for_line("Card inserted", scan.wait_for_line(desk.emulated)) for scan in scans]
        for state in ("Card removed", "Card inserted", "Card removed"):
            if state == "Card removed":
                desk.emulator.unplug()
            else:
                desk.emulator.plug()
            places = [
                scan.wait_for_line(state, scan.wait_for_line(desk.emulated, place))
                for scan, place in zip(scans, places, strict=True)
            ]
        for scan in scans:
            # the terminal would give its program two seconds
            for pid in children(scan.process.pid):
                os.kill(pid, signal.SIGTERM)
            scan.wait()
    assert all(has_spoken(desk.daemon, machine) for machine in there)
