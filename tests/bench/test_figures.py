"""What the benchmarks make of figures; the figures themselves are for ``make bench``."""

import json
from pathlib import Path

import pytest

from bench import page, smoke
from bench.results import Row
from bench.table import plain
from bench.targets import TARGETS, judge


def row(key: str, pcscd: list[float], ours: list[float], kind: str = "vpcd", more: bool = False) -> Row:
    return Row.of(key, "apdu", f"row {key}", "µs", {"pcscd": pcscd, kind: ours}, more_is_better=more)


def test_ratios_are_those_of_neighbours() -> None:
    """A machine that becomes slow touches both: the ratio of the medians would be 1."""
    found = row("x", [10, 10, 100, 100, 100], [20, 20, 20, 200, 200])
    assert found.ratios["vpcd"].median == 2


def test_a_reference_of_nothing_has_no_ratio() -> None:
    assert row("x", [0], [1]).ratios == {}


def test_targets_are_met_and_missed() -> None:
    rows = {each.key: each for each in (row("apdu-5", [100], [80]), row("status", [10], [13]))}
    assert {verdict.row.key: verdict.is_met for verdict in judge(rows)} == {"apdu-5": True, "status": False}


def test_the_table_says_what_is_missed() -> None:
    text = plain([row("apdu-5", [100], [90]), row("status", [10], [11])])
    (missed,) = [line for line in text.splitlines() if line.endswith("missed")]
    assert missed.startswith("row apdu-5")
    assert sum(line.endswith("met") for line in text.splitlines()) == 1


@pytest.mark.parametrize("better", ["less", "more"])
def test_the_guard_tells_what_is_beyond(better: str) -> None:
    key = "status" if better == "less" else "contend-4-rate"
    bound = smoke.BOUNDS[key]["vpcd"]
    factor = 1.1 if better == "less" else 0.9
    within = row(key, [100], [100 * bound / factor], more=better == "more")
    beyond = row(key, [100], [100 * bound * factor], more=better == "more")
    assert not list(smoke.beyond([within]))
    ((name, text),) = smoke.beyond([beyond])
    assert name == f"{key}/vpcd"
    assert f"row {key}" in text


def test_the_guard_looks_at_the_best_rounds() -> None:
    assert not list(smoke.beyond([row("status", [100, 100, 100], [100, 900, 900])]))


def test_the_page_tells_losses_and_gains(tmp_path: Path) -> None:
    rows = [row("apdu-5", [100], [150]), row("list", [100], [50]), row("status", [100], [118])]
    machine = {"processors": 2, "system": "Debian", "python": "3.11", "pcscd": "1.9.9", "load": 0.1}
    result = {"date": "2026-01-01", "machine": machine, "rows": [each.dump() for each in rows]}
    page.write(json.loads(json.dumps(result)), tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "row apdu-5 (built-in vpcd): 1.50" in text.partition("Slower or more costly")[0]
    assert "1 of 3 lines, 1.18 times as much; worst: row status" in text
    assert "1 of 3 lines, 2.00 times as good; best: row list" in text
    assert "2 of 3 are met." in text
    assert "$" not in text


def test_each_target_names_something_of_ours() -> None:
    assert {target.kind for target in TARGETS} <= {"vpcd", "native", "ccid"}
    assert len({(target.row, target.kind) for target in TARGETS}) == len(TARGETS)
