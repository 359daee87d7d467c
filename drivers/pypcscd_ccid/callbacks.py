"""Transfers by ctypes alone: libusb calls a Python function for each that has ended."""

import ctypes
from collections.abc import Callable

from pypcscd_ccid.libusb import NO_DEVICE, TRANSFER_DONE, Kind, Libusb
from pypcscd_ccid.transfer import Done, Owner, Transfer, log, submit_error


class CallbackCarrier:
    """``Carrier`` that works everywhere."""

    def __init__(self, libusb: Libusb) -> None:
        self._libusb = libusb
        self.handle_events: Callable[[], object] = libusb.handle_events

    def transfer(
        self, owner: Owner, endpoint: int, kind: Kind, size: int, done: Done, *, is_quiet: bool
    ) -> Transfer:
        return _CallbackTransfer(self._libusb, owner, endpoint, kind, size, done, is_quiet)

    def close(self) -> None:
        """Each transfer has its own callback, which went with it."""


class _CallbackTransfer(Transfer):
    __slots__ = ("_callback", "_is_busy", "_is_quiet", "_length", "_submit", "_tells")

    def __init__(
        self,
        libusb: Libusb,
        owner: Owner,
        endpoint: int,
        kind: Kind,
        size: int,
        done: Done,
        is_quiet: bool,
    ) -> None:
        super().__init__(libusb, owner, endpoint, kind, size, done)
        # libusb keeps its address, so it must live as long as the transfer
        self._callback = TRANSFER_DONE(self._completed)
        self._record.callback = ctypes.cast(self._callback, ctypes.c_void_p).value
        self._record.user_data = None
        self._submit = libusb.submit_transfer
        self._length = size
        self._is_quiet = is_quiet
        self._tells = not is_quiet
        self._is_busy = False

    @property
    def is_busy(self) -> bool:
        return self._is_busy

    def submit(self) -> None:
        if not self.address:
            raise submit_error(NO_DEVICE)
        result = self._submit(self.address)
        if result:
            raise submit_error(result)
        self._is_busy = True

    def send(self, data: bytes) -> bool:
        if self._is_busy:
            self._tells = True
            return False
        size = len(data)
        self.memory.raw = data
        if size != self._length and self.address:
            self._record.length = self._length = size
        self.submit()
        return True

    def listen(self) -> None:
        self._tells = True

    def _completed(self, _address: int) -> None:
        self._is_busy = False
        record = self._record
        try:
            status = record.status
            if self._tells or status:
                self._tells = not self._is_quiet
                self.done(status, record.actual_length)
        except Exception:
            # An exception would not get out of here: ctypes only prints it.
            log.exception("a USB transfer could not be dealt with; please report this")
        if self.owner.is_closing and not self._is_busy:
            self.owner.transfer_rests()
