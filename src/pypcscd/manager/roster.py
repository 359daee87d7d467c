"""The dynamic list of readers: names, numbers and the snapshot that clients are shown."""

from collections.abc import Iterable, Iterator

from pypcscd.manager.reader import Reader
from pypcscd.scard import MAX_READERNAME, ReaderStatus

#: room that the two hexadecimal numbers and the final NUL take in a reader name, bytes
_SUFFIX_ROOM = 7


def reader_name(base: str, number: int, slot: int) -> str:
    """``"base XX YY"``: reader number and slot in hexadecimal; a long base is cut to fit 127 bytes."""
    room = MAX_READERNAME - _SUFFIX_ROOM
    encoded = base.encode("utf-8", "surrogateescape")
    if len(encoded) > room:
        base = encoded[:room].decode("utf-8", "ignore")
    return f"{base} {number:02X} {slot:02X}"


class Roster:
    """All readers in the order in which they came."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []
        self._by_name: dict[str, Reader] = {}
        self._numbers: dict[str, set[int]] = {}
        self._snapshot: tuple[ReaderStatus, ...] | None = ()

    def __iter__(self) -> Iterator[Reader]:
        return iter(self._readers)

    def allocate_number(self, group: str) -> int:
        """The lowest reader number that is free in the group; it is taken until it is released."""
        taken = self._numbers.setdefault(group, set())
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        taken.add(number)
        return number

    def release_number(self, group: str, number: int) -> None:
        self._numbers[group].discard(number)

    def add(self, readers: Iterable[Reader]) -> None:
        """Show these readers. Raises ValueError if one has the name of another."""
        added = list(readers)
        for reader in added:
            if reader.name in self._by_name:
                raise ValueError(f"there is already a reader named {reader.name!r}")
        self._readers += added
        self._by_name |= {reader.name: reader for reader in added}
        self.touch()

    def remove(self, readers: Iterable[Reader]) -> None:
        for reader in readers:
            self._readers.remove(reader)
            del self._by_name[reader.name]
        self.touch()

    def find(self, name: str) -> Reader | None:
        return self._by_name.get(name)

    def touch(self) -> None:
        """Something that clients see has changed."""
        self._snapshot = None

    def snapshot(self) -> tuple[ReaderStatus, ...]:
        """What clients see now. The same object until something changes."""
        if self._snapshot is None:
            self._snapshot = tuple(reader.status for reader in self._readers)
        return self._snapshot
