"""What stands against an installation: another pcscd, or a program that the service could not run."""

import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pypcscd.tools.install.items import LINKS, PACKAGED_UNITS, SERVICE_UNIT, SOCKET_UNIT, UNITS, Item
from pypcscd.tools.install.machine import InstallError, Machine, is_mask
from pypcscd.tools.install.manifest import Manifest

_PROGRAM = PurePosixPath("/usr/sbin/pcscd")
_PID_FILE = PurePosixPath("/run/pcscd/pcscd.pid")
_DPKG_STATUS = PurePosixPath("/var/lib/dpkg/status")
#: package manager -> what removes the daemon and keeps libpcsclite
_REMOVERS = {
    "apt": "apt remove pcscd",
    "dnf": "dnf remove pcsc-lite",
    "zypper": "zypper remove pcsc-lite",
}
#: what ProtectHome and PrivateTmp of the service hide from it
_HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
_SCRATCH = tuple(map(Path, ("/tmp", "/var/tmp")))
_SHOWS_HOMES = re.compile(r"^\s*ProtectHome\s*=\s*(no|false|off|0|read-only)\s*$", re.MULTILINE)
_PACKAGES = ("pypcscd", "pypcscd_ccid", "pypcscd_ifdhandler", "pypcscd_virtual", "usb", "pyudev")
_ELSEWHERE = (
    "in the folder of its sources: /usr/bin/python3 -m venv /opt/pypcscd && "
    "/opt/pypcscd/bin/pip install . && /opt/pypcscd/bin/pypcscd install"
)


def own_program() -> PurePosixPath:
    """The command that is running, as a path that a unit can name. Raises InstallError."""
    called = Path(sys.argv[0])
    if called == Path(LINKS / "pypcscd") and called.is_symlink():
        # Our own link: the units name what it points to, by whichever name it was called.
        called = called.parent / called.readlink()
    folders = [Path(sysconfig.get_path("scripts")), Path(sysconfig.get_path("scripts", "posix_user"))]
    if called.name == "pypcscd":
        folders.insert(0, Path(os.path.abspath(called.parent)))  # noqa: PTH100  links are kept
    for folder in folders:
        program = folder / "pypcscd"
        if os.access(program, os.X_OK):
            return PurePosixPath(program)
    raise InstallError(f"there is no command 'pypcscd' in {folders[0]}; name it with --program")


def other_daemon(machine: Machine) -> str | None:
    """An installed pcscd, in words, and what removes it; None if there is none."""
    found = next(_traces(machine), None)
    if found is None:
        return None
    removers = (text for name, text in _REMOVERS.items() if machine.at(f"/usr/bin/{name}").exists())
    remover = next(removers, "remove its package, but keep the library libpcsclite")
    return (
        f"{found}. Remove it first: {remover}. Or, because drivers or tools depend on its package: "
        "pypcscd install --over-package, which leaves the package there and takes the place of its units"
    )


def _traces(machine: Machine) -> Iterator[str]:
    if _dpkg_has_pcscd(machine):
        yield "the package pcscd is installed"
    if machine.at(_PROGRAM).exists():
        yield f"pcscd is installed, as {machine.at(_PROGRAM)}"
    for folder in PACKAGED_UNITS:
        for unit in (SOCKET_UNIT, SERVICE_UNIT):
            if machine.at(folder / unit).exists():
                yield f"another {unit} is installed, as {machine.at(folder / unit)}"


def _dpkg_has_pcscd(machine: Machine) -> bool:
    item = machine.read(_DPKG_STATUS)
    if item is None:
        return False
    entries = item.content.split(b"\n\n")
    entry = next((entry for entry in entries if entry.startswith(b"Package: pcscd\n")), b"")
    # "not-installed" and "half-installed" are single words
    return re.search(rb"^Status: .* installed$", entry, re.MULTILINE) is not None


def stray_daemon(machine: Machine) -> str | None:
    """A daemon that runs without a unit, in words; None if there is none."""
    item = None if machine.is_staged else machine.read(_PID_FILE)
    text = item.content.rstrip(b"\n\0 ").decode(errors="replace") if item is not None else ""
    if not text.isdecimal() or not machine.at(f"/proc/{text}").exists():
        return None
    if machine.has_systemd and machine.says_yes("systemctl", "is-active", "--quiet", SERVICE_UNIT):
        return None
    return f"a daemon is running as process {text}, not from {SERVICE_UNIT}: stop it first: kill {text}"


def drop_ins(machine: Machine) -> list[Path]:
    """An administrator's additions to the units: they are kept, and count for ours, too."""
    folders = (machine.at(UNITS / f"{unit}.d") for unit in (SOCKET_UNIT, SERVICE_UNIT))
    return [path for folder in folders for path in sorted(folder.glob("*.conf"))]


def hidden_parts(machine: Machine, program: PurePosixPath) -> str | None:
    """What of the program the service would not see, in words, and what to do; None: it sees all."""
    parts = [Path(program), Path(program).resolve()]
    if program == _own_program_or_none():
        parts += map(Path, (sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)))
        specs = (importlib.util.find_spec(name) for name in _PACKAGES)
        parts += (Path(spec.origin).resolve() for spec in specs if spec is not None and spec.origin)
    shows_homes = any(_SHOWS_HOMES.search(path.read_text(errors="replace")) for path in drop_ins(machine))
    for part in parts:
        for folder in _SCRATCH if shows_homes else (*_HOMES, *_SCRATCH):
            if part.is_relative_to(folder):
                return (
                    f"the service cannot use {part}, because {folder} is hidden from it (ProtectHome, "
                    f"PrivateTmp). Install pypcscd where everybody may read, for example {_ELSEWHERE}"
                )
    return None


def _own_program_or_none() -> PurePosixPath | None:
    try:
        return own_program()
    except InstallError:
        return None


def closed_program(machine: Machine, program: PurePosixPath) -> str | None:
    """Why an ordinary user, as the service's one is, cannot run the program; None: it can. Needs root."""
    done = machine.run((str(program), "--version"), as_nobody=True)
    if done.status == 0:
        return None
    said = done.output.splitlines()[-1] if done.output else f"status {done.status}"
    return (
        f"a user without rights cannot run {program} ({said}), so the user pcscd could not. Give others the "
        f"right to read it and to pass through its folders, or install it elsewhere, for example {_ELSEWHERE}"
    )


def foreign_files(machine: Machine, manifest: Manifest, items: Iterable[Item]) -> Iterator[str]:
    """Files in our places that are not ours, in words."""
    for item in items:
        present = machine.read(item.path)
        if present not in (None, item) and str(item.path) not in manifest.files and not is_mask(present):
            yield f"{machine.at(item.path)} is there and not from pypcscd install: move it away"
