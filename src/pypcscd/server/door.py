"""One client socket: what it shows, to whom, and how."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pypcscd.manager.manager import Manager
from pypcscd.manager.roster import View
from pypcscd.protocol.connection import ServerConnection
from pypcscd.server.access import Peer
from pypcscd.server.calls import TableCache
from pypcscd.server.rules import ClientRule, SocketConfig


class Authority(Protocol):
    """Somebody who is asked about clients that no rule has decided on."""

    @property
    def needs_groups(self) -> bool:
        """It wants to know the groups of a client."""

    def trusts(self, peer: Peer) -> bool:
        """The client is not asked about."""

    async def may_connect(self, peer: Peer) -> bool: ...

    async def may_use(self, peer: Peer, reader: str) -> bool: ...


class Door:
    """What the sessions of one socket have in common."""

    def __init__(self, manager: Manager, config: SocketConfig, rules: Sequence[ClientRule]) -> None:
        self.manager = manager
        self.config = config
        self.view = self._choose_view(config)
        self.tables = TableCache()
        #: called with each new session, while somebody watches
        self.opened: Callable[[Any], None] | None = None
        #: asked about clients, where the socket has no rule of its own
        self.authority: Authority | None = None
        self._rules = tuple(rules)

    def reconfigure(self, config: SocketConfig, rules: Sequence[ClientRule]) -> None:
        """Serve clients that come from now on like this. Those that are there keep what they have."""
        if config.readers != self.config.readers:
            self.view = self._choose_view(config)
        self.config = config
        self._rules = tuple(rules)

    def _choose_view(self, config: SocketConfig) -> View:
        roster = self.manager.roster
        return roster.everything if config.readers == ("*",) else roster.add_view(config.readers)

    def denial(self, peer: Peer) -> str:
        """What the log says about a client that is not allowed here: what happened, and what to change."""
        return (
            f"{peer} was denied access to {self.config.path}; to allow it, add {peer.uid} to users, "
            f"or one of its groups to groups, in the [[socket]] at {self.config.origin}"
        )

    def adapt(self, connection: ServerConnection, peer: Peer) -> None:
        """Tell the connection what nothing on the wire tells, by the first rule that matches."""
        rule = next((rule for rule in self._rules if rule.matches(peer)), None)
        connection.table_size = self.config.table_size
        connection.has_short_names = self.config.has_short_names
        if rule is not None:
            connection.table_size = rule.table_size or connection.table_size
            if rule.has_short_names is not None:
                connection.has_short_names = rule.has_short_names
