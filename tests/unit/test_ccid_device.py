"""A reader from opening to removal, on a simulated one: cards, faults, many slots at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from ccid_simulator import EXTENDED, IN, OUT, SHORT, TPDU, Bench, Card, descriptor, echo
from fake_libusb import Urb

from pypcscd.driver import DeviceOpenError, DriverError, Presence, Reason
from pypcscd.scard import Protocol
from pypcscd_ccid import commands, messages
from pypcscd_ccid import device as devices
from pypcscd_ccid import pending as pendings
from pypcscd_ccid import slot as slots
from pypcscd_ccid.libusb import Kind, Status
from pypcscd_ccid.slot import CcidSlot

pytestmark = pytest.mark.usefixtures("carrier")

T0 = Protocol.T0
APDU = bytes.fromhex("00A4040000")
XFR, ON, STATUS, ABORT, SET = 0x6F, 0x62, 0x65, 0x72, 0x61


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    """An empty reader with one slot, to be opened."""
    bench = Bench()
    yield bench
    await bench.close()


@pytest_asyncio.fixture
async def eight() -> AsyncIterator[Bench]:
    """Eight slots, each with a powered card, all at once."""
    bench = Bench(descriptor(slots=8, busy=8))
    for index in range(8):
        bench.insert(index)
    device = await bench.open()
    for slot in device.slots:
        await slot.power_on()
    yield bench
    await bench.close()


async def turns() -> None:
    """Let everything happen that can happen without the reader's doing anything more."""
    for _ in range(50):
        await asyncio.sleep(0)


async def ready(bench: Bench, card: Card | None = None) -> CcidSlot:
    """The first slot, with a powered card."""
    bench.insert(0, card)
    device = await bench.open()
    await device.slots[0].power_on()
    return device.slots[0]


# --- opening -----------------------------------------------------------------------------------


async def test_an_empty_reader(bench: Bench) -> None:
    # what follows the string's own length is not part of it
    bench.reader.control_data[6] = b"\x0e\x03" + "Müller??".encode("utf-16-le")
    device = await bench.open()
    assert [slot.presence for slot in device.slots] == [Presence.ABSENT]
    assert device.facts.manufacturer == "Müller"
    assert device.facts.serial == ""
    assert device.facts.rates == ()


