"""Finding and opening USB devices, with libusb as pyusb has loaded it.

What may wait for a device is done in threads. The backend's own calls are used, because pyusb's device
objects read what we do not need, and close what is still in use when they are collected.
"""

import asyncio
import ctypes
import errno
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pypcscd.driver import DeviceOpenError, NotMineError
from pypcscd_ccid import descriptor as descriptors
from pypcscd_ccid.descriptor import Endpoint, Interface
from pypcscd_ccid.device import FoundInterface
from pypcscd_ccid.libusb import BoundLibusb
from pypcscd_ccid.nodes import Nodes, OpenNode, Place
from pypcscd_ccid.usb import AsyncUsb, UsbHandle

_log = logging.getLogger("pypcscd.ccid")

T = TypeVar("T")

#: the name under which every Linux has libusb 1.0; to search for it would cost a process
_LIBRARY = "libusb-1.0.so.0"
#: libusb_option: neither search for devices nor follow them
_NO_DEVICE_DISCOVERY = 2
#: a program has the interface, not a driver of the kernel
_PROGRAM = "usbfs"


@dataclass(frozen=True)
class Wanted:
    """Which reader is meant; what is None does not matter."""

    bus: int | None = None
    address: int | None = None
    vendor: int | None = None
    product: int | None = None
    #: bInterfaceNumber, None: the first CCID interface
    interface: int | None = None

    def __str__(self) -> str:
        if self.bus is not None or self.address is not None:
            return f"at bus {self.bus} address {self.address}"
        vendor = "any vendor" if self.vendor is None else f"{self.vendor:04X}"
        return f"{vendor}:{self.product:04X}" if self.product is not None else vendor


class _ThreadedUsb(AsyncUsb):
    """Devices are opened in threads, and there libusb tells which descriptors to watch."""

    def __init__(self, libusb: BoundLibusb) -> None:
        super().__init__(libusb)
        self._thread = threading.get_ident()

    def _fd_added(self, fd: int, events: int, data: object) -> None:
        if threading.get_ident() == self._thread:
            super()._fd_added(fd, events, data)
        else:
            self.loop.call_soon_threadsafe(super()._fd_added, fd, events, data)


