"""Uninstalls: takes away what was installed, and leaves what somebody has changed since."""

from collections.abc import Callable
from pathlib import PurePosixPath

from pypcscd.tools.install import manifest as manifests
from pypcscd.tools.install.items import SERVICE_UNIT, SOCKET_UNIT, USER, Item
from pypcscd.tools.install.machine import MASK, InstallError, Machine, digest
from pypcscd.tools.install.manifest import Manifest

#: what the daemon leaves there when it is killed, and the folder itself
_RUNTIME = ("/run/pcscd/pcscd.pid", "/run/pcscd")


def uninstall(machine: Machine, say: Callable[[str], None]) -> bool:
    """Restore what was there before; False if something had to be left behind. Raises InstallError."""
    manifest = manifests.load(machine)
    if manifest is None:
        raise InstallError(f"nothing has been installed by pypcscd install ({machine.at(manifests.PATH)})")
    if machine.has_systemd:
        stop_and_disable(machine, say)
    is_clean = True
    for path, known in manifest.files.items():
        is_clean &= _remove(machine, PurePosixPath(path), known, say)
    for path in manifest.masked:
        if machine.read(PurePosixPath(path)) is None:
            machine.write(Item(PurePosixPath(path), MASK, is_link=True))
            say(f"masked {machine.at(path)} again, as it was")
    if manifest.made_user and not machine.is_staged:
        try:
            remove_user(machine)
            say(f"removed user and group {USER}")
        except InstallError as error:
            say(str(error))
            is_clean = False
    settle(machine, manifest, say)
    if not machine.is_staged:
        _clean_runtime(machine)
    machine.remove(manifests.PATH)
    for folder in reversed(manifest.folders):
        machine.remove_folder(PurePosixPath(folder))
    return is_clean


def _remove(machine: Machine, path: PurePosixPath, known: str, say: Callable[[str], None]) -> bool:
    present = machine.read(path)
    if present is None:
        return True
    if digest(present) != known:
        say(f"left {machine.at(path)}: changed since it was installed; delete it yourself")
        return False
    machine.remove(path)
    say(f"removed {machine.at(path)}")
    return True


def stop_and_disable(machine: Machine, say: Callable[[str], None]) -> None:
    """A unit that somebody has removed already is no reason to go no further."""
    for command in (("stop", SOCKET_UNIT, SERVICE_UNIT), ("disable", SOCKET_UNIT)):
        done = machine.run(("systemctl", *command))
        words = " ".join(command)
        say(f"systemctl {words}" if done.status == 0 else f"could not {words}: {done.output}")


def remove_user(machine: Machine) -> None:
    if machine.says_yes("getent", "passwd", USER):
        machine.order("userdel", USER)


def settle(machine: Machine, manifest: Manifest, say: Callable[[str], None]) -> None:
    """Let systemd and udev see the files that are there now, and start what ran before ours came."""
    if machine.has_udev:
        machine.run(("udevadm", "control", "--reload"))
        machine.run(("udevadm", "trigger", "--subsystem-match=usb", "--action=change"))
    if not machine.has_systemd:
        return
    machine.run(("systemctl", "daemon-reload"))
    for verb, units in (("enable", manifest.was_enabled), ("start", manifest.was_active)):
        for unit in units:
            done = machine.run(("systemctl", verb, unit))
            word = f"{verb} {unit}, as before"
            say(word if done.status == 0 else f"could not {word}: {done.output}")


def _clean_runtime(machine: Machine) -> None:
    """The folder stays if another daemon uses it now."""
    pid_file, folder = map(PurePosixPath, _RUNTIME)
    if not any(path.is_socket() for path in machine.at(folder).glob("*")):
        machine.remove(pid_file)
        machine.remove_folder(folder)
