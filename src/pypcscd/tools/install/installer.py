"""Installs, step by step; if one fails, those before it are undone."""

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import PurePosixPath

from pypcscd.tools.install import manifest as manifests
from pypcscd.tools.install.items import PACKAGED_UNITS, SERVICE_UNIT, SOCKET_UNIT, SYSUSERS, UNITS, USER, Item
from pypcscd.tools.install.machine import InstallError, Machine, digest, is_mask
from pypcscd.tools.install.manifest import Manifest
from pypcscd.tools.install.remover import remove_user, settle, stop_and_disable


class State(Enum):
    """Of an item: how what is there compares with what is wanted."""

    MISSING = "missing"
    THERE = "there"
    OLD = "old"
    CHANGED = "changed"


class Installer:
    """One installation on one machine."""

    def __init__(self, machine: Machine, items: Sequence[Item], say: Callable[[str], None]) -> None:
        """``say``: gets a line for each step. Raises InstallError."""
        self._machine = machine
        self._items = items
        self._say = say
        known = manifests.load(machine)
        self.is_first = known is None
        self.manifest = known or Manifest()
        #: what to call to be where we were, and what that restores
        self._undo: list[tuple[str, Callable[[], object]]] = []

    # --- looking ------------------------------------------------------------------------------

    def state(self, item: Item) -> State:
        present = self._machine.read(item.path)
        if present is None or is_mask(present):
            return State.MISSING
        if present == item:
            return State.THERE
        return State.OLD if digest(present) == self.manifest.files.get(str(item.path)) else State.CHANGED

    def has_user(self) -> bool:
        return self._machine.says_yes("getent", "passwd", USER)

    def is_enabled(self) -> bool:
        return self._machine.says_yes("systemctl", "is-enabled", "--quiet", SOCKET_UNIT)

    def is_active(self) -> bool:
        return self._machine.says_yes("systemctl", "is-active", "--quiet", SOCKET_UNIT)

    # --- installing ---------------------------------------------------------------------------

    def install(self) -> None:
        """Do what is still to be done. Raises InstallError, when everything is as it was before."""
        try:
            if self.is_first and self._machine.has_systemd:
                self._stop_other_daemon()
            changed = self._write_files()
            self._make_user()
            if changed:
                self._read_rules()
            self._start_socket(changed)
        except BaseException:
            self._take_back()
            raise

    def _stop_other_daemon(self) -> None:
        """Of a package whose units' place is taken; there is nothing to stop where there is none."""
        for unit in (SOCKET_UNIT, SERVICE_UNIT):
            # Without a unit it is only the script for init that a removed package has left.
            is_unit = any(self._machine.at(folder / unit).exists() for folder in PACKAGED_UNITS)
            if is_unit and self._machine.says_yes("systemctl", "is-enabled", "--quiet", unit):
                self.manifest.was_enabled.append(unit)
            if self._machine.says_yes("systemctl", "is-active", "--quiet", unit):
                self.manifest.was_active.append(unit)
        active = self.manifest.was_active
        if active:
            self._undo.append(("the daemon that was there before", lambda: None))
            self._machine.order("systemctl", "stop", *active)
            self._say(f"stopped {' and '.join(active)} of the pcscd that is installed")

    def _write_files(self) -> list[PurePosixPath]:
        """The paths that are new or different now."""
        states = {item: self.state(item) for item in self._items}
        for item, state in states.items():
            if state is State.CHANGED:
                self._say(f"kept {self._machine.at(item.path)}: changed since it was installed")
        due = [item for item, state in states.items() if state in (State.MISSING, State.OLD)]
        ours = {str(item.path): digest(item) for item in states if states[item] is not State.CHANGED}
        obsolete = self._obsolete()
        if self.is_first or obsolete or self.manifest.files | ours != self.manifest.files:
            present = self._machine.read(manifests.PATH)
            self._undo.append(("the record of what is installed", lambda: self._restore_record(present)))
            self.manifest.files |= ours
            self.manifest.masked += [str(item.path) for item in due if is_mask(self._machine.read(item.path))]
            # Before the files: who uninstalls after a power failure finds what has been written.
            manifests.save(self._machine, self.manifest)
        for item in due:
            self._write(item)
        for item in obsolete:
            self._remove(item)
        return [item.path for item in (*due, *obsolete)]

    def _obsolete(self) -> list[Item]:
        """What was installed before, is as it was then, and is not wanted any more."""
        wanted = {str(item.path) for item in self._items}
        files = (
            (PurePosixPath(path), known) for path, known in self.manifest.files.items() if path not in wanted
        )
        found = ((self._machine.read(path), known) for path, known in files)
        return [item for item, known in found if item is not None and digest(item) == known]

    def _remove(self, item: Item) -> None:
        self._undo.append((str(self._machine.at(item.path)), lambda: self._put_back(item.path, item)))
        self._machine.remove(item.path)
        del self.manifest.files[str(item.path)]
        manifests.save(self._machine, self.manifest)
        self._say(f"removed {self._machine.at(item.path)}: not needed any more")

    def _write(self, item: Item) -> None:
        present = self._machine.read(item.path)
        self._undo.append((str(self._machine.at(item.path)), lambda: self._put_back(item.path, present)))
        folders = self._machine.write(item)
        if folders:
            self.manifest.folders += map(str, folders)
            manifests.save(self._machine, self.manifest)
        target = f" -> {item.content.decode(errors='replace')}" if item.is_link else ""
        self._say(f"wrote {self._machine.at(item.path)}{target}")

    def _make_user(self) -> None:
        machine = self._machine
        if machine.is_staged:
            self._say(f"skipped: the user {USER} is made from {SYSUSERS} when that system starts")
            return
        if self.has_user():
            return
        self._undo.append((f"that there is no user {USER}", lambda: remove_user(machine)))
        if machine.says_yes("systemd-sysusers", "--version"):
            machine.order("systemd-sysusers", str(machine.at(SYSUSERS)))
        else:
            shell = ("--home-dir", "/", "--no-create-home", "--shell", "/usr/sbin/nologin")
            machine.order("useradd", "--system", "--user-group", *shell, USER)
        self.manifest.made_user = True
        manifests.save(machine, self.manifest)
        self._say(f"created user and group {USER}")

    def _read_rules(self) -> None:
        if not self._machine.has_udev:
            self._say("skipped: udev does not run here; it reads its rules when it starts")
            return
        self._machine.order("udevadm", "control", "--reload")
        self._machine.order("udevadm", "trigger", "--subsystem-match=usb", "--action=change")
        self._say("udev has read its rules again, for readers that are plugged in, too")

    def _start_socket(self, changed: Sequence[PurePosixPath]) -> None:
        machine = self._machine
        if not machine.has_systemd:
            where = f"--root={machine.root} " if machine.is_staged else ""
            self._say(
                f"skipped: systemd does not run here; to be done: systemctl {where}enable {SOCKET_UNIT}"
            )
            return
        if any(path.parent == UNITS for path in changed):
            machine.order("systemctl", "daemon-reload")
        if self.is_first or not self.is_enabled():
            self._undo.append(
                (f"that {SOCKET_UNIT} is not enabled", lambda: stop_and_disable(machine, self._say))
            )
            machine.order("systemctl", "enable", SOCKET_UNIT)
            self._say(f"enabled {SOCKET_UNIT}: it is there whenever the system has started")
        if not self.is_active():
            machine.order("systemctl", "start", SOCKET_UNIT)
            self._say(f"started {SOCKET_UNIT}: the first program that asks for readers starts the daemon")
        elif changed:
            self._say(f"to use the new files, when it suits: systemctl restart {SOCKET_UNIT} {SERVICE_UNIT}")

    # --- undoing ------------------------------------------------------------------------------

    def _put_back(self, path: PurePosixPath, present: Item | None) -> None:
        if present is None:
            self._machine.remove(path)
        else:
            self._machine.write(present)

    def _restore_record(self, present: Item | None) -> None:
        self._put_back(manifests.PATH, present)
        if present is None:
            for folder in reversed(self.manifest.folders):
                self._machine.remove_folder(PurePosixPath(folder))

    def _take_back(self) -> None:
        """As far as it goes: what cannot be undone is said, and the rest is undone."""
        if not self._undo:
            return
        for what, undo in reversed(self._undo):
            try:
                undo()
            except InstallError as error:
                self._say(f"could not restore {what}: {error}")
            else:
                self._say(f"restored {what}")
        settle(self._machine, self.manifest if self.is_first else Manifest(), self._say)
