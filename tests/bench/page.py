"""``docs/performance.md``, its plots and the figures behind it, from the results of a run."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from string import Template
from typing import Any

from bench import plots
from bench.results import Row
from bench.table import COLUMNS, GROUPS, grouped, lines, markdown, number
from bench.targets import TIMES, Verdict, judge

TEMPLATE = Path(__file__).with_name("page.md")
#: beside the page: the plots and the results
FOLDER = "performance"
#: the least difference that is called one
_NOTABLE = 1.05
_ALT = {
    "readers": "time and processor time per APDU for growing numbers of readers",
    "contention": "throughput and waits for growing numbers of clients",
    "usb": "time and processor time for growing numbers of USB readers",
}


def write(result: Mapping[str, Any], docs: Path) -> None:
    rows = [Row.load(row) for row in result["rows"]]
    by_key = {row.key: row for row in rows}
    folder = docs / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    drawn = plots.draw(by_key, folder)
    verdicts = list(judge(by_key))
    missed = [verdict for verdict in verdicts if not verdict.is_met]
    parts = dict.fromkeys(GROUPS, "(not measured)")
    parts |= {group: _tables(kinds) for group, kinds in grouped(rows).items()}
    parts |= {
        f"{name}_plot": f"![{_ALT[name]}]({FOLDER}/{name}.svg)" if name in drawn else "" for name in _ALT
    }
    parts |= {
        "date": result["date"],
        "machine": _machine(result["machine"]),
        "quiet": _quiet(result["machine"]),
        "score": f"{len(verdicts) - len(missed)} of {len(verdicts)} are met.",
        "missed": _bullets(map(_missed, missed)),
        "gains": _bullets(_gains(rows)),
        "losses": _bullets(_losses(rows, missed)),
    }
    text = Template(TEMPLATE.read_text()).substitute(parts)
    (docs / "performance.md").write_text(text.replace("\n\n\n", "\n\n"))


def _tables(kinds: Mapping[str, Sequence[Sequence[str]]]) -> str:
    return "\n\n".join(f"**{COLUMNS[kind]}**\n\n{markdown(cells)}" for kind, cells in kinds.items())


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['processors']} processors, {machine['system']}, Python {machine['python']}, "
        f"pcscd {machine['pcscd']}"
    )


def _quiet(machine: Mapping[str, Any]) -> str:
    if machine["load"] < machine["processors"] / 4:
        return "It had nothing else to do."
    return (
        f"It had other work at the time (load average {machine['load']:.1f} at the beginning), "
        "so absolute values are worse than they could be, and quartiles wide. That is harder on a Python "
        "daemon, which has more to bring back into the caches after each switch to another program; the "
        "figures of the virtual machines, at the end, do not depend on it."
    )


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts) or "- none"


def _missed(verdict: Verdict) -> str:
    row, target = verdict.row, verdict.target
    unit = TIMES if target.is_ratio else row.unit
    figure = f"{number(verdict.figure)} {unit}".rstrip()
    return f"{row.title} ({COLUMNS[target.kind]}): {figure}, target {target.text(row.unit)}"


def _factor(row: Row, kind: str) -> float:
    """How many times as good ours is; below 1: worse."""
    median = row.ratios[kind].median
    if row.more_is_better:
        return median
    return 1 / median if median > 0 else math.inf


def _gains(rows: Sequence[Row]) -> Iterator[str]:
    yield from _summary(rows, set(), _factor, "times as good", "best")


def _losses(rows: Sequence[Row], missed: Sequence[Verdict]) -> Iterator[str]:
    told = {(verdict.row.key, verdict.target.kind) for verdict in missed}
    yield from _summary(rows, told, lambda row, kind: 1 / _factor(row, kind), "times as much", "worst")


def _summary(
    rows: Sequence[Row],
    without: Set[tuple[str, str]],
    factor: Callable[[Row, str], float],
    unit: str,
    superlative: str,
) -> Iterator[str]:
    """A sentence for each table that has lines where the factor is notable."""
    tables: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row, kind, _ in lines(rows):
        if kind in row.ratios:
            tables.setdefault((row.group, kind), []).append((factor(row, kind), row))
    for (group, kind), found in tables.items():
        notable = [each for each in found if each[0] > _NOTABLE and (each[1].key, kind) not in without]
        if not notable:
            continue
        notable.sort(key=lambda each: each[0])
        least, (most, extreme) = notable[0][0], notable[-1]
        span = _span(least, most, unit)
        head = f"{GROUPS[group]} ({COLUMNS[kind]}): {len(notable)} of {len(found)} lines"
        yield f"{head}, {span}; {superlative}: {extreme.title}"


def _span(least: float, most: float, unit: str) -> str:
    if least == math.inf:
        return "nothing instead of something"
    if most == math.inf:
        return f"{number(least)} {unit} to nothing instead of something"
    if number(least) == number(most):
        return f"{number(most)} {unit}"
    return f"{number(least)} to {number(most)} {unit}"
