"""A USB interface as the system describes it: what is matched with drivers, and what names are made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SUBSYSTEM = "usb"
_DEVICE = "usb_device"
#: udev's own mark of a device that pcscd shall leave alone
_IGNORE = "PCSCLITE_IGNORE"


@dataclass(frozen=True)
class UsbInterface:
    """One interface of a device that is plugged in.

    Texts are as in sysfs, decoded as UTF-8 with ``surrogateescape``, spaces around them included, for
    pcscd has them in its names; "" where the device has none.
    """

    #: as the kernel names the interface: "1-2.3:1.0"
    sys_name: str
    #: the same for the device, which is the port that it is plugged into: "1-2.3"
    port: str
    #: the device's file: "/dev/bus/usb/001/005"
    node: str
    bus: int
    address: int
    vendor: int
    product: int
    #: bInterfaceNumber, bInterfaceClass and bNumEndpoints (USB 2.0, table 9-12)
    number: int
    kind: int
    endpoints: int
    #: another number each time that the kernel makes this interface, even for a device that keeps its
    #: address: the inode of its directory in sysfs
    made: int
    #: the strings of the device and of the interface
    manufacturer: str = ""
    product_name: str = ""
    serial: str = ""
    label: str = ""
    #: a udev rule says that smart card daemons shall leave it alone
    is_ignored: bool = False
    #: udev, where there is one, has looked at the device: what rules say of it is known, and its file has
    #: its permissions
    is_prepared: bool = True


def describe(interface: Any) -> UsbInterface | None:
    """``interface``: of pyudev, DEVTYPE usb_interface. None: it has gone while it was looked at."""
    device = interface.find_parent(_SUBSYSTEM, _DEVICE)
    if device is None:
        return None
    numbers = [_number(device, name, 16) for name in ("idVendor", "idProduct")]
    numbers += [_number(device, name, 10) for name in ("busnum", "devnum")]
    numbers += [
        _number(interface, name, 16) for name in ("bInterfaceNumber", "bInterfaceClass", "bNumEndpoints")
    ]
    numbers.append(_inode(interface))
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return None
    vendor, product, bus, address, number, kind, endpoints, made = known
    return UsbInterface(
        sys_name=interface.sys_name,
        port=device.sys_name,
        node=device.device_node or f"/dev/bus/usb/{bus:03}/{address:03}",
        bus=bus,
        address=address,
        vendor=vendor,
        product=product,
        number=number,
        kind=kind,
        endpoints=endpoints,
        made=made,
        manufacturer=_text(device, "manufacturer"),
        product_name=_text(device, "product"),
        serial=_text(device, "serial"),
        label=_text(interface, "interface"),
        is_ignored=device.properties.get(_IGNORE) == "1" or interface.properties.get(_IGNORE) == "1",
        # of the device only: udev keeps nothing about an interface of which it has nothing to say
        is_prepared=device.is_initialized,
    )


def _text(device: Any, name: str) -> str:
    value = device.attributes.get(name)
    return "" if value is None else value.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _inode(interface: Any) -> int | None:
    try:
        return Path(interface.sys_path).stat().st_ino
    except OSError:
        return None


def _number(device: Any, name: str, base: int) -> int | None:
    try:
        return int(_text(device, name), base)
    except ValueError:
        return None
