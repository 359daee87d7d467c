"""The calls of PC/SC: their results, and the order in which they are decided."""

import asyncio
from collections.abc import Awaitable

import pytest
from fakes import ATR, FakeSlot

from pypcscd.driver import Presence, Reason
from pypcscd.manager.handles import Client, InsufficientBufferError, UnknownHandleError
from pypcscd.manager.manager import Manager
from pypcscd.manager.reader import Reader
from pypcscd.manager.settings import ReaderRule, Settings
from pypcscd.scard import Disposition, PcscError, Protocol, ReaderStatus, ReturnCode, Scope, ShareMode

ANY = Protocol.T0 | Protocol.T1
NAME = "Fake 00 00"
EXCLUSIVE, SHARED, DIRECT = ShareMode.EXCLUSIVE, ShareMode.SHARED, ShareMode.DIRECT
LEAVE, RESET, UNPOWER, EJECT = Disposition
CARD, NO_CARD, MUTE, DEAD = 0x34, 0x02, 0x0C, 0x01


class Desk:
    """A manager with one reader, and clients by name."""

    def __init__(self, slot: FakeSlot, settings: Settings) -> None:
        self.slot = slot
        self.manager = Manager(settings)
        self.readers: list[Reader] = []
        self.notes: dict[Client, list[ReturnCode]] = {}

    async def start(self) -> None:
        number = self.manager.roster.allocate_number("fake")
        self.readers = await self.manager.add_readers("Fake", number, [self.slot])
        self.slot.calls.clear()

    def client(self) -> Client:
        notes: list[ReturnCode] = []
        client = self.manager.add_client("a client", notes.append)
        self.notes[client] = notes
        self.manager.establish_context(client, Scope.SYSTEM)
        return client

    async def connect(self, client: Client, mode: ShareMode = SHARED, protocols: int = ANY) -> int:
        card, _ = await self.manager.connect(client, client.context, NAME, mode, protocols)
        return card

    @property
    def status(self) -> ReaderStatus:
        (status,) = self.manager.roster.everything.snapshot()
        return status

    def insert(self, present: bool) -> None:
        self.slot.update_presence(Presence.PRESENT if present else Presence.ABSENT)


QUICK = Settings(transaction_bound=0.02, busy_bound=0.02, retry_window=0.02, power_up_pause=0)


@pytest.fixture
async def desk() -> Desk:
    desk = Desk(FakeSlot(), QUICK)
    await desk.start()
    return desk


async def refused(call: Awaitable[object], code: ReturnCode) -> None:
    with pytest.raises(PcscError) as caught:
        await call
    assert caught.value.code is code, caught.value


async def turn() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


# --- contexts ---------------------------------------------------------------------------------


async def test_contexts(desk: Desk) -> None:
    manager = desk.manager
    client = manager.add_client("x", lambda code: None)
    await refused(manager.release_context(client, 1), ReturnCode.E_INVALID_HANDLE)
    with pytest.raises(PcscError):
        manager.establish_context(client, 4)
    first = manager.establish_context(client, Scope.USER)
    second = manager.establish_context(client, Scope.USER)
    assert 0 < first < 2**31
    assert first != second
    await refused(manager.release_context(client, first), ReturnCode.E_INVALID_VALUE)
    await manager.release_context(client, second)
    await refused(manager.release_context(client, second), ReturnCode.E_INVALID_HANDLE)


# --- connect ----------------------------------------------------------------------------------


async def test_connect_powers_negotiates_and_counts(desk: Desk) -> None:
    client = desk.client()
    card, protocol = await desk.manager.connect(client, client.context, NAME, SHARED, ANY)
    assert card > 0
    assert protocol is Protocol.T1
    assert desk.slot.calls == ["set_protocol T1"]
    assert desk.status == ReaderStatus(NAME, 0, CARD, 1, ATR, Protocol.T1)


async def test_connect_again_negotiates_no_more(desk: Desk) -> None:
    client = desk.client()
    await desk.connect(client)
    desk.slot.calls.clear()
    await desk.connect(desk.client(), protocols=Protocol.T1)
    assert desk.slot.calls == []
    await refused(desk.connect(client, protocols=Protocol.T0), ReturnCode.E_PROTO_MISMATCH)
    assert desk.status.sharing == 2


async def test_the_order_in_which_connect_refuses(desk: Desk) -> None:
    client = desk.client()
    call, context = desk.manager.connect, client.context
    await refused(call(client, context, "no such", 9, 0), ReturnCode.E_PROTO_MISMATCH)
    await refused(call(client, context, "no such", 9, ANY), ReturnCode.E_INVALID_VALUE)
    await refused(call(client, context, "no such", SHARED, ANY), ReturnCode.E_UNKNOWN_READER)
    await refused(call(client, context + 1, NAME, SHARED, ANY), ReturnCode.E_INVALID_VALUE)
    stranger = desk.manager.add_client("y", lambda code: None)
    await refused(call(stranger, context, NAME, SHARED, ANY), ReturnCode.E_INVALID_HANDLE)
    assert desk.status.sharing == 0


async def test_connect_without_card(desk: Desk) -> None:
    desk.insert(False)
    client = desk.client()
    await refused(desk.connect(client), ReturnCode.E_NO_SMARTCARD)
    assert await desk.connect(client, DIRECT, 0)
    assert desk.slot.calls == []


