"""Memory, and what a daemon does while nobody wants anything of it."""

import time
from collections.abc import Iterator

from bench import processes
from bench.daemons import NATIVE, Daemon
from bench.lineup import Bench
from bench.results import Row

#: readers of the daemon that the others are compared with
_FEW = 2


def measure(bench: Bench) -> Iterator[Row]:
    yield from _memory(bench)
    yield from _idle(bench)


def _memory(bench: Bench) -> Iterator[Row]:
    plan = bench.plan
    bench.say("memory")
    empty, few, per_client, per_reader = {}, {}, {}, {}
    for kind in bench.kinds:
        with Daemon(kind, _FEW, bench.programs, bench.cpu) as daemon:
            before = _resident(daemon)
            few[kind.key] = [before / 1024]
            with daemon.client("waiting", "-", plan.idle_clients):
                per_client[kind.key] = [(_resident(daemon) - before) / plan.idle_clients]
        if plan.has_variants:
            with Daemon(kind, plan.idle_readers, bench.programs, bench.cpu) as daemon:
                per_reader[kind.key] = [(_resident(daemon) - before) / (plan.idle_readers - _FEW)]
        if plan.has_variants and kind != NATIVE:
            with Daemon(kind, 0, bench.programs, bench.cpu) as daemon:
                empty[kind.key] = [_resident(daemon) / 1024]
    yield Row.of("rss", "memory", f"RSS with {_FEW} readers and cards, helpers included", "MiB", few)
    yield Row.of("rss-client", "memory", "RSS for each idle client more", "KiB", per_client)
    if plan.has_variants:
        yield Row.of("rss-reader", "memory", "RSS for each reader more", "KiB", per_reader)
        yield Row.of("rss-empty", "memory", "RSS without readers", "MiB", empty)


def _resident(daemon: Daemon) -> int:
    """When it has calmed down."""
    last = -1
    while (now := processes.resident_kib(daemon.pid)) != last:
        last = now
        time.sleep(0.2)
    return now


def _idle(bench: Bench) -> Iterator[Row]:
    """All at the same time: that is what idle means."""
    plan = bench.plan
    bench.say(f"idle for {plan.settle + plan.idle:g} s")
    with bench.daemons(bench.kinds, plan.idle_readers) as daemons:
        time.sleep(plan.settle)
        before = [(processes.wakeups(daemon.pid), daemon.cpu_seconds()) for daemon in daemons]
        time.sleep(plan.idle)
        wakeups, cpu = {}, {}
        for daemon, (woken, used) in zip(daemons, before, strict=True):
            wakeups[daemon.kind.key] = [(processes.wakeups(daemon.pid) - woken) / plan.idle]
            cpu[daemon.kind.key] = [(daemon.cpu_seconds() - used) * 1e6 / plan.idle]
    words = f"idle, {plan.idle_readers} readers with cards"
    yield Row.of("idle-wakeups", "idle", f"{words}: wake-ups", "/s", wakeups)
    yield Row.of("idle-cpu", "idle", f"{words}: CPU", "µs/s", cpu)
