"""The command ``pypcscd install``."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pypcscd.tools.install import checks
from pypcscd.tools.install.installer import Installer, State
from pypcscd.tools.install.items import SOCKET_UNIT, USER, wanted
from pypcscd.tools.install.machine import InstallError, Machine

_SAID = {
    State.MISSING: ("missing", "would be written"),
    State.THERE: ("ok", ""),
    State.OLD: ("old", "would be written anew"),
    State.CHANGED: ("changed", "changed since it was installed, would be kept"),
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="pypcscd install",
        description="Let this system start pypcscd where pcscd would be: units of systemd, a user, rules of "
        "udev, manual pages, completion for bash. What was done is undone if a step fails, and by "
        "pypcscd uninstall.",
    )
    add_prefix_option(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; say what is there, what is not, what would be done",
    )
    parser.add_argument(
        "--program",
        metavar="PATH",
        type=_absolute,
        help="the command pypcscd as the units shall name it (this one)",
    )
    parser.add_argument(
        "--over-package",
        action="store_true",
        help="leave the package pcscd installed, because other packages need it, and take its units' place",
    )
    options = parser.parse_args(arguments)
    try:
        machine = machine_at(options.prefix)
        program = options.program or checks.own_program()
        if options.check:
            return _check(machine, program, over_package=options.over_package)
        require_root(options.prefix, "install")
        _install(machine, program, over_package=options.over_package)
    except InstallError as error:
        print(f"pypcscd install: {error}", file=sys.stderr)
        return 1
    return 0


def add_prefix_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefix",
        metavar="DIR",
        type=Path,
        help="another root than /, such as that of an image: only files are put in place there",
    )


def _absolute(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if not path.is_absolute() or any(character.isspace() or character in "%$\"'\\" for character in text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an absolute path of plain characters")
    return path


def machine_at(prefix: Path | None) -> Machine:
    return Machine((prefix or Path("/")).absolute(), is_staged=prefix is not None)


def say(step: str) -> None:
    """Tell of a step; that nobody reads it any more is no reason to leave things half done."""
    with contextlib.suppress(OSError):
        print(step, flush=True)


def require_root(prefix: Path | None, word: str) -> None:
    if prefix is None and os.geteuid() != 0:
        raise InstallError(f"this changes the system, so it must be run by root: sudo {sys.argv[0]} {word}")


def _install(machine: Machine, program: PurePosixPath, *, over_package: bool) -> None:
    items = list(wanted(program, machine.root))
    installer = Installer(machine, items, say)
    obstacles = list(_obstacles(machine, installer, program, over_package=over_package))
    if obstacles:
        raise InstallError("nothing was changed, because\n" + "\n".join(f"- {text}" for text in obstacles))
    for path in checks.drop_ins(machine):
        say(f"note: {path} changes the unit and stays in force")
    installer.install()
    shows = "" if machine.is_staged else ", pypcscd status shows readers and clients"
    say(f"done; pypcscd uninstall takes it back{shows}")


def _obstacles(
    machine: Machine, installer: Installer, program: PurePosixPath, *, over_package: bool
) -> Iterator[str]:
    """What must be out of the way first, each in words."""
    found: list[str | None] = []
    if installer.is_first and not over_package:
        found.append(checks.other_daemon(machine))
    if installer.is_first:
        found.append(checks.stray_daemon(machine))
    if not machine.is_staged:
        # In a tree nobody can tell where things will be when it runs.
        hidden = checks.hidden_parts(machine, program)
        found.append(hidden)
        if hidden is None and os.geteuid() == 0:
            found.append(checks.closed_program(machine, program))
    yield from filter(None, found)
    yield from checks.foreign_files(machine, installer.manifest, wanted(program, machine.root))


def _check(machine: Machine, program: PurePosixPath, *, over_package: bool) -> int:
    lines: list[tuple[str, str, str]] = []
    installer = Installer(machine, (), print)
    obstacles = list(_obstacles(machine, installer, program, over_package=over_package))
    for item in wanted(program, machine.root):
        state = installer.state(item)
        lines.append((_SAID[state][0], str(machine.at(item.path)), _SAID[state][1]))

    def add(what: str, is_there: Callable[[], bool], otherwise: str) -> None:
        lines.append(("ok", what, "") if is_there() else ("missing", what, otherwise))

    if not machine.is_staged:
        add(f"user {USER}", installer.has_user, "would be created")
    if machine.has_systemd:
        add(f"{SOCKET_UNIT} enabled", installer.is_enabled, "would be enabled")
        add(f"{SOCKET_UNIT} active", installer.is_active, "would be started")
    for word, what, remark in lines:
        print(f"{word:<8} {what}{': ' if remark else ''}{remark}")
    for text in obstacles:
        print(f"in the way: {text}")
    is_complete = all(word in ("ok", "changed") for word, _, _ in lines) and not obstacles
    print("everything is in place" if is_complete else "not installed as it should be")
    return 0 if is_complete else 1
