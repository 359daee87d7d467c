"""The vpcd driver with emulators: scripted ones, and ``vicc`` of the vsmartcard project."""

import asyncio
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from pypcscd import eager
from pypcscd.driver import DeviceConfig, DeviceOpenError, DriverError, Presence, Reason
from pypcscd.scard import Attribute, Protocol
from pypcscd_virtual import vpcd_slot
from pypcscd_virtual.vpcd import VpcdDevice, VpcdDriver
from pypcscd_virtual.vpcd_slot import VpcdSlot

Card = Callable[[bytes], bytes | Awaitable[bytes | None] | None]
ATR = bytes.fromhex("3B 80 01 81")
OFF, ON, RESET, ASK_ATR = b"\0", b"\1", b"\2", b"\4"
GREET = bytes.fromhex("00 00 00 00")
OK = b"\x90\0"


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    with blockbuster_ctx() as blockbuster:
        yield blockbuster


def free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row, below those that outgoing connections get."""
    while True:
        first = random.randrange(10000, 32000)
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for the condition; 10 seconds are a failure."""
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within 10 s: {what}"
        await asyncio.sleep(0.002)


class Emulator:
    """A card that answers through ``card``: frame in, frame out, None for no answer."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.frames: list[bytes] = []
        self.closed_by_reader = asyncio.Event()
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._task: asyncio.Task[None]

    async def connect(self, port: int) -> "Emulator":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self._task = asyncio.create_task(self._serve())
        return self

    @property
    def address(self) -> str:
        return ":".join(map(str, self.writer.get_extra_info("sockname")))

    async def send(self, payload: bytes) -> None:
        self.writer.write(len(payload).to_bytes(2, "big") + payload)
        await self.writer.drain()

    async def disconnect(self) -> None:
        self._task.cancel()
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def _serve(self) -> None:
        try:
            while True:
                length = int.from_bytes(await self.reader.readexactly(2), "big")
                frame = await self.reader.readexactly(length)
                self.frames.append(frame)
                answer = self._card(frame)
                if isinstance(answer, Awaitable):
                    answer = await answer
                if answer is not None:
                    await self.send(answer)
        except (OSError, EOFError):
            self.closed_by_reader.set()


def friendly(frame: bytes) -> bytes | None:
    """Tells its ATR and answers every APDU with itself and 90 00."""
    if frame == ASK_ATR:
        return ATR
    return None if len(frame) == 1 else frame[:65533] + OK


def silent(frame: bytes) -> None:
    """Never says anything."""


class Slow:
    """Like ``friendly``, but APDUs are answered one by one when ``release`` says so."""

    def __init__(self) -> None:
        self.releases = asyncio.Semaphore(0)

    def release(self, count: int) -> None:
        for _ in range(count):
            self.releases.release()

    async def __call__(self, frame: bytes) -> bytes | None:
        if len(frame) > 1:
            await self.releases.acquire()
        return friendly(frame)


@asynccontextmanager
async def opened(**options: str) -> AsyncIterator[tuple[VpcdDevice, int]]:
    """An open device and its first port."""
    port = int(options.pop("port", free_ports(int(options.get("slots", "1")))))
    config = DeviceConfig("vpcd", "Test PCD", "vpcd", {"port": str(port), **options}, "--vpcd")
    device = await VpcdDriver().open(config)
    try:
        yield device, port
    finally:
        await device.close()


@asynccontextmanager
async def inserted(
    card: Card,
) -> AsyncIterator[tuple[VpcdSlot, Emulator, int]]:
    """A slot with a connected emulator, and the port."""
    async with opened() as (device, port):
        emulator = await Emulator(card).connect(port)
        slot = device.slots[0]
        await until(lambda: slot.presence is Presence.PRESENT, "the emulator is noticed")
        yield slot, emulator, port
        await emulator.disconnect()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- the normal way


async def test_power_and_exchange() -> None:
    async with inserted(friendly) as (slot, emulator, _):
        assert await slot.power_on() == ATR
        assert await slot.get_attribute(Attribute.ATR_STRING) == ATR
        await slot.set_protocol(Protocol.T1)
        assert await slot.transmit(Protocol.T1, GREET) == GREET + OK
        assert await slot.reset() == ATR
        assert await slot.transmit(Protocol.T0, b"\x80\1\2\3") == b"\x80\1\2\3" + OK
        await slot.power_off()
        assert await slot.get_attribute(Attribute.ATR_STRING) == b""
        expected = [ON, ASK_ATR, GREET, RESET, ASK_ATR, b"\x80\1\2\3", OFF]
        await until(lambda: len(emulator.frames) >= len(expected), "all frames arrive")
        assert emulator.frames == expected


async def test_an_exchange_ends_in_time_and_its_late_answer_is_not_taken_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Slow()
    async with inserted(card) as (slot, _, _):
        with monkeypatch.context() as impatient:
            impatient.setattr(vpcd_slot, "EXCHANGE_TIMEOUT", 0.05)
            with pytest.raises(DriverError, match=r"did not answer within 0\.05 seconds") as caught:
                await asyncio.wait_for(slot.transmit(Protocol.T1, GREET), 10)
        assert caught.value.reason is Reason.TIMEOUT
        card.release(2)
        assert await slot.transmit(Protocol.T1, b"\x80\1\2\3") == b"\x80\1\2\3" + OK


async def test_an_atr_that_comes_with_the_end_of_its_card_is_none() -> None:
    """The event loop may have both before whoever asked for the ATR goes on."""
    slot = VpcdSlot("Test PCD", memoryview(bytearray(64)))
    emulator = slot.new_connection()
    emulator.connection_made(Mock(asyncio.Transport, get_extra_info=lambda name: ("127.0.0.1", 1)))
    starting = asyncio.create_task(slot.power_on())
    await asyncio.sleep(0)
    emulator.data_received(len(ATR).to_bytes(2, "big") + ATR)
    emulator.connection_lost(None)
    with pytest.raises(DriverError, match="has disconnected") as caught:
        await starting
    assert caught.value.reason is Reason.NO_CARD
    assert await slot.get_attribute(Attribute.ATR_STRING) == b""


async def test_connecting_inserts_and_disconnecting_removes() -> None:
    async with opened() as (device, port):
        (slot,) = device.slots
        seen: list[Presence] = []
        slot.presence_changed = seen.append
        for _ in range(2):
            emulator = await Emulator(friendly).connect(port)
            await until(lambda: slot.presence is Presence.PRESENT, "insertion")
            assert await slot.get_attribute(Attribute.ICC_PRESENCE) == b"\x02"
            await slot.power_on()
            await emulator.disconnect()
            await until(lambda: slot.presence is Presence.ABSENT, "removal")
            assert await slot.get_attribute(Attribute.ICC_PRESENCE) == b"\x00"
            assert await slot.get_attribute(Attribute.ATR_STRING) == b""
        assert seen == [Presence.PRESENT, Presence.ABSENT] * 2


async def test_an_emulator_that_restarts_at_once_gets_its_slot(caplog: pytest.LogCaptureFixture) -> None:
    """The end of the old connection and the beginning of the new one arrive in the same moment."""

    def connect(port: int) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", port))
        return connection

    async with opened() as (device, port):
        (slot,) = device.slots
        seen: list[Presence] = []
        slot.presence_changed = seen.append
        connection = connect(port)
        for _ in range(20):
            peer = ":".join(map(str, connection.getsockname()))

            def is_in(peer: str = peer) -> bool:
                return slot._emulator is not None and slot._emulator.peer == peer

            await until(is_in, "the new emulator is accepted")
            connection.close()
            connection = connect(port)
        connection.close()
        assert warnings(caplog) == []
        # nobody can mistake the new card for the old one
        assert seen[:39] == [Presence.PRESENT, *[Presence.ABSENT, Presence.PRESENT] * 19]


async def test_empty_slot() -> None:
    async with opened() as (device, _):
        (slot,) = device.slots
        await slot.power_off()
        for command in (
            slot.power_on(),
            slot.reset(),
            slot.set_protocol(Protocol.T0),
            slot.transmit(Protocol.T0, GREET),
        ):
            with pytest.raises(DriverError) as caught:
                await command
            assert caught.value.reason is Reason.NO_CARD


async def test_questions_to_the_reader() -> None:
    async with opened() as (device, _):
        (slot,) = device.slots
        assert await slot.get_attribute(Attribute.VENDOR_NAME) == b"pypcscd\0"
        assert int.from_bytes(await slot.get_attribute(Attribute.MAXINPUT), sys.byteorder) == 65535
        assert await slot.control(0x42000D48, b"") == b""
        for question, reason in (
            (slot.control(1, b""), Reason.NOT_SUPPORTED),
            (slot.get_attribute(Attribute.DEVICE_FRIENDLY_NAME), Reason.UNKNOWN_ATTRIBUTE),
            (slot.set_attribute(Attribute.VENDOR_NAME, b""), Reason.UNKNOWN_ATTRIBUTE),
        ):
            with pytest.raises(DriverError) as caught:
                await question
            assert caught.value.reason is reason


async def test_frames_leave_in_one_piece_without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    async with inserted(friendly) as (slot, _, _):
        assert slot._emulator is not None
        transport = slot._emulator._transport
        connection = transport.get_extra_info("socket")
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        writes: list[bytes] = []
        send = transport.write

        def write(data: bytes) -> None:
            writes.append(data)
            send(data)

        monkeypatch.setattr(transport, "write", write)
        await slot.transmit(Protocol.T0, GREET)
        assert writes == [b"\0\4" + GREET]


async def test_answers_in_pieces() -> None:
    async with inserted(silent) as (slot, emulator, _):
        exchange = asyncio.create_task(slot.transmit(Protocol.T0, GREET))
        await until(lambda: emulator.frames, "the APDU arrives")
        for byte in b"\0\4ok" + OK:
            emulator.writer.write(bytes((byte,)))
            await emulator.writer.drain()
            await asyncio.sleep(0)
        assert await exchange == b"ok" + OK


async def test_longest_apdus() -> None:
    async with inserted(friendly) as (slot, _, _):
        longest = bytes(range(256)) * 255 + bytes(255)
        assert await slot.transmit(Protocol.T1, longest) == longest[:65533] + OK
        with pytest.raises(DriverError, match="65535") as caught:
            await slot.transmit(Protocol.T1, longest + b"\0")
        assert caught.value.reason is Reason.INVALID_PARAMETER
        assert await slot.transmit(Protocol.T1, GREET) == GREET + OK


@pytest.mark.parametrize("apdu", [b"", OFF, ON, RESET, ASK_ATR])
async def test_apdus_that_look_like_commands_are_not_sent(apdu: bytes) -> None:
    async with inserted(friendly) as (slot, emulator, _):
        with pytest.raises(DriverError, match="slot 00") as caught:
            await slot.transmit(Protocol.T0, apdu)
        assert caught.value.reason is Reason.INVALID_PARAMETER
        assert caught.value.detail
        await slot.transmit(Protocol.T0, GREET)
        assert emulator.frames == [GREET]


async def test_first_step_outside_of_any_task() -> None:
    """The manager starts commands from transport callbacks, where there is no task."""
    async with inserted(friendly) as (slot, _, _):
        loop = asyncio.get_running_loop()

        async def outside(command: Callable[[], object]) -> object:
            started: asyncio.Future[object] = loop.create_future()
            loop.call_soon(lambda: started.set_result(command()))
            running = await started
            assert isinstance(running, eager.Running)
            ended: asyncio.Future[None] = loop.create_future()
            running.add_done_callback(lambda _: ended.set_result(None))
            await ended
            return running.result()

        assert await outside(lambda: eager.start(slot.power_on())) == ATR
        assert await outside(lambda: eager.start(slot.transmit(Protocol.T0, GREET))) == GREET + OK


async def test_96_slots_at_once() -> None:
    async with opened(slots="96") as (device, port):
        slots = device.slots
        assert len(slots) == 96

        def card(number: int) -> Callable[[bytes], bytes | None]:
            return lambda frame: friendly(frame) if len(frame) == 1 else bytes((number,)) + OK

        emulators = [await Emulator(card(number)).connect(port + number) for number in range(96)]
        await until(lambda: all(slot.presence is Presence.PRESENT for slot in slots), "96 insertions")
        assert await asyncio.gather(*(slot.power_on() for slot in slots)) == [ATR] * 96
        for _ in range(5):
            answers = await asyncio.gather(*(slot.transmit(Protocol.T0, GREET) for slot in slots))
            assert answers == [bytes((number,)) + OK for number in range(96)]
        await emulators[40].disconnect()
        await until(lambda: slots[40].presence is Presence.ABSENT, "one removal")
        assert [slot.presence for slot in slots].count(Presence.PRESENT) == 95
        for emulator in emulators:
            await emulator.disconnect()


# --- giving up


async def test_late_answers_are_dropped_in_order() -> None:
    card = Slow()
    async with inserted(card) as (slot, emulator, _):
        for number in range(3):
            exchange = asyncio.create_task(slot.transmit(Protocol.T0, bytes((0x80, number))))
            await asyncio.sleep(0)
            exchange.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange
        exchange = asyncio.create_task(slot.transmit(Protocol.T0, b"\x80\x77"))
        card.release(3)
        await until(lambda: len(emulator.frames) == 4, "the late answers are out")
        assert not exchange.done()
        card.release(1)
        assert await exchange == b"\x80\x77" + OK
        card.release(1)
        assert await slot.transmit(Protocol.T0, GREET) == GREET + OK


async def test_late_answer_and_the_right_one_in_one_delivery() -> None:
    async with inserted(silent) as (slot, emulator, _):
        given_up = asyncio.create_task(slot.transmit(Protocol.T0, b"\x80\1"))
        await asyncio.sleep(0)
        given_up.cancel()
        exchange = asyncio.create_task(slot.transmit(Protocol.T0, b"\x80\2"))
        await until(lambda: len(emulator.frames) == 2, "both APDUs arrive")
        emulator.writer.write(b"\0\2\x6a\1" + b"\0\2\x6a\2")
        assert await exchange == b"\x6a\2"


async def test_answer_in_the_very_moment_of_giving_up() -> None:
    """The answer has arrived, but the caller is cancelled before it wakes up."""
    async with inserted(silent) as (slot, emulator, _):
        exchange = asyncio.create_task(slot.transmit(Protocol.T0, b"\x80\1"))
        await until(lambda: emulator.frames, "the APDU arrives")
        assert slot._emulator is not None
        slot._emulator.data_received(b"\0\2\x6a\1")
        exchange.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange
        exchange = asyncio.create_task(slot.transmit(Protocol.T0, b"\x80\2"))
        await until(lambda: len(emulator.frames) == 2, "the next APDU arrives")
        await emulator.send(b"\x6a\2")
        assert await exchange == b"\x6a\2"


async def test_a_busy_emulator_may_take_longer_for_its_atr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vpcd_slot, "ATR_TIMEOUT", 0.02)
    card = Slow()
    async with inserted(card) as (slot, emulator, _):
        given_up = asyncio.create_task(slot.transmit(Protocol.T0, GREET))
        await until(lambda: emulator.frames, "the emulator is busy")
        given_up.cancel()
        asyncio.get_running_loop().call_later(0.2, card.release, 1)
        assert await slot.reset() == ATR


async def test_a_silent_emulator_is_a_mute_card(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vpcd_slot, "ATR_TIMEOUT", 0.05)
    async with opened(slots="2") as (device, port):
        mute, other = device.slots
        bad = await Emulator(silent).connect(port)
        good = await Emulator(friendly).connect(port + 1)
        await until(lambda: other.presence is mute.presence is Presence.PRESENT, "insertion")
        powering = asyncio.create_task(mute.power_on())
        assert await other.power_on() == ATR  # meanwhile nothing is held up
        assert not powering.done()
        with pytest.raises(DriverError) as caught:
            await powering
        assert caught.value.reason is Reason.POWER
        assert mute.presence is Presence.ABSENT
        await asyncio.wait_for(bad.closed_by_reader.wait(), 10)
        (line,) = warnings(caplog)
        assert bad.address in line
        assert "ATR" in line
        assert "slot 00" in line
        again = await Emulator(friendly).connect(port)
        await until(lambda: mute.presence is Presence.PRESENT, "the next emulator")
        assert await mute.power_on() == ATR
        for emulator in (bad, good, again):
            await emulator.disconnect()


async def test_a_timer_that_fires_too_late_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """The old connection is gone, and another emulator is in, when the old one's time is up."""
    async with opened() as (device, port):
        (slot,) = device.slots
        first = await Emulator(silent).connect(port)
        await until(lambda: slot.presence is Presence.PRESENT, "insertion")
        old = slot._emulator
        assert old is not None
        await first.disconnect()
        await until(lambda: slot.presence is Presence.ABSENT, "removal")
        second = await Emulator(friendly).connect(port)
        await until(lambda: slot.presence is Presence.PRESENT, "insertion")
        old.drop("too late")
        assert slot.presence is Presence.PRESENT
        assert warnings(caplog) == []
        assert await slot.power_on() == ATR
        await second.disconnect()


