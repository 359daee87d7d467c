"""Several sockets of one daemon, each with its own readers, file mode, owner, access rule and table."""

import os
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from emulator import Emulator, HelloCard, MemoryCard
from harness import CLIENTS, PYPCSCD, Background, Daemon, client_env, free_ports, need, need_root, wait_for
from wire import ENTRY, READERS_STATE, WAIT, WireClient

NOBODY = 65534
GROUP = 4711
CONNECT = 0x04
UNKNOWN_READER = 0x80100009

StartDaemon = Callable[..., Daemon]


@pytest.fixture
def home(short_dir: Path) -> Path:
    """Where the sockets are; other users may look into it."""
    short_dir.chmod(0o755)
    return short_dir


def settings(home: Path, text: str) -> list[str | Path]:
    """The option that makes a daemon read this text; HOME in it is the directory of the sockets."""
    path = home / "pypcscd.toml"
    path.write_text(text.replace("HOME", str(home)))
    return ["--settings", path]


def as_nobody(*groups: int) -> list[str]:
    """A prefix that runs a command as another user, who may still read the checkout."""
    need_root()
    need("setpriv")
    rights = "-all,+dac_read_search"
    supplementary = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    return [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", supplementary),
        *(f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set={rights}"),
    ]


def run(path: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    result = subprocess.run(
        words, env=client_env(path), capture_output=True, text=True, timeout=20, check=False
    )
    print(f"{path.name}: {words} ended with {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def listed(path: Path, *prefix: str) -> list[str]:
    """The readers that pcsc_scan lists on a socket."""
    need("pcsc_scan")
    result = run(path, *prefix, "pcsc_scan", "-r")
    assert result.returncode == 0, result.stdout + result.stderr
    return [line.partition(": ")[2] for line in result.stdout.splitlines() if re.match(r"\d+: ", line)]


TWO_VIEWS = """
[[socket]]
path = "HOME/hello.comm"
readers = ["Virtual hello *"]
[[socket]]
path = "HOME/others.comm"
readers = ["*sle4442*", "*echo*"]
[[socket]]
path = "HOME/sub/none.comm"
readers = ["No such reader"]
"""
THREE_CARDS = ("--virtual", "hello", "--virtual", "sle4442", "--virtual", "echo")
HELLO, MEMORY, ECHO = "Virtual hello 00 00", "Virtual sle4442 01 00", "Virtual echo 02 00"


# --- views ----------------------------------------------------------------------------------------


def test_each_socket_shows_its_readers(start_daemon: StartDaemon, home: Path) -> None:
    daemon = start_daemon(*THREE_CARDS, *settings(home, TWO_VIEWS), readers=3)
    assert listed(daemon.path) == [HELLO, MEMORY, ECHO]
    assert listed(home / "hello.comm") == [HELLO]
    assert listed(home / "others.comm") == [MEMORY, ECHO]
    assert run(home / "sub" / "none.comm", PYPCSCD, "scan").stdout == "no readers\n"


def test_what_is_not_shown_cannot_be_connected_to(start_daemon: StartDaemon, home: Path) -> None:
    """Neither through the library, which looks into the list first, nor by asking the daemon for it."""
    start_daemon(*THREE_CARDS, *settings(home, TWO_VIEWS), readers=3)
    path = home / "hello.comm"
    exchange = [sys.executable, CLIENTS / "exchange.py"]
    assert run(path, *exchange, "hello").returncode == 0
    assert run(path, *exchange, "sle4442").returncode != 0
    with WireClient(path) as client:
        context = client.establish()

        def connect(reader: str) -> int:
            body = struct.pack("=I128sIIiII", context, reader.encode(), 2, 3, 0, 0, 0)
            return int(struct.unpack("=I128sIIiII", client.call(CONNECT, body, len(body)))[-1])

        assert connect(HELLO) == 0
        assert connect(MEMORY) == connect("No such reader 00 00") == UNKNOWN_READER


def test_a_card_on_a_view_is_the_same_card(start_daemon: StartDaemon, home: Path, tmp_path: Path) -> None:
    """The number of its users says so on every socket that shows it."""
    daemon = start_daemon(*THREE_CARDS, *settings(home, TWO_VIEWS), readers=3)
    hold = [sys.executable, CLIENTS / "hold.py", HELLO]
    with Background(hold, tmp_path / "hold", client_env(home / "hello.comm")) as client:
        client.wait_for_line("connected")
        assert {state.name: state.sharing for state in daemon.readers()} == {HELLO: 1, MEMORY: 0, ECHO: 0}
        client.close_stdin()
        assert client.wait() == 0


TWO_SLOTS = """
[[socket]]
path = "HOME/first.comm"
readers = ["* 00"]
[[socket]]
path = "HOME/second.comm"
readers = ["* 01"]
"""


@pytest.fixture
def two_slots(start_daemon: StartDaemon, home: Path) -> tuple[Daemon, int]:
    """A daemon with two slots for emulators, and the first of their ports."""
    port = free_ports(2)
    vpcd = ["--vpcd", "2", "--vpcd-port", str(port)]
    return start_daemon(*vpcd, *settings(home, TWO_SLOTS), readers=2), port


def is_woken(client: WireClient) -> bool:
    return bool(select.select([client.socket], [], [], 0)[0])


def test_others_cards_wake_nobody_on_a_view(two_slots: tuple[Daemon, int], home: Path) -> None:
    daemon, port = two_slots
    paths = daemon.path, home / "first.comm", home / "second.comm"
    everything, first, second = clients = [WireClient(path) for path in paths]
    for client in clients:
        client.establish()
        client.call(WAIT, b"", 16 * ENTRY.size)
    emulators = [Emulator(port, HelloCard()), Emulator(port + 1, MemoryCard())]
    try:
        emulators[1].plug()
        daemon.wait_readers(lambda found: found[1].present, "the second card")
        assert everything.receive(8) == second.receive(8) == bytes(8)
        assert not is_woken(first)
        emulators[0].plug()
        assert first.receive(8) == bytes(8)
        assert not is_woken(second)
    finally:
        for emulator in emulators:
            emulator.unplug()
        for client in clients:
            client.socket.close()


def test_monitors_on_a_view_report_its_card_only(
    two_slots: tuple[Daemon, int], home: Path, tmp_path: Path
) -> None:
    daemon, port = two_slots
    names = [state.name for state in daemon.readers()]
    emulators = [Emulator(port, HelloCard()), Emulator(port + 1, MemoryCard())]
    command = [sys.executable, CLIENTS / "monitor.py"]
    with Background(command, tmp_path / "monitor.log", client_env(home / "second.comm")) as monitor:
        try:
            monitor.wait_for_line(f"reader + {names[1]}\n")
            emulators[0].plug()
            daemon.wait_readers(lambda found: found[0].present, "the first card")
            emulators[1].plug()
            monitor.wait_for_line(f"card + {names[1]} {emulators[1].card.atr.hex().upper()}\n")
            monitor.close_stdin()
            assert monitor.wait(10) == 0
            assert names[0] not in monitor.log
        finally:
            for emulator in emulators:
                emulator.unplug()


# --- tables ---------------------------------------------------------------------------------------


def test_96_slots_as_six_sockets(start_daemon: StartDaemon, home: Path) -> None:
    """What a client with a table of 16 records needs to reach them all."""
    entries = [
        f'[[socket]]\npath = "HOME/bank{number}.comm"\nreaders = ["Virtual PCD 00 {number}?"]\n'
        for number in range(6)
    ]
    options = [*("--vpcd", "96", "--vpcd-port"), str(free_ports(96)), *settings(home, "".join(entries))]
    # a client of protocol 4.4 sees the first sixteen where all are shown
    daemon = start_daemon(*options, readers=16)
    names = [f"Virtual PCD 00 {slot:02X}" for slot in range(96)]
    assert listed(daemon.path) == names[:16]
    for number in range(6):
        assert listed(home / f"bank{number}.comm") == names[16 * number : 16 * number + 16]
    # while our own tool speaks 4.6 and sees them all
    scan = run(daemon.path, PYPCSCD, "scan").stdout
    assert re.findall(r"^\d+: (.*)$", scan, re.MULTILINE) == names


def records(path: Path) -> int:
    """How many records the reader table of a 4.4 client has on a socket."""
    with WireClient(path) as client:
        client.establish()
        client.socket.sendall(struct.pack("=II", 0, READERS_STATE))
        # whatever follows the table: the answer to this
        client.socket.sendall(struct.pack("=IIII", 8, 0x0D, 0xFFFFFFFF, 0))
        end = struct.pack("=II", 0xFFFFFFFF, 0x80100003)
        data = b""
        while not data.endswith(end):
            data += client.receive(1)
        return (len(data) - len(end)) // ENTRY.size


def test_the_size_of_tables_by_socket_and_by_client(start_daemon: StartDaemon, home: Path) -> None:
    need_root()
    text = f"""
[clients]
table_size = 48
[[client]]
executable = "{Path(sys.executable).resolve()}"
user = {NOBODY}
table_size = 48
[[socket]]
path = "HOME/small.comm"
table_size = 16
[[socket]]
path = "HOME/large.comm"
"""
    daemon = Daemon(home, ["--virtual", "hello", *settings(home, text)])
    with daemon:
        wait_for(lambda: "serving on" in daemon.log, "a daemon that serves")
        sizes = {path.name: records(path) for path in (daemon.path, home / "small.comm", home / "large.comm")}
        assert sizes == {"pcscd.comm": 48, "small.comm": 16, "large.comm": 48}
        code = "import test_sockets, pathlib, sys; print(test_sockets.records(pathlib.Path(sys.argv[1])))"
        prefix = [
            *as_nobody(),
            "env",
            f"PYTHONPATH={Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}",
        ]
        command = [*prefix, sys.executable, "-c", code, home / "small.comm"]
        assert run(home / "small.comm", *command).stdout == "48\n", "the rule for this user's Python"
        daemon.stop()


# --- files and access -------------------------------------------------------------------------------


def test_mode_and_owner(start_daemon: StartDaemon, home: Path) -> None:
    need_root()
    text = f"""
[[socket]]
path = "HOME/plain.comm"
[[socket]]
path = "HOME/owned.comm"
mode = "0660"
owner = {NOBODY}
group = {GROUP}
[[socket]]
path = "HOME/grouped.comm"
mode = "600"
group = "root"
"""
    start_daemon("--virtual", "hello", *settings(home, text), readers=1)
    files = {name: (home / f"{name}.comm").stat() for name in ("plain", "owned", "grouped")}
    seen = {name: (oct(stat.S_IMODE(f.st_mode)), f.st_uid, f.st_gid) for name, f in files.items()}
    me = os.getuid()
    assert seen == {
        "plain": ("0o666", me, os.getgid()),
        "owned": ("0o660", NOBODY, GROUP),
        "grouped": ("0o600", me, 0),
    }
    assert listed(home / "owned.comm", *as_nobody()) == [HELLO]
    # the library tells the user of a file mode that keeps him out as of a daemon that is not there
    refused = run(home / "grouped.comm", *as_nobody(), "pcsc_scan", "-r")
    assert "Service not available" in refused.stdout + refused.stderr


ACCESS = f"""
[[socket]]
path = "HOME/closed.comm"
users = []
[[socket]]
path = "HOME/user.comm"
users = [{NOBODY}]
[[socket]]
path = "HOME/group.comm"
users = [1]
groups = [{GROUP}, 1]
"""


def test_who_is_let_in(start_daemon: StartDaemon, home: Path) -> None:
    need_root()
    daemon = start_daemon("--virtual", "hello", *settings(home, ACCESS), readers=1)
    for name in ("closed", "user", "group"):
        assert listed(home / f"{name}.comm") == [HELLO], "root may always"
    assert listed(home / "user.comm", *as_nobody()) == [HELLO]
    assert listed(home / "group.comm", *as_nobody(17, GROUP)) == [HELLO]
    assert "denied" not in daemon.log


PYSCARD = "from smartcard.System import readers; readers()"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["pcsc_scan", "-r"], "SCardEstablishContext: Access denied."),
        (["env", "OPENSC_DEBUG=3", "opensc-tool", "-a"], "SCardEstablishContext failed: 0x8010006a"),
        ([sys.executable, "-c", PYSCARD], "0x8010006A"),
        ([PYPCSCD, "scan"], "was denied; the daemon's log says what to add for it"),
    ],
)
def test_who_is_not_let_in_is_told_so(
    start_daemon: StartDaemon, home: Path, command: Sequence[str | Path], said: str
) -> None:
    need("pcsc_scan", "opensc-tool")
    daemon = start_daemon("--virtual", "hello", *settings(home, ACCESS), readers=1)
    path = home / "group.comm"
    result = run(path, *as_nobody(17), *command)
    assert result.returncode != 0
    assert said in result.stdout + result.stderr
    # the administrator reads who it was, where, and what to change
    line = next(line for line in daemon.log.splitlines() if "denied" in line)
    assert re.search(rf"\(\S+, pid \d+, uid {NOBODY}\) was denied access to {path}\b", line), line
    assert f"add {NOBODY} to users, or one of its groups to groups, " in line
    assert line.endswith(f"in the [[socket]] at {home}/pypcscd.toml:8")
    assert len(daemon.readers()) == 1


