"""Reads what is plugged in from sysfs and udev's database; it may wait, so it is for threads."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from pypcscd.hotplug.interface import UsbInterface, describe

_SUBSYSTEM = "usb"
_INTERFACE = "usb_interface"
_DEVICES = Path("/sys/bus/usb/devices")


class Scanner:
    """Looks at all ports or at one.

    The kernel locks a device while it is reset or opened, and then its attributes are waited for. As
    that must not hold up the look at other devices, calls may overlap, in any threads.
    """

    def __init__(self) -> None:
        """Raises ImportError if pyudev or libudev is not installed."""
        import pyudev

        self._make_context: Any = pyudev.Context
        self._gone: Any = pyudev.DeviceNotFoundError
        # libudev's contexts are not for several threads at a time, and each costs a search for the library.
        self._idle: list[Any] = [self._make_context()]

    def ports(self) -> dict[str, list[UsbInterface]]:
        """All USB interfaces by the port of their device, in the order of their paths in sysfs."""
        context = self._take_context()
        try:
            return self._read(context.list_devices(subsystem=_SUBSYSTEM, DEVTYPE=_INTERFACE))
        finally:
            self._idle.append(context)

    def port(self, name: str) -> list[UsbInterface]:
        """The interfaces of the device in a port ("1-2.3"); none if the port is empty."""
        import pyudev

        context = self._take_context()
        try:
            device = pyudev.Devices.from_name(context, _SUBSYSTEM, name)
            found = context.list_devices(subsystem=_SUBSYSTEM, DEVTYPE=_INTERFACE, parent=device)
            # in the ports of a hub there are other devices
            return self._read(found).get(name, [])
        except self._gone:
            return []
        finally:
            self._idle.append(context)

    def _take_context(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._make_context()

    def _read(self, found: Any) -> dict[str, list[UsbInterface]]:
        ports = defaultdict(list)
        for device in sorted(found, key=lambda device: str(device.sys_path)):
            try:
                interface = describe(device)
            except self._gone:
                continue
            if interface is not None:
                ports[interface.port].append(interface)
        return dict(ports)


def have_nodes(interfaces: list[UsbInterface]) -> bool:
    """If the devices' files are there already."""
    return all(Path(interface.node).exists() for interface in interfaces)


def fingerprint() -> dict[str, str]:
    """What changes when something is plugged in, pulled or made anew, by the kernel's names.

    Of a device it is the address, of an interface what ``UsbInterface.made`` is.
    """
    try:
        places = list(_DEVICES.iterdir())
    except OSError:
        return {}
    return {place.name: _made(place) if ":" in place.name else _address(place) for place in places}


def _address(device: Path) -> str:
    try:
        return (device / "devnum").read_text()
    except OSError:
        return ""


def _made(interface: Path) -> str:
    try:
        return str(interface.stat().st_ino)
    except OSError:
        return ""
