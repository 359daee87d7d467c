"""One client socket: what it shows, to whom, and how."""

from collections.abc import Sequence

from pypcscd.manager.manager import Manager
from pypcscd.server.access import Peer
from pypcscd.server.calls import TableCache
from pypcscd.server.rules import ClientRule, SocketConfig

_RECEIVE_BUFFER_SIZE = 128 * 1024


class Door:
    """What the sessions of one socket have in common."""

    def __init__(self, manager: Manager, config: SocketConfig, rules: Sequence[ClientRule]) -> None:
        self.manager = manager
        self.config = config
        shows_everything = config.readers == ("*",)
        roster = manager.roster
        self.view = roster.everything if shows_everything else roster.add_view(config.readers)
        self.tables = TableCache()
        #: shared by the sessions, because each empties it before anybody else's turn
        self.receive_buffer = memoryview(bytearray(_RECEIVE_BUFFER_SIZE))
        self._rules = tuple(rules)

    def table_size_for(self, peer: Peer) -> int:
        """The length of the fixed reader table that this client was built for, by the first rule."""
        for rule in self._rules:
            if rule.matches(peer):
                return rule.table_size
        return self.config.table_size
