"""From a card's insertion or removal to the clients that wait for it in SCardGetStatusChange."""

import random
import statistics
import time
from collections.abc import Iterator, Mapping

from bench.daemons import VPCD, Daemon
from bench.lineup import Bench
from bench.results import Row

#: how long a driver without events sleeps between looks, seconds; events come at random moments of it
POLLING = 0.4
#: turns of each daemon
TURNS = 4


def measure(bench: Bench) -> Iterator[Row]:
    plan = bench.plan
    generator = random.Random(1)
    with bench.daemons(bench.kinds, 2) as daemons:
        for clients in plan.waiting:
            name = "1 client" if clients == 1 else f"{clients} clients"
            bench.say(f"card events for {name}")
            turns: dict[str, list[list[list[float]]]] = {}
            for _ in range(TURNS):
                for daemon in daemons:
                    events = plan.events if daemon.kind == VPCD else plan.events_polled
                    if clients > 1:
                        events = min(events, plan.events_polled // 2)
                    found = list(_events(daemon, clients, events // TURNS, generator))
                    turns.setdefault(daemon.kind.key, []).append(found)
            yield from _rows(clients, name, turns)


def _rows(clients: int, name: str, turns: Mapping[str, list[list[list[float]]]]) -> Iterator[Row]:
    """``turns``: for each daemon its turns, of these the events, of these the milliseconds of clients."""
    prefix = f"event-{clients}"
    events = {kind: [event for turn in found for event in turn] for kind, found in turns.items()}
    last = {kind: [event[-1] for event in found] for kind, found in events.items()}
    if clients == 1:
        p50 = {
            kind: [statistics.median(event[-1] for event in turn) for turn in found]
            for kind, found in turns.items()
        }
        yield Row.of(f"{prefix}-p50", "events", "card event to the client, p50", "ms", p50)
        p99 = {kind: [_quantile(found, 0.99)] for kind, found in last.items()}
        yield Row.of(f"{prefix}-p99", "events", "card event to the client, p99", "ms", p99)
        return
    yield Row.of(f"{prefix}-all", "events", f"card event to the last of {name}", "ms", last)
    spread = {kind: [event[-1] - event[0] for event in found] for kind, found in events.items()}
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
