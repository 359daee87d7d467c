"""What an administrator may decide about USB readers: drivers, names, and rules for single readers."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pypcscd.hotplug.interface import UsbInterface

DEFAULT_DRIVER_DIRECTORY = Path("/usr/lib/pcsc/drivers")

#: values of ``UsbRule.driver`` that are no path
CCID = "ccid"
LIBCCID = "libccid"
IGNORE = "ignore"

_DIRECTORIES_VARIABLE = "PCSCLITE_HP_DROPDIR"
_IGNORE_VARIABLE = "PCSCLITE_FILTER_IGNORE_READER_NAMES"
_EXTENSION_VARIABLE = "PCSCLITE_FILTER_EXTEND_READER_NAMES"


@dataclass(frozen=True)
class UsbRule:
    """What holds for the readers that it matches. Of what is None, everything matches or nothing changes."""

    vendor: int | None = None
    product: int | None = None
    #: spaces around it do not count
    serial: str | None = None
    #: the port as the kernel names it: "1-2.3"
    port: str | None = None
    #: bInterfaceNumber
    interface: int | None = None
    #: a glob pattern for the name that the reader would have, without extension and numbers
    name: str | None = None

    #: "ccid" (our own), "libccid", "ignore", or the path of a native driver
    driver: str | None = None
    #: the name instead of the one that the reader would have
    rename: str | None = None
    #: the reader number, 0 to 255
    index: int | None = None
    #: for our own driver
    options: Mapping[str, str] = field(default_factory=dict)
    #: where it stands: "/etc/pypcscd.toml:12"
    origin: str = ""

    @property
    def names_a_device(self) -> bool:
        """It can only be meant for certain devices, so it may be for one that does not look like a reader."""
        return any(said is not None for said in (self.vendor, self.serial, self.port))

    def matches(self, interface: "UsbInterface", name: str) -> bool:
        pairs = (
            (self.vendor, interface.vendor),
            (self.product, interface.product),
            (self.serial, interface.serial.strip()),
            (self.port, interface.port),
            (self.interface, interface.number),
        )
        if any(wanted is not None and wanted != has for wanted, has in pairs):
            return False
        return self.name is None or fnmatch.fnmatchcase(name, self.name)


class UsbSettings(NamedTuple):
    """The table [usb] and the rules [[usb]]."""

    #: where vendors put the bundles of their drivers
    driver_directories: tuple[Path, ...] = (DEFAULT_DRIVER_DIRECTORY,)
    serial_in_names: bool = True
    interface_in_names: bool = True
    #: readers with one of these in their names are left alone
    ignore_names: tuple[str, ...] = ()
    #: stands between a reader's name and its two numbers
    name_extension: str = ""
    #: the first that matches counts
    rules: tuple[UsbRule, ...] = ()

    def with_environment(self, environ: Mapping[str, str]) -> "UsbSettings":
        """These settings, changed by the variables of pcscd that are there and not empty."""
        changed = self
        if directories := _items(environ, _DIRECTORIES_VARIABLE):
            changed = changed._replace(driver_directories=tuple(Path(item) for item in directories))
        if names := _items(environ, _IGNORE_VARIABLE):
            changed = changed._replace(ignore_names=names)
        if extension := environ.get(_EXTENSION_VARIABLE):
            changed = changed._replace(name_extension=extension)
        return changed


def _items(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    return tuple(item for item in environ.get(variable, "").split(":") if item)