async def test_a_reader_that_has_its_strings_in_another_language(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And refuses to give them in English."""
    strings = {(0, 0): b"\x04\x03\x07\x04", (1, 0x0407): b"\x0c\x03" + "Adler".encode("utf-16-le")}

    def control(urb: Urb) -> None:
        answer = strings.get((urb.data[2], int.from_bytes(urb.data[4:6], "little")))
        urb.complete(answer or b"", Status.COMPLETED if answer else Status.STALL)

    monkeypatch.setattr(bench.reader, "_control", control)
    assert (await bench.open()).facts.manufacturer == "Adler"


async def test_the_cards_of_all_slots_are_seen() -> None:
    bench = Bench(descriptor(slots=3, busy=1))
    bench.insert(1)
    device = await bench.open()
    assert [slot.presence.value for slot in device.slots] == ["absent", "present", "absent"]
    await bench.close()


async def test_rates_are_asked_for_if_there_are_some() -> None:
    bench = Bench(descriptor(rate_count=3))
    bench.reader.control_data[3] = bytes.fromhex("002A0000 00540000")
    device = await bench.open()
    assert device.facts.rates == (10752, 21504)
    await bench.close()
    for answer in (b"\x00\x2a\x00", None):
        bench = Bench(descriptor(rate_count=3))
        if answer:
            bench.reader.control_data[3] = answer
        assert (await bench.open()).facts.rates == ()
        await bench.close()


async def test_a_reader_that_claims_to_take_anything_costs_no_memory() -> None:
    bench = Bench(descriptor(max_message=0xFFFF_FFFF))
    bench.insert()
    slot = (await bench.open()).slots[0]
    assert all(len(transfer.buffer) < 100_000 for transfer in bench.device._handle._transfers)
    await slot.power_on()
    longest = bytes(65_548)
    assert await slot.transmit(T0, longest) == echo(longest)
    await bench.close()


async def test_what_an_earlier_user_left_is_dropped(bench: Bench) -> None:
    stale = bytes.fromhex("80 02000000 00 07 00 00 00 9000")
    bench.reader.reply(stale, stale)
    device = await bench.open()
    assert device.slots[0].counters() == {
        "dropped": 2,
        "broken": 0,
        "timeouts": 0,
        "aborts": 0,
        "busy": 0,
        "transfer_failures": 0,
    }


async def test_a_reader_that_is_deaf_at_first_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_FIRST_TIMEOUT", 0.01)
    bench.reader.faults.append(lambda message: [])
    device = await bench.open()
    assert device.slots[0].counters()["timeouts"] == 1
    assert [message[0] for message in bench.reader.received] == [STATUS, ABORT, STATUS, STATUS]


async def test_a_reader_without_bulk_pipes_or_descriptor_is_refused(bench: Bench) -> None:
    bench.raw = bench.raw[:50]
    with pytest.raises(DeviceOpenError, match="no CCID descriptor") as refused:
        await bench.open()
    assert refused.value.permanent


async def test_a_reader_that_is_pulled_out_while_it_is_opened(bench: Bench) -> None:
    bench.reader.holds = True
    opening = asyncio.ensure_future(bench.open())
    await bench.reader.until_received(1)
    bench.libusb.unplug()
    with pytest.raises(DeviceOpenError, match="unplugged") as failed:
        await opening
    assert failed.value.is_gone


async def test_a_reader_that_is_pulled_out_as_it_gives_the_last_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told of the loss yet, so it must be seen."""
    look = devices._look_at_slots

    async def look_and_pull(device: devices.CcidDevice, commands: commands.Commands) -> None:
        await look(device, commands)
        bench.libusb.unplug()
        await turns()

    monkeypatch.setattr(devices, "_look_at_slots", look_and_pull)
    with pytest.raises(DeviceOpenError, match="unplugged") as failed:
        await bench.open()
    assert failed.value.is_gone


async def test_a_reader_whose_pipe_fails_at_once_is_there_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no unplugged one, and a reset may help."""
    monkeypatch.setattr(commands, "_LONGEST_RETRY", 0.001)
    for _ in range(10):
        bench.reader.fail_in(Status.ERROR)
    with pytest.raises(DeviceOpenError, match="transfers failed again and again") as failed:
        await bench.open()
    assert failed.value.reset_may_help
    assert not failed.value.is_gone


# --- cards ---------------------------------------------------------------------------------------


async def test_a_card_is_powered_and_answers(bench: Bench) -> None:
    bench.insert()
    device = await bench.open()
    slot = device.slots[0]
    assert slot.presence is Presence.PRESENT
    assert await slot.power_on() == bytes.fromhex("3B021450")
    await slot.set_protocol(T0)
    assert bench.reader.parameters == [bytes.fromhex("00 11 00 00 0A 00")]
    assert await slot.transmit(T0, APDU) == echo(APDU)
    await slot.power_off()
    assert not bench.reader.powered[0]


async def test_voltages_are_tried_in_turn() -> None:
    bench = Bench(descriptor(features=0, voltages=0x05))
    card = bench.insert()
    card.refuses_power = (1,)
    device = await bench.open()
    await device.slots[0].power_on()
    assert [message[7] for message in bench.reader.of_type(ON)] == [1, 3]
    card.refuses_power = (1, 3)
    with pytest.raises(DriverError) as refused:
        await device.slots[0].power_on()
    assert refused.value.reason is Reason.POWER
    await bench.close()


async def test_a_reader_that_chooses_the_voltage_is_let(bench: Bench) -> None:
    await ready(bench)
    assert [message[7] for message in bench.reader.of_type(ON)] == [0]


async def test_an_empty_slot_has_no_card(bench: Bench) -> None:
    device = await bench.open()
    with pytest.raises(DriverError) as refused:
        await device.slots[0].power_on()
    assert refused.value.reason is Reason.NO_CARD


async def presences(slot: CcidSlot) -> "asyncio.Queue[Presence]":
    seen: asyncio.Queue[Presence] = asyncio.Queue()
    slot.presence_changed = seen.put_nowait
    return seen


async def test_movements_come_through_the_interrupt_pipe(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_OLD_NEWS", 0.0)
    slot = (await bench.open()).slots[0]
    seen = await presences(slot)
    bench.insert()
    bench.reader.interrupt(b"\x50\x03")
    assert await seen.get() is Presence.PRESENT
    await slot.power_on()
    bench.reader.cards[0] = None
    bench.reader.interrupt(b"\x50\x02")
    assert await seen.get() is Presence.ABSENT
    # neither needed a command
    assert len(bench.reader.of_type(STATUS)) == 2
    assert await slot.get_attribute(0x00090303) == b""


@pytest.mark.parametrize("is_there", [True, False])
async def test_news_from_before_the_reader_was_opened_are_not_believed(
    bench: Bench, *, is_there: bool
) -> None:
    """The card went and came, or came and went, while nobody listened; the reader has kept the first."""
    if is_there:
        bench.insert()
    bench.reader.interrupt(b"\x50\x02" if is_there else b"\x50\x03")
    slot = (await bench.open()).slots[0]
    seen = await presences(slot)
    await bench.reader.until_received(3, STATUS)
    await turns()
    assert slot.presence is (Presence.PRESENT if is_there else Presence.ABSENT)
    assert seen.empty()


async def test_a_change_that_the_reader_does_not_call_one(bench: Bench) -> None:
    slot = (await bench.open()).slots[0]
    seen = await presences(slot)
    bench.insert()
    bench.reader.interrupt(b"\x50\x01")
    assert await seen.get() is Presence.PRESENT
    bench.reader.cards[0] = None
    bench.reader.interrupt(b"\x50\x00")
    assert await seen.get() is Presence.ABSENT
    asked = len(bench.reader.of_type(STATUS))
    bench.reader.interrupt(b"\x50\x00")
    await turns()
    assert len(bench.reader.of_type(STATUS)) == asked


async def test_a_card_that_goes_while_the_reader_says_that_it_is_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is pulled out slowly: the answer to the first movement comes after the second."""
    monkeypatch.setattr(devices, "_OLD_NEWS", 0.0)
    slot = await ready(bench)
    seen = await presences(slot)
    asked = len(bench.reader.of_type(STATUS))
    bench.reader.holds = True
    bench.reader.interrupt(b"\x50\x03")
    await bench.reader.until_received(asked + 1, STATUS)
    bench.reader.holds = False
    bench.reader.cards[0] = None
    bench.reader.interrupt(b"\x50\x02")
    await turns()
    bench.reader.release()
    await bench.reader.until_received(asked + 2, STATUS)
    await turns()
    assert slot.presence is Presence.ABSENT
    assert seen.get_nowait() is Presence.ABSENT
    assert seen.empty()


async def test_slots_that_have_not_changed_are_left_alone() -> None:
    bench = Bench(descriptor(slots=6, busy=1))
    device = await bench.open()
    queues = [await presences(slot) for slot in device.slots]
    bench.insert(5)
    # slot 4: present but not changed, slot 5: present and changed
    bench.reader.interrupt(b"\x50\x00\x0d")
    assert await queues[5].get() is Presence.PRESENT
    assert all(queue.empty() for queue in queues)
    assert device.slots[4].presence is Presence.ABSENT
    await bench.close()


async def test_a_card_that_was_swapped_is_absent_and_present_again(bench: Bench) -> None:
    slot = await ready(bench)
    seen = await presences(slot)
    bench.insert()
    bench.reader.interrupt(b"\x50\x03")
    assert await seen.get() is Presence.ABSENT
    assert await seen.get() is Presence.PRESENT


async def test_the_first_notification_is_no_swap(bench: Bench) -> None:
    slot = await ready(bench)
    seen = await presences(slot)
    asked = len(bench.reader.of_type(STATUS))
    bench.reader.interrupt(b"\x50\x03")
    await bench.reader.until_received(asked + 1, STATUS)
    await slot.transmit(T0, APDU)
    assert seen.empty()


async def test_without_an_interrupt_pipe_the_reader_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_POLL_INTERVAL", 0.005)
    bench = Bench(has_interrupt=False)
    slot = (await bench.open()).slots[0]
    seen = await presences(slot)
    bench.insert()
    assert await seen.get() is Presence.PRESENT
    await slot.power_on()
    bench.insert()
    assert await seen.get() is Presence.ABSENT
    assert await seen.get() is Presence.PRESENT
    bench.reader.cards[0] = None
    assert await seen.get() is Presence.ABSENT
    await bench.close()


async def test_a_busy_slot_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_POLL_INTERVAL", 0.001)
    bench = Bench(descriptor(slots=2, busy=2), has_interrupt=False)
    bench.insert(0)
    device = await bench.open()
    await device.slots[0].power_on()
    # each message takes one of them, also the questions that come before
    bench.reader.faults.extend([lambda message: [] if message[0] == XFR else None] * 1000)
    waiting = asyncio.ensure_future(device.slots[0].transmit(T0, APDU))
    await bench.reader.until_received(1, XFR)
    before = len(bench.reader.received)
    await bench.reader.until_received(before + 5)
    assert {message[5] for message in bench.reader.received[before:]} == {1}
    waiting.cancel()
    await bench.close()


@pytest.mark.parametrize(
    "news",
    [b"", b"\x50", b"\x3f\x03", Status.ERROR, Status.OVERFLOW, Status.STALL],
    ids=["empty", "short", "unknown", "error", "overflow", "stall"],
)
async def test_whatever_comes_by_the_interrupt_pipe_may_mean_that_a_card_moved(
    bench: Bench, news: bytes | Status
) -> None:
    """What a failed transfer should have brought does not come again."""
    slot = (await bench.open()).slots[0]
    seen = await presences(slot)
    bench.insert()
    if isinstance(news, Status):
        bench.reader.fail_interrupt(news)
    else:
        bench.reader.interrupt(news)
    async with asyncio.timeout(2):
        assert await seen.get() is Presence.PRESENT


async def test_a_card_that_a_hardware_error_took_the_power_from_is_told(bench: Bench) -> None:
    slot = await ready(bench)
    seen = await presences(slot)
    bench.reader.powered[0] = False
    bench.reader.interrupt(b"\x51\x00\x00\x01")
    async with asyncio.timeout(2):
        assert await seen.get() is Presence.ABSENT
        assert await seen.get() is Presence.PRESENT


async def test_a_broken_interrupt_pipe_is_replaced_by_asking(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_POLL_INTERVAL", 0.005)
    monkeypatch.setattr(devices, "_MAX_FAILURES", 3)
    slot = (await bench.open()).slots[0]
    seen = await presences(slot)
    for _ in range(3):
        bench.reader.fail_interrupt(Status.STALL)
    while bench.reader.interrupt_status:
        await asyncio.sleep(0.005)
    await turns()
    bench.insert()
    assert await seen.get() is Presence.PRESENT
    assert bench.reader.cleared == [0x83, 0x83]


def silence(bench: Bench) -> Callable[[bytes], list[bytes]]:
    """The reader cannot say if there is a card."""

    def answer(message: bytes) -> list[bytes]:
        good = bench.reader.make(0x81, message)
        return [good[:7] + b"\x03" + good[8:]]

    return answer


async def test_a_reader_that_cannot_tell_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "_ASK_AGAIN", 0.005)
    slot = await ready(bench)
    seen = await presences(slot)
    bench.reader.faults.append(silence(bench))
    bench.reader.interrupt(b"\x50\x03")
    assert await seen.get() is Presence.UNKNOWN
    assert await seen.get() is Presence.PRESENT


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_question_for_the_card_that_fails_says_nothing_of_it(bench: Bench, *, is_open: bool) -> None:
    """A slot whose hardware has failed; the two bits for the card are 0 for "active" then."""

    def fail(message: bytes) -> list[bytes]:
        reply = bench.reader.make(0x81, message, error=0xFB)
        return [reply[:7] + b"\x40" + reply[8:]]

    if is_open:
        await bench.open()
        bench.reader.faults.append(fail)
        bench.reader.interrupt(b"\x50\x03")
        await bench.reader.until_received(3, STATUS)
        await turns()
    else:
        bench.reader.faults.extend([lambda message: None, fail])
        await bench.open()
    assert bench.device.slots[0].presence is Presence.UNKNOWN


@pytest.mark.parametrize("error", [0xFE, 0x05])
async def test_a_question_that_fails_because_there_is_no_card_is_an_answer(bench: Bench, error: int) -> None:
    bench.reader.faults.extend(
        [lambda message: None, lambda message: [bench.reader.make(0x81, message, error=error)]]
    )
    device = await bench.open()
    assert device.slots[0].presence is Presence.ABSENT


async def test_a_reader_that_never_can_tell_is_not_asked_more_and_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_POLL_INTERVAL", 0.005)
    monkeypatch.setattr(slots, "_ASK_AGAIN", 0.05)
    bench = Bench(has_interrupt=False)
    await bench.open()
    calls: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def count(delay: float, *args: Any) -> asyncio.TimerHandle:
        if delay == 0.05:
            calls.append(loop.time())
        return call_later(delay, *args)

    monkeypatch.setattr(loop, "call_later", count)
    bench.reader.faults.extend([silence(bench)] * 1000)
    await asyncio.sleep(0.3)
    assert len(calls) <= 7
    await bench.close()


async def test_a_card_that_is_pulled_out_in_an_exchange(bench: Bench) -> None:
    slot = await ready(bench)
    seen = await presences(slot)
    bench.reader.cards[0] = None
    with pytest.raises(DriverError) as failed:
        await slot.transmit(T0, APDU)
    assert failed.value.reason is Reason.NO_CARD
    assert await seen.get() is Presence.ABSENT


# --- faults: one error on that slot, and the next command works ----------------------------------


def broken_replies(bench: Bench, message: bytes, kind: str) -> list[bytes]:
    good = bench.reader.answer(message)
    return {
        "short header": [good[:6]],
        "short data": [good[:-1]],
        "long data": [good + b"\0"],
        "oversized": [good[:1] + b"\xff\xff\xff\x7f" + good[5:]],
        "wrong type": [b"\x83" + good[1:]],
        "slot error": [bench.reader.make(0x80, message, error=0xFB)],
        "empty": [bench.reader.make(0x80, message)],
    }[kind]


@pytest.mark.parametrize(
    "kind", ["short header", "short data", "long data", "oversized", "wrong type", "slot error", "empty"]
)
async def test_a_bad_reply_costs_one_command(bench: Bench, kind: str) -> None:
    slot = await ready(bench)
    bench.reader.faults.append(lambda message: broken_replies(bench, message, kind))
    with pytest.raises(DriverError) as failed:
        await slot.transmit(T0, APDU)
    assert failed.value.reason is Reason.COMMUNICATION
    assert await slot.transmit(T0, APDU) == echo(APDU)


@pytest.mark.parametrize("offset", [5, 6], ids=["wrong slot", "wrong sequence"])
async def test_a_reply_to_nobody_is_dropped(bench: Bench, offset: int) -> None:
    slot = await ready(bench)

    def misdirected(message: bytes) -> list[bytes]:
        good = bench.reader.answer(message)
        bad = bytearray(good)
        bad[offset] += 1
        return [bytes(bad), good]

    bench.reader.faults.append(misdirected)
    assert await slot.transmit(T0, APDU) == echo(APDU)
    assert slot._commands.counters.dropped == 1


async def test_a_reply_that_comes_twice_is_not_the_next_answer(bench: Bench) -> None:
    slot = await ready(bench)
    bench.reader.faults.append(lambda message: [bench.reader.answer(message)] * 2)
    await slot.transmit(T0, APDU)
    assert await slot.transmit(T0, b"\x00\x01") == echo(b"\x00\x01")
    assert slot._commands.counters.dropped == 1


async def test_no_answer_is_a_timeout_and_an_abort(bench: Bench) -> None:
    slot = await ready(bench)
    slot._timeout = 0.02
    bench.reader.faults.append(lambda message: [])
    with pytest.raises(DriverError) as failed:
        await slot.transmit(T0, APDU)
    assert failed.value.reason is Reason.TIMEOUT
    assert await slot.transmit(T0, APDU) == echo(APDU)
    (abort,) = bench.reader.of_type(ABORT)
    assert bench.reader.controls[-1][:8] == bytes((0x21, 1, 0, abort[6], 0, 0, 0, 0))


async def test_a_late_answer_is_not_taken_for_the_next(bench: Bench) -> None:
    slot = await ready(bench)
    slot._timeout = 0.02
    late: list[bytes] = []

    def keep(message: bytes) -> list[bytes]:
        late.append(bench.reader.answer(message))
        return []

    bench.reader.faults.append(keep)
    with pytest.raises(DriverError):
        await slot.transmit(T0, b"\x00\x01")
    bench.reader.faults.extend(
        [lambda message: None, lambda message: [late[0], bench.reader.answer(message)]]
    )
    assert await slot.transmit(T0, b"\x00\x02") == echo(b"\x00\x02")


async def test_a_reader_that_does_not_know_abort_is_used_all_the_same(bench: Bench) -> None:
    slot = await ready(bench)
    slot._timeout = 0.02
    bench.reader.refuses_control = True
    bench.reader.faults.append(lambda message: [])
    bench.reader.faults.append(lambda message: [bench.reader.make(0x81, message, error=0x100)])
    with pytest.raises(DriverError):
        await slot.transmit(T0, APDU)
    assert await slot.transmit(T0, APDU) == echo(APDU)


async def test_an_abort_that_an_earlier_user_left_half_done_is_completed(bench: Bench) -> None:
    slot = await ready(bench)
    bench.reader.faults.append(lambda message: [bench.reader.make(0x80, message, error=0xFF)])
    with pytest.raises(DriverError, match="aborted"):
        await slot.transmit(T0, APDU)
    assert await slot.transmit(T0, APDU) == echo(APDU)
    assert [message[0] for message in bench.reader.received[-3:]] == [XFR, ABORT, XFR]
    assert slot._commands.counters.dropped == 0


async def test_cancelling_aborts_and_leaves_the_slot_usable(bench: Bench) -> None:
    slot = await ready(bench)
    bench.reader.faults.append(lambda message: [])
    waiting = asyncio.ensure_future(slot.transmit(T0, APDU))
    await bench.reader.until_received(1, XFR)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await slot.transmit(T0, APDU) == echo(APDU)
    assert len(bench.reader.of_type(ABORT)) == 1


async def test_more_time_is_given_when_the_card_asks(bench: Bench) -> None:
    slot = await ready(bench)
    slot._timeout = 0.05
    extension = asyncio.Event()

    def ask(message: bytes) -> list[bytes]:
        asked = bytearray(bench.reader.make(0x80, message))
        asked[7] |= 0x80
        asked[8] = 200
        asyncio.get_running_loop().call_later(0.1, extension.set)
        bench.reader.held = [bench.reader.answer(message)]
        return [bytes(asked)]

    bench.reader.faults.append(ask)
    waiting = asyncio.ensure_future(slot.transmit(T0, APDU))
    await extension.wait()
    assert not waiting.done()
    bench.reader.release()
    assert await waiting == echo(APDU)


async def test_more_time_is_not_given_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pendings, "LONGEST_EXCHANGE", 0.1)
    slot = await ready(bench)
    slot._timeout = 0.02

    def ask(message: bytes) -> list[bytes]:
        asked = bytearray(bench.reader.make(0x80, message))
        asked[7] |= 0x80
        asked[8] = 255
        return [bytes(asked)]

    bench.reader.faults.append(ask)
    with pytest.raises(DriverError) as failed:
        await asyncio.wait_for(slot.transmit(T0, APDU), 4)
    assert failed.value.reason is Reason.TIMEOUT
    assert await slot.transmit(T0, APDU) == echo(APDU)


