"""The line of everything in a TOML text."""

import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pypcscd.configuration.toml_lines import Place, find_lines


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Whatever is neither a table nor a list, with its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*place, number))
    else:
        yield place, value


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Whatever there is, tables and lists included, except for the whole."""
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*place, key))


def check(text: str) -> None:
    """Every number in the text is that of its line."""
    content = tomllib.loads(text)
    lines = find_lines(text)
    assert set(lines) == set(places(content))
    numbers = [(place, value) for place, value in leaves(content) if type(value) is int]
    assert numbers, "nothing would be checked"
    assert [(place, lines[place]) for place, _ in numbers] == numbers


@pytest.mark.parametrize(
    "text",
    [
        "a = 1",
        "\r\n# a = 9\r\na = 3 # a = 9\r\nb=4\r\n",
        "a.b.c = 1\na . b . d = 2\n'a'.\"e f\" = 3\n",
        '"\\u0061" = 1\n"b = \\"9\\" #" = 2\n\'c = [\' = 3\n"" = 4\n',
        "[a]\nb = 2\n[ a . 'c' ]\nd = 4\n[\"[a]\"]\nb = 6\n",
        "[[a]]\nb = 2\n[[a]]\nb = 4\n[[ a ]]\nb = 6\n",
        "[[a]]\n[a.b]\nc = 3\n[[a]]\n[a.b]\nc = 6\n",
        "[[a]]\n[[a.b]]\nc = 3\n[[a.b]]\nc = 5\n[[a]]\n[[a.b]]\nc = 8\n",
        "a = [1, 1,\n2, # 9, ]\n\n4,\n]\nb = 6\n",
        "a = [[1], [\n2], [{b = 2}, {b = 2, c = [\n3,\n4]}], 4]\n",
        "a = {b = 1, c.d = 1, e = {f = 1}}\ng = 2\n",
        "a = []\nb = {}\nc = 3\n[d]\n[[e]]\nf = 6\n",
        's = "]" # \\"\na = 2\ns2 = \'[x]\\\'\nb = 4\n',
        's = """\na = 9\n[t]\n\\""" "" """\nb = 5\n',
        "s = '''\na = 9\n\\'''\nb = 4\n",
        's = """a"" """""\nb = 2\nt = \'\'\'x\'\'\'\'\'\nc = 4\n',
        's = """\\\\"""\nb = 2\n',
        "when = 1979-05-27 07:32:00 # x\nx = inf\ny = [true,false]\na = 4\n",
        "a = 0x1\nb = 0b10\nc = 0o3\nd = +4\n",
    ],
)
def test_every_way_to_write(text: str) -> None:
    check(text)


def test_tables_and_lists_have_lines_too() -> None:
    text = "\n[[socket]]\n\nusers = [\n  'a',\n]\n[[socket]]\n[limits]\n"
    assert find_lines(text) == {
        ("socket",): 2,
        ("socket", 0): 2,
        ("socket", 0, "users"): 4,
        ("socket", 0, "users", 0): 5,
        ("socket", 1): 7,
        ("limits",): 8,
    }


def test_nothing() -> None:
    assert find_lines("") == {}
    assert find_lines(" # only this") == {}


class Writer:
    """Writes a value as TOML, each number of it replaced by the line on which it is written."""

    def __init__(self, draw: Callable[..., str]) -> None:
        self._draw = draw
        self.text = ""

    def _pick(self, *choices: str) -> str:
        return self._draw(st.sampled_from(choices))

    def _key(self, key: str) -> str:
        return self._pick(key, f'"{key}"', f"'{key}'")

    def document(self, tables: list[dict[str, Any]]) -> None:
        for table in tables:
            self.text += self._pick("", "\n", '# [[t]] x = 9 \' """\n', " \r\n")
            self.text += self._pick("[[t]]", "[[ 't' ]] # [[t]]", '[["t"]]') + "\n"
            for key, value in table.items():
                self.text += self._pick("", "\t", "\n \n") + self._key(key) + self._pick("=", " = ")
                self._value(value, may_break=True)
                self.text += self._pick("\n", " # x = [9, '\n", "\r\n\n")

    def _value(self, value: Any, *, may_break: bool) -> None:
        if isinstance(value, dict):
            self.text += "{"
            for number, (key, inner) in enumerate(value.items()):
                self.text += (", " if number else " ") + self._key(key) + " = "
                self._value(inner, may_break=may_break)
            self.text += "}"
        elif isinstance(value, list):
            blanks = ("", " ", "\n", '\n# ], 9 "\n\n')
            self.text += "["
            for inner in value:
                self.text += self._pick(*blanks)
                self._value(inner, may_break=may_break)
                self.text += self._pick(*blanks) + ","
            self.text += self._pick(*blanks) + "]"
        elif isinstance(value, str):
            self.text += self._pick(
                '"a # ] = \\" "', "'[[t]] } \\'", '"""\n[t]\n x = 9 \\""" """', "'''\n, ]\n'''"
            )
        else:
            self.text += str(self.text.count("\n") + 1)


KEYS = st.text("abcdefgh-_0", min_size=1, max_size=3)
VALUES = st.recursive(
    st.integers(0, 1) | st.just("text"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.data())
def test_whatever_is_written(data: st.DataObject) -> None:
    tables = data.draw(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=3))
    writer = Writer(data.draw)
    writer.document([{**tables[0], "x": 0}, *tables[1:]])
    check(writer.text)
