"""The few functions of libusb 1.0 that asynchronous transfers need, bound by ctypes.

The library is the one that pyusb has loaded; its prototypes are left as pyusb has set them.
"""

import ctypes
import enum
import functools
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_int, c_long, c_short, c_ubyte, c_uint, c_void_p
from typing import Any, Protocol

#: libusb_transfer_cb_fn, libusb_pollfd_added_cb and libusb_pollfd_removed_cb
TRANSFER_DONE = CFUNCTYPE(None, c_void_p)
FD_ADDED = CFUNCTYPE(None, c_int, c_short, c_void_p)
FD_REMOVED = CFUNCTYPE(None, c_int, c_void_p)


class Kind(enum.IntEnum):
    """Types of transfers."""

    CONTROL = 0
    BULK = 2
    INTERRUPT = 3


class Status(enum.IntEnum):
    """How a transfer ended."""

    COMPLETED = 0
    ERROR = 1
    TIMED_OUT = 2
    CANCELLED = 3
    STALL = 4
    NO_DEVICE = 5
    OVERFLOW = 6


NO_DEVICE = -4
NOT_FOUND = -5

_ERRORS = {
    -1: "input/output error",
    -2: "invalid parameter",
    -3: "access denied",
    NO_DEVICE: "the device is gone",
    NOT_FOUND: "not found",
    -6: "busy",
    -7: "time-out",
    -8: "overflow",
    -9: "the endpoint is halted",
    -10: "interrupted",
    -11: "out of memory",
    -12: "not supported",
}


def describe(code: int) -> str:
    """An error of libusb in words."""
    return _ERRORS.get(code, f"libusb error {code}")


class TransferRecord(ctypes.Structure):
    """struct libusb_transfer without isochronous packets."""

    _fields_ = (
        ("dev_handle", c_void_p),
        ("flags", c_ubyte),
        ("endpoint", c_ubyte),
        ("type", c_ubyte),
        ("timeout", c_uint),
        ("status", c_int),
        ("length", c_int),
        ("actual_length", c_int),
        ("callback", c_void_p),
        ("user_data", c_void_p),
        ("buffer", c_void_p),
        ("num_iso_packets", c_int),
    )


class PollFd(ctypes.Structure):
    """struct libusb_pollfd."""

    _fields_ = (("fd", c_int), ("events", c_short))


class _TimeValue(ctypes.Structure):
    _fields_ = (("seconds", c_long), ("microseconds", c_long))


class Libusb(Protocol):
    """What the asynchronous layer calls; tests have one that is written in Python.

    Pointers are integers. Functions return 0 or a negative error unless said otherwise.
    """

    def alloc_transfer(self) -> int:
        """A new libusb_transfer, 0 if there is no memory."""

    def free_transfer(self, transfer: int) -> None: ...

    def submit_transfer(self, transfer: int) -> int: ...

    def cancel_transfer(self, transfer: int) -> int: ...

    def clear_halt(self, handle: int, endpoint: int) -> int: ...

    def handle_events(self) -> int:
        """Call the callbacks of what is done, without waiting."""

    def addresses(self) -> tuple[int, int, int]:
        """Where libusb_submit_transfer, libusb_handle_events_timeout_completed and the context are."""

    def poll_fds(self) -> list[tuple[int, int]]:
        """Descriptors and the events of poll(2) to be watched."""

    def set_fd_notifiers(self, added: Any, removed: Any) -> None:
        """Instances of ``FD_ADDED`` and ``FD_REMOVED``, or None and None."""


class BoundLibusb:
    """``Libusb`` by ctypes."""

    def __init__(self, library: ctypes.CDLL, context: int) -> None:
        """``context``: the libusb_context, as a number."""
        self._context = context

        def bind(name: str, result: Any, *arguments: Any) -> Any:
            return CFUNCTYPE(result, *arguments)((f"libusb_{name}", library))

        self._alloc_transfer = bind("alloc_transfer", c_void_p, c_int)
        self._get_pollfds = bind("get_pollfds", POINTER(POINTER(PollFd)), c_void_p)
        self._free_pollfds = bind("free_pollfds", None, c_void_p)
        self._set_notifiers = bind("set_pollfd_notifiers", None, c_void_p, c_void_p, c_void_p, c_void_p)
        # These are on the way of every transfer, so there is no Python function around them.
        handle_events = bind(
            "handle_events_timeout_completed", c_int, c_void_p, POINTER(_TimeValue), c_void_p
        )
        no_time = ctypes.byref(_TimeValue(0, 0))
        self.handle_events: Callable[[], int] = functools.partial(handle_events, context, no_time, None)
        self.free_transfer = bind("free_transfer", None, c_void_p)
        self.submit_transfer = bind("submit_transfer", c_int, c_void_p)
        self._addresses = (_address(self.submit_transfer), _address(handle_events), context)
        self.cancel_transfer = bind("cancel_transfer", c_int, c_void_p)
        self.clear_halt = bind("clear_halt", c_int, c_void_p, c_ubyte)

    def alloc_transfer(self) -> int:
        return self._alloc_transfer(0) or 0

    def addresses(self) -> tuple[int, int, int]:
        return self._addresses

    def poll_fds(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        array = self._get_pollfds(self._context)
        if not array:
            return found
        index = 0
        while array[index]:
            found.append((array[index].contents.fd, array[index].contents.events))
            index += 1
        self._free_pollfds(ctypes.cast(array, c_void_p))
        return found

    def set_fd_notifiers(self, added: Any, removed: Any) -> None:
        self._set_notifiers(self._context, ctypes.cast(added, c_void_p), ctypes.cast(removed, c_void_p), None)


def _address(function: Any) -> int:
    return ctypes.cast(function, c_void_p).value or 0
