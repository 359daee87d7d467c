"""Follows readers and cards as any client could: waits for changes and compares snapshots."""

import asyncio
from collections.abc import Callable
from typing import Any

from pypcscd.manager.manager import Manager
from pypcscd.scard import ReaderState, ReaderStatus, ReturnCode


class ChangeWatch:
    """Emits an event for each reader or card that comes or goes, and for each change of users."""

    def __init__(self, manager: Manager, emit: Callable[[dict[str, Any]], None]) -> None:
        self._manager = manager
        self._emit = emit
        self._client = manager.add_client("admin socket", self._notified)
        self._known = self._look()
        self._is_due = False
        self._has_stopped = False
        manager.wait(self._client)

    def stop(self) -> None:
        self._has_stopped = True
        self._manager.remove_client(self._client)

    def _notified(self, rv: ReturnCode) -> None:
        # Called in the middle of a change: look when it is complete.
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._compare)

    def _look(self) -> dict[str, ReaderStatus]:
        return {reader.name: reader for reader in self._manager.roster.everything.snapshot()}

    def _compare(self) -> None:
        if self._has_stopped:
            # in the very moment of a change
            return
        self._is_due = False
        self._manager.wait(self._client)
        before, self._known = self._known, self._look()
        for name in before.keys() - self._known.keys():
            self._say("reader removed", name)
        for name, reader in self._known.items():
            old = before.get(name)
            if old is None:
                self._say("reader added", name)
                old = ReaderStatus(name, state=ReaderState.ABSENT)
            had_card, has_card = (bool(one.state & ReaderState.PRESENT) for one in (old, reader))
            if had_card and (not has_card or old.event_counter != reader.event_counter):
                self._say("card removed", name)
            if has_card and (not had_card or old.event_counter != reader.event_counter):
                self._say("card inserted", name, atr=reader.atr.hex().upper())
            if old.sharing != reader.sharing:
                self._say("users changed", name, users=abs(reader.sharing), exclusive=reader.sharing < 0)

    def _say(self, what: str, name: str, **more: Any) -> None:
        self._emit({"event": what, "reader": name.encode("utf-8", "replace").decode(), **more})
