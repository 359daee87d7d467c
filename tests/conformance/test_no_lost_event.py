"""No event is lost between a look at the readers and the wait that follows: ours alone, 10,000 times.

Clients do what the library does: register for an event, look, and wait if nothing has changed. Cards
come and go at any moment in between.
"""

import asyncio
import random

import pytest
from fakes import FakeSlot

from pypcscd.driver import Presence
from pypcscd.manager.handles import Client
from pypcscd.manager.manager import Manager
from pypcscd.manager.settings import Settings
from pypcscd.scard import ReturnCode, Scope

INTERLEAVINGS = 10_000
CLIENTS = 8


class Watcher:
    """A client that follows the event counter of the only reader."""

    def __init__(self, manager: Manager, chance: random.Random) -> None:
        self._manager = manager
        self._chance = chance
        self._woken = asyncio.Event()
        self._client: Client = manager.add_client("watcher", self._notify)
        manager.establish_context(self._client, Scope.SYSTEM)
        self.seen = 0
        self.wakes = 0

    def _notify(self, code: ReturnCode) -> None:
        assert code is ReturnCode.SUCCESS
        self.wakes += 1
        self._woken.set()

    async def watch(self) -> None:
        while True:
            self._woken.clear()
            self._manager.wait(self._client)
            (status,) = self._manager.roster.everything.snapshot()
            if status.event_counter != self.seen:
                self.seen = status.event_counter
                self._manager.stop_waiting(self._client)
            else:
                await self._woken.wait()
            # a program thinks about what it saw, for longer or shorter
            for _ in range(self._chance.randrange(4)):
                await asyncio.sleep(0)


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_event_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    slot = FakeSlot(None)
    manager = Manager(Settings(power_down_delay=None))
    (reader,) = await manager.add_readers("Fake", manager.roster.allocate_number("fake"), [slot])
    watchers = [Watcher(manager, chance) for _ in range(CLIENTS)]
    tasks = [asyncio.create_task(watcher.watch()) for watcher in watchers]
    try:
        async with asyncio.timeout(60):
            for _ in range(INTERLEAVINGS // 2):
                for _ in range(chance.randrange(1, 4)):
                    is_in = slot.presence is Presence.PRESENT
                    slot.update_presence(Presence.ABSENT if is_in else Presence.PRESENT)
                    for _ in range(chance.randrange(5)):
                        await asyncio.sleep(0)
                # whoever has lost the last event would never get here
                while reader.commands.locked() or any(
                    watcher.seen != reader.event_counter for watcher in watchers
                ):
                    assert not any(task.done() for task in tasks)
                    await asyncio.sleep(0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await manager.close()
    assert all(watcher.wakes for watcher in watchers)
