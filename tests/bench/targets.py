"""What the figures shall be, as data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.results import Row

#: for ratios
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Target:
    row: str
    #: which of ours
    kind: str
    limit: float
    #: of the ratio to pcscd, or else of the value itself
    is_ratio: bool = True
    #: the limit is the least that will do
    at_least: bool = False

    def text(self, unit: str) -> str:
        sign = "≥" if self.at_least else "≤"
        number = f"{self.limit:g}"
        return f"{sign} {number} {TIMES}" if self.is_ratio else f"{sign} {number} {unit}".rstrip()

    def figure(self, row: Row) -> float | None:
        value = (row.ratios if self.is_ratio else row.values).get(self.kind)
        return None if value is None else value.median

    def is_met(self, figure: float) -> bool:
        return figure >= self.limit if self.at_least else figure <= self.limit


_SIZES = ("5", "255", "4k", "64k")
_CONTENDERS = (2, 4, 8)

TARGETS: tuple[Target, ...] = (
    *(Target(f"apdu-{size}", "vpcd", 0.8) for size in _SIZES),
    *(Target(f"apdu-{size}-cpu", "vpcd", 1.0) for size in _SIZES),
    *(Target(f"apdu-{size}", "native", 1.5) for size in _SIZES),
    *(
        Target(f"{how}-{count}-fairness", "vpcd", 0.8, is_ratio=False, at_least=True)
        for how in ("contend", "think")
        for count in _CONTENDERS
    ),
    *(
        Target(f"{how}-{count}-rate", "vpcd", 1.0, at_least=True)
        for how in ("contend", "think")
        for count in _CONTENDERS
    ),
    # where nobody pauses, nearly all of pcscd's waits are short ones: those of the client that keeps the card
    *(Target(f"contend-{count}-worst", "vpcd", 0.05) for count in _CONTENDERS),
    *(Target(f"think-{count}-p99", "vpcd", 0.05) for count in _CONTENDERS),
    # of cards that need no time: the few APDUs of slow ones cost what first ones cost
    *(Target(f"usb-rate-{cards}-cpu", "ccid", 1.0) for cards in (1, 8)),
    Target("usb-flat", "ccid", 1.05, is_ratio=False),
    Target("exec-visible", "vpcd", 0.5),
    Target("exec-cpu", "vpcd", 120, is_ratio=False),
    Target("idle-wakeups", "vpcd", 0, is_ratio=False),
    Target("idle-cpu", "vpcd", 0, is_ratio=False),
    Target("rss", "vpcd", 30, is_ratio=False),
    Target("rss-client", "vpcd", 30, is_ratio=False),
    *(Target(call, "vpcd", 1.2) for call in ("status", "list", "changes")),
    *(Target(call, "vpcd", 1.5) for call in ("connect", "connect-reset")),
    Target("event-1-p99", "vpcd", 1, is_ratio=False),
)


@dataclass(frozen=True)
class Verdict:
    target: Target
    row: Row
    figure: float

    @property
    def is_met(self) -> bool:
        return self.target.is_met(self.figure)


def judge(rows: Mapping[str, Row]) -> Iterator[Verdict]:
    """For each target whose row was measured."""
    for target in TARGETS:
        row = rows.get(target.row)
        figure = target.figure(row) if row is not None else None
        if row is not None and figure is not None:
            yield Verdict(target, row, figure)


def unjudged(rows: Mapping[str, Row]) -> list[str]:
    """The rows that targets are for and that were not measured."""
    return sorted({target.row for target in TARGETS if target.row not in rows})
