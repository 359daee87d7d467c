"""The daemon's client sockets: its own, those of the settings, and those that it was handed over."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pypcscd.authority import ChosenAuthority
from pypcscd.configuration.config import Config, DaemonError
from pypcscd.manager.manager import Manager
from pypcscd.paths import resolved
from pypcscd.process.activation import Inherited
from pypcscd.server.door import Door
from pypcscd.server.instance import Instance, InstanceError
from pypcscd.server.listener import Listener, open_socket, set_permissions
from pypcscd.server.rules import SocketConfig

log = logging.getLogger("pypcscd.daemon")


class _Open(NamedTuple):
    instance: Instance
    listener: Listener
    is_inherited: bool


class ClientSockets:
    """Opens them, keeps them as configured, and closes them."""

    def __init__(self, manager: Manager, inherited: Inherited) -> None:
        self._manager = manager
        self._inherited = inherited
        self._open: dict[Path, _Open] = {}
        self._authority = ChosenAuthority()
        #: in step with what is open; shared with those who look at the sessions
        self.listeners: list[Listener] = []
        #: each is called whenever a connection has come or gone
        self.observers: list[Callable[[], None]] = []

    @property
    def paths(self) -> list[Path]:
        return [listener.door.config.path for listener in self.listeners]

    @property
    def clients(self) -> int:
        """How many are connected."""
        return sum(len(listener.sessions) for listener in self.listeners)

    @property
    def is_used(self) -> bool:
        """Somebody is connected."""
        return any(listener.is_used for listener in self.listeners)

    @property
    def has_queue(self) -> bool:
        """Somebody has connected and is not accepted yet."""
        return any(listener.has_queue for listener in self.listeners)

    def open(self, config: Config) -> None:
        """Open what is configured; connections wait until ``start``. Raises DaemonError."""
        self._authority.choose(config)
        for wanted in self._wanted(config):
            self._add(wanted, config)

    def start(self) -> None:
        """Serve those who have connected already, and all who will."""
        for listener in self.listeners:
            listener.start()

    def reconfigure(self, config: Config) -> None:
        """Open what is new, close what is gone, change the rest; nobody who stays is hung up on.

        Raises DaemonError; then everything is as before.
        """
        wanted = {resolved(one.path): one for one in self._wanted(config)}
        new = [path for path in wanted if path not in self._open]
        changed: list[tuple[SocketConfig, SocketConfig]] = []
        try:
            for path in new:
                self._add(wanted[path], config)
            for path, one in wanted.items():
                known = self._open[path]
                before = known.listener.door.config
                if path not in new and not known.is_inherited and _differ(before, one):
                    changed.append((before, one))
                    self._change_permissions(before, one)
        except DaemonError:
            for before, one in changed:
                with suppress(DaemonError):
                    self._change_permissions(one, before)
            for path in new:
                self._remove(path)
            self._forget_views()
            raise
        self._authority.choose(config)
        for path in [path for path in self._open if path not in wanted]:
            log.info("the socket %s is not configured any more; it is closed", path)
            self._remove(path)
        for path, one in wanted.items():
            listener = self._open[path].listener
            listener.door.reconfigure(one, config.client_rules)
            listener.door.authority = self._authority.current
            listener.max_clients = config.max_clients
        for path in new:
            log.info("serving on %s too", path)
            self._open[path].listener.start()
        self._forget_views()

    def _forget_views(self) -> None:
        """Those that no client sees any more, nor will."""
        used = {listener.door.view for listener in self.listeners}
        used |= {session.client.view for listener in self.listeners for session in listener.sessions}
        self._manager.roster.keep_views(used)

    def stop_accepting(self) -> None:
        """Accept nobody any more; whoever connects to an inherited socket waits for the next daemon."""
        for listener in self.listeners:
            listener.stop_accepting()

    def hang_up(self) -> None:
        """Accept nobody any more and close all connections."""
        for listener in self.listeners:
            listener.close()

    def release(self) -> None:
        """Remove the pid files and those sockets that are our own."""
        for one in self._open.values():
            one.instance.release()
        self._open.clear()
        self.listeners.clear()
        self._authority.close()

    def _wanted(self, config: Config) -> list[SocketConfig]:
        """What is configured; where sockets were handed over, the first takes the place of our own."""
        own, *others = config.sockets
        handed_over = [resolved(path) for path in self._inherited.clients]
        has_own = not handed_over or resolved(own.path) in handed_over
        configured = [own, *others] if has_own else others
        known = {resolved(one.path) for one in configured}
        unknown = [
            SocketConfig(path, table_size=own.table_size)
            for path in self._inherited.clients
            if resolved(path) not in known
        ]
        return [*configured, *unknown] if has_own else [*unknown, *configured]

    def _add(self, wanted: SocketConfig, config: Config) -> None:
        path = resolved(wanted.path)
        handed_over = {resolved(path): listening for path, listening in self._inherited.clients.items()}
        listening = handed_over.get(path)
        is_inherited = listening is not None
        instance = Instance(wanted.path, is_inherited=is_inherited)
        try:
            instance.claim()
        except InstanceError as error:
            raise DaemonError(str(error)) from error
        try:
            listening = listening or open_socket(wanted)
        except OSError as error:
            instance.release()
            raise DaemonError(f"cannot listen on {wanted.path}: {error.strerror or error}") from error
        door = Door(self._manager, wanted, config.client_rules)
        door.authority = self._authority.current
        if self.listeners:
            # whoever watches the others watches this one too
            door.opened = self.listeners[0].door.opened
        listener = Listener(door, listening, config.max_clients)
        listener.changed = self._note_change
        self._open[path] = _Open(instance, listener, is_inherited)
        self.listeners.append(listener)

    def _remove(self, path: Path) -> None:
        with suppress(KeyError):
            one = self._open.pop(path)
            self.listeners.remove(one.listener)
            one.listener.close()
            one.instance.release()

    def _note_change(self) -> None:
        for observer in self.observers:
            observer()

    @staticmethod
    def _change_permissions(before: SocketConfig, now: SocketConfig) -> None:
        # What was given away comes back.
        if now.owner is None and before.owner is not None:
            now = now._replace(owner=os.geteuid())
        if now.group is None and before.group is not None:
            now = now._replace(group=os.getegid())
        try:
            set_permissions(now)
        except OSError as error:
            raise DaemonError(f"mode or owner of {now.path} cannot be set: {error.strerror}") from error


def _differ(before: SocketConfig, now: SocketConfig) -> bool:
    """In what their files are like."""
    return (before.mode, before.owner, before.group) != (now.mode, now.owner, now.group)


def shown(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
