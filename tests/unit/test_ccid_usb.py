"""The asynchronous layer on a libusb written in Python; a real one is met in the system tests."""

import asyncio
import logging
import os
import select
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fake_libusb import FakeLibusb, Urb

from pypcscd_ccid import usb
from pypcscd_ccid.libusb import NOT_FOUND, BoundLibusb, Kind, Status
from pypcscd_ccid.transfer import Transfer, UsbError
from pypcscd_ccid.usb import AsyncUsb, UsbHandle

pytestmark = pytest.mark.usefixtures("carrier")

IN, OUT = 0x81, 0x02


class Device:
    """Collects transfers; the test ends them."""

    def __init__(self) -> None:
        self.urbs: list[Urb] = []
        self.cleared: list[int] = []

    def submitted(self, urb: Urb) -> None:
        self.urbs.append(urb)

    def halt_cleared(self, endpoint: int) -> None:
        self.cleared.append(endpoint)


class Bench:
    """An open device on a started layer."""

    def __init__(self) -> None:
        self.libusb = FakeLibusb()
        self.device = self.libusb.device = Device()
        self.usb = AsyncUsb(self.libusb)
        self.usb.start()
        self.closed = 0
        self.handle = UsbHandle(self.usb, 1, self.close)
        self.done: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    def close(self) -> None:
        assert not self.libusb.pending
        self.closed += 1

    def transfer(self, endpoint: int, size: int = 64, *, is_quiet: bool = False) -> Transfer:
        def done(status: int, length: int) -> None:
            self.done.put_nowait((status, transfer.memory[:length]))

        transfer = self.handle.transfer(endpoint, Kind.BULK, size, done, is_quiet=is_quiet)
        return transfer

    async def handled(self) -> None:
        """Let libusb do what is to be done."""
        os.eventfd_write(self.libusb.fd, 1)
        for _ in range(3):
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.handle.close()
    bench.usb.stop()
    assert bench.libusb.notifiers == (None, None)
    assert not bench.libusb.records, "a transfer was not freed"
    bench.libusb.close()


async def test_what_is_received_is_told_in_the_loop(bench: Bench) -> None:
    transfer = bench.transfer(IN)
    for content in (b"first", b"", b"x" * 64):
        transfer.submit()
        assert transfer.is_busy
        bench.device.urbs[-1].complete(content)
        assert bench.done.empty()
        assert await bench.done.get() == (Status.COMPLETED, content)
        assert not transfer.is_busy


async def test_what_is_sent_is_as_long_as_the_data(bench: Bench) -> None:
    transfer = bench.transfer(OUT)
    for content in (b"a long message", b"short", b""):
        transfer.send(content)
        assert bench.device.urbs[-1].data == content
        bench.device.urbs[-1].complete()
        assert await bench.done.get() == (Status.COMPLETED, content)


async def test_more_than_there_is_room_for_is_not_sent(bench: Bench) -> None:
    transfer = bench.transfer(OUT, 8)
    with pytest.raises(ValueError):
        transfer.send(bytes(9))
    assert not bench.device.urbs
    assert transfer.send(bytes(8))
    bench.device.urbs[-1].complete()
    assert await bench.done.get() == (Status.COMPLETED, bytes(8))


async def test_of_a_quiet_transfer_a_success_is_not_told(bench: Bench) -> None:
    transfer = bench.transfer(OUT, is_quiet=True)
    for content in (b"one", b"two"):
        assert transfer.send(content)
        assert transfer.is_busy
        bench.device.urbs[-1].complete()
        await bench.handled()
        assert not transfer.is_busy
        assert bench.done.empty()


async def test_of_a_quiet_transfer_a_success_is_told_to_those_who_want_to_send_more(bench: Bench) -> None:
    transfer = bench.transfer(OUT, is_quiet=True)
    assert transfer.send(b"first")
    assert not transfer.send(b"second")
    assert [urb.data for urb in bench.device.urbs] == [b"first"]
    bench.device.urbs[-1].complete()
    assert await bench.done.get() == (Status.COMPLETED, b"first")
    assert transfer.send(b"second")
    bench.device.urbs[-1].complete()
    await bench.handled()
    assert bench.done.empty()


