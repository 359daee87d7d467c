"""USB readers as they come and go: what udev tells, made into devices for the CCID driver."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from pypcscd.driver import DeviceConfig
from pypcscd.eager import Background
from pypcscd.hotplug.devices import DeviceKeeper

log = logging.getLogger("pypcscd.usb")

_CCID_CLASS = 0x0B
_VENDOR_CLASS = 0xFF
#: CCID readers that hide behind the vendor's class: (idVendor, idProduct)
_VENDOR_CLASS_READERS = frozenset(
    {
        (0x046A, 0x003E),
        (0x04E6, 0x5111),
        (0x04E6, 0x511A),
        (0x04E6, 0x5120),
        (0x04E6, 0x5121),
        (0x04E6, 0x512B),
        (0x04E6, 0x512C),
        (0x04E6, 0xE003),
        (0x08E6, 0x1359),
        (0x08E6, 0x2202),
        (0x08E6, 0xACE0),
        (0x0973, 0x0003),
        (0x09BE, 0x0002),
        (0x1A74, 0x6354),
        (0x413C, 0x2100),
    }
)
#: a bulk pipe in each direction
_LEAST_ENDPOINTS = 2
_SUBSYSTEM = "usb"
_INTERFACE = "usb_interface"
_DEVICE = "usb_device"
#: udev's own mark of a device that pcscd shall leave alone
_IGNORE = "PCSCLITE_IGNORE"
_UDEV_SOCKET = Path("/run/udev/control")


class HotplugError(Exception):
    """USB readers cannot be found; the message says why and what to do."""


class UsbWatcher:
    """Keeps a device wanted for each CCID interface that is plugged in, from ``start`` to ``close``."""

    def __init__(self, devices: DeviceKeeper, context: Any, monitor: Any) -> None:
        """``context`` and ``monitor``: of pyudev. ``watch_usb`` makes a watcher with real ones."""
        self._devices = devices
        self._context = context
        self._monitor = monitor
        self._wanted: dict[str, DeviceConfig] = {}
        self._background = Background(log)

    def start(self) -> None:
        """Want the readers that are there; from now on follow what changes."""
        # The monitor comes first: what is plugged in meanwhile is seen twice, and added once.
        self._monitor.start()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._read_events)
        found = self._context.list_devices(subsystem=_SUBSYSTEM, DEVTYPE=_INTERFACE)
        for interface in sorted(found, key=lambda interface: str(interface.sys_path)):
            self._add(interface)

    def close(self) -> None:
        """Follow nothing any more; the devices are left to their keeper."""
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())
        self._background.cancel()

    def _read_events(self) -> None:
        while (interface := self._monitor.poll(timeout=0)) is not None:
            if interface.action == "add":
                self._add(interface)
            elif interface.action == "remove":
                self._remove(interface.sys_path)

    def _add(self, interface: Any) -> None:
        path = interface.sys_path
        if path in self._wanted:
            return
        config = describe(interface)
        if config is None:
            return
        log.info("%s: plugged in (%s)", config.name, config.origin)
        self._wanted[path] = config
        self._devices.add(config)

    def _remove(self, path: str) -> None:
        config = self._wanted.pop(path, None)
        if config is not None:
            log.info("%s: unplugged (%s)", config.name, config.origin)
            self._background.run(self._devices.remove(config))


def watch_usb(devices: DeviceKeeper) -> UsbWatcher:
    """A watcher on the system's udev. Raises HotplugError."""
    try:
        import pyudev
    except ImportError as error:
        raise HotplugError(
            f"USB readers need pyudev and libudev ({error}); install them (pip install pyudev, the package "
            "libudev1), or start without --usb"
        ) from error
    try:
        context = pyudev.Context()
        source = "udev"
        if not _UDEV_SOCKET.exists():
            log.warning(
                "udev is not running; USB readers are taken up as the kernel announces them, "
                "and access to them must have been arranged otherwise"
            )
            source = "kernel"
        monitor = pyudev.Monitor.from_netlink(context, source)
        monitor.filter_by(_SUBSYSTEM, _INTERFACE)
    except (ImportError, OSError) as error:
        raise HotplugError(
            f"udev cannot be asked for USB readers: {error}; start without --usb, or allow the daemon "
            "netlink sockets"
        ) from error
    return UsbWatcher(devices, context, monitor)


def describe(interface: Any) -> DeviceConfig | None:
    """The device for a USB interface as pyudev shows it, None if it is no smart card reader."""
    parent = interface.find_parent(_SUBSYSTEM, _DEVICE)
    if parent is None:
        return None
    vendor, product = (_number(parent, name, 16) for name in ("idVendor", "idProduct"))
    kind = _number(interface, "bInterfaceClass", 16)
    is_hidden = kind == _VENDOR_CLASS and (vendor, product) in _VENDOR_CLASS_READERS
    if kind != _CCID_CLASS and not is_hidden:
        return None
    bus, address = (_number(parent, name, 10) for name in ("busnum", "devnum"))
    number = _number(interface, "bInterfaceNumber", 16)
    if bus is None or address is None or number is None:
        # It has gone while it was looked at.
        return None
    name = reader_name(
        _text(parent, "manufacturer"),
        _text(parent, "product") or f"USB {vendor or 0:04X}:{product or 0:04X}",
        _text(interface, "interface"),
        _text(parent, "serial"),
    )
    if (_number(interface, "bNumEndpoints", 16) or 0) < _LEAST_ENDPOINTS:
        log.warning(
            "%s: left alone; it is a token that is driven by control transfers (ICCD), which needs a native "
            "driver such as libccid in reader.conf",
            name,
        )
        return None
    if parent.properties.get(_IGNORE) == "1":
        log.info("%s: left alone, as udev says (%s)", name, _IGNORE)
        return None
    return DeviceConfig(
        driver="ccid",
        name=name,
        numbering="ccid",
        options={"bus": str(bus), "address": str(address), "interface": str(number)},
        origin=f"USB {interface.sys_name}",
    )


def reader_name(manufacturer: str, product: str, interface: str, serial: str) -> str:
    """``"ACME Reader [CCID Interface] (4711)"``, in the form that pcscd gives to its readers."""
    name = product if product.lower().startswith(manufacturer.lower()) else f"{manufacturer} {product}"
    if interface:
        name += f" [{interface}]"
    if serial and serial not in interface:
        name += f" ({serial})"
    return name


def _text(device: Any, name: str) -> str:
    """An attribute in sysfs; what is not printable ASCII is a dot, because names are shown everywhere."""
    value = device.attributes.get(name)
    if value is None:
        return ""
    text = value.decode("utf-8", "replace").strip()
    return "".join(character if " " <= character <= "~" else "." for character in text)


def _number(device: Any, name: str, base: int) -> int | None:
    try:
        return int(_text(device, name), base)
    except ValueError:
        return None