async def test_connect_direct_touches_nothing(desk: Desk) -> None:
    client = desk.client()
    _, protocol = await desk.manager.connect(client, client.context, NAME, DIRECT, ANY)
    assert protocol is Protocol.UNDEFINED
    assert desk.slot.calls == []


async def test_connect_raw(desk: Desk) -> None:
    client = desk.client()
    _, protocol = await desk.manager.connect(client, client.context, NAME, SHARED, Protocol.RAW)
    assert protocol is Protocol.RAW
    assert desk.slot.calls == []


@pytest.mark.parametrize(
    ("reason", "wanted", "result"),
    [
        (Reason.PROTOCOL_REFUSED, ANY, ReturnCode.W_UNRESPONSIVE_CARD),
        (Reason.COMMUNICATION, ANY, ReturnCode.W_UNRESPONSIVE_CARD),
        (Reason.PROTOCOL_UNSUPPORTED, Protocol.T0, ReturnCode.W_UNRESPONSIVE_CARD),
        (Reason.PROTOCOL_UNSUPPORTED, Protocol.T1, ReturnCode.E_PROTO_MISMATCH),
        (Reason.NOT_SUPPORTED, ANY, None),
    ],
)
async def test_refused_protocols(
    desk: Desk, reason: Reason, wanted: Protocol, result: ReturnCode | None
) -> None:
    desk.slot.failures["set_protocol"] = reason
    client = desk.client()
    if result is None:
        _, protocol = await desk.manager.connect(client, client.context, NAME, SHARED, wanted)
        assert protocol is Protocol.T0  # what the card speaks by default
    else:
        await refused(desk.connect(client, protocols=wanted), result)
        assert desk.status.sharing == 0


async def test_an_unsupported_protocol_gives_way_to_the_default(desk: Desk) -> None:
    desk.slot.failures["set_protocol"] = Reason.PROTOCOL_UNSUPPORTED
    await refused(desk.connect(desk.client()), ReturnCode.W_UNRESPONSIVE_CARD)
    assert desk.slot.calls == ["set_protocol T1", "set_protocol T0"]