async def test_a_reader_that_asks_for_more_time_all_the_time_is_given_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It always has a message ready, so there is never a moment without one."""
    monkeypatch.setattr(pendings, "LONGEST_EXCHANGE", 0.1)
    monkeypatch.setattr(commands, "_ABORT_TIMEOUT", 0.05)
    slot = await ready(bench)
    slot._timeout = 0.02
    submitted = bench.reader.submitted

    def ask(message: bytes) -> list[bytes]:
        asked = bytearray(bench.reader.make(0x80, message))
        asked[7] |= 0x80
        asked[8] = 1

        def submit(urb: Urb) -> None:
            submitted(urb)
            if urb.endpoint == IN and bench.reader._in is urb:
                bench.reader.reply(bytes(asked))

        monkeypatch.setattr(bench.reader, "submitted", submit)
        return [bytes(asked)]

    bench.reader.faults.append(ask)
    with pytest.raises(DriverError) as failed:
        await asyncio.wait_for(slot.transmit(T0, APDU), 2)
    assert failed.value.reason is Reason.TIMEOUT
    monkeypatch.setattr(bench.reader, "submitted", submitted)
    assert await slot.transmit(T0, APDU) == echo(APDU)


async def test_an_exchange_of_many_messages_ends_some_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = await ready(bench)
    assert await slot.transmit(T0, bytes(600)) == echo(bytes(600))
    monkeypatch.setattr(slots, "LONGEST_EXCHANGE", -1.0)
    with pytest.raises(DriverError, match="no end") as failed:
        await slot.transmit(T0, bytes(600))
    assert failed.value.reason is Reason.TIMEOUT


async def test_a_busy_slot_is_tried_again(bench: Bench) -> None:
    slot = await ready(bench)
    for _ in range(3):
        bench.reader.faults.append(lambda message: [bench.reader.make(0x80, message, error=0xE0)])
    assert await slot.transmit(T0, APDU) == echo(APDU)
    assert len(bench.reader.of_type(XFR)) == 4
    assert slot._commands.counters.busy == 3


async def test_a_slot_that_stays_busy_is_an_error(bench: Bench) -> None:
    slot = await ready(bench)
    # the pauses grow to 80 ms, and the next of 100 would end after that time
    slot._timeout = 0.25
    for _ in range(20):
        bench.reader.faults.append(
            lambda message: [bench.reader.make(0x80, message, error=0xE0)] if message[0] == XFR else None
        )
    with pytest.raises(DriverError, match="busy"):
        await slot.transmit(T0, APDU)


def at_the_deadline(bench: Bench, happens: Callable[[], None]) -> None:
    """What happens when the transfer under way is cancelled, instead of its end."""

    def give_up(transfer: int) -> int:
        bench.libusb.cancel_transfer = original  # type: ignore[method-assign]
        happens()
        return 0

    original = bench.libusb.cancel_transfer
    bench.libusb.cancel_transfer = give_up  # type: ignore[method-assign]


def listening(bench: Bench) -> Urb:
    """The transfer that waits for an answer."""
    assert bench.reader._in is not None
    return bench.reader._in


async def unanswered(bench: Bench, size: int) -> tuple[CcidSlot, asyncio.Future[bytes], bytes]:
    """An exchange that the reader keeps back, and its message with the answer of that many bytes."""
    slot = await ready(bench, Card(respond=lambda apdu: bytes(size)))
    slot._timeout = 0.02
    bench.reader.faults.append(lambda message: [])
    waiting = asyncio.ensure_future(slot.transmit(T0, APDU))
    await bench.reader.until_received(1, XFR)
    return slot, waiting, bench.reader.answer(bench.reader.received[-1])


async def test_a_reply_that_fills_its_packets_is_found_at_the_deadline(bench: Bench) -> None:
    slot, waiting, answer = await unanswered(bench, 54)
    in_flight = listening(bench)
    assert len(answer) == 64
    # the controller has the bytes, and tells when the transfer is cancelled
    at_the_deadline(bench, lambda: in_flight.complete(answer, Status.CANCELLED))
    assert await waiting == bytes(54)
    assert slot._commands.counters.timeouts == 0


async def test_half_an_answer_at_the_deadline_is_not_put_before_the_next(bench: Bench) -> None:
    """The reader gave up in the middle."""
    slot, waiting, answer = await unanswered(bench, 240)
    in_flight = listening(bench)
    at_the_deadline(bench, lambda: in_flight.complete(answer[:64], Status.CANCELLED))
    with pytest.raises(DriverError) as failed:
        await waiting
    assert failed.value.reason is Reason.TIMEOUT
    slot._timeout = 1.0
    async with asyncio.timeout(1):
        assert await slot.transmit(T0, APDU) == bytes(240)
    assert len(bench.reader.of_type(ABORT)) == 1
    assert slot._commands.counters.broken == 0


@pytest.mark.parametrize("status", [Status.STALL, Status.OVERFLOW, Status.ERROR])
async def test_a_failed_bulk_in_costs_one_command(bench: Bench, status: Status) -> None:
    slot = await ready(bench)

    def fail(message: bytes) -> list[bytes]:
        bench.reader.fail_in(status)
        return []

    bench.reader.faults.append(fail)
    with pytest.raises(DriverError) as failed:
        await slot.transmit(T0, APDU)
    assert failed.value.reason is Reason.COMMUNICATION
    assert await slot.transmit(T0, APDU) == echo(APDU)
    assert bench.reader.cleared == ([0x82] if status is Status.STALL else [])


@pytest.mark.parametrize("size", [54, 500], ids=["whole", "rest"])
async def test_an_answer_is_not_lost_because_no_other_can_be_received(bench: Bench, size: int) -> None:
    """As when the kernel has no memory left for transfers."""
    response = bytes(size)
    slot = await ready(bench, Card(respond=lambda apdu: response))
    bench.reader.level = SHORT
    bench.libusb.in_results.extend([0] * (size // 320) + [-11])
    assert await slot.transmit(T0, APDU) == response
    assert await slot.transmit(T0, APDU) == response
    assert not bench.reader.of_type(ABORT)


async def test_a_message_whose_rest_is_lost_does_not_spoil_the_next(bench: Bench) -> None:
    slot = await ready(bench)

    def half(message: bytes) -> list[bytes]:
        start = bytearray(bench.reader.make(0x80, message, bytes(310)))
        start[1:5] = (700).to_bytes(4, "little")
        asyncio.get_running_loop().call_soon(bench.reader.fail_in, Status.ERROR)
        return [bytes(start)]

    bench.reader.faults.append(half)
    with pytest.raises(DriverError):
        await slot.transmit(T0, APDU)
    assert await slot.transmit(T0, APDU) == echo(APDU)
    # the answer to the abort was not taken for that rest
    assert slot._commands.counters.broken == 0


async def test_a_command_that_was_given_up_in_the_queue_is_not_sent(bench: Bench) -> None:
    slot = await ready(bench)
    bench.reader.holds = True
    first = asyncio.ensure_future(slot.transmit(T0, APDU))
    await bench.reader.until_received(1, XFR)
    queued = slot._commands.submit(messages.Command.ESCAPE, 0, 1.0)
    queued.cancel()
    bench.reader.release()
    await first
    await turns()
    assert not bench.reader.of_type(0x6B)


async def test_a_failed_bulk_out_costs_one_command(bench: Bench) -> None:
    slot = await ready(bench)
    bench.reader.out_status.append(Status.ERROR)
    with pytest.raises(DriverError) as failed:
        await slot.transmit(T0, APDU)
    assert failed.value.reason is Reason.COMMUNICATION
    assert await slot.transmit(T0, APDU) == echo(APDU)


@pytest.mark.parametrize("times", [2, 3])
async def test_what_cannot_be_sent_is_tried_again(times: int) -> None:
    """As when the kernel has no memory left for transfers; the answer before it is not lost by that."""
    bench = Bench(descriptor(slots=4, busy=1))
    for index in range(4):
        bench.insert(index)
    device = await bench.open()
    for slot in device.slots:
        await slot.power_on()
    bench.reader.holds = True
    first, *others = [asyncio.ensure_future(slot.transmit(T0, APDU)) for slot in device.slots]
    await bench.reader.until_received(1, XFR)
    await turns()
    bench.libusb.out_results.extend([-11] * times)
    bench.reader.holds = False
    bench.reader.release()
    async with asyncio.timeout(5):
        assert await first == echo(APDU)
        results = await asyncio.gather(*others, return_exceptions=True)
    failed = [error.reason for error in results if isinstance(error, DriverError)]
    assert failed == [Reason.COMMUNICATION] * (times - 2), "and the next one is not harmed"
    assert [await slot.transmit(T0, APDU) for slot in device.slots] == [echo(APDU)] * 4
    await bench.close()


async def test_a_removal_that_a_command_comes_upon_is_no_failure(bench: Bench) -> None:
    """Before the pipe that listens has told it."""
    slot = await ready(bench)
    bench.libusb.is_gone = True
    with pytest.raises(DriverError) as failed:
        await slot.transmit(T0, APDU)
    assert failed.value.reason is Reason.NO_DEVICE
    assert bench.lost == ["it was unplugged"]
    assert bench.device.is_unplugged
    bench.libusb.unplug()


async def test_a_stalled_bulk_out_is_cleared_and_tried_again(bench: Bench) -> None:
    slot = await ready(bench)
    bench.reader.out_status.append(Status.STALL)
    assert await slot.transmit(T0, APDU) == echo(APDU)
    assert bench.reader.cleared == [0x01]
    bench.reader.out_status.extend([Status.STALL] * 3)
    with pytest.raises(DriverError) as failed:
        await slot.transmit(T0, APDU)
    assert failed.value.reason is Reason.COMMUNICATION
    assert await slot.transmit(T0, APDU) == echo(APDU)


async def test_a_stalled_bulk_out_does_not_keep_what_waits_for_it(eight: Bench) -> None:
    """The frame that is sent again and those behind it all get out, and so does what comes later."""
    eight.reader.out_status.extend([Status.STALL, Status.STALL])
    slots = eight.device.slots
    for _ in range(2):
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(slot.transmit(T0, APDU) for slot in slots))
        assert answers == [echo(APDU)] * 8
    assert eight.reader.cleared == [0x01, 0x01]


async def test_a_reader_that_takes_nothing_is_not_sent_all_that_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its firmware hangs, perhaps for days: what was given up meanwhile is not kept for it."""
    monkeypatch.setattr(commands, "_ABORT_TIMEOUT", 0.005)
    slot = await ready(bench)
    slot._timeout = 0.005
    kept: list[Urb] = []
    submitted = bench.reader.submitted
    monkeypatch.setattr(
        bench.reader, "submitted", lambda urb: kept.append(urb) if urb.endpoint == OUT else submitted(urb)
    )
    for _ in range(5):
        with pytest.raises(DriverError) as failed:
            await slot.transmit(T0, APDU)
        assert failed.value.reason is Reason.TIMEOUT
    while bench.device.slots[0]._commands._active[0] is not None:
        await asyncio.sleep(0.005)
    bench.reader.received.clear()
    monkeypatch.setattr(bench.reader, "submitted", submitted)
    monkeypatch.setattr(commands, "_ABORT_TIMEOUT", 2.0)
    slot._timeout = 60.0
    submitted(kept[-1])
    assert await slot.transmit(T0, APDU) == echo(APDU)
    assert [message[0] for message in bench.reader.received] == [ABORT, XFR]


