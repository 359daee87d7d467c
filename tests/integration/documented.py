"""The commands and files that a page of the documentation shows, for tests that run just these.

A block of commands begins with ```sh, a file with ```toml or ```text; what only explains has other names.
"""

import re
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> dict[str, list[str]]:
    """heading -> the blocks of that language below it."""
    found: dict[str, list[str]] = {}
    heading = ""
    text = (DOCS / page).read_text()
    for title, kind, block in re.findall(
        r"^#+ ([^\n]*)$|^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        heading = title or heading
        if kind == language:
            found.setdefault(heading, []).append(block)
    return found


def adapted(text: str, changes: Mapping[str, str | Path]) -> str:
    """The text with other names; each of them must occur."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in {text!r}"
        text = text.replace(old, str(new))
    return text