# --- emulators that misbehave


async def test_emulator_that_leaves_during_an_exchange() -> None:
    async with inserted(silent) as (slot, emulator, _):
        exchange = asyncio.create_task(slot.transmit(Protocol.T0, GREET))
        await until(lambda: emulator.frames, "the APDU arrives")
        emulator.writer.write(b"\0\4half")
        emulator.writer.write(b"\0")
        emulator.writer.close()
        assert await exchange == b"half"
        with pytest.raises(DriverError) as caught:
            await slot.transmit(Protocol.T0, GREET)
        assert caught.value.reason is Reason.NO_CARD
        await until(lambda: slot.presence is Presence.ABSENT, "removal")


async def test_frame_that_was_not_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    async with inserted(friendly) as (slot, emulator, _):
        assert await slot.power_on() == ATR
        await emulator.send(b"surprise")
        await asyncio.wait_for(emulator.closed_by_reader.wait(), 10)
        assert slot.presence is Presence.ABSENT
        (line,) = warnings(caplog)
        assert emulator.address in line
        assert "8 bytes" in line
        assert "nobody asked for" in line


@pytest.mark.parametrize("length", [34, 65535])
async def test_atr_that_is_too_long(length: int, caplog: pytest.LogCaptureFixture) -> None:
    async with inserted(lambda frame: bytes(length) if frame == ASK_ATR else None) as (slot, emulator, _):
        with pytest.raises(DriverError) as caught:
            await slot.power_on()
        assert caught.value.reason is Reason.POWER
        await asyncio.wait_for(emulator.closed_by_reader.wait(), 10)
        (line,) = warnings(caplog)
        assert emulator.address in line
        assert f"{length} bytes" in line