async def test_failures_of_a_quiet_transfer_are_told(bench: Bench) -> None:
    transfer = bench.transfer(OUT, is_quiet=True)
    transfer.send(b"1")
    bench.device.urbs[-1].complete(status=Status.STALL)
    assert await bench.done.get() == (Status.STALL, b"")
    transfer.submit()
    assert bench.device.urbs[-1].data == b"1"
    transfer.cancel()
    assert await bench.done.get() == (Status.CANCELLED, b"")


async def test_closing_waits_for_a_quiet_transfer(bench: Bench) -> None:
    bench.libusb.cancel_transfer = lambda transfer: NOT_FOUND  # type: ignore[method-assign]
    transfer = bench.transfer(OUT, is_quiet=True)
    transfer.send(b"1")
    closing = asyncio.ensure_future(bench.handle.close())
    await bench.handled()
    assert not closing.done()
    bench.device.urbs[-1].complete()
    await closing
    assert bench.closed == 1


async def test_a_device_whose_transfers_do_not_end_stays_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    monkeypatch.setattr(usb, "_CANCEL_BOUND", 0.01)
    transfer = bench.transfer(IN)
    transfer.submit()
    monkeypatch.setattr(bench.libusb, "cancel_transfer", lambda transfer: NOT_FOUND)
    await bench.handle.close()
    assert "did not end" in caplog.text
    assert bench.closed == 0
    assert bench.libusb.records
    # what libusb may still call is there
    assert bench.usb.stuck == [bench.handle]
    bench.device.urbs[-1].complete(b"late")
    assert await bench.done.get() == (Status.COMPLETED, b"late")
    bench.usb.stop()
    bench.libusb.close()


async def test_a_freed_transfer_cannot_be_used(bench: Bench) -> None:
    transfer = bench.transfer(OUT)
    transfer.free()
    transfer.free()
    transfer.cancel()
    for use in (transfer.submit, lambda: transfer.send(b"1")):
        with pytest.raises(UsbError):
            use()
    assert not bench.device.urbs


async def test_all_that_ended_in_one_turn_are_told_in_their_order(bench: Bench) -> None:
    transfers = [bench.transfer(IN) for _ in range(5)]
    for transfer in transfers:
        transfer.submit()
    for number in (3, 0, 4, 1, 2):
        bench.device.urbs[number].complete(bytes((number,)))
    assert [(await bench.done.get())[1] for _ in range(5)] == [b"\3", b"\0", b"\4", b"\1", b"\2"]


async def test_a_callback_may_free_other_transfers(bench: Bench) -> None:
    """Such as one that is to be told next."""
    freed: list[Transfer] = []

    def free_the_others(status: int, length: int) -> None:
        for other in transfers:
            if not other.is_busy and other is not transfers[0]:
                other.free()
                freed.append(other)

    transfers = [bench.handle.transfer(IN, Kind.BULK, 8, free_the_others), bench.transfer(IN)]
    transfers.append(bench.transfer(IN))
    for transfer in transfers[:2]:
        transfer.submit()
    for urb in bench.device.urbs:
        urb.complete(b"x")
    assert await bench.done.get() == (Status.COMPLETED, b"x")
    # the second was still to be told, so it counted as busy
    assert freed == transfers[2:]


@pytest.mark.parametrize("status", [Status.STALL, Status.OVERFLOW, Status.ERROR, Status.NO_DEVICE])
async def test_failures_are_told_by_their_status(bench: Bench, status: Status) -> None:
    transfer = bench.transfer(IN)
    transfer.submit()
    bench.device.urbs[-1].complete(status=status)
    assert await bench.done.get() == (status, b"")


async def test_a_cancelled_transfer_ends_and_can_be_used_again(bench: Bench) -> None:
    transfer = bench.transfer(IN)
    transfer.cancel()
    transfer.submit()
    transfer.cancel()
    transfer.cancel()
    assert await bench.done.get() == (Status.CANCELLED, b"")
    transfer.submit()
    bench.device.urbs[-1].complete(b"again")
    assert await bench.done.get() == (Status.COMPLETED, b"again")


