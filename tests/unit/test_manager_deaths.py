"""Clients and readers that go away in the middle of what they wanted: what the next one finds."""

import asyncio

import pytest
from fakes import FakeSlot
from test_manager import ANY, QUICK, RESET, SHARED, UNPOWER, Desk, refused, turn

from pypcscd.driver import Reason
from pypcscd.manager.manager import Manager
from pypcscd.manager.settings import Settings
from pypcscd.scard import Disposition, ReturnCode


@pytest.fixture
async def desk() -> Desk:
    desk = Desk(FakeSlot(), QUICK)
    await desk.start()
    return desk


@pytest.mark.parametrize("ends_transaction", [False, True])
async def test_a_client_that_dies_before_the_reset_it_waits_for(desk: Desk, ends_transaction: bool) -> None:
    owner, other = desk.client(), desk.client()
    card, foreign = await desk.connect(owner), await desk.connect(other)
    queue = desk.readers[0].commands
    assert queue.take() is None
    if ends_transaction:
        call = desk.manager.end_transaction(owner, card, RESET)
    else:
        call = desk.manager.disconnect(owner, card, RESET)
    ending = asyncio.ensure_future(call)
    await turn()
    ending.cancel()
    desk.manager.remove_client(owner)
    await turn()
    queue.leave()
    await turn()
    assert "reset" not in desk.slot.calls
    # nothing has happened to the card
    await desk.manager.status(other, foreign)


async def test_an_owner_that_dies_before_its_disconnection_resets_the_card(desk: Desk) -> None:
    owner = desk.client()
    card = await desk.connect(owner)
    await desk.manager.begin_transaction(owner, card)
    queue = desk.readers[0].commands
    assert queue.take() is None
    ending = asyncio.ensure_future(desk.manager.disconnect(owner, card, RESET))
    await turn()
    ending.cancel()
    desk.manager.remove_client(owner)
    await turn()
    queue.leave()
    await turn()
    # what the client unlocked is not for the next one
    assert "reset" in desk.slot.calls


async def unpowered() -> Desk:
    desk = Desk(FakeSlot(), Settings(power_down_delay=0.01, power_up_pause=0))
    await desk.start()
    async with asyncio.timeout(5):
        while desk.slot.calls != ["power_off"]:
            await asyncio.sleep(0.005)
    desk.slot.calls.clear()
    return desk


async def test_reader_given_up_while_a_connection_powers_its_card() -> None:
    desk = await unpowered()
    desk.slot.gate = asyncio.Event()
    connecting = asyncio.ensure_future(desk.connect(desk.client()))
    await turn()
    assert desk.slot.calls == ["power_on"]
    removing = asyncio.ensure_future(desk.manager.remove_readers(desk.readers))
    await turn()
    desk.slot.gate.set()
    await removing
    await refused(connecting, ReturnCode.E_NO_SMARTCARD)
    assert desk.slot.calls == ["power_on", "power_off"]


async def test_reader_given_up_while_a_new_card_is_powered(desk: Desk) -> None:
    desk.insert(False)
    desk.slot.gate = asyncio.Event()
    desk.insert(True)
    await turn()
    removing = asyncio.ensure_future(desk.manager.remove_readers(desk.readers))
    await turn()
    desk.slot.gate.set()
    await removing
    assert desk.slot.calls == ["power_on", "power_off"]


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_reader_given_up_after_a_client_died_in_a_reset(desk: Desk, disposition: Disposition) -> None:
    owner = desk.client()
    card = await desk.connect(owner)
    desk.slot.gate = asyncio.Event()
    reconnecting = asyncio.ensure_future(desk.manager.reconnect(owner, card, SHARED, ANY, disposition))
    await turn()
    reconnecting.cancel()
    desk.manager.remove_client(owner)
    desk.slot.gate = None
    await turn()
    desk.slot.calls.clear()
    await desk.manager.remove_readers(desk.readers)
    assert desk.slot.calls == ["power_off"]


async def test_card_of_a_client_that_dies_while_it_is_powered_is_switched_off() -> None:
    desk = await unpowered()
    owner = desk.client()
    desk.slot.gate = asyncio.Event()
    connecting = asyncio.ensure_future(desk.connect(owner))
    await turn()
    connecting.cancel()
    desk.manager.remove_client(owner)
    desk.slot.gate = None
    await asyncio.sleep(0.1)
    assert desk.slot.calls == ["power_on", "power_off"]


async def test_readers_given_up_before_they_are_announced() -> None:
    quick, slow = FakeSlot(), FakeSlot()
    slow.gate = asyncio.Event()
    manager = Manager(QUICK)
    adding = asyncio.ensure_future(manager.add_readers("Fake", 0, [quick, slow]))
    await turn()
    assert quick.calls == slow.calls == ["power_on"]
    adding.cancel()
    await turn()
    slow.gate.set()
    await asyncio.wait([adding])
    assert quick.calls == ["power_on", "power_off"]
    assert slow.calls == ["power_on", "power_off"]


async def test_no_second_try_for_a_card_that_is_gone(desk: Desk) -> None:
    desk.manager.settings.power_up_pause = 0.01
    desk.insert(False)
    desk.slot.hiccups["power_on"] = Reason.POWER
    desk.insert(True)
    await asyncio.sleep(0)
    desk.readers[0].slot.calls.append("gone")
    removing = asyncio.ensure_future(desk.manager.remove_readers(desk.readers))
    await asyncio.sleep(0.05)
    await removing
    assert desk.slot.calls == ["power_on", "gone"]
