"""USB devices by their files in /dev/bus/usb: found in sysfs, opened, handed to libusb, reset.

libusb's own search for devices is not used: it needs udev and netlink, which containers lack, it notices
a new device later than we do, and it takes a thread. All functions here may wait for the device or for
the kernel, which locks a device while it is reset or resumed: they are for threads, except ``close``.
"""

import ctypes
import errno
import os
from ctypes import CFUNCTYPE, POINTER, c_int, c_ssize_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pypcscd_ccid import libusb

_DEVICES = Path("/sys/bus/usb/devices")
_NUMBERS = Path("/sys/dev/char")
#: what libusb's errors are in the words of the system
_ERRNOS = {
    -1: errno.EIO,
    -2: errno.EINVAL,
    -3: errno.EACCES,
    libusb.NO_DEVICE: errno.ENODEV,
    libusb.NOT_FOUND: errno.ENOENT,
    -6: errno.EBUSY,
    -7: errno.ETIMEDOUT,
    -11: errno.ENOMEM,
}


@dataclass(frozen=True)
class Place:
    """Where a device is, for as long as it is plugged in."""

    bus: int
    address: int

    @property
    def path(self) -> str:
        return f"/dev/bus/usb/{self.bus:03d}/{self.address:03d}"


@dataclass
class OpenNode:
    """An open device. In the words of pyusb's backend it is a device (``devid``) and a handle as well."""

    place: Place
    fd: int
    #: libusb_device_handle
    handle: Any
    #: libusb_device
    devid: Any


class Nodes:
    """Opens devices by their files, for one libusb context."""

    def __init__(self, library: ctypes.CDLL, context: int) -> None:
        """Raises AttributeError if libusb is older than 1.0.23."""
        self._context = context

        def bind(name: str, result: Any, *arguments: Any) -> Any:
            return CFUNCTYPE(result, *arguments)((f"libusb_{name}", library))

        self._wrap = bind("wrap_sys_device", c_int, c_void_p, c_ssize_t, POINTER(c_void_p))
        self._get_device = bind("get_device", c_void_p, c_void_p)
        self._reset = bind("reset_device", c_int, c_void_p)
        self._close = bind("close", None, c_void_p)

    @staticmethod
    def find(vendor: int | None, product: int | None) -> list[Place]:
        """The devices with these numbers, in the order of bus and address."""
        found = []
        for folder in _children(_DEVICES):
            numbers = [_read(folder / name) for name in ("idVendor", "idProduct", "busnum", "devnum")]
            try:
                wants = all(
                    want is None or want == int(text, 16)
                    for want, text in zip((vendor, product), numbers[:2], strict=True)
                )
                place = Place(int(numbers[2]), int(numbers[3]))
            except ValueError:
                continue  # an interface, or it has just gone
            if wants:
                found.append(place)
        return sorted(found, key=lambda place: (place.bus, place.address))

    def open(self, place: Place) -> OpenNode:
        """Raises OSError."""
        fd = os.open(place.path, os.O_RDWR | os.O_CLOEXEC)
        handle = c_void_p()
        result = self._wrap(self._context, fd, ctypes.byref(handle))
        if result:
            os.close(fd)
            raise _error(result)
        return OpenNode(place, fd, handle, c_void_p(self._get_device(handle)))

    def active_configuration(self, node: OpenNode) -> int | None:
        """bConfigurationValue as the kernel has set it, None if it does not tell."""
        try:
            return int(_read(_folder(node) / "bConfigurationValue"))
        except ValueError:
            return None

    def kernel_driver(self, node: OpenNode, interface: int) -> str:
        """What the interface is bound to: "usbfs" is a program, "" nothing."""
        for folder in _children(_folder(node)):
            if _read(folder / "bInterfaceNumber") == f"{interface:02x}":
                try:
                    return (folder / "driver").readlink().name
                except OSError:
                    break
        return ""

    def reset(self, node: OpenNode) -> None:
        """Reset the device at its port, which takes the kernel some tenths of a second. Raises OSError.

        The device stays what it is and where it is, or is announced anew if it has become another.
        """
        result = self._reset(node.handle)
        if result not in (0, libusb.NOT_FOUND):
            raise _error(result)

    def close(self, node: OpenNode) -> None:
        """Does not wait; belongs into the loop, which watches the descriptor."""
        self._close(node.handle)
        os.close(node.fd)


def _folder(node: OpenNode) -> Path:
    number = os.fstat(node.fd).st_rdev
    return _NUMBERS / f"{os.major(number)}:{os.minor(number)}"


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _error(code: int) -> OSError:
    return OSError(_ERRNOS.get(code, errno.EIO), libusb.describe(code))
