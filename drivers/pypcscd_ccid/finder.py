"""Finding and opening USB devices with pyusb's backend for libusb. Nothing here waits for a device.

The backend's own calls are used, because pyusb's device objects read what we do not need, and close
what is still in use when they are collected.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pypcscd.driver import DeviceOpenError
from pypcscd_ccid import descriptor as descriptors
from pypcscd_ccid.descriptor import Endpoint, Interface
from pypcscd_ccid.device import FoundInterface
from pypcscd_ccid.libusb import BoundLibusb
from pypcscd_ccid.usb import AsyncUsb, UsbHandle


@dataclass(frozen=True)
class Wanted:
    """Which reader is meant; what is None does not matter."""

    bus: int | None = None
    address: int | None = None
    vendor: int | None = None
    product: int | None = None
    #: bInterfaceNumber, None: the first CCID interface
    interface: int | None = None

    def matches(self, device: Any) -> bool:
        """If a device descriptor is that of the wanted device."""
        pairs = (
            (self.bus, device.bus),
            (self.address, device.address),
            (self.vendor, device.idVendor),
            (self.product, device.idProduct),
        )
        return all(wanted is None or wanted == has for wanted, has in pairs)

    def __str__(self) -> str:
        if self.bus is not None or self.address is not None:
            return f"at bus {self.bus} address {self.address}"
        vendor = "any vendor" if self.vendor is None else f"{self.vendor:04X}"
        return f"{vendor}:{self.product:04X}" if self.product is not None else vendor


class Finder:
    """pyusb's backend, and the asynchronous layer on the same libusb."""

    def __init__(self, backend: Any) -> None:
        """``backend``: of ``usb.backend.libusb1``."""
        self._backend = backend
        self._usb = AsyncUsb(BoundLibusb(backend.lib, backend.ctx.value))
        self._usb.start()

    def close(self) -> None:
        """All devices are closed."""
        self._usb.stop()

    def is_there(self, wanted: Wanted) -> bool:
        """If libusb knows the device already; it takes a moment to notice a new one."""
        return any(wanted.matches(device) for _, device in self._devices())

    def open(self, wanted: Wanted, name: str) -> FoundInterface:
        """Open and claim the interface. Raises DeviceOpenError."""
        from usb.core import USBError

        refused: DeviceOpenError | None = None
        for device, description in self._devices():
            if not wanted.matches(description):
                continue
            try:
                return self._open(device, description, wanted, name)
            except DeviceOpenError as error:
                refused = error
            except USBError as error:
                refused = DeviceOpenError(_explain(error, description))
        raise refused or DeviceOpenError(
            f"there is no USB device {wanted}; 'lsusb' lists those that are there"
        )

    def _devices(self) -> Iterator[tuple[Any, Any]]:
        for device in self._backend.enumerate_devices():
            yield device, self._backend.get_device_descriptor(device)

    def _open(self, device: Any, description: Any, wanted: Wanted, name: str) -> FoundInterface:
        backend = self._backend
        opened = backend.open_device(device)
        try:
            interface = self._choose(device, backend.get_configuration(opened), wanted)
            backend.claim_interface(opened, interface.number)
        except BaseException:
            backend.close_device(opened)
            raise

        def close() -> None:
            backend.close_device(opened)

        return FoundInterface(
            handle=UsbHandle(self._usb, opened.handle.value, close),
            interface=interface,
            title=name,
            vendor=description.idVendor,
            product=description.idProduct,
            firmware=description.bcdDevice,
            manufacturer_index=description.iManufacturer,
            serial_index=description.iSerialNumber,
            bus=description.bus,
            address=description.address,
        )

    def _choose(self, device: Any, active: int, wanted: Wanted) -> Interface:
        for interface in self._interfaces(device, active):
            if wanted.interface is not None and interface.number != wanted.interface:
                continue
            if descriptors.find_descriptor(interface) is not None:
                return interface
            if wanted.interface is not None:
                break
        if wanted.interface is None:
            why = f"the USB device {wanted} has no interface that is a CCID reader"
        else:
            why = f"interface {wanted.interface} of the USB device {wanted} is no CCID reader, or not there"
        raise DeviceOpenError(why, permanent=True)

    def _interfaces(self, device: Any, active: int) -> Iterator[Interface]:
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


def load() -> Finder:
    """Load libusb. Raises DeviceOpenError if it is not there, or cannot be used."""
    try:
        from usb.backend import libusb1
    except ImportError as error:
        raise DeviceOpenError(
            "pyusb is not installed, which USB readers need; install it with 'pip install pyusb'",
            permanent=True,
        ) from error
    backend = libusb1.get_backend()
    if backend is None:
        raise DeviceOpenError(
            "libusb 1.0 cannot be loaded, which USB readers need; install the package libusb-1.0-0",
            permanent=True,
        )
    return Finder(backend)


def _explain(error: Any, description: Any) -> str:
    import errno

    path = f"/dev/bus/usb/{description.bus:03d}/{description.address:03d}"
    if error.errno == errno.EACCES:
        return (
            f"no access to {path}; run as root, or install a udev rule that gives this user's group "
            "access to smart card readers"
        )
    if error.errno == errno.EBUSY:
        return (
            f"{path} is used by another program; if pcscd is running, stop it "
            "(systemctl stop pcscd.socket pcscd)"
        )
    return f"{path} cannot be opened: {error}"
