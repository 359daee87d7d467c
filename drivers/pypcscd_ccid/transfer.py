"""A libusb transfer with its memory, to be submitted any number of times.

The callback that libusb wants is one of ctypes here, made once for each transfer.
"""

import ctypes
import logging
from collections.abc import Callable
from typing import Protocol, cast

from pypcscd_ccid.libusb import (
    NO_DEVICE,
    NOT_FOUND,
    TRANSFER_DONE,
    Kind,
    Libusb,
    Status,
    TransferRecord,
    describe,
)

_log = logging.getLogger("pypcscd.usb")

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


class Transfer:
    """A transfer on one endpoint.

    ``done(status, length)`` is called in the loop when it has ended; it may submit it again. Of a quiet
    transfer it is called for failures, and for a success only if ``send`` or ``cancel`` was called
    meanwhile.
    """

    __slots__ = (
        "_address",
        "_callback",
        "_is_quiet",
        "_length",
        "_libusb",
        "_owner",
        "_record",
        "_submit",
        "_tells",
        "buffer",
        "done",
        "endpoint",
        "is_busy",
        "memory",
    )

    def __init__(
        self,
        libusb: Libusb,
        owner: Owner,
        endpoint: int,
        kind: Kind,
        size: int,
        done: Done,
        *,
        is_quiet: bool = False,
    ) -> None:
        self._libusb = libusb
        self._owner = owner
        self._address = libusb.alloc_transfer()
        if not self._address:
            raise MemoryError("libusb_alloc_transfer")
        #: what is sent, or was received; its slices are bytes
        memory = (ctypes.c_char * size)()
        self.memory = cast(Memory, memory)
        #: the same, to be written to
        self.buffer = memoryview(memory).cast("B")
        self._callback = TRANSFER_DONE(self._completed)
        self._submit = libusb.submit_transfer
        self.done = done
        self.endpoint = endpoint
        self._is_quiet = is_quiet
        self._tells = not is_quiet
        self._length = size
        self.is_busy = False
        record = self._record = TransferRecord.from_address(self._address)
        record.dev_handle = owner.address
        record.flags = 0
        record.endpoint = endpoint
        record.type = kind
        # Deadlines are the loop's business: libusb's would need a timer of its own for each transfer.
        record.timeout = 0
        record.length = size
        record.callback = ctypes.cast(self._callback, ctypes.c_void_p).value
        record.user_data = None
        record.buffer = ctypes.addressof(memory)
        record.num_iso_packets = 0

    def submit(self) -> None:
        """Receive into the memory, or send all of it again. Raises UsbError."""
        result = self._submit(self._address)
        if result:
            raise submit_error(result)
        self.is_busy = True

    def send(self, data: bytes) -> bool:
        """Send ``data``, which fits into the memory. Raises UsbError.

        False: what was sent before has not ended; ``done`` will be called when it has.
        """
        if self.is_busy:
            self._tells = True
            return False
        size = len(data)
        self.memory.raw = data
        if size != self._length:
            self._record.length = self._length = size
        result = self._submit(self._address)
        if result:
            raise submit_error(result)
        self.is_busy = True
        return True

    def cancel(self) -> None:
        """End it; ``done`` is called with CANCELLED, or with the result if it came first."""
        if not self.is_busy:
            return
        self._tells = True
        result = self._libusb.cancel_transfer(self._address)
        # NOT_FOUND: it has just ended and will be reported
        if result not in (0, NOT_FOUND, NO_DEVICE):
            _log.warning("a USB transfer could not be cancelled: %s", describe(result))

    def free(self) -> None:
        """Give the memory back; it is not under way any more."""
        assert not self.is_busy, "libusb aborts the program if a busy transfer is freed"
        if self._address:
            self._libusb.free_transfer(self._address)
            self._address = 0
            self._owner.forget(self)

    def _completed(self, _address: int) -> None:
        self.is_busy = False
        record = self._record
        try:
            status = record.status
            if self._tells or status:
                self._tells = not self._is_quiet
                self.done(status, record.actual_length)
        except Exception:
            # An exception would not get out of here: ctypes only prints it.
            _log.exception("a USB transfer could not be dealt with; please report this")
        if self._owner.is_closing and not self.is_busy:
            self._owner.transfer_rests()