@pytest.mark.parametrize("length", [0, 1])
async def test_atr_that_is_none(length: int) -> None:
    async with inserted(lambda frame: bytes(length) if frame == ASK_ATR else None) as (slot, _, _):
        with pytest.raises(DriverError) as caught:
            await slot.power_on()
        assert caught.value.reason is Reason.POWER
        assert slot.presence is Presence.PRESENT


@pytest.mark.parametrize("length", [0, 1])
async def test_response_without_a_status_word(length: int) -> None:
    async with inserted(lambda frame: bytes(length)) as (slot, _, _):
        with pytest.raises(DriverError, match="status word") as caught:
            await slot.transmit(Protocol.T0, GREET)
        assert caught.value.reason is Reason.COMMUNICATION
        assert slot.presence is Presence.PRESENT


async def test_second_emulator_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with inserted(friendly) as (slot, first, port):
        second = await Emulator(friendly).connect(port)
        await asyncio.wait_for(second.closed_by_reader.wait(), 10)
        (line,) = warnings(caplog)
        assert "refused" in line
        assert first.address in line
        assert second.address in line
        assert slot.presence is Presence.PRESENT
        assert await slot.power_on() == ATR
        assert second.frames == []
        await second.disconnect()


async def test_one_that_has_just_gone_is_no_reason_to_refuse(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as (device, port):
        for _ in range(2):
            # within one turn of the loop: it sees both the end and the next one's beginning
            with socket.socket() as probe:
                probe.setblocking(False)
                probe.connect_ex(("127.0.0.1", port))
        emulator = await Emulator(friendly).connect(port)
        slot = device.slots[0]
        await until(lambda: slot.presence is Presence.PRESENT, "a card")
        assert await slot.power_on() == ATR
        assert warnings(caplog) == []
        await emulator.disconnect()


# --- opening and closing


async def test_port_in_use() -> None:
    free = free_ports(2)
    async with opened(port=str(free + 1)):
        with pytest.raises(DeviceOpenError, match=rf"port {free + 1}: Address already in use") as caught:
            await VpcdDriver().open(DeviceConfig("vpcd", "Other", "vpcd", {"port": str(free), "slots": "2"}))
        assert "option 'port'" in str(caught.value)
        assert not caught.value.permanent
        # the port below was open for a moment, and is free again
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slots": "0"}, "'slots' must be a number from 1 to 256"),
        ({"slots": "257"}, "'slots' must be"),
        ({"slots": "many"}, "not 'many'"),
        ({"port": "0"}, "'port' must be a number from 1 to 65535"),
        ({"port": "65536"}, "'port' must be"),
        ({"port": "65535", "slots": "2"}, "beyond port 65535"),
        ({"prot": "1"}, "unknown option 'prot'"),
    ],
)
async def test_options_that_are_wrong(options: dict[str, str], words: str) -> None:
    with pytest.raises(DeviceOpenError, match=words) as caught:
        await VpcdDriver().open(DeviceConfig("vpcd", "Wrong", "vpcd", options, "--vpcd"))
    assert caught.value.permanent


