"""What the admin socket needs of the doors for clients, which it does not know otherwise."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from pypcscd.manager.handles import Client
from pypcscd.protocol.connection import ServerConnection
from pypcscd.protocol.observer import Tap


class PeerLike(Protocol):
    """Who is at the other end."""

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
