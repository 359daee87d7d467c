"""The differences between pcscd and pypcscd that are meant: all of them, and the only place.

Keyed by scenario and line of the transcript; the number is that of the entry in docs/differences.md.
What both say is written out, so that a listed line is pinned no less than the others.
"""

from typing import NamedTuple


class Difference(NamedTuple):
    entry: int
    pcscd: str
    ours: str


DIFFERENCES: dict[tuple[str, str], Difference] = {}
