"""Clients of every age and byte order at one daemon, all at once, and each sees what it can understand."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from emulator import Emulator, HelloCard
from harness import Daemon, free_ports
from mirror_card import ATTRIBUTE, CODE, Mirror
from player import Player, Readers

from pypcscd.protocol import DIALECTS, SHORT_4_2, Command, Dialect, ReaderEvent, Reply
from pypcscd.protocol import messages as m
from pypcscd.scard import ReaderState, ReaderStatus, ReturnCode

ALL = [*DIALECTS.values(), SHORT_4_2]
CLIENTS = [(dialect, order) for dialect in ALL for order in "<>"]
#: for those whose 4.2 has short names, which nothing tells before the first table
SHORT_NAMES = """
[[socket]]
path = "HOME/short_names.comm"
short_names = true
"""


def settings(directory: Path, text: str) -> list[str | Path]:
    path = directory / "pypcscd.toml"
    path.write_text(text.replace("HOME", str(directory)))
    return ["--settings", path]


def player(daemon: Daemon, dialect: Dialect, order: str) -> Player:
    path = daemon.path.with_name("short_names.comm") if dialect is SHORT_4_2 else daemon.path
    return Player(path, dialect, order)


# --- the whole story -------------------------------------------------------------------------------


class Stage:
    """What the clients of the story share: the readers, and the moments at which all are at one point."""

    def __init__(self, daemon: Daemon, names: Sequence[str]) -> None:
        self.daemon = daemon
        self.names = list(names)
        #: the reader with the card that is pulled out
        (self.plugged,) = (name for name in names if "PCD" in name)
        #: those whose card mirrors, two clients to each
        self.mirrors = [name for name in names if name != self.plugged]
        self.barrier = threading.Barrier(len(CLIENTS) + 1, timeout=30)
        self.waiting = threading.Semaphore(0)

    def has_card(self, readers: Readers) -> bool:
        return bool(find(readers, self.plugged).state & ReaderState.PRESENT)


def find(readers: Readers, name: str) -> ReaderStatus:
    return next(reader for reader in readers if reader.name == name)


def use_a_card(client: Player, reader: str, mark: bytes) -> None:
    """Connect, and everything that can be done with a card of which others have a handle too."""
    card = client.connect(reader)
    client.begin(card)
    assert client.transmit(card, mark) == mark[::-1] + b"\x90\x00"
    longest = (mark * 65536)[:65546]
    assert client.transmit(card, longest) == longest[::-1][:65536] + b"\x90\x00"

    controlled = client.exchange(Command.CONTROL, m.Control(card, CODE, len(mark), 264), mark)
    assert controlled == Reply(
        Command.CONTROL, m.Control(card, CODE, len(mark), 264, len(mark), 0), mark[::-1]
    )
    value = client.ask(Command.GET_ATTRIB, m.Attribute(card, ATTRIBUTE, bytes(264), 264))
    assert (value.value, value.length) == (bytes(range(256)) + b"\xff" * 8, 264)
    refused = client.exchange(Command.SET_ATTRIB, m.Attribute(card, ATTRIBUTE, mark, 2)).body
    assert isinstance(refused, m.Attribute)
    assert refused.rv == ReturnCode.E_UNSUPPORTED_FEATURE

    client.check_status(card)
    shown = find(client.readers(), reader)
    assert shown.state & ReaderState.PRESENT
    assert shown.atr == Mirror.atr
    assert shown.sharing >= 1
    if client.dialect.has_long_status:
        assert client.ask(Command.CANCEL_TRANSACTION, m.CancelTransaction(card)) == (card, 0)
    assert client.ask(Command.RECONNECT, m.Reconnect(card, 2, 3, 0)).active_protocol == 2
    assert client.ask(Command.END_TRANSACTION, m.EndTransaction(card, 0)) == (card, 0, 0)
    assert client.ask(Command.DISCONNECT, m.Disconnect(card, 0)) == (card, 0, 0)


def play(stage: Stage, number: int) -> int:
    """One client's part; the number of events that it has got."""
    dialect, order = CLIENTS[number]
    try:
        return perform(stage, number, dialect, order)
    except BaseException:
        stage.barrier.abort()
        raise


