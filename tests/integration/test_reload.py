"""SIGHUP: the configuration is read again, and nobody who is connected notices."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import CLIENTS, PYPCSCD, Background, Daemon, client_env, free_ports, wait_for
from wire import WireClient

Start = Callable[..., Daemon]


def reload(daemon: Daemon, outcome: str = "reloaded") -> str:
    """Ask for it and wait for its end; the log lines of it."""
    begin = len(daemon.log)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_line(outcome, begin)
    return daemon.log[begin:]


def names(path: Path) -> list[str]:
    with WireClient(path) as client:
        client.establish()
        return [reader.name for reader in client.readers()]


@pytest.fixture
def settings(short_dir: Path) -> Path:
    path = short_dir / "settings.toml"
    path.write_text("")
    return path


def test_a_transaction_goes_on(start_daemon: Start, settings: Path, short_dir: Path) -> None:
    """One program holds it, another waits for it, a third for a change; nothing changes for them."""
    daemon = start_daemon("--virtual", "hello", "--virtual", "sle4442", "--settings", settings, readers=2)
    env = client_env(daemon.path)
    program = [sys.executable, CLIENTS / "transaction.py", "hello"]
    with (
        Background(program, short_dir / "holder", env) as holder,
        Background(program, short_dir / "waiter", env) as waiter,
        Background([sys.executable, CLIENTS / "monitor.py"], short_dir / "monitor", env) as monitor,
    ):
        for client in (holder, waiter):
            client.wait_for_line("connected")
        monitor.wait_for_line("card + Virtual sle4442")
        holder.process.stdin.write(b"\n")
        holder.process.stdin.flush()
        holder.wait_for_line("begun")
        waiter.process.stdin.write(b"\n")
        waiter.process.stdin.flush()
        waiter.wait_for_line("waiting")
        seen = monitor.log
        bank = short_dir / "bank.comm"
        for text in (
            f'[power]\ndown_delay = "never"\n[[socket]]\npath = "{bank}"\nreaders = ["* sle*"]\n',
            "[limits]\nclients = 5\n",
            "",
        ):
            settings.write_text(text)
            reload(daemon)
            assert "begun" not in waiter.log
        status = subprocess.run(
            [PYPCSCD, "status", "--socket", daemon.path], capture_output=True, text=True, check=True
        ).stdout
        assert "wait" in status
        holder.close_stdin()
        assert holder.wait() == 0
        assert "ended 00000000" in holder.log
        waiter.wait_for_line("begun")
        waiter.close_stdin()
        assert waiter.wait() == 0
        assert "ended 00000000" in waiter.log
        assert monitor.log == seen, "no reader and no card has gone or come"
        monitor.close_stdin()
        assert monitor.wait() == 0


def test_limits_change(start_daemon: Start, settings: Path) -> None:
    daemon = start_daemon("--virtual", "hello", "--settings", settings, readers=1)
    settings.write_text("[limits]\nclients = 1\n")
    reload(daemon)
    with WireClient(daemon.path) as only:
        only.establish()
        with WireClient(daemon.path) as second:
            assert second.closed_by_daemon()
        settings.write_text("")
        reload(daemon)
        with WireClient(daemon.path) as second:
            second.establish()


def test_power_rules_change_for_cards_that_rest(start_daemon: Start, settings: Path) -> None:
    """A card that was to keep its power for ever is powered down when the new delay is over."""
    settings.write_text('[power]\ndown_delay = "never"\n')
    daemon = start_daemon("-d", "--virtual", "hello", "--settings", settings, readers=1)
    settings.write_text("[power]\ndown_delay = 0.1\n")
    reload(daemon)
    daemon.wait_for_line("nobody uses the card; it is powered down")


def test_sockets_come_and_go(start_daemon: Start, settings: Path, short_dir: Path) -> None:
    daemon = start_daemon("--virtual", "hello", "--virtual", "sle4442", "--settings", settings, readers=2)
    bank = short_dir / "bank.comm"
    with WireClient(daemon.path) as client:
        client.establish()
        settings.write_text(f'[[socket]]\npath = "{bank}"\nreaders = ["* sle*"]\n')
        reload(daemon)
        assert names(bank) == ["Virtual sle4442 01 00"]
        assert bank.stat().st_mode & 0o777 == 0o666
        with WireClient(bank) as guest:
            guest.establish()
            settings.write_text(
                f'[[socket]]\npath = "{bank}"\nreaders = ["* hello*"]\nmode = "0600"\nusers = []\n'
            )
            reload(daemon)
            assert names(bank) == ["Virtual hello 00 00"], "for those who come now"
            assert [reader.name for reader in guest.readers()] == ["Virtual sle4442 01 00"]
            assert bank.stat().st_mode & 0o777 == 0o600
            settings.write_text("")
            reload(daemon)
            assert guest.closed_by_daemon()
        assert not bank.exists()
        assert not bank.with_suffix(".pid").exists()
        assert len(client.readers()) == 2


def test_a_new_socket_is_seen_by_who_spies(start_daemon: Start, settings: Path, short_dir: Path) -> None:
    daemon = start_daemon("--virtual", "hello", "--settings", settings, readers=1)
    bank = short_dir / "bank.comm"
    command = [PYPCSCD, "spy", "--socket", daemon.path]
    with Background(command, short_dir / "spy", client_env(daemon.path)) as spy:
        # it watches when it shows what is said on the first socket
        wait_for(lambda: bool(names(daemon.path)) and "SCardEstablishContext" in spy.log, "the spy")
        settings.write_text(f'[[socket]]\npath = "{bank}"\n')
        reload(daemon)
        before = len(spy.log)
        names(bank)
        spy.wait_for_line("SCardEstablishContext", before)
        spy.end(signal.SIGINT)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[power]\ndown_delay = soon\n", ":2: "),
        ("[limits]\n\nclients = 0\n", ":3: clients: 0 is not a number from 1 on"),
        ('[[socket]]\npath = "/proc/no.comm"\n', "cannot serve /proc/no.comm: "),
    ],
)
def test_a_wrong_file_changes_nothing(start_daemon: Start, settings: Path, text: str, why: str) -> None:
    bank = settings.with_name("bank.comm")
    good = f'[[socket]]\npath = "{bank}"\n'
    settings.write_text(good)
    daemon = start_daemon("--virtual", "hello", "--settings", settings, readers=1)
    settings.write_text(text)
    said = reload(daemon, "reload failed, everything is as before: ")
    daemon.wait_for_line(why)
    assert "Traceback" not in said
    assert names(bank) == ["Virtual hello 00 00"]
    settings.write_text("")
    reload(daemon)
    assert not bank.exists()


def test_it_can_be_asked_for_again_and_again(start_daemon: Start, settings: Path) -> None:
    """Requests that come during a reload are not lost, and do not pile up."""
    daemon = start_daemon("--virtual", "hello", "--settings", settings, readers=1)
    for _ in range(50):
        daemon.process.send_signal(signal.SIGHUP)
    settings.write_text("[limits]\nclients = 0\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_line("reload failed")
    assert daemon.log.count("reloaded") <= 50
    assert names(daemon.path) == ["Virtual hello 00 00"]


def test_a_card_that_does_not_answer_delays_nothing(start_daemon: Start, short_dir: Path) -> None:
    port = free_ports(1)
    daemon = start_daemon("--vpcd", "1", "--vpcd-port", port, readers=1)
    with socket.create_connection(("127.0.0.1", port)) as silent:
        assert silent.recv(1), "it is asked for its ATR"
        assert "could not be powered" not in reload(daemon)
        assert "could not be powered" not in daemon.log


def entry(name: str, library: Path, channel: int) -> str:
    return f'FRIENDLYNAME "{name}"\nLIBPATH {library}\nCHANNELID {channel}\n\n'


def test_configured_readers(start_daemon: Start, native_conf: tuple[Path, Path], short_dir: Path) -> None:
    """Those that are gone are closed, the new ones opened, and the others do not notice."""
    folder, library = native_conf
    (folder / "aborting").unlink()
    first, second = folder / "1", folder / "2"
    first.write_text(entry("Stays", library, 1) + entry("Goes", library, 2))
    daemon = start_daemon("-c", folder, readers=2)
    with Background(
        [sys.executable, CLIENTS / "monitor.py"], short_dir / "monitor", client_env(daemon.path)
    ) as monitor:
        monitor.wait_for_line("reader + Goes")
        # another line and other spaces: still the same reader
        first.write_text("# a comment\n\n" + entry("Stays", library, 1))
        second.write_text(entry("Comes", library, 3))
        reload(daemon)
        daemon.wait_readers(
            lambda found: sorted(reader.name[:5] for reader in found) == ["Comes", "Stays"], "the change"
        )
        monitor.wait_for_line("reader + Comes")
        monitor.wait_for_line("reader - Goes")
        assert not re.search("reader - Stays", monitor.log)
        assert daemon.log.count("reader removed: Stays") == 0

        # a mistake costs the new entry, not the readers that are there
        first.write_text(entry("Stays", library, 1).replace("CHANNELID 1", "CHANNELID one"))
        said = reload(daemon)
        assert f'{first}:3: CHANNELID "one" is not a number' in said
        assert len(daemon.readers()) == 2

        first.unlink()
        reload(daemon)
        daemon.wait_readers(lambda found: len(found) == 1, "the end of the other")
        monitor.close_stdin()
        assert monitor.wait() == 0
