"""What an administrator says about sockets and their clients: data, and how it is matched."""

import fnmatch
from pathlib import Path
from typing import NamedTuple

from pypcscd.protocol.connection import FIXED_TABLE_SIZE
from pypcscd.server.access import Peer


class AccessRule(NamedTuple):
    """Who may use a socket: root, and whoever is named. Both None: everybody."""

    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None

    @property
    def is_open(self) -> bool:
        return self.users is None and self.groups is None

    def allows(self, peer: Peer) -> bool:
        if self.is_open or peer.uid == 0:
            return True
        return peer.uid in (self.users or ()) or bool(peer.groups & (self.groups or frozenset()))


EVERYBODY = AccessRule()


class ClientRule(NamedTuple):
    """How to serve certain clients: nothing on the wire tells how long a reader table they expect.

    What is None does not matter; all that is given must match.
    """

    #: records in the client's reader table; None: as many as the socket says
    table_size: int | None = None
    #: the client's library is pcsc-lite 1.6.5 to 1.8.3, whose 4.2 has reader names of 100 bytes;
    #: None: as the socket says
    has_short_names: bool | None = None
    #: glob of the executable's path
    executable: str | None = None
    uid: int | None = None
    #: the client has another root directory than the daemon
    is_elsewhere: bool | None = None

    def matches(self, peer: Peer) -> bool:
        return (
            (self.uid is None or self.uid == peer.uid)
            and (self.is_elsewhere is None or self.is_elsewhere == peer.is_elsewhere())
            and (self.executable is None or fnmatch.fnmatchcase(peer.executable(), self.executable))
        )


class SocketConfig(NamedTuple):
    """A socket to be served."""

    path: Path
    #: globs of the names of the readers that exist for its clients
    readers: tuple[str, ...] = ("*",)
    #: records in the reader table of clients that do not ask for their number, unless a rule matches
    table_size: int = FIXED_TABLE_SIZE
    #: what ``ClientRule.has_short_names`` says, for those whom no rule matches
    has_short_names: bool = False
    access: AccessRule = EVERYBODY
    mode: int = 0o666
    #: user and group that own the file; None: whoever runs the daemon
    owner: int | None = None
    group: int | None = None
    #: where it is configured, as file and line; "" on the command line
    origin: str = ""
