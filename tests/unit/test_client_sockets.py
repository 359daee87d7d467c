"""Which sockets there are, by configuration and by what was handed over; and what a reload does to them."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from fakes import FakeSlot
from test_session import Wire

from pypcscd.client_sockets import ClientSockets
from pypcscd.configuration.config import Config, DaemonError
from pypcscd.manager.manager import Manager
from pypcscd.process.activation import Inherited
from pypcscd.process.idle import IdleClock
from pypcscd.protocol import DIALECTS, Command, ReaderEvent
from pypcscd.protocol import messages as m
from pypcscd.protocol.dialects import NATIVE_ORDER
from pypcscd.scard import ReturnCode
from pypcscd.server.rules import SocketConfig


def config_of(*sockets: SocketConfig) -> Config:
    return Config(sockets=sockets)


def handed_over(*paths: Path) -> Inherited:
    clients = {}
    for path in paths:
        clients[path] = socket.socket(socket.AF_UNIX)
        clients[path].bind(str(path))
        clients[path].listen()
    return Inherited(clients)


@pytest.fixture(autouse=True)
def sockets_are_files(nothing_blocks_the_loop: BlockBuster) -> None:
    """They are looked at, made and removed on the loop: in /run, which is memory, and not often."""
    for function in nothing_blocks_the_loop.functions.values():
        function.can_block_in("pypcscd/client_sockets.py", {"open", "reconfigure", "release"})


@pytest.fixture
async def manager() -> AsyncIterator[Manager]:
    manager = Manager()
    yield manager
    await manager.close()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"{name}.comm" for name in ("own", "bank", "other")]


async def test_views_that_nobody_uses_are_forgotten(manager: Manager, paths: list[Path]) -> None:
    own, bank = (SocketConfig(path) for path in paths[:2])
    sockets = ClientSockets(manager, Inherited({}))
    sockets.open(config_of(own, bank))
    sockets.start()
    for number in range(5):
        sockets.reconfigure(config_of(own, bank._replace(readers=(f"{number}*",))))
    assert len(manager.roster._views) == 2
    sockets.reconfigure(config_of(own))
    assert len(manager.roster._views) == 1
    sockets.hang_up()
    sockets.release()
    assert not paths[0].exists()


async def test_a_failed_change_leaves_everything(manager: Manager, paths: list[Path]) -> None:
    own, bank, other = (SocketConfig(path) for path in paths)
    paths[2].mkdir()
    sockets = ClientSockets(manager, Inherited({}))
    sockets.open(config_of(own))
    sockets.start()
    with pytest.raises(DaemonError, match=f"{paths[2]} is a directory"):
        sockets.reconfigure(replace(config_of(own, bank, other), max_clients=1))
    assert sockets.paths == [paths[0]]
    assert sockets.listeners[0].max_clients == Config().max_clients
    assert not paths[1].exists()
    sockets.hang_up()
    sockets.release()


@pytest.mark.parametrize(
    ("given", "expected"),
    [((0,), [0, 1]), ((1, 0), [0, 1]), ((2,), [2, 1]), ((2, 1), [2, 1]), ((1,), [1])],
)
async def test_what_is_handed_over_comes_first(
    manager: Manager, paths: list[Path], given: tuple[int, ...], expected: list[int]
) -> None:
    """The first one is the daemon's own: the admin socket is beside it."""
    own, bank = (SocketConfig(path) for path in paths[:2])
    inherited = handed_over(*(paths[number] for number in given))
    sockets = ClientSockets(manager, inherited)
    sockets.open(config_of(own, bank))
    assert sockets.paths == [paths[number] for number in expected]
    sockets.start()
    # what was handed over is kept, whatever the settings say
    sockets.reconfigure(config_of(own))
    kept = [0] if 0 in given or not given else []
    assert sockets.paths[: len(kept)] == [paths[number] for number in kept]
    assert {paths[number] for number in given} <= set(sockets.paths)
    sockets.hang_up()
    sockets.release()
    assert all(paths[number].exists() for number in given)


async def wire_to(path: Path) -> Wire:
    return await Wire(path, DIALECTS[4, 4], NATIVE_ORDER).open()


