"""The stage of the random walk: carries out one step after another and says what came of each."""

from contextlib import suppress
from typing import Any

import daemons
from actors import BLOCKED_AFTER, Actor, Pending
from daemons import LateError, Needs, wait_for
from emulator import Power
from show import StateFlag
from stage import Line, Stage
from vocabulary import R0, R1

READERS = (R0, R1)
#: how long a card may take to be switched off when nobody uses it
REST = 1.0


class WalkStage:
    """A fresh daemon, and the clients of one walk by their names."""

    def __init__(self, daemon: str, port: int) -> None:
        self._stage = Stage(daemon, port, Needs())
        self._stage.is_brief = True
        self._actors: dict[str, Actor] = {}
        self._waiting: Pending | None = None
        #: what each actor was last told of each reader
        self._states: dict[tuple[str, str], int] = {}

    def step(self, name: str, arguments: list[Any]) -> list[Line]:
        """Take a step; the lines that it adds to the transcript."""
        before = len(self._stage.transcript)
        getattr(self, f"_do_{name}")(*arguments)
        if self._waiting is not None and name != "call":
            self._look_after_waiting()
        return self._stage.transcript[before:]

    def close(self) -> None:
        self._stage.close()

    def _look_after_waiting(self) -> None:
        if self._waiting is not None and self._waiting.is_over(BLOCKED_AFTER):
            self._waiting.done()
            self._waiting = None

    def _do_enter(self, actor: str) -> None:
        self._actors[actor] = self._stage.actor(actor)

    def _do_kill(self, actor: str) -> None:
        self._stage.kill(self._actors.pop(actor))
        if self._waiting is not None and self._waiting.actor == actor:
            self._waiting = None

    def _do_renew(self, actor: str) -> None:
        """Release the context and establish another."""
        self._actors[actor].release()
        self._actors[actor].establish()

    def _do_insert(self, atr: str, slot: int) -> None:
        self._stage.insert(atr, slot)

    def _do_remove(self, slot: int) -> None:
        self._stage.remove(slot)

    def _do_rest(self, slot: int) -> None:
        """Let an unused card be switched off, so that it does not happen in the middle of a step.

        Whether it is, is for the scenarios about power to compare.
        """
        emulator = self._stage.emulator(slot)
        with suppress(LateError):
            wait_for(lambda: emulator.powers[-1:] == [Power.OFF], "power-off", REST)
        # the daemons note it down just before or just after they tell the card
        daemons.table()

    def _do_call(self, actor: str, method: str, handle: str | None, arguments: list[Any]) -> None:
        """A call that may have to wait; ``handle``: the name of a card handle to go first."""
        first = [] if handle is None else [self._stage.raw("h", handle)]
        pending: Pending = getattr(self._actors[actor], f"{method}_later")(*first, *arguments)
        if pending.is_over(BLOCKED_AFTER):
            pending.done()
            self._look_after_waiting()
        else:
            pending.waits(0)
            self._waiting = pending

    def _do_changes(self, actor: str, slot: int, is_known: bool) -> None:
        key = actor, READERS[slot]
        current = self._states.get(key, 0) if is_known else 0
        (word,) = self._actors[actor].changes([(READERS[slot], current)], 0)
        self._states[key] = word & ~int(StateFlag.CHANGED)

    def _do_list(self, actor: str) -> None:
        self._actors[actor].list_readers()
