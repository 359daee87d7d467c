"""The manual pages tell of all options and settings, of no others, and are free of mistakes."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pypcscd import cli
from pypcscd.configuration import settings_file

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


def known_settings() -> set[str]:
    """The keys of all tables that convert values."""
    tables = [
        value
        for name, value in vars(settings_file).items()
        if not name.startswith("__")
        and isinstance(value, Mapping)
        and value
        and all(callable(converter) for converter in value.values())
    ]
    assert len(tables) >= 5
    return {key for table in tables for key in table}


def test_the_settings_are_those_of_the_program() -> None:
    text = section(SETTINGS, "DESCRIPTION")
    tables = {name.partition(".")[0] for name in re.findall(r"^\.SS \[+([\w.]+)\]+$", text, re.MULTILINE)}
    assert tables == set(settings_file._TABLES)
    assert set(entries(text)) == known_settings()


@pytest.mark.parametrize("page", [DAEMON, SETTINGS], ids=lambda page: page.name)
def test_pages_are_well_formed(page: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed; groff-base has it")
    command = ["groff", "-man", "-Tutf8", "-ww", str(page)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert page.stem.upper() in done.stdout