async def test_a_wait_can_be_cancelled_after_a_reload(manager: Manager, paths: list[Path]) -> None:
    own, bank = (SocketConfig(path) for path in paths[:2])
    sockets = ClientSockets(manager, Inherited({}))
    sockets.open(config_of(own, bank))
    sockets.start()
    client = await wire_to(paths[1])
    context = await client.context()
    await client.ask(Command.WAIT_READER_STATE_CHANGE)
    sockets.reconfigure(config_of(own, bank._replace(readers=("SIM*",))))
    canceller = await wire_to(paths[1])
    cancelled = await canceller.ask(Command.CANCEL, m.Cancel(context))
    assert cancelled.rv == 0, hex(cancelled.rv)
    assert await client.hear() == ReaderEvent(ReturnCode.E_CANCELLED)
    client.close()
    canceller.close()
    sockets.hang_up()
    sockets.release()


async def test_the_clock_of_auto_exit_rings_while_the_daemon_stops(
    manager: Manager, paths: list[Path]
) -> None:
    sockets = ClientSockets(manager, Inherited({}))
    sockets.open(config_of(SocketConfig(paths[0])))
    sockets.start()
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    clock = IdleClock(0.01, lambda: sockets.is_used, lambda: not sockets.has_queue)
    clock.look()
    sockets.hang_up()
    # devices take their time to close
    await asyncio.sleep(0.05)
    sockets.release()
    assert problems == []


async def test_a_failed_change_leaves_the_modes(
    manager: Manager, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, bank = (SocketConfig(path, mode=0o600) for path in paths[:2])
    sockets = ClientSockets(manager, Inherited({}))
    sockets.open(config_of(own, bank))
    sockets.start()
    paths[1].unlink()
    with pytest.raises(DaemonError):
        sockets.reconfigure(config_of(own._replace(mode=0o666), bank._replace(mode=0o666)))
    assert paths[0].stat().st_mode & 0o777 == 0o600
    sockets.hang_up()
    sockets.release()


async def test_a_failed_change_leaves_no_views(manager: Manager, paths: list[Path]) -> None:
    own, bank, other = (SocketConfig(path) for path in paths)
    paths[2].mkdir()
    sockets = ClientSockets(manager, Inherited({}))
    sockets.open(config_of(own))
    sockets.start()
    for number in range(3):
        with pytest.raises(DaemonError):
            sockets.reconfigure(config_of(own, bank._replace(readers=(f"{number}*",)), other))
    assert len(manager.roster._views) == 1
    sockets.hang_up()
    sockets.release()


async def test_a_client_that_does_not_read_goes_with_its_socket(manager: Manager, paths: list[Path]) -> None:
    own, bank = (SocketConfig(path) for path in paths[:2])
    (reader,) = await manager.add_readers("Fake", 0, [FakeSlot()])
    sockets = ClientSockets(manager, Inherited({}))
    sockets.open(config_of(own, bank))
    sockets.start()
    client = await wire_to(paths[1])
    card = await client.card()
    await client.ask(Command.BEGIN_TRANSACTION, m.BeginTransaction(card))
    assert reader.lock.holder is not None
    client.writer.transport.pause_reading()
    asking = client.connection.request(Command.GET_READERS_STATE)
    client.writer.write(asking * 1000)
    (session,) = sockets.listeners[1].sessions
    async with asyncio.timeout(5):
        while not session._is_congested:
            await asyncio.sleep(0.01)
    sockets.reconfigure(config_of(own))
    await asyncio.sleep(0.1)
    assert reader.lock.holder is None
    client.close()
    sockets.hang_up()
    sockets.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_an_owner_that_is_not_configured_any_more(manager: Manager, paths: list[Path]) -> None:
    own, bank = (SocketConfig(path) for path in paths[:2])
    sockets = ClientSockets(manager, Inherited({}))
    sockets.open(config_of(own, bank._replace(owner=1000, group=1000)))
    sockets.start()
    sockets.reconfigure(config_of(own, bank))
    status = paths[1].stat()
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    sockets.hang_up()
    sockets.release()
