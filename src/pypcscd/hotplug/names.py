"""What a reader is called, without its two numbers. Programs know readers by these names.

They are as pcscd makes them: the driver's friendly name, then the strings of interface and device:
``"ACME Reader [CCID Interface] (4711)"``.
"""

from collections.abc import Iterable
from dataclasses import replace

from pypcscd.driver import DeviceConfig
from pypcscd.hotplug.interface import UsbInterface
from pypcscd.hotplug.settings import UsbSettings
from pypcscd.manager.roster import cut
from pypcscd.scard import MAX_BASE_NAME

_SPACE = 0x20
_DELETE = 0x7F
_NO_BREAK_SPACE = 0xA0


def base_name(interface: UsbInterface, friendly: str | None, settings: UsbSettings) -> str:
    """``friendly``: from an Info.plist that lists the reader; None: made of the device's own strings."""
    name = _own_name(interface) if friendly is None else friendly
    label = interface.label if settings.interface_in_names else ""
    if label:
        name += f" [{_dotted(label)}]"
    if settings.serial_in_names and interface.serial and interface.serial not in label:
        name += f" ({interface.serial})"
    return _without_controls(name)


def extended(base: str, extension: str) -> str:
    """The name with the extension; what is too long is taken from the name, so that both still fit."""
    extension = cut(extension, MAX_BASE_NAME)
    room = MAX_BASE_NAME - len(extension.encode("utf-8", "surrogateescape"))
    return cut(base, room) + extension


def reason_to_ignore(base: str, settings: UsbSettings) -> str:
    """Why a reader of that name is not wanted; "" if it is."""
    part = next((part for part in settings.ignore_names if part in base), None)
    return "" if part is None else f'because "{part}" is among the names to be ignored'


def filter_configured(
    configs: Iterable[DeviceConfig], settings: UsbSettings
) -> tuple[list[DeviceConfig], list[str]]:
    """The wanted ones of devices that do not come by USB, with the extension; and what to say of the others.

    As in pcscd, these two settings are for all readers.
    """
    wanted: list[DeviceConfig] = []
    unwanted: list[str] = []
    for config in configs:
        if why := reason_to_ignore(config.name, settings):
            unwanted.append(f"{config.name} ({config.origin}): left alone, {why}")
        else:
            wanted.append(replace(config, name=extended(config.name, settings.name_extension)))
    return wanted, unwanted


def _own_name(interface: UsbInterface) -> str:
    manufacturer = _dotted(interface.manufacturer).strip()
    product = _dotted(interface.product_name).strip() or f"USB {interface.vendor:04X}:{interface.product:04X}"
    says_both = product.lower().startswith(manufacturer.lower())
    return product if says_both else f"{manufacturer} {product}"


def _dotted(text: str) -> str:
    """Each byte that is not ASCII is a dot."""
    return "".join(chr(byte) if byte < 0x80 else "." for byte in text.encode("utf-8", "surrogateescape"))


def _without_controls(text: str) -> str:
    """Names are shown on terminals and in logs, and a device says what it likes."""
    return "".join("." if ord(one) < _SPACE or _DELETE <= ord(one) < _NO_BREAK_SPACE else one for one in text)
