"""Reader tables of 16 and 48 records and of any number: never a byte more or less than a client reads."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import CLIENTS, Daemon, client_env, free_ports, need, need_root, wait_for
from player import Player

from pypcscd.protocol import DIALECTS, SHORT_4_2, Dialect

StartDaemon = Callable[..., Daemon]

ALL = [*DIALECTS.values(), SHORT_4_2]
NOBODY = 65534


def settings(directory: Path, text: str) -> list[str | Path]:
    path = directory / "pypcscd.toml"
    path.write_text(text.replace("HOME", str(directory)))
    return ["--settings", path]


def bank(start_daemon: StartDaemon, slots: int, options: list[str | Path]) -> Daemon:
    """A daemon with so many readers."""
    port = free_ports(slots)
    # what the harness sees is what a 4.4 client with a table of 16 sees
    return start_daemon("--vpcd", str(slots), "--vpcd-port", str(port), *options, readers=min(slots, 16))


def names(slots: int) -> list[str]:
    return [f"Virtual PCD 00 {slot:02X}" for slot in range(slots)]


# --- every dialect ---------------------------------------------------------------------------------


def sockets() -> str:
    """One for long tables and six views of sixteen readers; each again for 4.2 with short names."""
    text = ""
    for suffix, extra in (("", ""), ("-short", "short_names = true\n")):
        text += f'[[socket]]\npath = "HOME/all{suffix}.comm"\n{extra}'
        text += f'[[socket]]\npath = "HOME/long{suffix}.comm"\ntable_size = 48\n{extra}'
        for view in range(6):
            text += f'[[socket]]\npath = "HOME/view{view}{suffix}.comm"\n{extra}'
            text += f'readers = ["Virtual PCD 00 {view}?"]\n'
    return text


def seen(path: Path, dialect: Dialect, order: str, table_size: int) -> list[str]:
    """The readers that a client sees, and once more if it starts to wait."""
    with Player(path, dialect, order, table_size=table_size) as client:
        client.establish()
        found = [reader.name for reader in client.readers()]
        client.check_step()
        assert [reader.name for reader in client.look()] == found
        client.stop()
        client.check_step()
        return found


@pytest.mark.parametrize("slots", [1, 16, 17, 48, 96])
def test_what_each_dialect_sees(start_daemon: StartDaemon, short_dir: Path, slots: int) -> None:
    bank(start_daemon, slots, settings(short_dir, sockets()))
    there = names(slots)
    for dialect in ALL:
        suffix = "-short" if dialect is SHORT_4_2 else ""
        for order in "<>":
            for kind, size in (("all", 16), ("long", 48)):
                shown = there if dialect.counted_table else there[:size]
                assert seen(short_dir / f"{kind}{suffix}.comm", dialect, order, size) == shown, dialect
            for view in range(6):
                shown = there[16 * view : 16 * view + 16]
                assert seen(short_dir / f"view{view}{suffix}.comm", dialect, order, 16) == shown, dialect


@pytest.mark.parametrize(("size", "expected"), [(16, 48), (48, 16)])
def test_a_wrong_table_is_noticed(
    start_daemon: StartDaemon, short_dir: Path, size: int, expected: int
) -> None:
    """The tests here can fail: a client that reads too little is out of step, one too much hears nothing."""
    bank(start_daemon, 1, settings(short_dir, f"clients.table_size = {expected}\n"))
    with Player(short_dir / "pcscd.comm", DIALECTS[4, 4], table_size=size) as client:
        client.establish()
        client._socket.settimeout(0.3)
        with pytest.raises((AssertionError, TimeoutError)):
            client.readers()
            client.check_step()


# --- by rule ---------------------------------------------------------------------------------------


def listed(daemon: Daemon, *command: str | Path) -> list[str]:
    words = [str(word) for word in command]
    env = client_env(daemon.path)
    result = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def table(daemon: Daemon, records: int, *options: str) -> list[str | Path]:
    return [sys.executable, CLIENTS / "table.py", daemon.path, str(records), *options]


@pytest.fixture
def open_dir(short_dir: Path) -> Iterator[Path]:
    """Where other users may look into, too."""
    short_dir.chmod(0o755)
    return short_dir


def test_by_executable(start_daemon: StartDaemon, open_dir: Path) -> None:
    """A library with long tables and Debian's own, at the same time on the same socket."""
    need("pcsc_scan")
    rule = f'[[client]]\nexecutable = "{Path(sys.executable).resolve()}"\ntable_size = 48\n'
    port = free_ports(96)
    options = ["--vpcd", "96", "--vpcd-port", str(port), *settings(open_dir, rule)]
    daemon = start_daemon(*options, readers=None)
    # this process is one of those with long tables
    wait_for(lambda: "serving on" in daemon.log, "a daemon that serves")
    with Player(daemon.path, DIALECTS[4, 5], table_size=48) as client:
        client.establish()
        assert [reader.name for reader in client.readers()] == names(48)
        client.check_step()
        scanned = listed(daemon, "pcsc_scan", "-r")
        assert scanned == [f"{number}: {name}" for number, name in enumerate(names(16))]
        assert listed(daemon, *table(daemon, 48)) == names(48)
        client.check_step()


def test_by_user(start_daemon: StartDaemon, open_dir: Path) -> None:
    need_root()
    daemon = bank(start_daemon, 96, settings(open_dir, f"[[client]]\nuser = {NOBODY}\ntable_size = 48\n"))
    assert listed(daemon, *table(daemon, 48, str(NOBODY))) == names(48)
    assert listed(daemon, *table(daemon, 16)) == names(16)


ANOTHER_ROOT = """
mount -t tmpfs none "$1"
for entry in /*; do
    if [ -L "$entry" ]; then cp -P "$entry" "$1$entry"
    elif [ -d "$entry" ]; then mkdir "$1$entry"; mount --rbind "$entry" "$1$entry"; fi
done
root=$1
shift
exec chroot "$root" "$@"
"""


def test_by_another_root(start_daemon: StartDaemon, open_dir: Path) -> None:
    """As a flatpak is: the same files by and large, below a root of its own."""
    need_root()
    need("unshare", "chroot")
    daemon = bank(start_daemon, 96, settings(open_dir, "[[client]]\nelsewhere = true\ntable_size = 48\n"))
    root = open_dir / "root"
    root.mkdir()
    elsewhere = ["unshare", "--mount", "sh", "-ec", ANOTHER_ROOT, "sh", root]
    assert listed(daemon, *elsewhere, *table(daemon, 48)) == names(48)
    assert listed(daemon, *table(daemon, 16)) == names(16)
    # another mount namespace alone is no other root
    assert listed(daemon, "unshare", "--mount", *table(daemon, 16)) == names(16)