async def test_a_pipe_that_always_fails_is_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = await ready(bench)
    for _ in range(10):
        bench.reader.fail_in(Status.ERROR)
    gone = asyncio.get_running_loop().create_future()
    bench.device.lost = gone.set_result
    assert "in a row" in await gone
    assert not bench.device.is_unplugged
    with pytest.raises(DriverError) as refused:
        await slot.transmit(T0, APDU)
    assert refused.value.reason is Reason.NO_DEVICE


async def test_removal_fails_everything_at_once(eight: Bench) -> None:
    eight.reader.holds = True
    waiting = [asyncio.ensure_future(slot.transmit(T0, APDU)) for slot in eight.device.slots]
    await eight.reader.until_received(8, XFR)
    eight.libusb.unplug()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [error.reason for error in results if isinstance(error, DriverError)] == [Reason.NO_DEVICE] * 8
    assert eight.lost == ["it was unplugged"]
    assert eight.device.is_unplugged
    with pytest.raises(DriverError) as refused:
        await eight.device.slots[0].power_on()
    assert refused.value.reason is Reason.NO_DEVICE


async def test_a_reset_at_the_port_is_the_end_and_no_failure(bench: Bench) -> None:
    """The kernel takes the interface away: its transfers end as if we had cancelled them."""
    slot = await ready(bench)
    (pipe,) = (urb for urb in bench.libusb.pending.values() if urb.kind is Kind.INTERRUPT)
    pipe.complete(status=Status.CANCELLED)
    await turns()
    assert bench.lost == ["the system took it away: it was reset, or unplugged"]
    assert bench.device.is_unplugged
    with pytest.raises(DriverError) as refused:
        await slot.transmit(T0, APDU)
    assert refused.value.reason is Reason.NO_DEVICE


