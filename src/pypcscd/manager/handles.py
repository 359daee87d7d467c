"""Who uses the readers: clients, their context and their card handles."""

import os
from collections.abc import Callable, Container

from pypcscd.manager.reader import Reader, User
from pypcscd.manager.roster import View
from pypcscd.scard import PcscError, ReturnCode

#: numbers that are fetched from the system at a time
_FETCHED = 64


class Client:
    """One connection to the daemon, which has at most one context at a time."""

    __slots__ = ("context", "handles", "label", "notify", "number", "view", "way")

    def __init__(
        self, number: int, label: object, notify: Callable[[ReturnCode], None], view: View, way: object
    ) -> None:
        #: the how many-th it is since the daemon began, whichever socket it came by
        self.number = number
        #: who this is in log lines; made into text only when one is written
        self.label = label
        #: called once per wait: SUCCESS when something changed, E_CANCELLED when the wait was cancelled
        self.notify = notify
        #: the readers that exist for this client
        self.view = view
        #: by what it has come: SCardCancel reaches those who came the same way, also if that shows others now
        self.way = way
        #: 0 while there is none
        self.context = 0
        self.handles: dict[int, Handle] = {}


class Handle(User):
    """A card handle (SCARDHANDLE)."""

    __slots__ = ("client", "identifier", "reader")

    def __init__(self, identifier: int, client: Client, reader: Reader) -> None:
        super().__init__(client)
        self.identifier = identifier
        self.client = client
        self.reader = reader


class UnknownHandleError(Exception):
    """A card handle that is not the client's own; the connection is to be closed."""


class InsufficientBufferError(PcscError):
    """The answer has ``needed`` bytes, more than the client has room for."""

    def __init__(self, needed: int) -> None:
        super().__init__(ReturnCode.E_INSUFFICIENT_BUFFER)
        self.needed = needed


class Identifiers:
    """Random numbers of 31 bits, for contexts and card handles."""

    __slots__ = ("_random",)

    def __init__(self) -> None:
        #: fetched together, as the system call is most of the cost
        self._random: list[int] = []

    def new(self, taken: Container[int]) -> int:
        """One that is neither 0 nor taken."""
        while True:
            if not self._random:
                self._random += memoryview(os.urandom(4 * _FETCHED)).cast("I")
            identifier = self._random.pop() & 0x7FFFFFFF
            if identifier and identifier not in taken:
                return identifier