class Finder:
    """pyusb's backend, and the asynchronous layer on the same libusb."""

    def __init__(self, backend: Any) -> None:
        """``backend``: of ``load``. In the running event loop."""
        self._backend = backend
        self._nodes = Nodes(backend.lib, backend.ctx.value)
        self._usb = _ThreadedUsb(BoundLibusb(backend.lib, backend.ctx.value))
        self._usb.start()
        #: how many interfaces of a device are open
        self._in_use: Counter[Place] = Counter()

    def close(self) -> None:
        """All devices are closed."""
        self._usb.stop()

    async def open(self, wanted: Wanted, name: str) -> FoundInterface:
        """Open and claim the interface. Raises DeviceOpenError."""
        refused: DeviceOpenError | None = None
        for place in await self._places(wanted):
            try:
                return await self._open(place, wanted, name)
            except DeviceOpenError as error:
                refused = error
        raise refused or DeviceOpenError(
            f"there is no USB device {wanted}; 'lsusb' lists those that are there"
        )

    async def reset(self, wanted: Wanted) -> bool:
        """Reset the device at its port; False: it cannot be, or another reader of it is in use."""
        for place in await self._places(wanted):
            if self._in_use[place]:
                continue
            try:
                node = await in_thread(partial(self._nodes.open, place), self._nodes.close)
            except OSError:
                continue
            try:
                await in_thread(partial(self._nodes.reset, node))
            except OSError as error:
                _log.warning("%s cannot be reset: %s", place.path, error.strerror)
            else:
                return True
            finally:
                self._nodes.close(node)
        return False

    async def _places(self, wanted: Wanted) -> list[Place]:
        if wanted.bus is not None and wanted.address is not None:
            return [Place(wanted.bus, wanted.address)]
        return await in_thread(partial(self._nodes.find, wanted.vendor, wanted.product))

    async def _open(self, place: Place, wanted: Wanted, name: str) -> FoundInterface:
        try:
            node = await in_thread(partial(self._nodes.open, place), self._nodes.close)
        except OSError as error:
            raise _explain(error, place) from error
        try:
            interface, description = await in_thread(partial(self._claim, node, wanted))
        except BaseException:
            self._nodes.close(node)
            raise
        self._in_use[place] += 1

        def close() -> None:
            # leaves no zero behind, as addresses are not used again for long
            self._in_use -= Counter((place,))
            self._nodes.close(node)

        return FoundInterface(
            handle=UsbHandle(self._usb, node.handle.value, close),
            interface=interface,
            title=name,
            vendor=description.idVendor,
            product=description.idProduct,
            firmware=description.bcdDevice,
            manufacturer_index=description.iManufacturer,
            serial_index=description.iSerialNumber,
            bus=place.bus,
            address=place.address,
        )

    # --- in a thread --------------------------------------------------------------------------

    def _claim(self, node: OpenNode, wanted: Wanted) -> tuple[Interface, Any]:
        """The interface, now ours, and the device's descriptor. Raises DeviceOpenError."""
        from usb.core import USBError

        backend = self._backend
        interface: Interface | None = None
        try:
            active = self._nodes.active_configuration(node)
            if active is None:
                active = backend.get_configuration(node)
            interface = self._choose(node, active, wanted)
            backend.claim_interface(node, interface.number)
        except USBError as error:
            system_error = OSError(error.errno or errno.EIO, str(error))
            holder = "" if interface is None else self._nodes.kernel_driver(node, interface.number)
            raise _explain(system_error, node.place, holder) from error
        return interface, backend.get_device_descriptor(node)

    def _choose(self, node: OpenNode, active: int, wanted: Wanted) -> Interface:
        for interface in self._interfaces(node, active):
            if wanted.interface is not None and interface.number != wanted.interface:
                continue
            if descriptors.find_descriptor(interface) is not None:
                return interface
            if wanted.interface is not None:
                break
        if wanted.interface is None:
            raise DeviceOpenError(
                f"the USB device {wanted} has no interface that is a CCID reader", permanent=True
            )
        raise NotMineError(
            f"interface {wanted.interface} of the USB device {wanted} is no CCID reader, or not there"
        )

    def _interfaces(self, device: OpenNode, active: int) -> Iterator[Interface]:
        """The interfaces of the active configuration, in alternate setting 0."""
        backend = self._backend
        count = backend.get_device_descriptor(device).bNumConfigurations
        for index in range(count):
            configuration = backend.get_configuration_descriptor(device, index)
            if configuration.bConfigurationValue != active:
                continue
            for position in range(configuration.bNumInterfaces):
                found = backend.get_interface_descriptor(device, position, 0, index)
                endpoints = [
                    backend.get_endpoint_descriptor(device, number, position, 0, index)
                    for number in range(found.bNumEndpoints)
                ]
                yield Interface(
                    number=found.bInterfaceNumber,
                    interface_class=found.bInterfaceClass,
                    protocol=found.bInterfaceProtocol,
                    endpoints=[
                        Endpoint(
                            endpoint.bEndpointAddress,
                            endpoint.bmAttributes,
                            endpoint.wMaxPacketSize & 0x07FF,
                            bytes(endpoint.extra_descriptors),
                        )
                        for endpoint in endpoints
                    ],
                    extra=bytes(found.extra_descriptors),
                )


async def in_thread(work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
    """Run what may wait in a thread. Cancelling waits for its end, and undoes what it has done."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if undo is not None and not running.cancelled() and running.exception() is None:
            undo(running.result())
        raise


def load() -> Any:
    """Load libusb, in a thread; pyusb's backend for it. Raises DeviceOpenError if it cannot be used."""
    try:
        from usb.backend import libusb1
    except ImportError as error:
        raise DeviceOpenError(
            "pyusb is not installed, which USB readers need; install it with 'pip install pyusb'",
            permanent=True,
        ) from error
    backend = libusb1.get_backend(find_library=_find_library)
    if backend is None:
        raise DeviceOpenError(
            "libusb 1.0 cannot be loaded, which USB readers need; install the package libusb-1.0-0",
            permanent=True,
        )
    if not hasattr(backend.lib, "libusb_wrap_sys_device"):
        raise DeviceOpenError(
            "libusb is older than 1.0.23, which USB readers need; install a newer one", permanent=True
        )
    return backend


def _find_library(_name: str) -> str:
    """For pyusb. The option must be set before libusb starts, which pyusb does at once."""
    ctypes.CDLL(_LIBRARY).libusb_set_option(None, _NO_DEVICE_DISCOVERY)
    return _LIBRARY


def _explain(error: OSError, place: Place, holder: str = "") -> DeviceOpenError:
    """``holder``: what the interface is bound to."""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return DeviceOpenError(
                f"no access to {place.path}; run as root, or install a udev rule that gives this user's "
                "group access to smart card readers (docs/ccid.md has one)"
            )
        case errno.EBUSY if holder not in ("", _PROGRAM):
            return DeviceOpenError(
                f"{place.path} is used by the kernel's driver {holder}; unbind it from the interface"
            )
        case errno.EBUSY:
            return DeviceOpenError(
                f"{place.path} is used by another program; if pcscd is running, stop it "
                "(systemctl stop pcscd.socket pcscd)"
            )
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return DeviceOpenError(f"{place.path} is not there", is_gone=True)
    return DeviceOpenError(f"{place.path} cannot be opened: {error.strerror}", reset_may_help=True)
