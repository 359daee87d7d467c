"""Programs that want the same card: transactions of one APDU, with and without time to think between."""

from collections.abc import Iterator
from typing import Any

from bench.daemons import Daemon
from bench.lineup import Bench, Figures
from bench.results import Row

#: microseconds; key and words for it
THINKING = ((0, "contend", "without a pause"), (5000, "think", "5 ms between"))


def figures(answer: Any, _used: float) -> Figures:
    return {
        "rate": answer["count"] / answer["seconds"],
        "fairness": answer["least"] / answer["most"],
        "p50": answer["p50"] / 1000,
        "p99": answer["p99"] / 1000,
        "worst": answer["worst_p99"] / 1000,
        "longest": answer["max"] / 1000,
    }


def measure(bench: Bench) -> Iterator[Row]:
    plan = bench.plan
    with bench.daemons(bench.kinds, 2) as daemons:
        for think, prefix, words in THINKING:
            for clients in plan.contenders:
                name = f"{clients} clients, {words}"
                bench.say(name)

                def client(daemon: Daemon, clients: int = clients, think: int = think) -> Any:
                    return daemon.client("contend", daemon.readers()[0], clients, think)

                samples = bench.in_turns(
                    daemons, client, plan.contention_rounds, plan.contention_seconds, figures
                )
                for figure, title, unit, more in (
                    ("rate", "transactions", "/s", True),
                    ("fairness", "fairness, fewest/most (1: fair)", "", True),
                    ("p50", "wait, p50", "ms", False),
                    ("p99", "wait, p99", "ms", False),
                    ("worst", "wait, p99 of the worst-off client", "ms", False),
                    ("longest", "longest wait", "ms", False),
                ):
                    yield Row.of(
                        f"{prefix}-{clients}-{figure}",
                        "contention",
                        f"{name}: {title}",
                        unit,
                        samples[figure],
                        more_is_better=more,
                    )
