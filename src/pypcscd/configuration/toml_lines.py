"""On which line of a TOML text something stands, which ``tomllib`` does not tell.

A place is named by the way to it: ``("socket", 1, "users", 0)`` is the first user of the second
``[[socket]]``, and the same if it is written ``socket = [{…}, {users = […]}]``.
"""

import re
import tomllib
from collections.abc import Iterator

Place = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*'")
#: the longer quotes first; up to two more quotes may stand before the three that end a text
_TEXT = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2}(?!"))|'
    r"'''.*?'''(?:'{0,2}(?!'))|"
    r"\"(?:[^\"\\]|\\.)*\"|'[^']*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\n]+")


def find_lines(text: str) -> dict[Place, int]:
    """The line of each key, table and list item, counted from 1. The text must be correct TOML."""
    return _Scanner(text).scan()


class _Scanner:
    """Goes through the text once. It looks for no mistakes, because ``tomllib`` has found none."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Place, int] = {}
        #: how many [[tables]] of a name there are so far
        self._counts: dict[Place, int] = {}

    def scan(self) -> dict[Place, int]:
        table: Place = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._assignment(table)
            self._skip(_BLANK)
        return self._lines

    def _header(self) -> Place:
        line = self._line()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        table: Place = ()
        parts = self._dotted_key()
        for number, part in enumerate(parts):
            table = (*table, part)
            is_new = is_array and number == len(parts) - 1
            if is_new:
                self._counts[table] = self._counts.get(table, 0) + 1
            self._lines.setdefault(table, line)
            if table in self._counts:
                # what follows is in the last of them
                table = (*table, self._counts[table] - 1)
                self._lines.setdefault(table, line)
        self._at += 2 if is_array else 1
        return table

    def _assignment(self, table: Place) -> None:
        line = self._line()
        for part in self._dotted_key():
            table = (*table, part)
            self._lines.setdefault(table, line)
        self._at += 1  # the sign =
        self._value(table)

    def _dotted_key(self) -> list[str]:
        """``a."b c".d``, and whatever is blank around it."""
        parts = []
        while True:
            self._skip(_BLANK)
            part = self._skip(_KEY)
            parts.append(tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part)
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _value(self, place: Place) -> None:
        self._skip(_BLANK)
        match self._text[self._at]:
            case "[":
                for number in self._items("]"):
                    self._lines[*place, number] = self._line()
                    self._value((*place, number))
            case "{":
                for _ in self._items("}"):
                    self._assignment(place)
            case '"' | "'":
                self._skip(_TEXT)
            case _:
                self._skip(_PLAIN)

    def _items(self, end: str) -> Iterator[int]:
        """Stops at each item of a list or an inline table, which is to be read by the caller."""
        self._at += 1  # the bracket
        self._skip(_BLANK)
        number = 0
        while not self._text.startswith(end, self._at):
            yield number
            number += 1
            self._skip(_BLANK)
            if self._text.startswith(",", self._at):
                self._at += 1
                self._skip(_BLANK)
        self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        assert found is not None, "tomllib has found this text correct"
        self._at = found.end()
        return found[0]

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1
