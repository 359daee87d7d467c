"""Many readers at work at the same time, an APDU of 5 bytes after the other in each."""

from collections.abc import Iterator, Sequence
from typing import Any

from bench.daemons import VPCD, Daemon
from bench.lineup import Bench, Figures
from bench.programs import Conversation
from bench.results import Row

_FREE = 8


def key(readers: int) -> str:
    return f"readers-{readers}"


def measure(bench: Bench) -> Iterator[Row]:
    plan = bench.plan
    count = max(plan.readers)
    with bench.daemons(bench.kinds, count) as daemons:
        for readers in plan.readers:
            yield from _together(bench, daemons, readers)
        if plan.has_variants:
            bench.say(f"{_FREE} readers on any processor")
            samples = _samples(bench, daemons, _FREE, free=True)
            title = f"{_FREE} readers, on any processor: time per APDU"
            yield Row.of(f"readers-{_FREE}-free", "readers", title, "µs", samples["time"])
    if plan.readers_ours:
        with bench.daemons([VPCD], max(plan.readers_ours)) as daemons:
            for readers in plan.readers_ours:
                yield from _together(bench, daemons, readers)


def _together(bench: Bench, daemons: Sequence[Daemon], readers: int) -> Iterator[Row]:
    bench.say(f"{readers} readers")
    samples = _samples(bench, daemons, readers)
    name = "1 reader" if readers == 1 else f"{readers} readers"
    yield Row.of(key(readers), "readers", f"{name}: time per APDU", "µs", samples["time"])
    yield Row.of(f"{key(readers)}-cpu", "readers", f"{name}: CPU of the daemon", "µs", samples["cpu"])
    yield Row.of(
        f"{key(readers)}-fairness",
        "readers",
        f"{name}: slowest reader's share (1: fair)",
        "",
        samples["fairness"],
        more_is_better=True,
        compared=False,
    )


def _samples(bench: Bench, daemons: Sequence[Daemon], readers: int, free: bool = False) -> Any:
    def client(daemon: Daemon) -> Conversation:
        return daemon.client("parallel", *daemon.readers()[:readers])

    def figures(answer: Any, used: float) -> Figures:
        count = answer["count"]
        return {
            "time": answer["seconds"] * 1e6 / count,
            "cpu": used * 1e6 / count,
            "fairness": answer["least"] * readers / count,
        }

    return bench.in_turns(daemons, client, bench.plan.rounds, bench.plan.seconds, figures, free=free)
