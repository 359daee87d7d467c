"""One card, several processes."""

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from harness import CLIENTS, Backend

ROUNDS = 200


def test_three_processes_share_a_card(
    backend: Backend, compiled: Callable[..., Path], tmp_path: Path
) -> None:
    """Each writes and reads back its own mark in transactions; none ever finds another's."""
    reader = backend.readers[1]
    program = [sys.executable, CLIENTS / "sharing.py"]
    commands = [[compiled("sharing.c"), reader, "A1"], [*program, reader, "B2"], [*program, reader, "C3"]]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(backend.watch([*command, str(ROUNDS)], tmp_path / f"client{number}"))
            for number, command in enumerate(commands)
        ]
        backend.daemon.wait_readers(lambda found: found[1].sharing == 3, "all three have connected")
        for client in clients:
            client.close_stdin()
        for client in clients:
            assert client.wait(60) == 0, client.log
            assert client.log.splitlines()[-1] == f"{ROUNDS} rounds"


def test_a_client_that_dies_frees_the_card(backend: Backend, tmp_path: Path) -> None:
    """Killed inside a transaction, it leaves neither lock nor handle behind."""
    reader = backend.readers[1]
    program = [sys.executable, CLIENTS / "sharing.py", reader, "D4"]
    with backend.watch([*program, "1000000"], tmp_path / "victim") as victim:
        victim.close_stdin()
        victim.wait_for_line("100 so far")
        victim.end(signal.SIGKILL)
    result = backend.run([*program, "10"], timeout=20)
    assert result.returncode == 0
    backend.daemon.wait_readers(lambda found: all(state.sharing == 0 for state in found), "no users left")