async def test_exclusive(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    card = await desk.connect(owner, EXCLUSIVE)
    assert desk.status.sharing == -1
    await refused(desk.connect(other), ReturnCode.E_SHARING_VIOLATION)
    await refused(desk.connect(other, DIRECT), ReturnCode.E_SHARING_VIOLATION)
    await refused(desk.manager.end_transaction(owner, card, LEAVE), ReturnCode.E_NOT_TRANSACTED)
    await desk.manager.disconnect(owner, card, LEAVE)
    assert desk.status.sharing == 0
    await desk.connect(other)
    await refused(desk.connect(owner, EXCLUSIVE), ReturnCode.E_SHARING_VIOLATION)


async def test_limits() -> None:
    desk = Desk(FakeSlot(), Settings(handles_per_reader=3, handles_per_client=2))
    await desk.start()
    first, second = desk.client(), desk.client()
    await desk.connect(first)
    await desk.connect(first)
    await refused(desk.connect(first), ReturnCode.E_NO_MEMORY)
    await desk.connect(second)
    await refused(desk.connect(second), ReturnCode.F_INTERNAL_ERROR)


async def test_connect_waits_for_a_transaction_and_for_nothing_longer(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    card = await desk.connect(owner)
    await desk.manager.begin_transaction(owner, card)
    waiting = asyncio.create_task(desk.connect(other))
    await turn()
    assert not waiting.done()
    assert await desk.connect(owner), "a client is not made to wait for itself"
    await desk.manager.end_transaction(owner, card, LEAVE)
    assert await waiting


# --- transactions -----------------------------------------------------------------------------


async def test_transactions_nest(desk: Desk) -> None:
    client, other = desk.client(), desk.client()
    card, foreign = await desk.connect(client), await desk.connect(other)
    await refused(desk.manager.end_transaction(client, card, LEAVE), ReturnCode.E_NOT_TRANSACTED)
    await desk.manager.begin_transaction(client, card)
    await desk.manager.begin_transaction(client, card)
    await refused(desk.manager.begin_transaction(other, foreign), ReturnCode.E_SHARING_VIOLATION)
    await refused(desk.manager.end_transaction(other, foreign, LEAVE), ReturnCode.E_SHARING_VIOLATION)
    await refused(desk.manager.end_transaction(client, card, 4), ReturnCode.E_INVALID_VALUE)
    await desk.manager.end_transaction(client, card, LEAVE)
    await refused(desk.manager.status(other, foreign), ReturnCode.E_SHARING_VIOLATION)
    await desk.manager.end_transaction(client, card, LEAVE)
    await desk.manager.begin_transaction(other, foreign)


async def test_one_connection_never_waits_for_itself() -> None:
    desk = Desk(FakeSlot(), Settings(transaction_bound=60, busy_bound=60))
    await desk.start()
    client = desk.client()
    first, second = await desk.connect(client), await desk.connect(client)
    await desk.manager.begin_transaction(client, first)
    async with asyncio.timeout(5):
        await refused(desk.manager.begin_transaction(client, second), ReturnCode.E_SHARING_VIOLATION)
        await refused(desk.manager.status(client, second), ReturnCode.E_SHARING_VIOLATION)
        await refused(desk.manager.disconnect(client, second, RESET), ReturnCode.E_SHARING_VIOLATION)


async def test_a_waiting_call_goes_on_when_the_transaction_ends() -> None:
    desk = Desk(FakeSlot(), Settings(transaction_bound=60, busy_bound=60))
    await desk.start()
    owner, other = desk.client(), desk.client()
    card, foreign = await desk.connect(owner), await desk.connect(other)
    for call in (
        desk.manager.begin_transaction(other, foreign),
        desk.manager.status(other, foreign),
        desk.manager.transmit(other, foreign, Protocol.T1, b"\0", 10),
        desk.manager.reconnect(other, foreign, SHARED, ANY, LEAVE),
    ):
        await desk.manager.begin_transaction(owner, card)
        waiting = asyncio.ensure_future(call)
        await turn()
        assert not waiting.done()
        await desk.manager.end_transaction(owner, card, LEAVE)
        async with asyncio.timeout(5):
            await waiting
        desk.readers[0].lock.release_all(next(iter(other.handles.values())))


async def test_calls_that_the_library_does_not_repeat_are_refused_at_once(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    card, foreign = await desk.connect(owner), await desk.connect(other)
    await desk.manager.begin_transaction(owner, card)
    busy = ReturnCode.E_SHARING_VIOLATION
    await refused(desk.manager.control(other, foreign, 1, b"x", 9), busy)
    await refused(desk.manager.get_attrib(other, foreign, 0x00090303, 264), busy)
    await refused(desk.manager.set_attrib(other, foreign, 1, b"x"), busy)


async def test_a_reset_while_waiting_for_the_lock_is_told(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    card, foreign = await desk.connect(owner), await desk.connect(other)
    await desk.manager.begin_transaction(owner, card)
    waiting = asyncio.ensure_future(desk.manager.begin_transaction(other, foreign))
    await turn()
    await desk.manager.disconnect(owner, card, RESET)
    await refused(waiting, ReturnCode.W_RESET_CARD)
    assert desk.readers[0].lock.holder is None


# --- resets and removals ------------------------------------------------------------------------


async def test_a_reset_is_told_to_all_until_they_reconnect(desk: Desk) -> None:
    first, second = desk.client(), desk.client()
    one, two = await desk.connect(first), await desk.connect(second)
    desk.slot.calls.clear()
    await desk.manager.reconnect(first, one, SHARED, ANY, RESET)
    assert desk.slot.calls == ["reset", "set_protocol T1"]
    await desk.manager.status(first, one)
    for call in (
        desk.manager.status(second, two),
        desk.manager.begin_transaction(second, two),
        desk.manager.transmit(second, two, Protocol.T1, b"", 9),
        desk.manager.get_attrib(second, two, 0x00090303, 264),
    ):
        await refused(call, ReturnCode.W_RESET_CARD)
    await desk.manager.control(second, two, 1, b"", 9)
    await desk.manager.reconnect(second, two, SHARED, ANY, LEAVE)
    await desk.manager.status(second, two)


async def test_end_transaction_with_reset_concerns_the_caller_too(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    await desk.manager.begin_transaction(client, card)
    desk.slot.calls.clear()
    await desk.manager.end_transaction(client, card, UNPOWER)
    assert desk.slot.calls == ["power_off", "power_on"]
    await refused(desk.manager.status(client, card), ReturnCode.W_RESET_CARD)
    assert desk.status.protocol == 0
    assert desk.readers[0].lock.holder is None


async def test_end_transaction_with_eject(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    await desk.manager.begin_transaction(client, card)
    await refused(desk.manager.end_transaction(client, card, EJECT), ReturnCode.E_UNSUPPORTED_FEATURE)
    assert desk.readers[0].lock.holder is None


async def test_a_removal_ends_the_transaction(desk: Desk) -> None:
    first, second = desk.client(), desk.client()
    holder, waiter = await desk.connect(first), await desk.connect(second)
    await desk.manager.begin_transaction(first, holder)
    waiting = asyncio.ensure_future(desk.manager.begin_transaction(second, waiter))
    await turn()
    desk.insert(False)
    await refused(waiting, ReturnCode.W_REMOVED_CARD)
    desk.insert(True)
    await turn()
    # the holder has not been heard of since
    await desk.manager.reconnect(second, waiter, SHARED, ANY, LEAVE)
    await desk.manager.begin_transaction(second, waiter)


async def test_a_removal_leaves_exclusive_access(desk: Desk) -> None:
    first, second = desk.client(), desk.client()
    holder = await desk.connect(first, EXCLUSIVE)
    desk.insert(False)
    desk.insert(True)
    await turn()
    await refused(desk.connect(second), ReturnCode.E_SHARING_VIOLATION)
    assert desk.status.sharing == -1
    await desk.manager.disconnect(first, holder, LEAVE)
    await desk.connect(second)


async def test_exclusive_access_to_the_next_card_has_transactions_and_a_reset_at_its_end(desk: Desk) -> None:
    first, second = desk.client(), desk.client()
    holder = await desk.connect(first, EXCLUSIVE)
    desk.insert(False)
    desk.insert(True)
    await turn()
    await desk.manager.reconnect(first, holder, EXCLUSIVE, ANY, LEAVE)
    await desk.manager.begin_transaction(first, holder)
    await desk.manager.end_transaction(first, holder, LEAVE)
    await refused(desk.manager.end_transaction(first, holder, LEAVE), ReturnCode.E_NOT_TRANSACTED)
    desk.slot.calls.clear()
    desk.manager.remove_client(first)
    await turn()
    assert desk.slot.calls == ["reset"]
    await desk.connect(second)


async def idle_desk() -> Desk:
    """One with a card that nobody uses, and that was powered down."""
    desk = Desk(FakeSlot(), Settings(power_down_delay=0, power_up_pause=0))
    await desk.start()
    async with asyncio.timeout(5):
        while desk.readers[0].is_powered:
            await asyncio.sleep(0)
    desk.slot.calls.clear()
    return desk


@pytest.mark.parametrize("reason", [None, Reason.COMMUNICATION, Reason.NO_CARD])
@pytest.mark.parametrize("presence", [Presence.ABSENT, Presence.UNKNOWN])
async def test_a_card_taken_away_while_a_connection_powers_it(
    reason: Reason | None, presence: Presence
) -> None:
    desk = await idle_desk()
    desk.slot.gate = asyncio.Event()
    connecting = asyncio.ensure_future(desk.connect(desk.client()))
    await turn()
    assert desk.slot.calls == ["power_on"]
    desk.slot.update_presence(presence)
    if reason is not None:
        desk.slot.failures["power_on"] = reason
    desk.slot.gate.set()
    await refused(connecting, ReturnCode.E_NO_SMARTCARD)
    assert desk.status.state == (NO_CARD if presence is Presence.ABSENT else DEAD)
    assert desk.status.atr == b""


async def test_a_card_taken_away_during_the_negotiation(desk: Desk) -> None:
    desk.slot.gate = asyncio.Event()
    connecting = asyncio.ensure_future(desk.connect(desk.client()))
    await turn()
    assert desk.slot.calls == ["set_protocol T1"]
    desk.insert(False)
    desk.insert(True)
    desk.slot.gate.set()
    await refused(connecting, ReturnCode.E_NO_SMARTCARD)
    await turn()
    assert (desk.status.state, desk.status.protocol, desk.status.sharing) == (CARD, 0, 0)


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_a_card_taken_away_while_it_is_reset(desk: Desk, disposition: Disposition) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.slot.gate = asyncio.Event()
    reconnecting = asyncio.ensure_future(desk.manager.reconnect(client, card, SHARED, ANY, disposition))
    await turn()
    desk.insert(False)
    desk.slot.gate.set()
    await refused(reconnecting, ReturnCode.E_NO_SMARTCARD)
    assert (desk.status.state, desk.status.atr) == (NO_CARD, b"")


async def test_unpower_brings_no_card(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.insert(False)
    await desk.manager.disconnect(client, card, UNPOWER)
    assert desk.status.state == NO_CARD


async def test_a_removed_card(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.insert(False)
    assert (desk.status.state, desk.status.event_counter, desk.status.atr) == (NO_CARD, 1, b"")
    await refused(desk.manager.status(client, card), ReturnCode.W_REMOVED_CARD)
    await refused(desk.manager.reconnect(client, card, SHARED, ANY, LEAVE), ReturnCode.E_NO_SMARTCARD)
    desk.insert(True)
    await turn()
    assert (desk.status.state, desk.status.event_counter) == (CARD, 2)
    await refused(desk.manager.status(client, card), ReturnCode.W_REMOVED_CARD)
    await desk.manager.reconnect(client, card, SHARED, ANY, LEAVE)
    await desk.manager.status(client, card)


async def test_a_mute_card(desk: Desk) -> None:
    desk.insert(False)
    desk.slot.failures["power_on"] = Reason.POWER
    desk.insert(True)
    await turn()
    assert (desk.status.state, desk.status.atr) == (MUTE, b"")
    client = desk.client()
    await refused(desk.connect(client), ReturnCode.W_UNPOWERED_CARD)
    card = await desk.connect(client, DIRECT)
    await refused(desk.manager.reconnect(client, card, SHARED, ANY, LEAVE), ReturnCode.W_UNRESPONSIVE_CARD)
    del desk.slot.failures["power_on"]
    await desk.manager.reconnect(client, card, SHARED, ANY, RESET)
    assert desk.status.state == CARD


@pytest.mark.parametrize(
    ("reason", "state"), [(Reason.POWER, CARD), (Reason.COMMUNICATION, CARD), (Reason.TIMEOUT, MUTE)]
)
async def test_a_card_that_answers_at_the_second_try(desk: Desk, reason: Reason, state: int) -> None:
    desk.insert(False)
    desk.slot.hiccups["power_on"] = reason
    desk.insert(True)
    await turn()
    assert desk.status.state == state
    assert desk.slot.calls.count("power_on") == (2 if state == CARD else 1)


async def test_a_reader_that_fell_silent(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.slot.update_presence(Presence.UNKNOWN)
    assert desk.status.state == DEAD
    await refused(desk.connect(client), ReturnCode.E_READER_UNAVAILABLE)
    await refused(desk.manager.status(client, card), ReturnCode.E_READER_UNAVAILABLE)
    desk.insert(True)
    await turn()
    assert (desk.status.state, desk.status.event_counter) == (CARD, 1)
    await refused(desk.manager.transmit(client, card, Protocol.T1, b"", 9), ReturnCode.E_PROTO_MISMATCH)


async def test_a_reader_that_is_gone(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    await desk.manager.remove_readers(desk.readers)
    assert desk.manager.roster.everything.snapshot() == ()
    gone = ReturnCode.E_INVALID_VALUE
    await refused(desk.manager.status(client, card), gone)
    await refused(desk.manager.begin_transaction(client, card), gone)
    await refused(desk.manager.end_transaction(client, card, LEAVE), gone)
    await refused(desk.manager.transmit(client, card, Protocol.T1, b"", 9), gone)
    await refused(desk.manager.reconnect(client, card, SHARED, ANY, LEAVE), gone)
    await refused(desk.manager.control(client, card, 1, b"", 9), gone)
    await desk.manager.disconnect(client, card, RESET)
    with pytest.raises(UnknownHandleError):
        await desk.manager.status(client, card)


async def test_waiting_calls_end_when_the_reader_goes() -> None:
    desk = Desk(FakeSlot(), Settings(transaction_bound=60))
    await desk.start()
    owner, other = desk.client(), desk.client()
    card, foreign = await desk.connect(owner), await desk.connect(other)
    await desk.manager.begin_transaction(owner, card)
    begin = asyncio.ensure_future(desk.manager.begin_transaction(other, foreign))
    connect = asyncio.ensure_future(desk.connect(desk.client()))
    await turn()
    await desk.manager.remove_readers(desk.readers)
    await refused(begin, ReturnCode.E_INVALID_VALUE)
    await refused(connect, ReturnCode.E_READER_UNAVAILABLE)


# --- commands -----------------------------------------------------------------------------------


async def test_transmit(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.slot.calls.clear()
    call = desk.manager.transmit
    assert await call(client, card, Protocol.T1, b"\1\2", 2) == (Protocol.T1, b"\x90\x00")
    assert await call(client, card, Protocol.ANY_OLD, b"", 2) == (Protocol.T1, b"\x90\x00")
    assert await call(client, card, Protocol.RAW, b"\3", 2) == (Protocol.RAW, b"\x90\x00")
    assert desk.slot.calls == ["transmit T1 0102", "transmit T1 ", "transmit RAW 03"]
    await refused(call(client, card, Protocol.T0, b"", 2), ReturnCode.E_PROTO_MISMATCH)
    with pytest.raises(InsufficientBufferError) as caught:
        await call(client, card, Protocol.T1, b"", 1)
    assert caught.value.needed == 2


async def test_transmit_without_a_protocol(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client, DIRECT, 0)
    desk.slot.calls.clear()
    await desk.manager.transmit(client, card, Protocol.UNDEFINED, b"\1", 2)
    assert desk.slot.calls == ["transmit T0 01"]


async def test_transmit_finds_the_card_gone(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.slot.failures["transmit"] = Reason.NO_CARD
    await refused(desk.manager.transmit(client, card, Protocol.T1, b"\1", 2), ReturnCode.E_NO_SMARTCARD)
    assert desk.status == ReaderStatus(NAME, 0, NO_CARD, 1, b"", Protocol.UNDEFINED)


@pytest.mark.parametrize(
    ("call", "reason", "result"),
    [
        ("transmit", Reason.NO_DEVICE, ReturnCode.E_READER_UNAVAILABLE),
        ("transmit", Reason.NO_CARD, ReturnCode.E_NO_SMARTCARD),
        ("transmit", Reason.TIMEOUT, ReturnCode.E_NOT_TRANSACTED),
        ("control", Reason.NO_DEVICE, ReturnCode.E_READER_UNAVAILABLE),
        ("control", Reason.NOT_SUPPORTED, ReturnCode.E_UNSUPPORTED_FEATURE),
        ("control", Reason.INSUFFICIENT_BUFFER, ReturnCode.E_INSUFFICIENT_BUFFER),
        ("control", Reason.INVALID_PARAMETER, ReturnCode.E_INVALID_PARAMETER),
        ("control", Reason.COMMUNICATION, ReturnCode.E_NOT_TRANSACTED),
        ("get_attribute", Reason.UNKNOWN_ATTRIBUTE, ReturnCode.E_UNSUPPORTED_FEATURE),
        ("get_attribute", Reason.INSUFFICIENT_BUFFER, ReturnCode.E_INSUFFICIENT_BUFFER),
        ("get_attribute", Reason.NO_DEVICE, ReturnCode.E_NOT_TRANSACTED),
        ("set_attribute", Reason.UNKNOWN_ATTRIBUTE, ReturnCode.E_UNSUPPORTED_FEATURE),
        ("set_attribute", Reason.INSUFFICIENT_BUFFER, ReturnCode.E_NOT_TRANSACTED),
    ],
)
async def test_what_a_failing_driver_means(desk: Desk, call: str, reason: Reason, result: ReturnCode) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.slot.failures[call] = reason
    calls: dict[str, Awaitable[object]] = {
        "transmit": desk.manager.transmit(client, card, Protocol.T1, b"", 9),
        "control": desk.manager.control(client, card, 1, b"", 9),
        "get_attribute": desk.manager.get_attrib(client, card, 1, 9),
        "set_attribute": desk.manager.set_attrib(client, card, 1, b""),
    }
    for name, made in calls.items():
        if name == call:
            await refused(made, result)
        else:
            asyncio.ensure_future(made).cancel()


async def test_a_card_missed_by_transmit_is_absent_before_its_removal_is_told(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.slot.failures["transmit"] = Reason.NO_CARD
    await refused(desk.manager.transmit(client, card, Protocol.T1, b"", 9), ReturnCode.E_NO_SMARTCARD)
    assert (desk.status.state, desk.status.event_counter) == (NO_CARD, 0)
    desk.insert(False)
    assert (desk.status.state, desk.status.event_counter) == (NO_CARD, 1)
    await refused(desk.manager.status(client, card), ReturnCode.W_REMOVED_CARD)


async def test_attributes(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    assert await desk.manager.get_attrib(client, card, 0x00090303, 264) == ATR
    for name_attribute in (0x7FFF0003, 0x7FFF0004):
        assert await desk.manager.get_attrib(client, card, name_attribute, 264) == NAME.encode() + b"\0"
    await refused(desk.manager.get_attrib(client, card, 0x7FFF0003, 4), ReturnCode.E_INSUFFICIENT_BUFFER)
    await desk.manager.set_attrib(client, card, 5, b"\1")
    assert desk.slot.calls[-1] == "set_attribute 0x5 01"


async def test_commands_of_several_clients_reach_the_card_one_at_a_time(desk: Desk) -> None:
    clients = [desk.client() for _ in range(3)]
    cards = [await desk.connect(client) for client in clients]
    desk.slot.calls.clear()
    desk.slot.gate = asyncio.Event()
    running = [
        asyncio.ensure_future(desk.manager.transmit(client, card, Protocol.T1, bytes([number]), 9))
        for number, (client, card) in enumerate(zip(clients, cards, strict=True))
    ]
    await turn()
    assert desk.slot.calls == ["transmit T1 00"]
    running[1].cancel()
    desk.slot.gate.set()
    await asyncio.wait(running)
    assert desk.slot.calls == ["transmit T1 00", "transmit T1 02"]


async def test_a_card_that_never_answers_costs_its_own_call_only(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    desk.slot.transmit_deadline = 0.01
    desk.slot.gate = asyncio.Event()
    await refused(desk.manager.transmit(client, card, Protocol.T1, b"", 9), ReturnCode.E_NOT_TRANSACTED)
    desk.slot.gate = None
    assert await desk.manager.transmit(client, card, Protocol.T1, b"", 9)


# --- waiting ------------------------------------------------------------------------------------


async def test_waiting_clients_are_told_once(desk: Desk) -> None:
    first, second = desk.client(), desk.client()
    desk.manager.wait(first)
    desk.manager.wait(second)
    assert desk.manager.stop_waiting(second)
    desk.insert(False)
    desk.insert(True)
    await turn()
    assert desk.notes[first] == [ReturnCode.SUCCESS]
    assert desk.notes[second] == []
    assert not desk.manager.stop_waiting(first)


async def test_a_change_of_users_is_told(desk: Desk) -> None:
    watcher, client = desk.client(), desk.client()
    desk.manager.wait(watcher)
    await desk.connect(client)
    assert desk.notes[watcher] == [ReturnCode.SUCCESS]


async def test_cancel(desk: Desk) -> None:
    client, other = desk.client(), desk.client()
    desk.manager.cancel(other, client.context)
    assert desk.notes[client] == []
    desk.manager.wait(client)
    desk.manager.wait(other)
    desk.manager.cancel(other, client.context)
    assert desk.notes[client] == [ReturnCode.E_CANCELLED]
    assert desk.notes[other] == []
    with pytest.raises(PcscError):
        desk.manager.cancel(other, 12345 if client.context != 12345 else 54321)


async def test_readers_that_come_and_go_are_counted(desk: Desk) -> None:
    watcher = desk.client()
    assert desk.manager.roster.everything.reader_events == 2
    desk.manager.wait(watcher)
    slots = [FakeSlot(None), FakeSlot(None)]
    readers = await desk.manager.add_readers("Two", desk.manager.roster.allocate_number("fake"), slots)
    assert [status.name for status in desk.manager.roster.everything.snapshot()] == [
        NAME,
        "Two 01 00",
        "Two 01 01",
    ]
    assert desk.notes[watcher] == [ReturnCode.SUCCESS]
    await desk.manager.remove_readers(readers)
    assert desk.manager.roster.everything.reader_events == 4
    with pytest.raises(ValueError, match="already a reader"):
        await desk.manager.add_readers("Fake", 0, [FakeSlot(None)])


async def test_the_snapshot_is_made_once_per_change(desk: Desk) -> None:
    first = desk.manager.roster.everything.snapshot()
    assert desk.manager.roster.everything.snapshot() is first
    desk.insert(False)
    assert desk.manager.roster.everything.snapshot() is not first


# --- clients that go away -----------------------------------------------------------------------


async def test_a_client_that_dies_within_a_transaction(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    card, foreign = await desk.connect(owner), await desk.connect(other)
    await desk.manager.begin_transaction(owner, card)
    desk.slot.calls.clear()
    desk.manager.remove_client(owner)
    assert desk.readers[0].lock.holder is None
    await turn()
    assert desk.slot.calls == ["reset"]
    await refused(desk.manager.begin_transaction(other, foreign), ReturnCode.W_RESET_CARD)
    assert desk.status.sharing == 1


@pytest.mark.parametrize("disposition", [RESET, UNPOWER])
async def test_a_client_that_dies_while_it_resets_the_card(desk: Desk, disposition: Disposition) -> None:
    owner, other = desk.client(), desk.client()
    card = await desk.connect(owner)
    desk.slot.gate = asyncio.Event()
    reconnecting = asyncio.ensure_future(desk.manager.reconnect(owner, card, SHARED, ANY, disposition))
    await turn()
    reconnecting.cancel()
    desk.manager.remove_client(owner)
    desk.slot.gate = None
    await turn()
    desk.slot.calls.clear()
    # nobody knows if the card has power
    await desk.connect(other)
    assert desk.slot.calls == ["power_on", "set_protocol T1"]
    assert desk.status.protocol == Protocol.T1


async def test_a_client_that_dies_during_the_negotiation() -> None:
    desk = await idle_desk()
    owner, other = desk.client(), desk.client()
    desk.slot.gate = asyncio.Event()
    connecting = asyncio.ensure_future(desk.connect(owner))
    await turn()
    desk.slot.gate.set()
    desk.slot.gate = asyncio.Event()
    await turn()
    assert desk.slot.calls == ["power_on", "set_protocol T1"]
    connecting.cancel()
    desk.manager.remove_client(owner)
    desk.slot.gate = None
    await turn()
    desk.slot.calls.clear()
    # a card answers one PPS only after its ATR
    await desk.connect(other)
    assert desk.slot.calls == ["power_on", "set_protocol T1"]


async def test_a_client_that_dies_before_its_context_is_released(desk: Desk) -> None:
    owner = desk.client()
    card = await desk.connect(owner)
    await desk.manager.begin_transaction(owner, card)
    ending = asyncio.ensure_future(desk.manager.release_context(owner, owner.context))
    queue = desk.readers[0].commands
    assert queue.take() is None
    await turn()
    ending.cancel()
    desk.manager.remove_client(owner)
    await turn()
    desk.slot.calls.clear()
    queue.leave()
    # what the client unlocked is not for the next one
    await desk.connect(desk.client())
    assert desk.slot.calls == ["reset", "set_protocol T1"]


async def test_a_client_that_dies_without_a_transaction(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    foreign = await desk.connect(other)
    await desk.connect(owner)
    desk.manager.wait(owner)
    desk.manager.remove_client(owner)
    await desk.manager.status(other, foreign)
    assert "reset" not in desk.slot.calls
    desk.insert(False)
    assert desk.notes[owner] == []


async def test_an_exclusive_owner_that_dies_in_mid_transmit(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    card = await desk.connect(owner, EXCLUSIVE)
    desk.slot.gate = asyncio.Event()
    transmit = asyncio.ensure_future(desk.manager.transmit(owner, card, Protocol.T1, b"", 9))
    await turn()
    transmit.cancel()
    desk.manager.remove_client(owner)
    desk.slot.gate = None
    foreign = await desk.connect(other)
    assert desk.slot.calls[-2:] == ["reset", "set_protocol T1"]
    await desk.manager.status(other, foreign)


async def test_release_context_resets_what_it_held(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    card, foreign = await desk.connect(owner), await desk.connect(other)
    await desk.manager.begin_transaction(owner, card)
    await desk.manager.release_context(owner, owner.context)
    assert desk.slot.calls[-1] == "reset"
    await refused(desk.manager.status(other, foreign), ReturnCode.W_RESET_CARD)
    with pytest.raises(UnknownHandleError):
        await desk.manager.status(owner, card)


async def test_handles_belong_to_their_client(desk: Desk) -> None:
    owner, other = desk.client(), desk.client()
    card = await desk.connect(owner)
    with pytest.raises(UnknownHandleError):
        await desk.manager.status(other, card)


# --- power --------------------------------------------------------------------------------------


async def test_an_unused_card_is_powered_down_and_up_again() -> None:
    desk = Desk(FakeSlot(), Settings(power_down_delay=0.01))
    await desk.start()
    client = desk.client()
    async with asyncio.timeout(5):
        while desk.slot.calls != ["power_off"]:
            await asyncio.sleep(0.005)
    assert (desk.status.state, desk.status.atr) == (CARD, ATR), "clients are not told of it"
    card = await desk.connect(client)
    assert desk.slot.calls == ["power_off", "power_on", "set_protocol T1"]
    await asyncio.sleep(0.05)
    assert desk.slot.calls[-1] == "set_protocol T1", "a card in use keeps its power"
    await desk.manager.disconnect(client, card, LEAVE)
    async with asyncio.timeout(5):
        while desk.slot.calls[-1] != "power_off":
            await asyncio.sleep(0.005)


async def test_a_card_keeps_its_power_when_one_leaves_while_another_comes() -> None:
    desk = Desk(FakeSlot(), Settings(power_down_delay=0))
    await desk.start()
    leaving, coming = desk.client(), desk.client()
    direct = await desk.connect(leaving, DIRECT, 0)
    desk.slot.gate = asyncio.Event()
    connecting = asyncio.ensure_future(desk.connect(coming))
    await turn()
    desk.slot.gate.set()
    desk.slot.gate = asyncio.Event()
    await turn()
    assert desk.slot.calls[-1] == "set_protocol T1"
    await desk.manager.disconnect(leaving, direct, LEAVE)
    desk.slot.gate.set()
    card = await connecting
    await turn()
    assert desk.readers[0].is_powered
    assert desk.status.protocol == Protocol.T1
    desk.slot.gate = None
    await desk.manager.transmit(coming, card, Protocol.T1, b"", 9)


async def test_power_can_be_kept_for_ever() -> None:
    desk = Desk(FakeSlot(), Settings(power_down_delay=None))
    await desk.start()
    client = desk.client()
    await desk.manager.disconnect(client, await desk.connect(client), LEAVE)
    await asyncio.sleep(0.02)
    assert "power_off" not in desk.slot.calls


async def test_a_reader_may_have_its_own_delay() -> None:
    rules = (ReaderRule("Fake *", None), ReaderRule("*", 0.0))
    desk = Desk(FakeSlot(), Settings(power_down_delay=0.0, reader_rules=rules))
    await desk.start()
    await asyncio.sleep(0.02)
    assert desk.slot.calls == []
    assert Settings(reader_rules=rules).power_down_delay_of("Other 00 00") == 0.0
    assert Settings(reader_rules=rules[:1]).power_down_delay_of("Other 00 00") == 5.0


async def test_disconnect_with_unpower(desk: Desk) -> None:
    client = desk.client()
    await desk.manager.disconnect(client, await desk.connect(client), UNPOWER)
    assert desk.slot.calls[-1] == "power_off"
    assert desk.status.state == 0x04
    desk.slot.calls.clear()
    await desk.connect(client)
    assert desk.slot.calls == ["power_on", "set_protocol T1"]


async def test_disconnect_succeeds_whatever_the_card_does(desk: Desk) -> None:
    client = desk.client()
    card = await desk.connect(client)
    await refused(desk.manager.disconnect(client, card, 7), ReturnCode.E_INVALID_VALUE)
    desk.slot.failures["reset"] = Reason.COMMUNICATION
    await desk.manager.disconnect(client, card, RESET)
    assert desk.status.state == MUTE
    assert desk.status.sharing == 0


async def test_cards_are_powered_off_when_their_reader_is_given_up(desk: Desk) -> None:
    await desk.manager.remove_readers(desk.readers)
    assert desk.slot.calls == ["power_off"]


async def test_a_slow_card_delays_the_announcement_but_not_for_ever() -> None:
    slot = FakeSlot()
    slot.gate = asyncio.Event()
    desk = Desk(slot, Settings(announce_bound=0.01))
    watcher = desk.client()
    await desk.start()
    assert desk.status.state == NO_CARD
    desk.manager.wait(watcher)
    slot.gate.set()
    await turn()
    assert (desk.status.state, desk.status.event_counter) == (CARD, 1)
    assert desk.notes[watcher] == [ReturnCode.SUCCESS]


async def test_a_card_taken_away_while_it_is_powered_is_never_shown(desk: Desk) -> None:
    desk.insert(False)
    desk.slot.gate = asyncio.Event()
    desk.insert(True)
    await turn()
    desk.insert(False)
    desk.slot.gate.set()
    await turn()
    assert (desk.status.state, desk.status.event_counter) == (NO_CARD, 1)


# --- views --------------------------------------------------------------------------------------


async def test_a_view_shows_its_readers_and_nothing_else(desk: Desk) -> None:
    manager = desk.manager
    view = manager.roster.add_view(["SIM *", "*01"])
    assert view.snapshot() == ()
    notes: list[ReturnCode] = []
    inside = manager.add_client("inside", notes.append, view)
    context = manager.establish_context(inside, Scope.SYSTEM)
    await refused(
        manager.connect(inside, context, NAME, SHARED, ANY),
        ReturnCode.E_UNKNOWN_READER,
    )
    manager.wait(inside)
    desk.insert(False)
    await desk.connect(desk.client(), DIRECT)
    other = await manager.add_readers("Other", 7, [FakeSlot(None)])
    assert notes == [], "what is not shown does not happen"
    assert view.reader_events == 1
    bank = await manager.add_readers("SIM bank", 0, [FakeSlot(), FakeSlot()])
    assert notes == [ReturnCode.SUCCESS]
    assert view.reader_events == 2
    assert [status.name for status in view.snapshot()] == ["SIM bank 00 00", "SIM bank 00 01"]
    await manager.connect(inside, context, "SIM bank 00 00", SHARED, ANY)
    manager.wait(inside)
    await manager.remove_readers(other)
    assert len(notes) == 1
    await manager.remove_readers(bank)
    assert len(notes) == 2
    assert view.snapshot() == ()
    assert manager.roster.everything.reader_events == 6


async def test_a_view_made_late_shows_what_is_there(desk: Desk) -> None:
    assert [status.name for status in desk.manager.roster.add_view(["Fake*"]).snapshot()] == [NAME]


async def test_cancel_does_not_reach_another_view(desk: Desk) -> None:
    client = desk.client()
    stranger = desk.manager.add_client("stranger", lambda code: None, desk.manager.roster.add_view(["*"]))
    desk.manager.wait(client)
    with pytest.raises(PcscError) as caught:
        desk.manager.cancel(stranger, client.context)
    assert caught.value.code is ReturnCode.E_INVALID_HANDLE
    assert desk.notes[client] == []
