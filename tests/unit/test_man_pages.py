"""The manual pages tell of all options and settings, of no others, and are free of mistakes."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pypcscd import cli
from pypcscd.configuration import tables

PAGES = Path(__file__).parents[2] / "docs/man"
DAEMON = PAGES / "pypcscd.8"
SETTINGS = PAGES / "pypcscd.toml.5"
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def plain(text: str) -> str:
    return text.replace(r"\-", "-")


def entries(text: str) -> list[str]:
    """What stands at the head of each paragraph, without its fonts."""
    heads = re.findall(r"^\.TP\n(.*)$", text, re.MULTILINE)
    return [plain(re.sub(r"\\f[RIBP]|^\.[BI]+ ", "", head)) for head in heads]


def section(path: Path, name: str) -> str:
    _, _, rest = path.read_text().partition(f"\n.SH {name}\n")
    assert rest, f"{path.name} has a section {name}"
    return rest.partition("\n.SH ")[0]


def the_help() -> str:
    command = [sys.executable, "-m", "pypcscd", "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_options_are_those_of_the_program() -> None:
    # The lines that begin with options, not what is said about them.
    lines = re.findall(r"^  (-.*?)(?:  |$)", the_help(), re.MULTILINE)
    known = {option for line in lines for option in OPTION.findall(line)}
    assert {"--help", "-f", "--socket"} <= known
    documented = {option for head in entries(section(DAEMON, "OPTIONS")) for option in OPTION.findall(head)}
    assert documented == known


def test_the_tools_are_those_of_the_program() -> None:
    assert entries(section(DAEMON, "TOOLS")) == list(cli._TOOLS)


def known_settings(known: Mapping[str, tables.Converter], name: str = "") -> Iterator[tuple[str, set[str]]]:
    """Each table as it is headed, [power] or [[reader]], with its keys."""
    for key, convert in known.items():
        inner = f"{name}.{key}" if name else key
        match convert:
            case tables.ListOf(convert=tables.TableOf() as table):
                yield f"[[{inner}]]", set(table.known)
                yield from known_settings(table.known, inner)
            case tables.TableOf() as table if not name:
                yield f"[{inner}]", set(table.known)
                yield from known_settings(table.known, inner)


def test_the_settings_are_those_of_the_program() -> None:
    _, *parts = section(SETTINGS, "DESCRIPTION").split("\n.SS ")
    documented = {part.partition("\n")[0]: set(entries(part)) for part in parts}
    assert documented == dict(known_settings(tables.FILE))
    assert {"[limits]", "[[socket]]", "[[usb.reader]]"} <= documented.keys()


@pytest.mark.parametrize("page", [DAEMON, SETTINGS], ids=lambda page: page.name)
def test_pages_are_well_formed(page: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed; groff-base has it")
    command = ["groff", "-man", "-Tutf8", "-ww", str(page)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert page.stem.upper() in done.stdout
