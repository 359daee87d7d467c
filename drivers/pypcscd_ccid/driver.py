"""The driver's entry: options of a device, and opening it.

Options: ``bus`` and ``address`` (decimal, as lsusb shows them), or ``vendor`` and ``product``
(hexadecimal); ``interface`` (decimal; without it the first CCID interface); ``escape`` (``yes`` lets
programs send commands to the reader itself, default ``no``).
"""

import asyncio
import logging
from collections.abc import Mapping

from pypcscd.driver import DeviceConfig, DeviceOpenError, Driver
from pypcscd_ccid import finder
from pypcscd_ccid.descriptor import Level
from pypcscd_ccid.device import CcidDevice, open_device
from pypcscd_ccid.finder import Finder, Wanted

_log = logging.getLogger("pypcscd.ccid")

_OPTIONS = ("bus", "address", "vendor", "product", "interface", "escape")


class CcidDriver(Driver):
    """Opens CCID readers; libusb is loaded for the first one."""

    def __init__(self) -> None:
        self._finder: Finder | None = None
        self._loading = asyncio.Lock()

    async def open(self, config: DeviceConfig) -> CcidDevice:
        """Open a reader. Raises DeviceOpenError."""
        wanted, allows_escape = read_options(config.options)
        usb = await self._get_finder()
        found = await usb.open(wanted, config.name)
        device = await open_device(found, allows_escape=allows_escape)
        descriptor = device.facts.descriptor
        _log.info(
            "%s: USB %04X:%04X at bus %d address %d interface %d, %s, %d slot%s, %d at a time",
            config.name,
            found.vendor,
            found.product,
            found.bus,
            found.address,
            device.interface,
            _LEVELS[descriptor.level],
            descriptor.slots,
            "" if descriptor.slots == 1 else "s",
            descriptor.busy_slots,
        )
        return device

    async def reset(self, config: DeviceConfig) -> bool:
        wanted, _ = read_options(config.options)
        usb = await self._get_finder()
        return await usb.reset(wanted)

    async def close(self) -> None:
        if self._finder is not None:
            self._finder.close()
            self._finder = None

    async def _get_finder(self) -> Finder:
        async with self._loading:
            if self._finder is None:
                self._finder = Finder(await finder.in_thread(finder.load))
            return self._finder


_LEVELS: Mapping[Level, str] = {
    Level.CHARACTER: "character level",
    Level.TPDU: "TPDU level",
    Level.SHORT_APDU: "short APDU level",
    Level.EXTENDED_APDU: "extended APDU level",
}


def read_options(options: Mapping[str, str]) -> tuple[Wanted, bool]:
    """The device that is meant, and whether Escape is allowed. Raises DeviceOpenError."""
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise DeviceOpenError(
            f"unknown option {unknown[0]!r}; there are {', '.join(_OPTIONS)}", permanent=True
        )
    if not {"bus", "address"} <= set(options) and not {"vendor", "product"} <= set(options):
        raise DeviceOpenError(
            "which USB device is meant? Give the options 'bus' and 'address', or 'vendor' and 'product'; "
            "'lsusb' shows them",
            permanent=True,
        )
    escape = options.get("escape", "no")
    if escape not in ("yes", "no"):
        raise DeviceOpenError(f"option 'escape' must be yes or no, not {escape!r}", permanent=True)
    wanted = Wanted(
        bus=_number(options, "bus", 10, 255),
        address=_number(options, "address", 10, 127),
        vendor=_number(options, "vendor", 16, 0xFFFF),
        product=_number(options, "product", 16, 0xFFFF),
        interface=_number(options, "interface", 10, 255),
    )
    return wanted, escape == "yes"


def _number(options: Mapping[str, str], name: str, base: int, limit: int) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if not 0 <= number <= limit:
        most = f"hexadecimal number up to {limit:X}" if base == 16 else f"decimal number up to {limit}"
        raise DeviceOpenError(
            f"option {name!r} must be a {most}, not {text!r}",
            permanent=True,
        )
    return number
