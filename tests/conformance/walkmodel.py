"""What the random walk knows of the world, to choose steps that make sense.

The model does not predict results. It keeps away from what the daemons are known to differ in
(docs/differences.md), from two calls waiting at the same time, because pcscd leaves to chance who is next,
and from clients that wait for themselves.
"""

import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vocabulary import (
    ANY,
    ANY_OLD,
    DIRECT,
    EJECT,
    EXCLUSIVE,
    LEAVE,
    R0,
    R1,
    RAW,
    RESET,
    SHARED,
    T0,
    T1,
    UNPOWER,
)

READERS = (R0, R1)
ATRS = ("T0T1", "T0T1", "T0T1", "T0", "T1", "TA2-T0")
APDUS = ("80CA0000", "00A40000", "00100000", "00C00100")
MOST_ACTORS = 4
MOST_HANDLES = 5


class Step(NamedTuple):
    name: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {' '.join(str(argument) for argument in self.arguments)}"


@dataclass
class Handle:
    name: str
    actor: str
    slot: int
    is_direct: bool
    is_exclusive: bool
    #: transactions begun and not ended, exclusive access not counted
    depth: int = 0
    #: its last call was told of a reset or removal
    is_told: bool = False


@dataclass
class Slot:
    card: str = ""
    #: somebody uses the card, so that it is not switched off
    is_used: bool = False
    #: it may be switched off at any moment
    is_restless: bool = False
    #: it has been switched off, or was unpowered by somebody
    is_dark: bool = False