async def test_a_transfer_that_ends_while_it_is_cancelled_is_not_lost(bench: Bench) -> None:
    transfer = bench.transfer(IN)
    transfer.submit()
    bench.device.urbs[-1].complete(b"in time")
    transfer.cancel()
    assert await bench.done.get() == (Status.COMPLETED, b"in time")


async def test_a_callback_may_submit_again(bench: Bench) -> None:
    received: list[bytes] = []
    ended = asyncio.Event()

    def done(status: int, length: int) -> None:
        received.append(bytes(transfer.buffer[:length]))
        if len(received) < 3:
            transfer.submit()
            bench.device.urbs[-1].complete(bytes((len(received),)))
        else:
            ended.set()

    transfer = bench.handle.transfer(IN, Kind.INTERRUPT, 8, done)
    transfer.submit()
    bench.device.urbs[-1].complete(b"\0")
    await ended.wait()
    assert received == [b"\0", b"\1", b"\2"]


async def test_an_exception_in_a_callback_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def done(status: int, length: int) -> None:
        bench.done.put_nowait((status, b""))
        raise RuntimeError("in the callback")

    transfer = bench.handle.transfer(IN, Kind.BULK, 8, done)
    transfer.submit()
    bench.device.urbs[-1].complete(b"1")
    with caplog.at_level(logging.ERROR):
        await bench.done.get()
    assert "in the callback" in caplog.text
    assert not transfer.is_busy


async def test_a_removed_device_refuses_transfers(bench: Bench) -> None:
    transfer = bench.transfer(IN)
    transfer.submit()
    bench.libusb.unplug()
    assert await bench.done.get() == (Status.NO_DEVICE, b"")
    with pytest.raises(UsbError, match="gone") as refused:
        transfer.submit()
    assert refused.value.status is Status.NO_DEVICE
    assert not transfer.is_busy


async def test_closing_waits_for_what_is_under_way(bench: Bench) -> None:
    for endpoint in (IN, OUT):
        bench.transfer(endpoint).submit()
    await bench.handle.close()
    assert bench.closed == 1
    assert not bench.libusb.records
    await bench.handle.close()
    assert bench.closed == 1


async def test_control_transfers(bench: Bench) -> None:
    reading = asyncio.ensure_future(bench.handle.control(0xA1, 3, 0x0102, 5, 4, 1.0))
    await asyncio.sleep(0)
    assert bench.device.urbs[-1].data[:8] == bytes.fromhex("A1 03 0201 0500 0400")
    bench.device.urbs[-1].complete(b"abc")
    assert await reading == b"abc"

    writing = asyncio.ensure_future(bench.handle.control(0x21, 1, 0x0300, 0, b"xy", 1.0))
    await asyncio.sleep(0)
    assert bench.device.urbs[-1].data == bytes.fromhex("21 01 0003 0000 0200") + b"xy"
    bench.device.urbs[-1].complete()
    assert await writing == b""
    assert not bench.libusb.records


@pytest.mark.parametrize(
    ("status", "text"), [(Status.STALL, "refuses the request"), (Status.NO_DEVICE, "gone")]
)
async def test_refused_control_transfers(bench: Bench, status: Status, text: str) -> None:
    reading = asyncio.ensure_future(bench.handle.control(0xA1, 3, 0, 0, 4, 1.0))
    await asyncio.sleep(0)
    bench.device.urbs[-1].complete(status=status)
    with pytest.raises(UsbError, match=text):
        await reading
    bench.libusb.is_gone = True
    with pytest.raises(UsbError, match="gone"):
        await bench.handle.control(0xA1, 3, 0, 0, 4, 1.0)
    assert not bench.libusb.records


async def test_a_control_transfer_has_a_deadline(bench: Bench) -> None:
    with pytest.raises(UsbError, match="no answer in time"):
        await bench.handle.control(0xA1, 3, 0, 0, 4, 0.001)
    assert not bench.libusb.records