def test_a_denied_client_can_do_nothing_else(start_daemon: StartDaemon, home: Path) -> None:
    """It does not get by without asking for a version first."""
    start_daemon("--virtual", "hello", *settings(home, ACCESS), readers=1)
    code = (
        "import test_sockets as t, wire, pathlib, sys, struct\n"
        "with wire.WireClient(pathlib.Path(sys.argv[1])) as client:\n"
        "    answer = client.call(wire.ESTABLISH, struct.pack('=III', 2, 0, 0), 12)\n"
        "    print(f'{struct.unpack(\"=III\", answer)[2]:08X}')\n"
        "    client.socket.sendall(struct.pack('=II', 0, wire.READERS_STATE))\n"
        "    print(client.closed_by_daemon())\n"
    )
    paths = f"PYTHONPATH={Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    command = [*as_nobody(), "env", paths, sys.executable, "-c", code, home / "closed.comm"]
    assert run(home / "closed.comm", *command).stdout.split() == ["8010006A", "True"]


def test_the_own_socket_may_have_a_rule_too(start_daemon: StartDaemon, home: Path) -> None:
    need_root()
    text = f'[[socket]]\npath = "HOME/pcscd.comm"\nreaders = ["*hello*"]\ngroups = [{GROUP}]\n'
    daemon = start_daemon(*THREE_CARDS, *settings(home, text), readers=1)
    assert listed(daemon.path, *as_nobody(GROUP)) == [HELLO]
    assert "Access denied" in run(daemon.path, *as_nobody(), "pcsc_scan", "-r").stderr


