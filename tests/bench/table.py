"""The results as tables: for a terminal, and in Markdown."""

from collections.abc import Iterable, Mapping, Sequence

from bench.results import REFERENCE, Row, Value
from bench.targets import Verdict, judge

DASH = "\N{EN DASH}"
GROUPS = {
    "apdu": "APDU round trips, one client and one card",
    "calls": "Other calls, one client",
    "readers": "Readers in parallel",
    "contention": "Clients that contend for one card with transactions",
    "events": "Card events",
    "start": "Start",
    "memory": "Memory",
    "idle": "Idle",
    "counted": "One client, in counted instructions",
    "usb": "CCID readers on simulated USB",
}
#: in the order of columns
COLUMNS = {
    "pcscd": "pcscd",
    "vpcd": "built-in vpcd",
    "native": "native library",
    "ccid": "CCID driver",
}


def number(value: float) -> str:
    """With about three digits."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def spread(value: Value) -> str:
    """The median, and the quartiles where they tell something."""
    if value.count == 1 or number(value.low) == number(value.high):
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)}{DASH}{number(value.high)})"


def lines(rows: Iterable[Row]) -> list[tuple[Row, str, list[Verdict]]]:
    """Each row, for each of ours that is compared in it, with the targets for it."""
    by_key = {row.key: row for row in rows}
    verdicts = list(judge(by_key))
    found = []
    for row in by_key.values():
        for kind in COLUMNS:
            if kind in row.values and kind != REFERENCE:
                mine = [verdict for verdict in verdicts if verdict.row is row and verdict.target.kind == kind]
                found.append((row, kind, mine))
    return found


def _cells(row: Row, kind: str, verdicts: Sequence[Verdict]) -> list[str]:
    unit = f", {row.unit}" if row.unit else ""
    reference = row.values.get(REFERENCE)
    ratio = row.ratios.get(kind)
    return [
        row.title + unit,
        spread(reference) if reference else DASH,
        spread(row.values[kind]),
        spread(ratio) if ratio else DASH,
        "; ".join(verdict.target.text(row.unit) for verdict in verdicts),
        "; ".join("met" if verdict.is_met else "missed" for verdict in verdicts),
    ]


HEAD = ["", "pcscd", "ours", "ours / pcscd", "target", ""]


def grouped(rows: Sequence[Row]) -> Mapping[str, Mapping[str, list[list[str]]]]:
    """Group -> which of ours -> lines of cells."""
    found: dict[str, dict[str, list[list[str]]]] = {}
    for row, kind, verdicts in lines(rows):
        found.setdefault(row.group, {}).setdefault(kind, []).append(_cells(row, kind, verdicts))
    return found


def plain(rows: Sequence[Row]) -> str:
    out = []
    for group, kinds in grouped(rows).items():
        for kind, cells in kinds.items():
            table = [[f"{GROUPS[group]}: {COLUMNS[kind]}", *HEAD[1:]], *cells]
            widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
            out.append("")
            for line in table:
                padded = [line[0].ljust(widths[0])]
                padded += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
                out.append("  ".join(padded).rstrip())
    return "\n".join(out)


def markdown(cells: Sequence[Sequence[str]]) -> str:
    head = ["", "pcscd", "pypcscd", "ratio", "target", ""]
    shown = [head, ["---", *["---:"] * 3, "---", "---"], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)