async def test_closing_fails_what_waits(bench: Bench) -> None:
    slot = await ready(bench)
    bench.reader.faults.append(lambda message: [])
    waiting = asyncio.ensure_future(slot.transmit(T0, APDU))
    await bench.reader.until_received(1, XFR)
    await bench.device.close()
    with pytest.raises(DriverError) as failed:
        await waiting
    assert failed.value.reason is Reason.NO_DEVICE
    assert bench.lost == []


# --- many slots ----------------------------------------------------------------------------------


async def test_all_slots_work_at_the_same_time(eight: Bench) -> None:
    eight.reader.holds = True
    waiting = [
        asyncio.ensure_future(slot.transmit(T0, bytes((index,)) * 5))
        for index, slot in enumerate(eight.device.slots)
    ]
    await eight.reader.until_received(8, XFR)
    eight.reader.held.reverse()
    eight.reader.release()
    assert await asyncio.gather(*waiting) == [echo(bytes((index,)) * 5) for index in range(8)]
    numbers = [message[6] for message in eight.reader.received]
    assert numbers == [number & 0xFF for number in range(len(numbers))]


async def test_a_dead_card_does_not_hold_up_the_others(eight: Bench) -> None:
    eight.reader.faults.append(lambda message: [])
    slots = eight.device.slots
    dead = asyncio.ensure_future(slots[3].transmit(T0, APDU))
    await eight.reader.until_received(1, XFR)
    for _ in range(300):
        assert await slots[5].transmit(T0, APDU) == echo(APDU)
    dead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dead