@dataclass
class Model:
    chance: random.Random
    actors: list[str] = field(default_factory=list)
    handles: dict[str, Handle] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=lambda: [Slot(), Slot()])
    #: the step that has not returned yet
    waiting: Step | None = None
    _names: int = 0
    _forced: list[Step] = field(default_factory=list)

    # --- choosing -------------------------------------------------------------------------------

    def choose(self) -> Step:
        if self._forced:
            return self._forced.pop(0)
        if self.waiting is not None:
            return self._choose_release()
        for number, slot in enumerate(self.slots):
            if slot.card and slot.is_restless and not slot.is_used:
                return Step("rest", (number,))
        while True:
            step = self._draw()
            if step is not None:
                return step

    def _draw(self) -> Step | None:
        kinds = {
            self._enter: 3 if len(self.actors) < MOST_ACTORS else 0,
            self._kill: 2,
            self._renew: 2,
            self._insert: 30,
            self._remove: 3,
            self._connect: 24,
            self._disconnect: 10,
            self._reconnect: 12,
            self._begin: 14,
            self._end: 12,
            self._transmit: 14,
            self._status: 8,
            self._changes: 10,
            self._list: 1,
        }
        (kind,) = self.chance.choices(list(kinds), list(kinds.values()))
        return kind()

    def _choose_release(self) -> Step:
        """Something that may let the waiting call go on."""
        assert self.waiting is not None
        waiter, method, _, _ = self.waiting.arguments
        others = [handle for handle in self.handles.values() if handle.actor != waiter]
        holders = [handle for handle in others if handle.depth or handle.is_exclusive] or others
        may_kill = method in ("begin", "status", "transmit", "reconnect")
        if may_kill and (not holders or self.chance.random() < 0.15):
            return Step("kill", (waiter,))
        handle = self.chance.choice(holders)
        if handle.depth and self.chance.random() < 0.6:
            return Step("call", (handle.actor, "end", handle.name, [int(self._disposition())]))
        if self.chance.random() < 0.2:
            return Step("kill", (handle.actor,))
        return Step("call", (handle.actor, "disconnect", handle.name, [LEAVE]))

    def _enter(self) -> Step:
        self._names += 1
        return Step("enter", (f"A{self._names}",))

    def _kill(self) -> Step | None:
        return Step("kill", (self.chance.choice(self.actors),)) if self.actors else None

    def _renew(self) -> Step | None:
        return Step("renew", (self.chance.choice(self.actors),)) if self.actors else None

    def _insert(self) -> Step | None:
        number = self.chance.choice((0, 0, 0, 1))
        return None if self.slots[number].card else Step("insert", (self.chance.choice(ATRS), number))

    def _remove(self) -> Step | None:
        number = self.chance.choice((0, 0, 0, 1))
        return Step("remove", (number,)) if self.slots[number].card else None

    def _protocols(self) -> int:
        return int(
            self.chance.choice((ANY, ANY, ANY, ANY, ANY, T0, T1, T1, RAW, ANY | RAW, ANY_OLD, ANY_OLD, 0))
        )

    def _protocols_for(self, share: int, number: int) -> int:
        """Not "raw" for a card that only direct connections use: how long that stays depends on power."""
        protocols = self._protocols()
        is_left_alone = share == DIRECT and not self.slots[number].is_used
        return protocols & ~int(RAW) if is_left_alone else protocols

    def _disposition(self) -> int:
        return int(self.chance.choice((LEAVE, LEAVE, LEAVE, RESET, UNPOWER, EJECT)))

    def _connect(self) -> Step | None:
        if not self.actors or len(self.handles) >= MOST_HANDLES:
            return None
        actor = self.chance.choice(self.actors)
        number = self.chance.choice((0, 0, 0, 1))
        if self._holds(actor, number) or self._avoids_waiting(actor, number):
            return None
        share = int(self.chance.choice((SHARED,) * 6 + (EXCLUSIVE,) * 2 + (DIRECT,) * 3 + (7,)))
        return Step(
            "call", (actor, "connect", None, [share, self._protocols_for(share, number), READERS[number]])
        )

    def _any_handle(self) -> Handle | None:
        if not self.handles:
            return None
        handle = self.chance.choice(list(self.handles.values()))
        if self._holds(handle.actor, handle.slot) and not (handle.depth or handle.is_exclusive):
            return None
        return None if self._avoids_waiting(handle.actor, handle.slot) else handle

    def _fit_handle(self) -> Handle | None:
        """One that has not just been told of a reset: it would only be told again."""
        handle = self._any_handle()
        return None if handle is None or (handle.is_told and self.chance.random() < 0.8) else handle

    def _disconnect(self) -> Step | None:
        handle = self._any_handle()
        if handle is None:
            return None
        return Step("call", (handle.actor, "disconnect", handle.name, [self._disposition()]))

    def _reconnect(self) -> Step | None:
        handle = self._any_handle()
        if handle is None:
            return None
        share = EXCLUSIVE if handle.is_exclusive else self.chance.choice((SHARED, SHARED, DIRECT, EXCLUSIVE))
        init = self.chance.choice((LEAVE, LEAVE, LEAVE, LEAVE, RESET, RESET, UNPOWER, 9))
        if init == LEAVE and self.slots[handle.slot].is_dark and share != DIRECT:
            return None
        arguments = [int(share), self._protocols_for(share, handle.slot), int(init)]
        return Step("call", (handle.actor, "reconnect", handle.name, arguments))

    def _begin(self) -> Step | None:
        handle = self._fit_handle()
        return None if handle is None else Step("call", (handle.actor, "begin", handle.name, []))

    def _end(self) -> Step | None:
        handle = self._fit_handle()
        if handle is None or (not handle.depth and self.chance.random() < 0.7):
            return None
        return Step("call", (handle.actor, "end", handle.name, [self._disposition()]))

    def _transmit(self) -> Step | None:
        handle = self._fit_handle()
        if handle is None:
            return None
        protocol = self.chance.choice(
            (T0, T1, T1, ANY_OLD, RAW) if self.slots[handle.slot].card else (T0, T1)
        )
        arguments = [self.chance.choice(APDUS), int(protocol)]
        return Step("call", (handle.actor, "transmit", handle.name, arguments))

    def _status(self) -> Step | None:
        handle = self._fit_handle()
        return None if handle is None else Step("call", (handle.actor, "status", handle.name, []))

    def _changes(self) -> Step | None:
        if not self.actors:
            return None
        arguments = (self.chance.choice(self.actors), self.chance.choice((0, 1)), self.chance.random() < 0.6)
        return Step("changes", arguments)

    def _list(self) -> Step | None:
        return Step("list", (self.chance.choice(self.actors),)) if self.actors else None

    def _on(self, number: int) -> list[Handle]:
        return [handle for handle in self.handles.values() if handle.slot == number]

    def _holds(self, actor: str, number: int) -> bool:
        """Whether the actor has the card to itself: then its other handles would wait for itself."""
        mine = [handle for handle in self._on(number) if handle.actor == actor]
        return any(handle.depth for handle in mine)

    def _avoids_waiting(self, actor: str, number: int) -> bool:
        """Mostly leave out what would have to wait: it takes its time."""
        others = [handle for handle in self._on(number) if handle.actor != actor]
        return any(handle.depth for handle in others) and self.chance.random() < 0.7

    # --- learning -------------------------------------------------------------------------------

    def learn(self, step: Step, lines: list[list[str]]) -> None:
        """Take note of what became of a step, and of a call that was waiting."""
        if step.name == "enter":
            self.actors.append(step.arguments[0])
        elif step.name in ("kill", "renew"):
            self._forget_actor(step)
        elif step.name == "insert":
            atr, number = step.arguments
            self.slots[number] = Slot(card=atr, is_restless=True)
        elif step.name == "remove":
            (number,) = step.arguments
            self.slots[number] = Slot()
            for handle in self._on(number):
                handle.depth = 0
        elif step.name == "rest":
            slot = self.slots[step.arguments[0]]
            slot.is_restless, slot.is_dark = False, True
        own, others = self._split(lines)
        if step.name == "call":
            if own and own[1] == "waits":
                self.waiting = step
            elif own:
                self._learn_call(step, own[1])
        if self.waiting is not None and others:
            waited, self.waiting = self.waiting, None
            self._learn_call(waited, others[0][1])

    def _split(self, lines: list[list[str]]) -> tuple[list[str] | None, list[list[str]]]:
        """The step's own line, and that of the call that had been waiting."""
        if self.waiting is None:
            return (lines[0] if lines else None), []
        waiter = f"{self.waiting.arguments[0]}."
        return (
            next((line for line in lines if not line[0].startswith(waiter)), None),
            [line for line in lines if line[0].startswith(waiter)],
        )

    def _forget_actor(self, step: Step) -> None:
        (actor,) = step.arguments
        if self.waiting is not None and self.waiting.arguments[0] == actor:
            self.waiting = None
        if step.name == "kill":
            self.actors.remove(actor)
        for handle in [handle for handle in self.handles.values() if handle.actor == actor]:
            self._close(handle)

    def _close(self, handle: Handle) -> None:
        del self.handles[handle.name]
        slot = self.slots[handle.slot]
        slot.is_restless = True
        if not self._on(handle.slot):
            slot.is_used = False

    def _learn_call(self, step: Step, outcome: str) -> None:
        actor, method, name, arguments = step.arguments
        is_done = outcome.startswith("SUCCESS")
        if name is not None:
            self.handles[name].is_told = outcome.startswith(("W_RESET", "W_REMOVED"))
        if method == "connect":
            self._learn_connect(actor, arguments, outcome)
            return
        handle = self.handles[name]
        slot = self.slots[handle.slot]
        if method == "begin" and is_done:
            handle.depth += 1
        elif method == "end":
            if is_done or "UNSUPPORTED" in outcome or "NOT_TRANSACTED" in outcome or "REMOVED" in outcome:
                handle.depth = max(handle.depth - 1, 0)
            slot.is_restless = True
        elif method == "disconnect" and is_done:
            if arguments[0] == UNPOWER:
                slot.is_dark = True
            self._close(handle)
        elif method == "reconnect":
            slot.is_restless = True
            if is_done:
                handle.is_direct = arguments[0] == DIRECT
                handle.is_exclusive = arguments[0] == EXCLUSIVE
                if not handle.is_direct:
                    slot.is_used, slot.is_dark = True, False

    def _learn_connect(self, actor: str, arguments: list[Any], outcome: str) -> None:
        share, _, reader = arguments
        number = READERS.index(reader)
        slot = self.slots[number]
        slot.is_restless = True
        words = outcome.split()
        if words[0] == "SUCCESS":
            self.handles[words[1]] = Handle(words[1], actor, number, share == DIRECT, share == EXCLUSIVE)
            if share != DIRECT:
                slot.is_used, slot.is_dark = True, False
        elif slot.card and share != DIRECT and not slot.is_used:
            # pcscd takes the card for used from now on, though nobody is connected
            self._forced.append(Step("remove", (number,)))