# --- beginning and end ------------------------------------------------------------------------------


def left(home: Path) -> set[str]:
    """Sockets and pid files."""
    return {str(file.relative_to(home)) for suffix in ("comm", "pid") for file in home.rglob(f"*.{suffix}")}


def test_all_sockets_are_removed_at_the_end(start_daemon: StartDaemon, home: Path) -> None:
    daemon = start_daemon(*THREE_CARDS, *settings(home, TWO_VIEWS), readers=3)
    names = ("pcscd", "hello", "others", "sub/none")
    assert left(home) == {f"{name}.{suffix}" for name in names for suffix in ("comm", "pid")}
    daemon.stop()
    assert left(home) == set()


def test_stale_sockets_are_replaced(start_daemon: StartDaemon, home: Path) -> None:
    with Daemon(home, [*THREE_CARDS, *settings(home, TWO_VIEWS)]) as first:
        first.wait_ready(3)
        first.end(signal.SIGKILL)
    with socket.socket(socket.AF_UNIX) as dead:
        (home / "others.comm").unlink()
        dead.bind(str(home / "others.comm"))
    start_daemon(*THREE_CARDS, *settings(home, TWO_VIEWS), readers=3)
    assert listed(home / "hello.comm") == [HELLO]
    assert listed(home / "others.comm") == [MEMORY, ECHO]


