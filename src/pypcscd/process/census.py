"""How many readers, cards and clients there are, in words: what ``systemctl status`` shows."""

import asyncio
from collections.abc import Callable

from pypcscd.manager.manager import Manager
from pypcscd.scard import ReaderState, ReturnCode

#: seconds from a change until it is told, together with all that has changed by then
_PAUSE = 1.0


class Census:
    """Tells when the numbers have changed, from ``start`` to ``stop``; while nothing happens it sleeps."""

    def __init__(
        self, manager: Manager, count_clients: Callable[[], int], changed: Callable[[], None]
    ) -> None:
        self._manager = manager
        self._count_clients = count_clients
        self._changed = changed
        self._known = ""
        self._timer: asyncio.TimerHandle | None = None
        #: waits for changes of readers as any client could
        self._client = manager.add_client("service manager", self._notified)
        self._is_running = False

    def __str__(self) -> str:
        """ "3 readers, 2 with cards, 5 clients"."""
        readers = self._manager.roster.everything.snapshot()
        parts = [_counted(len(readers), "reader")]
        if readers:
            cards = sum(bool(reader.state & ReaderState.PRESENT) for reader in readers)
            parts.append({0: "no card", 1: "1 with a card"}.get(cards, f"{cards} with cards"))
        parts.append(_counted(self._count_clients(), "client"))
        return ", ".join(parts)

    def start(self) -> None:
        self._is_running = True
        self._known = str(self)
        self._manager.wait(self._client)

    def stop(self) -> None:
        self._is_running = False
        self._manager.remove_client(self._client)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note_change(self) -> None:
        """A client, a reader or a card has come or gone, as far as one can tell."""
        if self._is_running and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._look)

    def _notified(self, rv: ReturnCode) -> None:
        # Not again before the next look: cards are connected more often than they come and go.
        self.note_change()

    def _look(self) -> None:
        self._timer = None
        self._manager.wait(self._client)
        before, self._known = self._known, str(self)
        if self._known != before:
            self._changed()


def _counted(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"