async def test_loopback_only_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as (device, _):
        assert [listener.getsockname()[0] for listener in device._servers[0].sockets] == ["127.0.0.1"]
    assert warnings(caplog) == []
    async with opened(host="0.0.0.0"):
        (line,) = warnings(caplog)
        assert "0.0.0.0" in line
    async with opened(host="localhost") as (device, port):
        found = {listener.getsockname()[:2] for listener in device._servers[0].sockets}
        assert ("127.0.0.1", port) in found
    with pytest.raises(DeviceOpenError, match=r"no-such-host\.invalid"):
        async with opened(host="no-such-host.invalid"):
            pass


async def test_closing_gives_everything_back() -> None:
    async with opened() as (device, port):
        (slot,) = device.slots
        emulator = await Emulator(silent).connect(port)
        await until(lambda: slot.presence is Presence.PRESENT, "insertion")
        exchange = asyncio.create_task(slot.transmit(Protocol.T0, GREET))
        await until(lambda: emulator.frames, "the APDU arrives")
        await device.close()
        await asyncio.wait_for(emulator.closed_by_reader.wait(), 10)
        for command in (
            exchange,
            slot.power_on(),
            slot.power_off(),
            slot.reset(),
            slot.set_protocol(Protocol.T0),
            slot.transmit(Protocol.T0, GREET),
            slot.control(0x42000D48, b""),
            slot.get_attribute(Attribute.VENDOR_NAME),
        ):
            with pytest.raises(DriverError) as caught:
                await command
            assert caught.value.reason is Reason.NO_DEVICE
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await emulator.disconnect()
        reopened = await VpcdDriver().open(DeviceConfig("vpcd", "Again", "vpcd", {"port": str(port)}))
        await reopened.close()