@pytest.mark.parametrize("arrived", [64, 192])
async def test_the_deadline_of_one_slot_does_not_cut_the_answer_of_another(
    eight: Bench, arrived: int
) -> None:
    """Half of it has come when the transfer is asked for what it has."""
    dead, other = eight.device.slots[3], eight.device.slots[5]
    dead._timeout = 0.02
    response = bytes(index & 0xFF for index in range(240))
    eight.reader.cards[5] = Card(respond=lambda apdu: response)
    eight.reader.powered[5] = True
    eight.reader.faults.extend([lambda message: [], lambda message: []])
    waiting = [asyncio.ensure_future(slot.transmit(T0, APDU)) for slot in (dead, other)]
    await eight.reader.until_received(2, XFR)
    in_flight = listening(eight)
    (message,) = (message for message in eight.reader.of_type(XFR) if message[5] == 5)
    answer = eight.reader.answer(message)

    def cut() -> None:
        in_flight.complete(answer[:arrived], Status.CANCELLED)
        eight.reader._in = None
        eight.reader.reply(answer[arrived:])

    at_the_deadline(eight, cut)
    failed, got = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(failed, DriverError)
    assert failed.reason is Reason.TIMEOUT
    assert got == response
    assert await dead.transmit(T0, APDU) == echo(APDU)


