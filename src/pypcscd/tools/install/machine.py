"""The system that is installed into: a running one, or a tree that will become one."""

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pypcscd.tools.install.items import Item

#: seconds; starting a unit is the longest of what is asked for
_PATIENCE = 60
_NOBODY = 65534
MASK = b"/dev/null"


class InstallError(Exception):
    """What cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    output: str


def run(command: Sequence[str], *, as_nobody: bool = False) -> Done:
    """Run a command to its end; one that is not installed has the status 127, as in a shell."""
    identity = {"user": _NOBODY, "group": _NOBODY, "extra_groups": ()} if as_nobody else {}
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            cwd="/",
            **identity,  # type: ignore[call-overload]
        )
    except FileNotFoundError:
        return Done(127, f"{command[0]} is not installed")
    except PermissionError as error:
        return Done(126, str(error))
    except subprocess.TimeoutExpired:
        return Done(124, f"no end after {_PATIENCE} seconds")
    return Done(ended.returncode, ended.stdout.strip())


def digest(item: Item) -> str:
    """What the manifest remembers of an item: enough to tell whether somebody has changed it."""
    return hashlib.sha256((b"link " if item.is_link else b"file ") + item.content).hexdigest()


class Machine:
    """Reads and writes a system's files, and runs its commands."""

    def __init__(self, root: Path, *, is_staged: bool, run: Callable[..., Done] = run) -> None:
        """``is_staged``: nothing runs there yet, so files are all that can be put in place."""
        self.root = root
        self.is_staged = is_staged
        self.run = run

    def at(self, path: PurePosixPath | str) -> Path:
        """Where a path of that system is found from here."""
        return self.root / str(path).lstrip("/")

    @property
    def has_systemd(self) -> bool:
        return not self.is_staged and self.at("/run/systemd/system").is_dir()

    @property
    def has_udev(self) -> bool:
        return not self.is_staged and self.at("/run/udev/control").exists()

    def order(self, *command: str) -> None:
        """Run a command that must succeed. Raises InstallError."""
        done = self.run(command)
        if done.status:
            raise InstallError(f"'{' '.join(command)}' failed: {done.output or f'status {done.status}'}")

    def says_yes(self, *command: str) -> bool:
        return self.run(command).status == 0

    def read(self, path: PurePosixPath) -> Item | None:
        """What is at a path now; None: nothing. A masked unit is a link to /dev/null. Raises InstallError."""
        place = self.at(path)
        try:
            if place.is_symlink():
                return Item(path, os.fsencode(place.readlink()), is_link=True)
            return Item(path, place.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InstallError(f"cannot read {place}: {error.strerror}") from error

    def write(self, item: Item) -> list[PurePosixPath]:
        """Put an item in place, all of it or nothing; returns the folders made for it, outermost first.

        Raises InstallError.
        """
        place = self.at(item.path)
        made = [folder for folder in item.path.parents if not self.at(folder).exists()]
        new = place.with_name(f".{place.name}.new")
        try:
            for folder in reversed(made):
                self.at(folder).mkdir(mode=0o755)
                self.at(folder).chmod(0o755)
            new.unlink(missing_ok=True)
            if item.is_link:
                new.symlink_to(os.fsdecode(item.content))
            else:
                new.write_bytes(item.content)
                new.chmod(0o644)
            new.replace(place)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            for folder in made:
                self.remove_folder(folder)
            raise InstallError(f"cannot write {place}: {error.strerror}") from error
        return made[::-1]

    def remove(self, path: PurePosixPath) -> None:
        try:
            self.at(path).unlink(missing_ok=True)
        except OSError as error:
            raise InstallError(f"cannot remove {self.at(path)}: {error.strerror}") from error

    def remove_folder(self, path: PurePosixPath) -> bool:
        """Unless there is something in it."""
        try:
            self.at(path).rmdir()
        except OSError:
            return False
        return True


def is_mask(item: Item | None) -> bool:
    """systemd's way to switch a unit off."""
    return item is not None and item.is_link and item.content == MASK
