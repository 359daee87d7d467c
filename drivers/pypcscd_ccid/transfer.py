"""A libusb transfer with its memory, to be submitted any number of times.

Who calls libusb, and hears from it, is a carrier: ``callbacks.py`` by ctypes, ``compiled.py`` with less.
"""

import abc
import ctypes
import logging
from collections.abc import Callable
from typing import Protocol, cast

from pypcscd_ccid.libusb import NO_DEVICE, NOT_FOUND, Kind, Libusb, Status, TransferRecord, describe

log = logging.getLogger("pypcscd.usb")

#: what ``done`` is called with: a ``Status`` as a number, and the bytes that were received or sent
Done = Callable[[int, int], None]


class UsbError(Exception):
    """A transfer that failed or could not be submitted; the message says why."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


def submit_error(code: int) -> UsbError:
    """An error of ``libusb_submit_transfer``, and of others that report alike."""
    status = Status.NO_DEVICE if code == NO_DEVICE else Status.ERROR
    return UsbError(describe(code), status)


class Memory(Protocol):
    """An array of characters."""

    raw: bytes

    def __getitem__(self, part: slice) -> bytes: ...


class Owner(Protocol):
    """The handle, as its transfers see it."""

    #: the libusb_device_handle
    address: int
    is_closing: bool

    def forget(self, transfer: "Transfer") -> None:
        """The transfer was freed."""

    def transfer_rests(self) -> None:
        """A transfer has ended and was not submitted again; told while the handle is being closed."""


class Transfer(abc.ABC):
    """A transfer on one endpoint.

    ``done(status, length)`` is called in the loop when it has ended; it may submit it again. Of a quiet
    transfer it is called for failures, and for a success only if ``send`` or ``cancel`` was called
    meanwhile.
    """

    __slots__ = ("_libusb", "_record", "address", "buffer", "done", "endpoint", "memory", "owner")

    def __init__(
        self, libusb: Libusb, owner: Owner, endpoint: int, kind: Kind, size: int, done: Done
    ) -> None:
        self._libusb = libusb
        self.owner = owner
        #: the libusb_transfer, 0 when it was freed
        self.address = libusb.alloc_transfer()
        if not self.address:
            raise MemoryError("libusb_alloc_transfer")
        memory = (ctypes.c_char * size)()
        #: what is sent, or was received; its slices are bytes
        self.memory = cast(Memory, memory)
        #: the same, to be written to
        self.buffer = memoryview(memory).cast("B")
        self.done = done
        self.endpoint = endpoint
        record = self._record = TransferRecord.from_address(self.address)
        record.dev_handle = owner.address
        record.flags = 0
        record.endpoint = endpoint
        record.type = kind
        # Deadlines are the loop's business: libusb's would need a timer of its own for each transfer.
        record.timeout = 0
        record.length = size
        record.buffer = ctypes.addressof(memory)
        record.num_iso_packets = 0

    @property
    @abc.abstractmethod
    def is_busy(self) -> bool:
        """It is under way."""

    @abc.abstractmethod
    def submit(self) -> None:
        """Receive into the memory, or send all of it again. Raises UsbError."""

    @abc.abstractmethod
    def send(self, data: bytes) -> bool:
        """Send ``data``. Raises UsbError, or ValueError if there is no room for it.

        False: what was sent before has not ended; ``done`` will be called when it has.
        """

    @abc.abstractmethod
    def listen(self) -> None:
        """Have ``done`` called at its end also if it is a quiet one."""

    def cancel(self) -> None:
        """End it; ``done`` is called with CANCELLED, or with the result if it came first."""
        if not self.is_busy:
            return
        self.listen()
        result = self._libusb.cancel_transfer(self.address)
        # NOT_FOUND: it has just ended and will be reported
        if result not in (0, NOT_FOUND, NO_DEVICE):
            log.warning("a USB transfer could not be cancelled: %s", describe(result))

    def free(self) -> None:
        """Give the memory back; it is not under way any more."""
        assert not self.is_busy, "libusb aborts the program if a busy transfer is freed"
        if self.address:
            self._libusb.free_transfer(self.address)
            self.address = 0
            self.owner.forget(self)


class Carrier(Protocol):
    """Makes transfers, and tells when they have ended."""

    def transfer(
        self, owner: Owner, endpoint: int, kind: Kind, size: int, done: Done, *, is_quiet: bool
    ) -> Transfer: ...

    def handle_events(self) -> object:
        """Call ``done`` of all that have ended, without waiting. It does not raise."""

    def close(self) -> None:
        """There are no transfers any more."""
