"""Asynchronous USB transfers for asyncio on libusb. Nothing here knows what the transfers are for.

libusb's descriptors are watched by the event loop; there are no threads of ours. A transfer is an
object that is submitted again and again; its callback runs in the loop. See ``docs/async-usb.md``.

Callbacks must only dispatch: a call of pyusb that waits would run other callbacks within.
"""

import asyncio
import logging
import select
from collections.abc import Callable

from pypcscd_ccid.libusb import FD_ADDED, FD_REMOVED, Kind, Libusb, Status
from pypcscd_ccid.transfer import Carrier, Done, Transfer, UsbError, submit_error

_log = logging.getLogger("pypcscd.usb")

_SETUP_SIZE = 8
_IN = 0x80
#: bmRequestType, bRequest and wValue of what lets an endpoint go on (USB 2.0, section 9.4.1)
_TO_ENDPOINT, _CLEAR_FEATURE, _ENDPOINT_HALT = 0x02, 1, 0
#: seconds that a device may take for it
_CLEAR_BOUND = 1.0
#: seconds that a cancelled transfer may take to come back; it takes about one millisecond
_CANCEL_BOUND = 5.0


class AsyncUsb:
    """libusb in the running event loop, from ``start`` to ``stop``."""

    def __init__(self, libusb: Libusb, carrier: Carrier | None = None) -> None:
        self.libusb = libusb
        self.carrier = carrier or _best_carrier(libusb)
        #: handles that could not be closed; libusb has still to do with their memory
        self.stuck: list[UsbHandle] = []
        self.loop = asyncio.get_running_loop()
        self._watched: dict[int, int] = {}
        # libusb keeps their addresses, so they must live as long as it may call them
        self._added = FD_ADDED(self._fd_added)
        self._removed = FD_REMOVED(self._fd_removed)

    def start(self) -> None:
        """Watch libusb's descriptors, now and as they come and go."""
        self.libusb.set_fd_notifiers(self._added, self._removed)
        for fd, events in self.libusb.poll_fds():
            self._fd_added(fd, events, None)

    def stop(self) -> None:
        """All handles are closed: let go of libusb."""
        for fd in tuple(self._watched):
            self._fd_removed(fd, None)
        self.libusb.set_fd_notifiers(None, None)
        self.carrier.close()

    def _fd_added(self, fd: int, events: int, _data: object) -> None:
        self._watched[fd] = events
        if events & select.POLLIN:
            self.loop.add_reader(fd, self.carrier.handle_events)
        if events & select.POLLOUT:
            self.loop.add_writer(fd, self.carrier.handle_events)

    def _fd_removed(self, fd: int, _data: object) -> None:
        events = self._watched.pop(fd, 0)
        if events & select.POLLIN:
            self.loop.remove_reader(fd)
        if events & select.POLLOUT:
            self.loop.remove_writer(fd)


