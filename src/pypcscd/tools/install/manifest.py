"""What ``pypcscd install`` remembers, so that ``pypcscd uninstall`` takes away that and nothing else."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from pypcscd.tools.install.items import Item
from pypcscd.tools.install.machine import InstallError, Machine

PATH = PurePosixPath("/var/lib/pypcscd/installed.json")
_VERSION = 1


@dataclass
class Manifest:
    """The state before, and what has been added to it."""

    #: path -> digest of what was written there
    files: dict[str, str] = field(default_factory=dict)
    #: folders that were not there before, outermost first
    folders: list[str] = field(default_factory=list)
    #: units that were masked and are not any more
    masked: list[str] = field(default_factory=list)
    #: the user pcscd was not there before
    made_user: bool = False
    #: units of an installed pcscd, whose place was taken: enabled and active before
    was_enabled: list[str] = field(default_factory=list)
    was_active: list[str] = field(default_factory=list)


def load(machine: Machine) -> Manifest | None:
    """None: nothing has been installed here. Raises InstallError."""
    item = machine.read(PATH)
    if item is None:
        return None
    try:
        content = json.loads(item.content)
        if content.pop("version") != _VERSION:
            raise ValueError("another version of pypcscd wrote it")
        return Manifest(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        where = machine.at(PATH)
        reason = f"{where}, which says what was installed, cannot be used: {error}"
        raise InstallError(f"{reason}; uninstall with the version that installed, or delete it") from None


def save(machine: Machine, manifest: Manifest) -> None:
    """Raises InstallError."""
    text = json.dumps({"version": _VERSION, **asdict(manifest)}, indent=2) + "\n"
    made = machine.write(Item(PATH, text.encode()))
    if made:
        # Written again with its own folders, which are to go with it.
        manifest.folders = [*manifest.folders, *map(str, made)]
        save(machine, manifest)


def forget(machine: Machine) -> None:
    machine.remove(PATH)
