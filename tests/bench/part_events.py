"""From a card's insertion or removal to the clients that wait for it in SCardGetStatusChange."""

import random
import time
from collections.abc import Iterator

from bench.daemons import VPCD, Daemon
from bench.lineup import Bench
from bench.results import Row

#: how long a driver without events sleeps between looks, seconds; events come at random moments of it
POLLING = 0.4
#: turns of each daemon
TURNS = 2


def measure(bench: Bench) -> Iterator[Row]:
    plan = bench.plan
    generator = random.Random(1)
    with bench.daemons(bench.kinds, 2) as daemons:
        for clients in plan.waiting:
            name = "1 client" if clients == 1 else f"{clients} clients"
            bench.say(f"card events for {name}")
            first: dict[str, list[float]] = {}
            last: dict[str, list[float]] = {}
            for _ in range(TURNS):
                for daemon in daemons:
                    events = plan.events if daemon.kind == VPCD else plan.events_polled
                    if clients > 1:
                        events = min(events, plan.events_polled // 2)
                    for woken in _events(daemon, clients, events // TURNS, generator):
                        first.setdefault(daemon.kind.key, []).append(woken[0])
                        last.setdefault(daemon.kind.key, []).append(woken[-1])
            yield from _rows(clients, name, first, last)


def _rows(
    clients: int, name: str, first: dict[str, list[float]], last: dict[str, list[float]]
) -> Iterator[Row]:
    prefix = f"event-{clients}"
    if clients == 1:
        yield Row.of(f"{prefix}-p50", "events", "card event to the client, p50", "ms", last)
        p99 = {kind: [_quantile(found, 0.99)] for kind, found in last.items()}
        yield Row.of(f"{prefix}-p99", "events", "card event to the client, p99", "ms", p99)
        return
    yield Row.of(f"{prefix}-all", "events", f"card event to the last of {name}", "ms", last)
    spread = {kind: [b - a for a, b in zip(first[kind], last[kind], strict=True)] for kind in first}
    yield Row.of(f"{prefix}-spread", "events", f"first to last of {name} woken", "ms", spread)


def _quantile(samples: list[float], fraction: float) -> float:
    return sorted(samples)[round(fraction * (len(samples) - 1))]


def _events(daemon: Daemon, clients: int, count: int, generator: random.Random) -> Iterator[list[float]]:
    """For each event the milliseconds until each client, sorted."""
    reader = daemon.readers()[0]
    pause = 0.02 if daemon.kind == VPCD else POLLING
    with daemon.client("waiting", reader, clients) as waiting:
        is_in = True
        for _ in range(count):
            time.sleep(0.01 + generator.uniform(0, pause))
            began = daemon.emulator.ask("remove 0" if is_in else "insert 0")
            is_in = not is_in
            heard = waiting.hear()
            assert heard["present"] == is_in
            yield sorted((at - began) / 1e6 for at in heard["woken"])
            waiting.await_ready()
    if not is_in:
        daemon.emulator.ask("insert 0")
        daemon.wait("the card again", lambda: reader in daemon.readers(with_card=True))
