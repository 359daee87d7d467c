"""One client: round trips of APDUs of several sizes, what they cost the daemon, and the other calls."""

from collections.abc import Callable, Iterator
from typing import Any

from bench.daemons import KINDS, Daemon
from bench.lineup import Bench, Figures
from bench.programs import Conversation
from bench.results import Row

#: key, title, bytes to the card and back
SIZES = (
    ("5", "5 B, answer 2 B", 5, 2),
    ("255", "5 B, answer 255 B", 5, 255),
    ("4k", "5 B, answer 4 KiB", 5, 4096),
    ("64k", "5 B, answer 64 KiB", 5, 65535),
    ("4k-out", "4 KiB, answer 2 B", 4096, 2),
    ("64k-out", "64 KiB, answer 2 B", 65535, 2),
)
CALLS = (
    ("status", "SCardStatus", ("status", "READER")),
    ("list", "SCardListReaders", ("list",)),
    ("changes", "SCardGetStatusChange(0)", ("changes", "READER")),
    ("connect", "SCardConnect, SCardDisconnect(LEAVE)", ("connect", "READER", "leave")),
    ("connect-reset", "SCardConnect, SCardDisconnect(RESET)", ("connect", "READER", "reset")),
)


def per_call(answer: Any, used: float) -> Figures:
    return {"time": answer["p50"], "cpu": used * 1e6 / answer["count"]}


def measure(bench: Bench) -> Iterator[Row]:
    plan = bench.plan
    with bench.daemons(KINDS, 2) as daemons:
        yield from _sizes(bench, daemons)
        for key, title, words in CALLS:
            if key not in plan.calls:
                continue
            bench.say(title)

            def client(daemon: Daemon, words: tuple[str, ...] = words) -> Conversation:
                reader = daemon.readers()[0]
                return daemon.client("calls", *(reader if word == "READER" else word for word in words))

            samples = bench.in_turns(daemons, client, plan.rounds, plan.seconds, per_call)
            yield Row.of(key, "calls", title, "µs", samples["time"])
            yield Row.of(f"{key}-cpu", "calls", f"{title}: CPU of the daemon", "µs", samples["cpu"])


def _client(out: int, back: int) -> Callable[[Daemon], Conversation]:
    return lambda daemon: daemon.client("calls", "apdu", daemon.readers()[0], out, back)


def _sizes(bench: Bench, daemons: list[Daemon]) -> Iterator[Row]:
    plan = bench.plan
    for key, title, out, back in SIZES:
        if key not in plan.sizes:
            continue
        bench.say(f"APDU of {title}")
        samples = bench.in_turns(daemons, _client(out, back), plan.rounds, plan.seconds, per_call)
        yield Row.of(f"apdu-{key}", "apdu", f"{title}: round trip", "µs", samples["time"])
        yield Row.of(f"apdu-{key}-cpu", "apdu", f"{title}: CPU of the daemon", "µs", samples["cpu"])
    if plan.has_variants:
        yield from _variants(bench, daemons)


def _variants(bench: Bench, daemons: list[Daemon]) -> Iterator[Row]:
    plan = bench.plan
    bench.say("APDU on any processor")
    samples = bench.in_turns(daemons, _client(5, 2), plan.rounds, plan.seconds, per_call, free=True)
    yield Row.of("apdu-free", "apdu", "5 B, answer 2 B, on any processor: round trip", "µs", samples["time"])
    bench.say("APDU with an emulator that acknowledges as the kernel likes")
    for daemon in daemons:
        daemon.emulator.ask("quickack 0")
    samples = bench.in_turns(daemons, _client(5, 2), plan.rounds, plan.seconds, per_call)
    for daemon in daemons:
        daemon.emulator.ask("quickack 1")
    title = "5 B, answer 2 B, emulator without TCP_QUICKACK: round trip"
    yield Row.of("apdu-ordinary", "apdu", title, "µs", samples["time"])
