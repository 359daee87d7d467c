"""Who uses the readers: clients, their context and their card handles."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from pypcscd.scard import PcscError, ReturnCode

if TYPE_CHECKING:
    from pypcscd.manager.reader import Reader
    from pypcscd.manager.roster import View


class Client:
    """One connection to the daemon, which has at most one context at a time."""

    __slots__ = ("context", "handles", "label", "notify", "view")

    def __init__(self, label: object, notify: Callable[[ReturnCode], None], view: View) -> None:
        #: who this is in log lines; made into text only when one is written
        self.label = label
        #: called once per wait: SUCCESS when something changed, E_CANCELLED when the wait was cancelled
        self.notify = notify
        #: the readers that exist for this client
        self.view = view
        #: 0 while there is none
        self.context = 0
        self.handles: dict[int, Handle] = {}


class Handle:
    """A card handle (SCARDHANDLE)."""

    __slots__ = ("client", "event", "identifier", "reader")

    def __init__(self, identifier: int, client: Client, reader: Reader) -> None:
        self.identifier = identifier
        self.client = client
        self.reader = reader
        #: W_RESET_CARD or W_REMOVED_CARD until the next reconnect
        self.event: ReturnCode | None = None


class UnknownHandleError(Exception):
    """A card handle that is not the client's own; the connection is to be closed."""


class InsufficientBufferError(PcscError):
    """The answer has ``needed`` bytes, more than the client has room for."""

    def __init__(self, needed: int) -> None:
        super().__init__(ReturnCode.E_INSUFFICIENT_BUFFER)
        self.needed = needed


def new_identifier(taken: Container[int]) -> int:
    """A random number of 31 bits that is neither 0 nor taken."""
    while True:
        identifier = int.from_bytes(os.urandom(4), "little") & 0x7FFFFFFF
        if identifier and identifier not in taken:
            return identifier