async def test_a_reader_that_takes_one_command_serves_its_slots_in_turn() -> None:
    bench = Bench(descriptor(slots=4, busy=1))
    for index in range(4):
        bench.insert(index)
    device = await bench.open()
    for slot in device.slots:
        await slot.power_on()
    bench.reader.holds = True

    async def work(slot: CcidSlot) -> None:
        for _ in range(5):
            await slot.transmit(T0, APDU)

    tasks = [asyncio.ensure_future(work(slot)) for slot in device.slots]
    for count in range(1, 21):
        await bench.reader.until_received(count, XFR)
        await turns()
        assert len(bench.reader.held) == 1
        bench.reader.release()
    await asyncio.gather(*tasks)
    order = [message[5] for message in bench.reader.of_type(XFR)]
    assert order[:4] * 5 == order
    assert sorted(order[:4]) == [0, 1, 2, 3]
    await bench.close()


async def test_no_more_commands_are_under_way_than_the_reader_takes() -> None:
    bench = Bench(descriptor(slots=4, busy=2))
    for index in range(4):
        bench.insert(index)
    device = await bench.open()
    for slot in device.slots:
        await slot.power_on()
    bench.reader.holds = True
    tasks = [asyncio.ensure_future(slot.transmit(T0, APDU)) for slot in device.slots]
    await turns()
    assert len(bench.reader.held) == 2
    tasks[3].cancel()
    bench.reader.release()
    await turns()
    assert len(bench.reader.held) == 1
    bench.reader.release()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[:3] == [echo(APDU)] * 3
    assert len(bench.reader.of_type(XFR)) == 3
    await bench.close()


# --- levels of exchange ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 54, 261, 262, 600, 65_540])
async def test_extended_apdus_are_chained_both_ways(size: int) -> None:
    bench = Bench(descriptor(EXTENDED))
    slot = await ready(bench)
    apdu = bytes(index * 7 & 0xFF for index in range(size))
    assert await slot.transmit(T0, apdu) == echo(apdu)
    await bench.close()


async def test_short_readers_refuse_long_commands() -> None:
    bench = Bench(descriptor(SHORT))
    slot = await ready(bench)
    assert await slot.transmit(T0, bytes(250)) == echo(bytes(250))
    with pytest.raises(DriverError, match="takes commands of 261 bytes"):
        await slot.transmit(T0, bytes(262))
    await bench.close()


async def test_without_a_protocol_a_tpdu_reader_cannot_talk() -> None:
    bench = Bench(descriptor(TPDU, features=0))
    slot = await ready(bench)
    with pytest.raises(DriverError, match="no protocol"):
        await slot.transmit(Protocol.RAW, APDU)
    await bench.close()
