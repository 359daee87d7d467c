"""What programs see when the daemon stops and comes back, and when the last reader does; as with pcscd."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from activator import Activator, listen
from harness import CLIENTS, VPCD_LIBRARY, Background, Daemon, Reference, client_env, free_ports, missing

COMM_ERROR, NO_SERVICE, NO_READERS = "80100013", "8010001D", "8010002E"


def ask_again(client: Background) -> dict[str, str]:
    """Have the client make its calls once more; what they return."""
    begin = len(client.log)
    client.process.stdin.write(b"\n")
    client.process.stdin.flush()
    client.wait_for_line("again", begin)
    return results(client.log[begin:])


def results(log: str) -> dict[str, str]:
    return dict(words for line in log.splitlines() if len(words := line.split()) == 2)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    if not VPCD_LIBRARY.exists():
        missing(f"{VPCD_LIBRARY} is not installed")
    path = tmp_path / "vpcd"
    port = free_ports(2)
    path.write_text(
        f'FRIENDLYNAME "Vpcd"\nDEVICENAME /dev/null:{port}\nLIBPATH {VPCD_LIBRARY}\nCHANNELID {port}\n'
    )
    return path


@pytest.mark.parametrize("kind", [Daemon, Reference])
def test_the_daemon_stops_and_starts(short_dir: Path, conf: Path, kind: type[Daemon]) -> None:
    if kind is Reference and not Reference.usable():
        pytest.skip("the comparison needs pcscd and a mount namespace")
    program = [sys.executable, CLIENTS / "outlive.py"]
    with kind(short_dir, ["-c", conf]) as daemon:
        daemon.wait_ready(2)
        env = client_env(daemon.path)
        with (
            Background(program, short_dir / "idle", env) as idle,
            Background([*program, "Vpcd"], short_dir / "connected", env) as connected,
        ):
            for client in (idle, connected):
                client.wait_for_line("waiting")
            assert daemon.end(signal.SIGTERM) == 0
            for client in (idle, connected):
                client.wait_for_line("again")
                seen = results(client.log)
                # with pcscd it is the second at times
                assert seen.pop("wait") in (COMM_ERROR, NO_SERVICE)
                seen.pop("connect", None)
                assert set(seen.values()) == {NO_SERVICE}, seen
                assert ask_again(client) == {"establish": NO_SERVICE}
            with kind(short_dir, ["-c", conf]) as successor:
                successor.wait_ready(2)
                for client in (idle, connected):
                    seen = ask_again(client)
                    assert (seen["establish"], seen["list"]) == ("00000000", "00000000")
                successor.end(signal.SIGTERM)


def test_with_a_socket_that_stays_nobody_is_refused(short_dir: Path) -> None:
    """A restart, or an upgrade, under systemd: who comes meanwhile waits for the next daemon."""
    path = short_dir / "pcscd.comm"
    arguments = ["--socket", path, "--virtual", "hello"]
    with Activator([listen(path)], arguments, short_dir / "log") as activator:
        program = [sys.executable, CLIENTS / "outlive.py"]
        with Background(program, short_dir / "client", client_env(path)) as client:
            client.wait_for_line("waiting")
            first = int(path.with_suffix(".pid").read_text())
            activator.stop_daemon()
            client.wait_for_line("again")
            assert results(client.log)["wait"] in (COMM_ERROR, NO_SERVICE)
            seen = ask_again(client)
            assert (seen["establish"], seen["list"]) == ("00000000", "00000000")
            assert int(path.with_suffix(".pid").read_text()) != first
    assert activator.statuses == [0, 0]


def test_the_last_reader_goes_and_returns(
    start_daemon: Callable[..., Daemon], native_conf: tuple[Path, Path], short_dir: Path
) -> None:
    folder, library = native_conf
    (folder / "aborting").unlink()
    entry = folder / "only"
    entry.write_text(f'FRIENDLYNAME "Only"\nLIBPATH {library}\nCHANNELID 1\n')
    daemon = start_daemon("-c", folder, readers=1)
    program = [sys.executable, CLIENTS / "outlive.py", "Only"]
    with Background(program, short_dir / "client", client_env(daemon.path)) as client:
        client.wait_for_line("waiting")
        text = entry.read_text()
        entry.unlink()
        daemon.process.send_signal(signal.SIGHUP)
        client.wait_for_line("again")
        seen = results(client.log)
        assert seen["wait"] == "00000000"
        assert seen["list"] == NO_READERS
        assert seen["release"] == "00000000"
        assert ask_again(client) == {"establish": "00000000", "list": NO_READERS}
        entry.write_text(text)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_ready(1)
        assert ask_again(client)["list"] == "00000000"
        assert "Only 00 00" in client.log