def test_an_extra_socket_that_is_served_already(start_daemon: StartDaemon, home: Path) -> None:
    """The second daemon does not start, and leaves nothing of its own and everything of the first."""
    first = start_daemon(*THREE_CARDS, *settings(home, TWO_VIEWS), readers=3)
    before = left(home)
    command = [PYPCSCD, "-f", "--socket", home / "second.comm", "--settings", home / "pypcscd.toml"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 1
    assert f"a daemon (pid {first.process.pid}) is already running on {home}/hello.comm" in second.stderr
    assert "Traceback" not in second.stderr
    assert left(home) == before
    assert listed(home / "hello.comm") == [HELLO]


def test_an_owner_that_cannot_be_given(home: Path) -> None:
    prefix = as_nobody() if os.geteuid() == 0 else []
    text = '[[socket]]\npath = "HOME/mine/a.comm"\n[[socket]]\npath = "HOME/mine/b.comm"\nowner = "root"\n'
    option = settings(home, text)
    (home / "mine").mkdir()
    if prefix:
        shutil.chown(home / "mine", NOBODY, NOBODY)
    own = home / "mine" / "own.comm"
    command = [*prefix, PYPCSCD, "-f", "--socket", own, "--virtual", "hello", *option]
    result = run(own, *command)
    assert result.returncode == 1
    expected = f"cannot listen on {home}/mine/b.comm: only root may give it to another owner"
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert list((home / "mine").iterdir()) == []
