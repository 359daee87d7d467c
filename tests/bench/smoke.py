"""A short run whose ratios have wide bounds: it notices that something became much slower, and no less.

A bound is two to three times what was measured when it was set. A part with a row beyond its bound is
measured again, because this machine may just have been busy; only what is beyond each time is told.
"""

import sys
import time
from collections.abc import Iterator, Mapping

from bench import session
from bench.plan import SMOKE
from bench.results import REFERENCE, Row
from bench.table import number, plain

ATTEMPTS = 3

#: row -> which of ours, and the bound of its ratio to pcscd
BOUNDS: Mapping[str, Mapping[str, float]] = {
    "apdu-5": {"vpcd": 1.8, "native": 3.5},
    "apdu-5-cpu": {"vpcd": 2.0, "native": 5.0},
    "apdu-64k": {"vpcd": 2.0, "native": 4.0},
    "status": {"vpcd": 3.0},
    "list": {"vpcd": 3.0},
    "changes": {"vpcd": 3.0},
    "connect": {"vpcd": 3.5},
    "readers-8": {"vpcd": 2.0},
    "contend-4-rate": {"vpcd": 0.6},
    "contend-4-worst": {"vpcd": 0.1},
    "think-4-p99": {"vpcd": 0.1},
    "event-1-p50": {"vpcd": 0.1},
    # of processor time: the wall time of a start is that of whatever else runs
    "exec-cpu": {"vpcd": 90.0},
    "rss": {"vpcd": 14.0},
    "rss-client": {"vpcd": 1.0},
    "idle-wakeups": {"vpcd": 0.3},
    "idle-cpu": {"vpcd": 0.3},
}


def best_ratio(row: Row, kind: str) -> float:
    """Of the best rounds: what else the machine does makes all rounds worse, but not alike."""
    ours, reference = row.values[kind], row.values[REFERENCE]
    if row.more_is_better:
        return ours.most / reference.most
    return ours.least / reference.least


def beyond(rows: list[Row]) -> Iterator[tuple[str, str]]:
    """The rows beyond their bounds: row and kind, and what to say of it."""
    for row in rows:
        for kind, bound in BOUNDS.get(row.key, {}).items():
            ratio = best_ratio(row, kind)
            is_beyond = ratio < bound if row.more_is_better else ratio > bound
            if is_beyond:
                sign = "at least" if row.more_is_better else "at most"
                yield (
                    f"{row.key}/{kind}",
                    f"{row.title} ({kind}): {number(ratio)} times pcscd's, should be {sign} {number(bound)}",
                )


def _say(_what: str) -> None:
    """Progress is not told: it is short."""


def main() -> int:
    started = time.monotonic()
    failures: dict[str, str] = {}
    measured: list[Row] = []
    with session.private(SMOKE, _say) as bench:
        for part in session.PARTS:
            found = dict(beyond(rows := session.measure(bench, part)))
            measured += rows
            for _ in range(ATTEMPTS - 1):
                if not found:
                    break
                print(f"measuring again: {'; '.join(found.values())}", file=sys.stderr, flush=True)
                again = dict(beyond(session.measure(bench, part)))
                found = {key: again[key] for key in found if key in again}
            failures |= found
            print(f"{time.monotonic() - started:4.0f} s  {part}", file=sys.stderr, flush=True)
    print(plain(measured))
    unmeasured = set(BOUNDS) - {row.key for row in measured}
    print(f"\n{len(measured)} rows in {time.monotonic() - started:.0f} s")
    for text in [*failures.values(), *(f"not measured: {key}" for key in sorted(unmeasured))]:
        print(f"bench-smoke: FAILED {text}")
    if failures:
        print("bench-smoke: make bench measures it properly; tests/bench/smoke.py has the bounds")
    return bool(failures or unmeasured)
