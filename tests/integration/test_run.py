"""pypcscd run: a private daemon around a command."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulator import Emulator, HelloCard
from harness import CLIENTS, PYPCSCD, Background, client_env, free_ports, need, wait_for
from scripted import Script, build

GREETING = b"Hello world!\x90\x00".hex().upper()
SELECT = "00A404000AA00000006203010C0601"


def marked(mark: str) -> list[str]:
    """The command lines of the living processes that have the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@dataclass
class Runner:
    """Runs ``pypcscd run`` with a temporary directory of its own and a mark to find its processes by."""

    directory: Path
    mark: str

    @property
    def env(self) -> dict[str, str]:
        directory = str(self.directory)
        return client_env(
            None, {"TMPDIR": directory, "XDG_RUNTIME_DIR": directory, "PYPCSCD_TEST_MARK": self.mark}
        )

    def __call__(
        self, *args: str | Path, prefix: Sequence[str] = (), **more: str
    ) -> subprocess.CompletedProcess[str]:
        command = [*prefix, str(PYPCSCD), "run", *map(str, args)]
        env = {**self.env, **more}
        result = subprocess.run(
            command, env=env, capture_output=True, text=True, input="", timeout=40, check=False
        )
        print(f"{result.args} ended with {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def start(self, log: Path, *args: str | Path) -> Background:
        return Background([PYPCSCD, "run", *args], log, self.env)


@pytest.fixture
def run(short_dir: Path) -> Iterator[Runner]:
    """Whatever the test does, no process and no file may be left."""
    runner = Runner(short_dir, uuid.uuid4().hex)
    yield runner
    wait_for(lambda: not marked(runner.mark), "all processes have ended", 3)
    assert list(short_dir.iterdir()) == []


@pytest.mark.parametrize("status", [0, 3, 255])
def test_exit_status(run: Runner, status: int) -> None:
    result = run("--card", "hello", "--", "sh", "-c", f"exit {status}")
    assert result.returncode == status
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_exit_status_of_a_killed_command(run: Runner, signum: signal.Signals) -> None:
    assert run("--card", "hello", "--", "sh", "-c", f"kill -{int(signum)} $$").returncode == 128 + signum


def test_command_that_does_not_exist(run: Runner) -> None:
    result = run("--card", "hello", "--", "no-such-command-anywhere")
    assert result.returncode == 127
    assert "no-such-command-anywhere" in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_card(run: Runner, tmp_path: Path) -> None:
    result = run("--card", "no-such-card", "--", "touch", tmp_path / "ran")
    assert result.returncode not in (0, -signal.SIGKILL)
    assert "no-such-card" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ran").exists()


def test_streams_are_the_commands(run: Runner) -> None:
    """Output is the command's and nothing else, arguments arrive as they are, and input reaches it."""
    result = run("--card", "hello", "--", "printf", "%s|", "a b", "--card", "$HOME")
    assert result.stdout == "a b|--card|$HOME|"
    command = [PYPCSCD, "run", "--card", "hello", "--", "cat"]
    data = b"\0\xff\n"
    cat = subprocess.run(command, env=run.env, input=data, capture_output=True, timeout=40, check=False)
    assert cat.stdout == data


def test_readers_are_there_when_the_command_starts(run: Runner) -> None:
    need("pcsc_scan")
    result = run("--card", "hello", "--card", "sle4442", "--card", "hello", "--", "pcsc_scan", "-c")
    assert result.returncode == 0
    assert result.stdout.count("Card inserted") == 3


def test_hello_world(run: Runner) -> None:
    program = [sys.executable, CLIENTS / "exchange.py", "", SELECT, "00000000"]
    result = run("--card", "hello", "--", *program)
    assert result.returncode == 0
    assert result.stdout.splitlines()[-2:] == ["answer 9000", f"answer {GREETING}"]


def test_no_card(run: Runner) -> None:
    result = run("--card", "none", "--", PYPCSCD, "apdu", SELECT)
    assert result.returncode == 1
    assert "Virtual none 00 00: SCARD_E_NO_SMARTCARD" in result.stderr


def test_a_card_of_ones_own(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "mycards.py").write_text(
        "from pypcscd_virtual.card import Card\n"
        "class Adder(Card):\n"
        "    atr = bytes.fromhex('3B80800101')\n"
        "    def transmit(self, apdu: bytes) -> bytes:\n"
        "        return bytes([sum(apdu) % 256]) + b'\\x90\\x00'\n"
    )
    program = [sys.executable, CLIENTS / "exchange.py", "", "01020304"]
    result = run("--card", "mycards:Adder", "--", *program, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0
    assert result.stdout.splitlines()[1:] == ["atr 3B80800101", "answer 0A9000"]


def test_a_port_that_is_taken(run: Runner, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--vpcd", "1", "--vpcd-port", str(port), "--", "touch", tmp_path / "run")
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert "the command was not run" in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_emulator_may_connect(run: Runner, tmp_path: Path) -> None:
    port = free_ports(1)
    command = ["--vpcd", "1", "--vpcd-port", str(port), "--", sys.executable, CLIENTS / "monitor.py"]
    emulator = Emulator(port, HelloCard())
    with run.start(tmp_path / "log", *command) as session:
        session.wait_for_line("reader + ")
        emulator.plug()
        try:
            session.wait_for_line(emulator.card.atr.hex().upper())
            session.close_stdin()
            assert session.wait(10) == 0
        finally:
            emulator.unplug()


SLEEPER = "echo started; exec sleep 60"


def test_ctrl_c(run: Runner, tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole process group."""
    with run.start(tmp_path / "log", "--card", "hello", "--", "sh", "-c", SLEEPER) as session:
        session.wait_for_line("started")
        os.killpg(session.process.pid, signal.SIGINT)
        assert session.wait() == 128 + signal.SIGINT
        assert "Traceback" not in session.log


def test_ctrl_c_that_the_command_survives(run: Runner, tmp_path: Path) -> None:
    """It is the command that decides whether it ends; until then, it has its readers."""
    script = (
        "trap 'got=1' INT; echo started\n"
        'while [ -z "$got" ]; do sleep 0.05; done\n'
        f'"$0" "$1" "" {SELECT} 00000000 && exit 5'
    )
    command = ["sh", "-c", script, sys.executable, CLIENTS / "exchange.py"]
    with run.start(tmp_path / "log", "--card", "hello", "--", *command) as session:
        session.wait_for_line("started")
        os.killpg(session.process.pid, signal.SIGINT)
        assert session.wait(10) == 5
        assert GREETING in session.log


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_the_session_is_ended(run: Runner, tmp_path: Path, signum: signal.Signals) -> None:
    """A signal to ``pypcscd run`` alone ends the command too."""
    with run.start(tmp_path / "log", "--card", "hello", "--", "sh", "-c", SLEEPER) as session:
        session.wait_for_line("started")
        session.process.send_signal(signum)
        assert session.wait() == 128 + signum
        assert "Traceback" not in session.log


def test_an_unprivileged_user(run: Runner) -> None:
    prefix: list[str] = []
    if os.geteuid() == 0:
        need("setpriv")
        # the checkout may lie where nobody else may look; the right to read is all that is left to it
        rights = "-all,+dac_read_search"
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        prefix += [f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set={rights}"]
        shutil.chown(run.directory, 65534, 65534)
    script = f'id -u; "$0" "$1" "" {SELECT} 00000000'
    command = ["sh", "-c", script, sys.executable, CLIENTS / "exchange.py"]
    result = run("--card", "hello", "--", *command, prefix=prefix)
    assert result.returncode == 0
    uid, *lines = result.stdout.splitlines()
    assert int(uid) == (65534 if prefix else os.geteuid())
    assert lines[-1] == f"answer {GREETING}"


def test_a_reader_that_is_missing_is_missed_although_another_is_there(run: Runner, tmp_path: Path) -> None:
    """A native driver's reader is no substitute for the port that is taken."""
    conf = tmp_path / "reader.conf"
    script = Script(tmp_path / "script")
    conf.write_text(f'FRIENDLYNAME "Serial"\nLIBPATH {build(tmp_path)}\nDEVICENAME {script.path}\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("-c", conf, "--vpcd", "1", "--vpcd-port", port, "--", "touch", tmp_path / "run")
    assert "cannot listen" in result.stderr
    assert result.returncode == 1
    assert not (tmp_path / "run").exists()
