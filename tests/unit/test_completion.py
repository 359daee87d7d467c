"""What bash completes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pypcscd import cli
from pypcscd.tools.install.items import FILES

SCRIPT = FILES / "pypcscd.bash"
PROGRAM = Path(sys.executable).with_name("pypcscd")
#: fills in what bash does, and prints what it would offer
ASK = """
source "$1"; shift
eval "$(complete -p pypcscd | sed 's/.*-F \\([^ ]*\\).*/ask=\\1/')"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"$ask" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(*words: str) -> list[str]:
    """What is offered for the last word."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    command = ["bash", "--norc", "-c", ASK, "bash", str(SCRIPT), str(PROGRAM), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_tools() -> None:
    assert sorted(offered("")) == sorted(cli._TOOLS)
    assert offered("sp") == ["spy"]


def test_options_of_the_daemon() -> None:
    assert {"--socket", "--virtual", "--max-thread", "-f"} <= set(offered("-"))
    assert offered("--max-card-handle-per-r") == ["--max-card-handle-per-reader"]


@pytest.mark.parametrize(
    ("tool", "option"), [("run", "--card"), ("spy", "--pcapng"), ("install", "--over-package")]
)
def test_options_of_a_tool(tool: str, option: str) -> None:
    everything = offered(tool, "-")
    assert option in everything
    assert "--max-thread" not in everything
    assert offered(tool, option[:4]) == [option]


def test_cards() -> None:
    assert offered("run", "--card", "h") == ["hello"]
    assert set(offered("--virtual", "")) == {"hello", "sle4442", "echo", "none"}


def test_the_command_of_somebody_else_is_not_ours() -> None:
    assert offered("run", "--", "pcsc_scan", "-") == []
