"""What the admin socket needs of the doors for clients, which it does not know otherwise."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from pypcscd.manager.handles import Client
from pypcscd.protocol.connection import ServerConnection
from pypcscd.protocol.observer import Tap


class PeerLike(Protocol):
    """Who is at the other end."""

    number: int
    pid: int
    uid: int

    def executable(self) -> str: ...


class SessionLike(Protocol):
    """A client's connection."""

    tap: Tap | None

    @property
    def peer(self) -> PeerLike: ...

    @property
    def client(self) -> Client: ...

    @property
    def connection(self) -> ServerConnection: ...

    @property
    def is_busy(self) -> bool: ...


class ConfigLike(Protocol):
    @property
    def path(self) -> Path: ...

    @property
    def readers(self) -> tuple[str, ...]: ...


class DoorLike(Protocol):
    opened: Callable[[Any], None] | None

    @property
    def config(self) -> ConfigLike: ...


class ListenerLike(Protocol):
    """A client socket and its sessions."""

    @property
    def door(self) -> DoorLike: ...

    @property
    def sessions(self) -> Iterable[SessionLike]: ...


class Numbers:
    """Numbers for sessions, the same for as long as one lives, whichever socket it came by."""

    def __init__(self) -> None:
        self._numbers: WeakKeyDictionary[SessionLike, int] = WeakKeyDictionary()
        self._last = 0

    def of(self, session: SessionLike) -> int:
        number = self._numbers.get(session)
        if number is None:
            self._last += 1
            number = self._numbers[session] = self._last
        return number
