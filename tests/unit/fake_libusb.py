"""A libusb written in Python: the same calls on the same structures, with devices that are objects."""

import ctypes
import os
import select
from collections import deque
from contextlib import suppress
from typing import Any, Protocol

from pypcscd_ccid.libusb import NO_DEVICE, NOT_FOUND, TRANSFER_DONE, Kind, Status, TransferRecord

BUSY = -6


class Urb:
    """A transfer that is under way."""

    def __init__(self, fake: "FakeLibusb", address: int, record: TransferRecord) -> None:
        self._fake = fake
        self._address = address
        self._record = record
        self.endpoint: int = record.endpoint
        self.kind = Kind(record.type)
        self.length: int = record.length
        self.data: bytes = ctypes.string_at(record.buffer, record.length)

    def complete(self, data: bytes = b"", status: Status = Status.COMPLETED) -> None:
        """It ends: ``data`` was received, or all was sent."""
        offset = 8 if self.kind is Kind.CONTROL else 0
        if data:
            ctypes.memmove(self._record.buffer + offset, data, len(data))
            size = len(data)
        else:
            is_out = not self.endpoint & 0x80 and self.kind is not Kind.CONTROL
            size = self.length if is_out and status is Status.COMPLETED else 0
        self._fake.end(self._address, status, size)


class UsbDevice(Protocol):
    """What is plugged in: it is given each transfer, and ends it at some time."""

    def submitted(self, urb: Urb) -> None: ...

    def halt_cleared(self, endpoint: int) -> None: ...


class FakeLibusb:
    """``pypcscd_ccid.libusb.Libusb`` with one device."""

    def __init__(self) -> None:
        self.device: UsbDevice | None = None
        self.is_gone = False
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.notifiers: tuple[Any, Any] = (None, None)
        self.submit_results: deque[int] = deque()
        #: the same for bulk-OUT alone
        self.out_results: deque[int] = deque()
        #: for bulk-IN alone, where 0 leaves the transfer as it is
        self.in_results: deque[int] = deque()
        self.records: dict[int, TransferRecord] = {}
        self.pending: dict[int, Urb] = {}
        self._ended: deque[tuple[int, Status, int]] = deque()
        #: for compiled code; lambdas, so that what a test puts in their place is called too
        self._functions = (
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda transfer: self.submit_transfer(transfer)),
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(
                lambda context, time, completed: self.handle_events()
            ),
        )

    # what is called

    def alloc_transfer(self) -> int:
        record = TransferRecord()
        address = ctypes.addressof(record)
        self.records[address] = record
        return address

    def free_transfer(self, transfer: int) -> None:
        assert transfer not in self.pending, "libusb would abort"
        del self.records[transfer]

    def submit_transfer(self, transfer: int) -> int:
        if self.is_gone:
            return NO_DEVICE
        if transfer in self.pending:
            return BUSY
        if self.submit_results:
            return self.submit_results.popleft()
        record = self.records[transfer]
        if self.out_results and record.type == Kind.BULK and not record.endpoint & 0x80:
            return self.out_results.popleft()
        is_bulk_in = record.type == Kind.BULK and record.endpoint & 0x80
        if is_bulk_in and self.in_results and (result := self.in_results.popleft()):
            return result
        urb = self.pending[transfer] = Urb(self, transfer, self.records[transfer])
        if self.device is not None:
            self.device.submitted(urb)
        return 0

    def cancel_transfer(self, transfer: int) -> int:
        if transfer not in self.pending or any(transfer == ended[0] for ended in self._ended):
            return NOT_FOUND
        self.pending[transfer].complete(status=Status.CANCELLED)
        return 0

    def clear_halt(self, handle: int, endpoint: int) -> int:
        if self.is_gone:
            return NO_DEVICE
        if self.device is not None:
            self.device.halt_cleared(endpoint)
        return 0

    def handle_events(self) -> int:
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        for _ in range(len(self._ended)):
            address, status, size = self._ended.popleft()
            record = self.records[address]
            record.status = status
            record.actual_length = size
            del self.pending[address]
            TRANSFER_DONE(record.callback)(address)
        if self._ended:
            os.eventfd_write(self.fd, 1)
        return 0

    def addresses(self) -> tuple[int, int, int]:
        submit, handle = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in self._functions)
        return submit, handle, 0

    def poll_fds(self) -> list[tuple[int, int]]:
        return [(self.fd, select.POLLIN)]

    def set_fd_notifiers(self, added: Any, removed: Any) -> None:
        self.notifiers = (added, removed)

    # what happens

    def end(self, address: int, status: Status, size: int) -> None:
        if any(address == ended[0] for ended in self._ended):
            return
        self._ended.append((address, status, size))
        os.eventfd_write(self.fd, 1)

    def unplug(self) -> None:
        """The device is gone: everything under way fails, nothing can be submitted."""
        self.is_gone = True
        for urb in tuple(self.pending.values()):
            urb.complete(status=Status.NO_DEVICE)

    def close(self) -> None:
        os.close(self.fd)
