"""Transfers with a compiled part (``carrier.c``): one call for all that have ended, and no callbacks.

Importing this raises ImportError where pypcscd was installed without a C compiler.
"""

from typing import TYPE_CHECKING

from pypcscd_ccid._carrier import ffi, lib
from pypcscd_ccid.libusb import Kind, Libusb
from pypcscd_ccid.transfer import Done, Owner, Transfer, log, submit_error

if TYPE_CHECKING:
    from pypcscd_ccid._carrier import CData

# carrier.h says what these are
_LENGTH_MASK = 0x07FF_FFFF
_STATUS_SHIFT = 27
_STATUS_MASK = 7
_MORE = 1 << 30
_NUMBER_SHIFT = 32


class CompiledCarrier:
    """``Carrier`` in C but for what the transfers are for."""

    def __init__(self, libusb: Libusb) -> None:
        self._libusb = libusb
        self._carrier = _allocated(lib.carrier_new(*libusb.addresses()))
        self._turn, self._next = lib.carrier_turn, lib.carrier_next
        self._transfers: dict[int, _CompiledTransfer] = {}
        self._last_number = 0

    def transfer(
        self, owner: Owner, endpoint: int, kind: Kind, size: int, done: Done, *, is_quiet: bool
    ) -> Transfer:
        self._last_number = number = self._last_number + 1
        made = _CompiledTransfer(self._libusb, owner, endpoint, kind, size, done)
        made.connect(self._carrier, number, is_quiet, self._transfers)
        return made

    def handle_events(self) -> None:
        ended = self._turn(self._carrier)
        while ended:
            transfer = self._transfers[ended >> _NUMBER_SHIFT]
            try:
                transfer.done(ended >> _STATUS_SHIFT & _STATUS_MASK, ended & _LENGTH_MASK)
            except Exception:
                log.exception("a USB transfer could not be dealt with; please report this")
            if transfer.owner.is_closing and not transfer.is_busy:
                transfer.owner.transfer_rests()
            if not ended & _MORE:
                return
            ended = self._next(self._carrier)

    def close(self) -> None:
        # Transfers that never ended, if there are such, still point to it.
        if not self._transfers:
            lib.carrier_free(self._carrier)


class _CompiledTransfer(Transfer):
    __slots__ = ("_all", "_number", "_port", "_send", "_submit")

    def connect(
        self, carrier: "CData", number: int, is_quiet: bool, everything: "dict[int, _CompiledTransfer]"
    ) -> None:
        self._port = _allocated(lib.port_new(carrier, self.address, number, is_quiet))
        self._number = number
        self._all = everything
        everything[number] = self
        self._send, self._submit = lib.port_send, lib.port_submit

    @property
    def is_busy(self) -> bool:
        return lib.port_is_busy(self._port) != 0

    def submit(self) -> None:
        result = self._submit(self._port)
        if result:
            raise submit_error(result)

    def send(self, data: bytes) -> bool:
        result = self._send(self._port, data, len(data))
        if result:
            if result == lib.PORT_BUSY:
                return False
            if result == lib.PORT_TOO_LONG:
                raise ValueError(f"{len(data)} bytes do not fit into the memory of a USB transfer")
            raise submit_error(result)
        return True

    def listen(self) -> None:
        lib.port_listen(self._port)

    def free(self) -> None:
        was_there = self.address
        super().free()
        if was_there:
            del self._all[self._number]
            lib.port_free(self._port)
            self._port = ffi.NULL


def _allocated(pointer: "CData") -> "CData":
    if pointer == ffi.NULL:
        raise MemoryError
    return pointer
