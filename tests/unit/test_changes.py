"""What the admin socket tells of readers and cards that come and go."""

import asyncio
from typing import Any

from fakes import ATR, FakeSlot

from pypcscd.control.changes import ChangeWatch
from pypcscd.driver import Presence
from pypcscd.manager.manager import Manager

NAME = "Fake 00 00"


async def turn() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


async def test_a_watch_that_ends_in_the_moment_of_a_change_leaves_nothing_behind() -> None:
    manager = Manager()
    slot = FakeSlot(atr=None)
    await manager.add_readers("Fake", 0, [slot])
    said: list[dict[str, Any]] = []
    watch = ChangeWatch(manager, said.append)
    slot.update_presence(Presence.PRESENT)
    await turn()
    assert said == [{"event": "card inserted", "reader": NAME, "atr": ATR.hex().upper()}]
    slot.update_presence(Presence.ABSENT)
    watch.stop()
    await turn()
    slot.update_presence(Presence.PRESENT)
    await turn()
    assert len(said) == 1
    await manager.close()