class UsbHandle:
    """An open device, and its transfers."""

    def __init__(self, usb: AsyncUsb, address: int, close: Callable[[], None]) -> None:
        """``address``: the libusb_device_handle; ``close`` gives it back when all transfers have ended."""
        self.usb = usb
        self.address = address
        self._close = close
        self._transfers: set[Transfer] = set()
        #: transfers are not to be submitted any more
        self.is_closing = False
        #: done when no transfer is under way any more, or that lasts too long
        self._at_rest: asyncio.Future[None] | None = None

    def transfer(
        self, endpoint: int, kind: Kind, size: int, done: Done, *, is_quiet: bool = False
    ) -> Transfer:
        """A new transfer; the direction is in the endpoint's address (0x80: in)."""
        transfer = self.usb.carrier.transfer(self, endpoint, kind, size, done, is_quiet=is_quiet)
        self._transfers.add(transfer)
        return transfer

    def forget(self, transfer: Transfer) -> None:
        """The transfer was freed."""
        self._transfers.discard(transfer)

    async def control(
        self, request_type: int, request: int, value: int, index: int, data: bytes | int, seconds: float
    ) -> bytes:
        """A control transfer: sends ``data``, or returns at most that many bytes if it is a number.

        ``seconds`` is the time that it may take. Raises UsbError; cancelling ends the transfer.
        """
        length = data if isinstance(data, int) else len(data)
        ended: asyncio.Future[int] = self.usb.loop.create_future()
        status = Status.COMPLETED

        def done(how: int, size: int) -> None:
            nonlocal status
            status = Status(how)
            if not ended.done():
                ended.set_result(size)
            else:
                # Nobody waits any more; the transfer was left to end by itself.
                transfer.free()

        transfer = self.transfer(0, Kind.CONTROL, _SETUP_SIZE + length, done)
        transfer.buffer[:_SETUP_SIZE] = bytes((request_type, request)) + b"".join(
            number.to_bytes(2, "little") for number in (value, index, length)
        )
        if not isinstance(data, int):
            transfer.buffer[_SETUP_SIZE:] = data
        try:
            transfer.submit()
        except UsbError:
            transfer.free()
            raise
        timer = self.usb.loop.call_later(seconds, transfer.cancel)
        try:
            size = await ended
        except asyncio.CancelledError:
            if transfer.is_busy:
                transfer.cancel()
            else:
                # It has ended in this very turn, and nobody is told that again.
                transfer.free()
            raise
        finally:
            timer.cancel()
        received = bytes(transfer.buffer[_SETUP_SIZE : _SETUP_SIZE + size])
        transfer.free()
        if status is not Status.COMPLETED:
            raise UsbError(_describe_status(status), status)
        return received if request_type & _IN else b""

    async def clear_halt(self, endpoint: int) -> None:
        """Let a stalled endpoint go on. Raises UsbError.

        The call for it, which is well below a millisecond otherwise, holds the whole loop up for five seconds
        if the device has gone deaf. So it is for devices that have just answered the same request.
        """
        await self.control(_TO_ENDPOINT, _CLEAR_FEATURE, _ENDPOINT_HALT, endpoint, b"", _CLEAR_BOUND)
        if self.is_closing:
            raise UsbError("the device is being closed", Status.NO_DEVICE)
        result = self.usb.libusb.clear_halt(self.address, endpoint)
        if result:
            raise submit_error(result)

    async def close(self) -> None:
        """End all transfers, then give the device back, also if nobody waits for that any more.

        May be called again; never raises.
        """
        if not self.is_closing:
            self.is_closing = True
            self._end_transfers()
        if self._at_rest is not None:
            await asyncio.shield(self._at_rest)

    def _end_transfers(self) -> None:
        busy = [transfer for transfer in self._transfers if transfer.is_busy]
        for transfer in busy:
            transfer.cancel()
        if not any(transfer.is_busy for transfer in busy):
            self._give_back()
            return
        self._at_rest = self.usb.loop.create_future()
        bound = self.usb.loop.call_later(_CANCEL_BOUND, self._stop_waiting)
        self._at_rest.add_done_callback(lambda _: bound.cancel())
        # In a turn of its own: the last of the transfers is not to be freed within its callback.
        self._at_rest.add_done_callback(lambda _: self._give_back())

    def _give_back(self) -> None:
        stuck = sum(transfer.is_busy for transfer in self._transfers)
        if stuck:
            # Freeing them, or closing the device under them, would crash the daemon.
            _log.error("%d USB transfers did not end; the device stays open until the daemon ends", stuck)
            self.usb.stuck.append(self)
            return
        for transfer in tuple(self._transfers):
            transfer.free()
        self._close()

    def transfer_rests(self) -> None:
        """A transfer has ended and was not submitted again."""
        if self._at_rest is not None and not any(transfer.is_busy for transfer in self._transfers):
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._at_rest is not None and not self._at_rest.done():
            self._at_rest.set_result(None)


def _best_carrier(libusb: Libusb) -> Carrier:
    try:
        from pypcscd_ccid.compiled import CompiledCarrier
    except ImportError:
        from pypcscd_ccid.callbacks import CallbackCarrier

        return CallbackCarrier(libusb)
    return CompiledCarrier(libusb)


def _describe_status(status: Status) -> str:
    return {
        Status.NO_DEVICE: "the device is gone",
        Status.STALL: "the device refuses the request",
        Status.CANCELLED: "no answer in time",
        Status.OVERFLOW: "the device sent too much",
    }.get(status, "the transfer failed")
