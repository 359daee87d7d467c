"""The dynamic list of readers: names, numbers and the snapshot that clients are shown."""

import fnmatch
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence

from pypcscd.manager.reader import Reader
from pypcscd.scard import MAX_READERNAME, ReaderStatus

#: the counter of reader events is a signed 16-bit number and never 0
_MOST_READER_EVENTS = 0x7FFF


def cut(text: str, room: int) -> str:
    """As much of a text as takes ``room`` bytes at most; no character is cut in half."""
    text = text[:room]
    while len(text.encode("utf-8", "surrogateescape")) > room:
        text = text[:-1]
    return text


def reader_name(base: str, number: int, slot: int) -> str:
    """``"base XX YY"``: reader number and slot in hexadecimal; a long base is cut to fit 127 bytes."""
    numbers = f" {number:02X} {slot:02X}"
    return cut(base, MAX_READERNAME - 1 - len(numbers)) + numbers


class View:
    """A chosen part of the readers, as one socket shows it; what it does not show does not exist there."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """``patterns``: globs of reader names; a reader that matches any of them is shown."""
        self._patterns = tuple(patterns)
        self._shown: dict[str, Reader] = {}
        self._snapshot: tuple[ReaderStatus, ...] | None = None
        #: how often readers came and went: 1 at the start, 1 again after 32,767
        self.reader_events = 1
        #: the most readers that were ever shown at the same time
        self.most_readers = 0

    def wants(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)

    def shows(self, reader: Reader) -> bool:
        return reader.name in self._shown

    def readers(self) -> Iterator[Reader]:
        """The readers shown, in the order in which they came."""
        return iter(self._shown.values())

    def find(self, name: str) -> Reader | None:
        return self._shown.get(name)

    def snapshot(self) -> tuple[ReaderStatus, ...]:
        """What clients see now. The same object until something changes."""
        if self._snapshot is None:
            self._snapshot = tuple(reader.status for reader in self._shown.values())
        return self._snapshot

    def add(self, readers: Iterable[Reader]) -> None:
        self._shown |= {reader.name: reader for reader in readers}
        self.most_readers = max(self.most_readers, len(self._shown))
        self.touch()

    def remove(self, readers: Iterable[Reader]) -> None:
        for reader in readers:
            del self._shown[reader.name]
        self.touch()

    def count_reader_event(self) -> None:
        self.reader_events = self.reader_events + 1 if self.reader_events < _MOST_READER_EVENTS else 1

    def touch(self) -> None:
        """Something that clients see has changed."""
        self._snapshot = None


class Roster:
    """All readers in the order in which they came, the numbers they have, and the views of them."""

    def __init__(self) -> None:
        #: shows every reader
        self.everything = View(("*",))
        self._views = [self.everything]
        #: for each group the numbers that are taken, and the names that they go with
        self._numbers: dict[str, dict[int, str]] = {}

    def add_view(self, patterns: Sequence[str]) -> View:
        """A new view, which shows what is there already if it matches."""
        view = View(patterns)
        view.add(reader for reader in self if view.wants(reader.name))
        self._views.append(view)
        return view

    def keep_views(self, used: Collection[View]) -> None:
        """Forget the views that nobody uses any more."""
        self._views = [view for view in self._views if view is self.everything or view in used]

    def __iter__(self) -> Iterator[Reader]:
        return self.everything.readers()

    def allocate_number(
        self, group: str, wish: int | None = None, spared: Collection[int] = (), *, name: str = ""
    ) -> int:
        """A reader number that is free in the group, and for the name; it is taken until it is released.

        The wish if it is free, else the lowest number that is not in ``spared``. ``name``: without
        numbers; two drivers, which number their readers apart, may have readers of the same name.
        """
        ours = self._numbers.setdefault(group, {})
        taken = set(ours)
        taken.update(n for numbers in self._numbers.values() for n in numbers if numbers[n] == name != "")
        number = wish
        if number is None or number in taken:
            number = next(n for n in itertools.count() if n not in taken and n not in spared)
        ours[number] = name
        return number

    def release_number(self, group: str, number: int) -> None:
        del self._numbers[group][number]

    def add(self, readers: Sequence[Reader]) -> None:
        """Show these readers of one device. Raises ValueError if one has the name of another."""
        for reader in readers:
            if self.everything.find(reader.name) is not None:
                raise ValueError(f"there is already a reader named {reader.name!r}")
        for view in self._views:
            shown = [reader for reader in readers if view.wants(reader.name)]
            if shown:
                view.add(shown)
                view.count_reader_event()

    def remove(self, readers: Sequence[Reader]) -> None:
        """Show these readers of one device no more."""
        for view in self._views:
            shown = [reader for reader in readers if view.shows(reader)]
            if shown:
                view.remove(shown)
                view.count_reader_event()

    def touch(self) -> None:
        """Something that clients see of a reader has changed."""
        for view in self._views:
            view.touch()