async def test_a_cancelled_control_transfer_is_cleaned_up(bench: Bench) -> None:
    reading = asyncio.ensure_future(bench.handle.control(0xA1, 3, 0, 0, 4, 1.0))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    for _ in range(20):
        await asyncio.sleep(0)
    assert not bench.libusb.records


async def test_a_control_transfer_that_is_cancelled_as_its_answer_comes_is_cleaned_up(bench: Bench) -> None:
    reading = asyncio.ensure_future(bench.handle.control(0xA1, 3, 0, 0, 4, 1.0))
    await asyncio.sleep(0)
    bench.device.urbs[-1].complete(b"abcd")
    bench.usb.carrier.handle_events()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not bench.libusb.records


async def test_halts_are_cleared(bench: Bench) -> None:
    clearing = asyncio.ensure_future(bench.handle.clear_halt(IN))
    await asyncio.sleep(0)
    (request,) = bench.device.urbs
    assert (request.endpoint, request.data) == (0, bytes.fromhex("0201 0000 8100 0000"))
    assert bench.device.cleared == [], "that call waits for the device; it has to show first that it answers"
    request.complete()
    await clearing
    assert bench.device.cleared == [IN]


async def test_a_deaf_device_holds_nobody_up_with_its_halts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usb, "_CLEAR_BOUND", 0.01)
    with pytest.raises(UsbError, match="no answer in time"):
        await bench.handle.clear_halt(IN)
    assert bench.device.cleared == []
    assert not bench.libusb.records


async def test_halts_of_a_device_that_goes(bench: Bench) -> None:
    clearing = asyncio.ensure_future(bench.handle.clear_halt(IN))
    await asyncio.sleep(0)
    bench.device.urbs[0].complete()
    bench.libusb.is_gone = True
    with pytest.raises(UsbError, match="gone"):
        await clearing
    bench.libusb.is_gone = False
    clearing = asyncio.ensure_future(bench.handle.clear_halt(IN))
    await asyncio.sleep(0)
    bench.device.urbs[1].complete()
    bench.usb.carrier.handle_events()
    await bench.handle.close()
    with pytest.raises(UsbError, match="closed"):
        await clearing
    assert bench.device.cleared == []


async def test_descriptors_that_come_later_are_watched_until_they_go(bench: Bench) -> None:
    added, removed = bench.libusb.notifiers
    one = os.eventfd(0, os.EFD_NONBLOCK)
    loop = asyncio.get_running_loop()
    # an eventfd is always writable: the loop calls handle_events for it
    added(one, select.POLLOUT, None)
    transfer = bench.transfer(IN)
    transfer.submit()
    bench.device.urbs[-1].complete(b"seen")
    os.eventfd_read(bench.libusb.fd)
    assert await bench.done.get() == (Status.COMPLETED, b"seen")
    removed(one, None)
    assert not loop.remove_writer(one)
    os.close(one)


async def test_the_real_library_can_be_watched() -> None:
    """Prototypes and structures fit the installed libusb; there need not be any device."""
    libusb1 = pytest.importorskip("usb.backend.libusb1")
    backend = libusb1.get_backend()
    if backend is None:
        pytest.skip("libusb-1.0 is not installed, or there is no USB at all")
    libusb = BoundLibusb(backend.lib, backend.ctx.value)
    layer = AsyncUsb(libusb)
    layer.start()
    assert libusb.poll_fds()
    assert libusb.handle_events() == 0
    layer.carrier.handle_events()
    handle = UsbHandle(layer, 0, lambda: None)
    transfer = handle.transfer(IN, Kind.BULK, 64, lambda status, length: None)
    transfer.cancel()
    await handle.close()
    layer.stop()


@pytest.mark.usefixtures("carrier")
async def test_a_close_that_nobody_waits_for_any_more_comes_to_its_end(bench: Bench) -> None:
    transfer = bench.transfer(IN)
    transfer.submit()
    closing = asyncio.create_task(bench.handle.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await bench.handled()
    await bench.handle.close()
    assert bench.closed == 1