# --- vicc

#: Debian 12 installs the emulator's modules where no interpreter looks for them
VICC_MODULES = "/usr/lib/python3/site-packages/virtualsmartcard"


@asynccontextmanager
async def vicc(port: int, log: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The emulator as an ISO 7816 card. It needs pycryptodome, which is among our development tools."""

    def run() -> subprocess.Popen[bytes]:
        program = shutil.which("vicc")
        assert program, "vicc is not installed: apt install vsmartcard-vpicc"
        path = f"{VICC_MODULES}:{os.environ.get('PYTHONPATH', '')}"
        args = [sys.executable, program, "-t", "iso7816", "-H", "localhost", "-P", str(port)]
        with log.open("wb") as output:
            return subprocess.Popen(
                args,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            )

    process = await asyncio.to_thread(run)
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def vicc_in(slot: VpcdSlot, process: subprocess.Popen[bytes], log: Path) -> None:
    await until(lambda: slot.presence is Presence.PRESENT or process.poll() is not None, "vicc connects")
    assert slot.presence is Presence.PRESENT, await asyncio.to_thread(log.read_text)


async def test_vicc(tmp_path: Path) -> None:
    log = tmp_path / "vicc.log"
    async with opened() as (device, port):
        (slot,) = device.slots
        async with vicc(port, log) as process:
            await vicc_in(slot, process, log)
            atr = await slot.power_on()
            assert atr == bytes.fromhex("3B 95 13 81 01 80 73 FF 01 00 0B")
            assert await slot.reset() == atr
            for protocol in (Protocol.T0, Protocol.T1):
                challenge = await slot.transmit(protocol, bytes.fromhex("00 84 00 00 08"))
                assert len(challenge) == 10
                assert challenge.endswith(OK)
            assert await slot.transmit(Protocol.T1, bytes.fromhex("00 FF 00 00")) == b"\x6d\0"
            assert await slot.transmit(Protocol.T1, bytes.fromhex("00 20 00 01 04 31 32 33 34")) == OK
            await slot.power_off()
            assert await slot.power_on() == atr
        await until(lambda: slot.presence is Presence.ABSENT, "vicc is gone")
        async with vicc(port, log) as process:
            await vicc_in(slot, process, log)
            assert await slot.power_on() == atr


async def test_vicc_in_two_slots(tmp_path: Path) -> None:
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    async with (
        opened(slots="2") as (device, port),
        vicc(port, logs[0]) as one,
        vicc(port + 1, logs[1]) as two,
    ):
        for slot, process, log in zip(device.slots, (one, two), logs, strict=True):
            await vicc_in(slot, process, log)
        atrs = await asyncio.gather(*(slot.power_on() for slot in device.slots))
        assert len(set(atrs)) == 1
        answers = await asyncio.gather(
            *(slot.transmit(Protocol.T1, bytes.fromhex("00 84 00 00 08")) for slot in device.slots)
        )
        assert answers[0] != answers[1]
        assert all(len(answer) == 10 for answer in answers)


async def test_ports_of_a_reader_that_is_given_up_while_it_opens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = DeviceConfig("vpcd", "x", "x", {"slots": "1", "port": str(port)})
    opening = asyncio.create_task(VpcdDriver().open(config))
    for _ in range(100):
        await asyncio.sleep(0)
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
    assert not opening.done()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await asyncio.sleep(0.05)
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0, "nobody should listen"
