"""Accepting clients, and what is known of those who have not got a session yet."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pypcscd.manager.manager import Manager
from pypcscd.server import listener as module
from pypcscd.server.door import Door
from pypcscd.server.listener import Listener, open_socket
from pypcscd.server.rules import SocketConfig


class Exhausted(socket.socket):
    """A listening socket that has no descriptors left, for a number of times."""

    failures = 0

    def accept(self) -> tuple[socket.socket, object]:
        if Exhausted.failures:
            Exhausted.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def until(condition: Callable[[], object], pause: float = 0.005) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(pause)


@pytest.fixture
async def manager() -> AsyncIterator[Manager]:
    manager = Manager()
    yield manager
    await manager.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def make(manager: Manager, path: Path) -> Listener:
    config = SocketConfig(path)
    listening = Exhausted(fileno=open_socket(config).detach())
    listening.setblocking(False)
    return Listener(Door(manager, config, ()), listening, 10)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    client.connect(str(path))
    return client


async def test_who_waits_and_who_is_there(manager: Manager, path: Path) -> None:
    listener = make(manager, path)
    changes: list[bool] = []
    listener.changed = lambda: changes.append(listener.is_used)
    assert not listener.has_queue
    client = connect(path)
    assert listener.has_queue
    assert not listener.is_used
    listener.start()
    await until(lambda: listener.is_used, pause=0)
    assert not listener.sessions, "used from the moment on at which it is accepted"
    assert not listener.has_queue
    await until(lambda: listener.sessions)
    client.close()
    await until(lambda: not listener.is_used)
    assert changes[0]
    assert not changes[-1]
    listener.close()


async def test_one_who_never_gets_a_session_is_forgotten(
    manager: Manager, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the clock of auto-exit would stand still for ever."""
    listener = make(manager, path)
    changes: list[bool] = []
    listener.changed = lambda: changes.append(listener.is_used)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "Session", fail)
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    listener.start()
    with connect(path) as client:
        await until(lambda: changes)
        assert changes == [False]
        assert await asyncio.get_running_loop().sock_recv(client, 1) == b"", "it is hung up on"
    listener.close()


async def test_for_lack_of_descriptors_clients_wait(
    manager: Manager, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(Exhausted, "failures", 3)
    listener = make(manager, path)
    listener.start()
    with connect(path):
        await until(lambda: listener.sessions)
    assert Exhausted.failures == 0
    assert "no client can be accepted" in caplog.text
    listener.close()


async def test_it_can_be_closed_while_it_pauses(
    manager: Manager, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(Exhausted, "failures", 1)
    listener = make(manager, path)
    listener.start()
    with connect(path):
        await until(lambda: "no client can be accepted" in caplog.text)
        listener.close()
        listener.close()
        await asyncio.sleep(0.05)
    assert Exhausted.failures == 0


async def test_who_is_not_accepted_is_left_to_the_next_daemon(manager: Manager, path: Path) -> None:
    """The socket of a service manager lives on in its own hands."""
    listener = make(manager, path)
    kept = socket.socket(fileno=os.dup(listener._listening.fileno()))
    listener.start()
    listener.stop_accepting()
    with connect(path) as client:
        await asyncio.sleep(0.05)
        assert not listener.is_used
        accepted, _ = kept.accept()
        accepted.sendall(b"x")
        assert await asyncio.get_running_loop().sock_recv(client, 1) == b"x"
        accepted.close()
    kept.close()
    listener.close()