def perform(stage: Stage, number: int, dialect: Dialect, order: str) -> int:
    with player(stage.daemon, dialect, order) as client:
        client.establish()
        stage.barrier.wait()  # all are connected
        assert [reader.name for reader in client.readers()] == stage.names
        use_a_card(client, stage.mirrors[number // 2], bytes((number, 0xA4, 4, 0)) + dialect.variant.encode())

        client.wait_until(stage.has_card)
        stage.barrier.wait()  # nobody does anything but wait
        client.wait_until(lambda readers: not stage.has_card(readers), stage.waiting.release)
        stage.barrier.wait()
        client.wait_until(stage.has_card, stage.waiting.release)
        events = client.events
        stage.barrier.wait()

        client.look()
        client.stop()
        client.check_step()
        cancelled_from_elsewhere(stage, client, order)
        client.check_step()
        assert client.ask(Command.RELEASE_CONTEXT, m.ReleaseContext(client.context)).rv == 0
        return events


def cancelled_from_elsewhere(stage: Stage, client: Player, order: str) -> None:
    client.look()
    with player(stage.daemon, client.dialect, order) as other:
        other.ask(Command.CANCEL, m.Cancel(client.context))
    assert client.hear() == ReaderEvent(ReturnCode.E_CANCELLED)


def test_every_dialect_plays_the_whole_story_at_once(
    start_daemon: Callable[..., Daemon], short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    port = free_ports(1)
    cards = ["--virtual", "mirror_card:Mirror"] * len(ALL)
    options = [*cards, "--vpcd", "1", "--vpcd-port", str(port), *settings(short_dir, SHORT_NAMES)]
    daemon = start_daemon(*options, readers=len(ALL) + 1)
    stage = Stage(daemon, [reader.name for reader in daemon.readers()])
    emulator = Emulator(port, HelloCard())
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        parts = [pool.submit(play, stage, number) for number in range(len(CLIENTS))]
        try:
            direct_the_card(stage, emulator)
        except (threading.BrokenBarrierError, AssertionError) as error:
            stage.barrier.abort()
            print(f"{error!r}: a client is not where it should be; what follows is its failure")
        raise_first(parts)
        for part, (dialect, order) in zip(parts, CLIENTS, strict=True):
            # two by the card, and others while cards were still being used
            assert part.result() >= 2, (str(dialect), order)
    emulator.unplug()
    daemon.wait_readers(lambda found: not any(reader.sharing for reader in found), "cards without users")
    assert "connection closed because" not in daemon.log


def direct_the_card(stage: Stage, emulator: Emulator) -> None:
    """Put the card in, out and in again, each time when all clients wait for it."""

    def all_wait() -> None:
        for _ in CLIENTS:
            assert stage.waiting.acquire(timeout=20), "not all clients wait"

    emulator.plug()
    stage.barrier.wait()
    stage.barrier.wait()
    all_wait()
    emulator.unplug()
    stage.barrier.wait()
    all_wait()
    emulator.plug()
    stage.barrier.wait()


# --- changes ---------------------------------------------------------------------------------------

ROUNDS = 150


def test_nobody_misses_a_change(start_daemon: Callable[..., Daemon], short_dir: Path) -> None:
    """However a change falls between a client's looking and its waiting, the client learns of it."""
    port = free_ports(1)
    options = ["--vpcd", "1", "--vpcd-port", str(port), *settings(short_dir, SHORT_NAMES)]
    daemon = start_daemon(*options, readers=1)
    barrier = threading.Barrier(len(CLIENTS) + 1, timeout=20)

    def watch(number: int) -> None:
        try:
            with player(daemon, *CLIENTS[number]) as client:
                client.establish()
                for wanted in (ReaderState.PRESENT, ReaderState.ABSENT) * ROUNDS:
                    barrier.wait()
                    client.wait_until(lambda readers: readers[0].state & wanted)  # noqa: B023
        except BaseException:
            barrier.abort()
            raise

    emulator = Emulator(port, HelloCard())
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        watching = [pool.submit(watch, number) for number in range(len(CLIENTS))]
        with suppress(threading.BrokenBarrierError):
            for change in (emulator.plug, emulator.unplug) * ROUNDS:
                barrier.wait()
                change()
        raise_first(watching)


def raise_first(parts: Sequence[Future[Any]]) -> None:
    """Raise what made one of them fail, and not that others then waited for it in vain."""
    failures = [failure for part in parts if (failure := part.exception())]
    for failure in sorted(failures, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
        raise failure
