"""What an installed system has, and where."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pypcscd.hotplug.bundles import load_bundles
from pypcscd.hotplug.settings import DEFAULT_DRIVER_DIRECTORY

#: unit files, man pages and more; in the source tree these are links to where people look for them
FILES = Path(__file__).parents[2] / "files"

SOCKET_UNIT = "pcscd.socket"
SERVICE_UNIT = "pcscd.service"
UNITS = PurePosixPath("/etc/systemd/system")
#: where packages have theirs
PACKAGED_UNITS = (PurePosixPath("/usr/lib/systemd/system"), PurePosixPath("/lib/systemd/system"))
SYSUSERS = PurePosixPath("/etc/sysusers.d/pypcscd.conf")
USER = "pcscd"
#: standard folders for programs; one that lies elsewhere gets a link here
LINKS = PurePosixPath("/usr/local/bin")

_PROGRAM = b"@program@"
_COPIES = (
    ("systemd/pcscd.socket", UNITS / SOCKET_UNIT),
    ("systemd/pcscd-admin.socket", UNITS / "pcscd-admin.socket"),
    ("systemd/pcscd@.socket", UNITS / "pcscd@.socket"),
    ("systemd/pcscd.service", UNITS / SERVICE_UNIT),
    ("systemd/pypcscd.sysusers", SYSUSERS),
    ("systemd/pypcscd.rules", PurePosixPath("/etc/udev/rules.d/92-pypcscd.rules")),
    ("systemd/pypcscd.policy", PurePosixPath("/usr/share/polkit-1/actions/org.debian.pcsc-lite.policy")),
    ("man/pypcscd.8", PurePosixPath("/usr/local/share/man/man8/pypcscd.8")),
    ("man/pypcscd.toml.5", PurePosixPath("/usr/local/share/man/man5/pypcscd.toml.5")),
    ("pypcscd.bash", PurePosixPath("/usr/local/share/bash-completion/completions/pypcscd")),
)
_DRIVER_RULES = PurePosixPath("/etc/udev/rules.d/92-pypcscd-drivers.rules")
_DRIVER_RULES_HEAD = """\
# Readers that are not of the smart card class and have a native driver here, by pypcscd install.
# Run that again when a driver has been installed or removed.
ACTION=="remove", GOTO="pypcscd_drivers_end"
SUBSYSTEM!="usb", GOTO="pypcscd_drivers_end"
ENV{DEVTYPE}!="usb_device", GOTO="pypcscd_drivers_end"
"""
_DRIVER_RULES_END = 'LABEL="pypcscd_drivers_end"\n'
_FOUND_ANYWAY = (PurePosixPath("/usr/local/bin"), PurePosixPath("/usr/bin"))


@dataclass(frozen=True)
class Item:
    """A file, or a link, as it is to be."""

    #: in the installed system, absolute
    path: PurePosixPath
    #: of a file its bytes, of a link where it points to
    content: bytes
    is_link: bool = False


def wanted(program: PurePosixPath, root: Path) -> Iterator[Item]:
    """Everything that belongs to an installation below ``root`` in which ``program`` is run."""
    for source, path in _COPIES:
        content = (FILES / source).read_bytes()
        yield Item(path, content.replace(_PROGRAM, bytes(program)))
    if rules := _driver_rules(root / DEFAULT_DRIVER_DIRECTORY.relative_to("/")):
        yield Item(_DRIVER_RULES, rules)
    if program.parent not in _FOUND_ANYWAY:
        yield Item(LINKS / "pypcscd", bytes(program), is_link=True)


def _driver_rules(directory: Path) -> bytes:
    """For the drivers of vendors, whose own rules may be of a time when pcscd was root; b"": none is needed.

    A driver for the whole class needs none: its readers are found by their class.
    """
    bundles, _ = load_bundles([directory])
    readers = {reader for bundle in bundles if not bundle.is_class_driver for reader in bundle.readers}
    if not readers:
        return b""
    lines = (
        f'ATTR{{idVendor}}=="{vendor:04x}", ATTR{{idProduct}}=="{product:04x}", GROUP="{USER}", MODE="0660"\n'
        for vendor, product in sorted(readers)
    )
    return (_DRIVER_RULES_HEAD + "".join(lines) + _DRIVER_RULES_END).encode()
