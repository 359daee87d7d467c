"""Which sockets there are, by configuration and by what was handed over; and what a reload does to them."""

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from pypcscd.client_sockets import ClientSockets
from pypcscd.configuration.config import Config, DaemonError
from pypcscd.manager.manager import Manager
from pypcscd.process.activation import Inherited
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
