"""What the service manager shows of readers, cards and clients, and when it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from fakes import FakeSlot

from pypcscd.driver import Presence
from pypcscd.manager.manager import Manager
from pypcscd.process import census as census_module
from pypcscd.process.census import Census
from pypcscd.scard import Protocol, Scope, ShareMode


class Scene:
    def __init__(self) -> None:
        self.manager = Manager()
        self.clients = 0
        self.told: list[str] = []
        self.census = Census(self.manager, lambda: self.clients, self.tell)

    def tell(self) -> None:
        self.told.append(str(self.census))

    async def add(self, *slots: FakeSlot) -> None:
        await self.manager.add_readers("Fake", self.manager.roster.allocate_number("fake"), slots)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)

    async def until_quiet(self) -> None:
        await self.until(lambda: self.census._timer is None)


@pytest_asyncio.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(census_module, "_PAUSE", 0.05)
    scene = Scene()
    yield scene
    scene.census.stop()
    await scene.manager.close()


async def test_numbers_in_words(scene: Scene) -> None:
    assert str(scene.census) == "no readers, no clients"
    await scene.add(FakeSlot(None))
    assert str(scene.census) == "1 reader, no card, no clients"
    scene.clients = 1
    await scene.add(FakeSlot())
    assert str(scene.census) == "2 readers, 1 with a card, 1 client"
    scene.clients = 5
    await scene.add(FakeSlot())
    assert str(scene.census) == "3 readers, 2 with cards, 5 clients"


async def test_changes_are_told_together(scene: Scene) -> None:
    scene.census.start()
    slots = FakeSlot(None), FakeSlot(None)
    await scene.add(*slots)
    for slot in slots:
        slot.update_presence(Presence.PRESENT)
    scene.clients = 7
    scene.census.note_change()
    await scene.until(lambda: scene.told)
    assert scene.told == ["2 readers, 2 with cards, 7 clients"]
    # and what comes after that
    slots[0].update_presence(Presence.ABSENT)
    await scene.until(lambda: len(scene.told) == 2)
    assert scene.told[1] == "2 readers, 1 with a card, 7 clients"


async def test_what_changes_no_number_is_not_told(scene: Scene) -> None:
    await scene.add(FakeSlot())
    scene.census.start()
    scene.clients += 1
    scene.census.note_change()
    scene.clients -= 1
    await scene.until_quiet()
    client = scene.manager.add_client("a client", lambda rv: None)
    context = scene.manager.establish_context(client, Scope.SYSTEM)
    await scene.manager.connect(client, context, "Fake 00 00", ShareMode.SHARED, Protocol.T0)
    scene.manager.remove_client(client)
    await scene.until_quiet()
    assert scene.told == []


async def test_nothing_wakes_a_daemon_in_which_nothing_happens(scene: Scene) -> None:
    await scene.add(FakeSlot(None))
    scene.census.start()
    assert scene.census._timer is None
    scene.clients += 1
    scene.census.note_change()
    assert scene.census._timer is not None
    await scene.until(lambda: scene.told)
    assert scene.census._timer is None


async def test_after_its_end_nothing_is_told(scene: Scene) -> None:
    slot = FakeSlot(None)
    await scene.add(slot)
    scene.census.start()
    scene.clients += 1
    scene.census.note_change()
    scene.census.stop()
    slot.update_presence(Presence.PRESENT)
    scene.census.note_change()
    assert scene.census._timer is None
    assert scene.told == []


async def test_before_its_start_nothing_is_told(scene: Scene) -> None:
    await scene.add(FakeSlot())
    scene.census.note_change()
    assert scene.census._timer is None
