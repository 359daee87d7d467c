"""Readers on a simulated USB bus, in a machine whose time is the number of its instructions: what the CCID
driver costs beside pcscd with libccid. The figures repeat whatever else this machine does.

Daemon, client, kernel and the simulated readers share the one processor of that machine. So the processor
time is the daemon's own, while the wall time of cards that need no time is mostly the others'.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import guest
from bench.programs import BrokenError, Programs
from bench.results import Row
from bench.targets import TIMES

FIGURES = guest.SYSTEM / "guest" / "figures.py"
PARALLEL = guest.TESTS / "clients" / "parallel.c"
#: daemon of tests/system -> kind of the other parts
DAEMONS = {"pcscd": "pcscd", "pypcscd": "ccid"}
MILLISECONDS = 200
#: APDUs for each card that takes so long, and at least for each that takes none
ROUNDS, FAST_ROUNDS = 30, 20
#: numbers of cards, in readers of eight; pcscd has no more than 16
CARDS = {"pcscd": (1, 2, 4, 8, 16), "ccid": (1, 8, 16, 32, 96)}


def measure(programs: Programs, say: Callable[[str], None]) -> Iterator[Row]:
    """Both machines at the same time: their clocks do not care."""
    client = programs.compiled(PARALLEL)
    say(f"{' and '.join(DAEMONS)} on simulated USB, each in a machine of its own")
    with ThreadPoolExecutor() as threads:
        futures = {
            kind: threads.submit(_cases, daemon, kind, client, programs.environment)
            for daemon, kind in DAEMONS.items()
        }
    found: dict[str, dict[str, dict[int, Any]]] = {}
    for kind, future in futures.items():
        for case, figures in future.result().items():
            found.setdefault(case, {})[kind] = {each["cards"]: each for each in figures}
    yield from _rows(found)


def _cases(daemon: str, kind: str, client: Path, environment: Path) -> dict[str, list[Any]]:
    """What ``tests/system/guest/figures.py`` finds, by its cases."""
    env = {
        "PARALLEL": str(client),
        "CARDS": ",".join(map(str, CARDS[kind])),
        "ROUNDS": str(ROUNDS),
        "FAST_ROUNDS": str(FAST_ROUNDS),
        "MILLISECONDS": str(MILLISECONDS),
    }
    command: list[str | Path] = [environment / "python", FIGURES, "--daemon", daemon, "both"]
    result = guest.run(f"{daemon} on simulated USB", command, env)
    case = json.loads(result.files.get("cases.json", b"{}")).get("both")
    if case is None or not case["ok"]:
        report = result.output[-3000:] if case is None else case["report"]
        raise BrokenError(f"{daemon} on simulated USB:\n{report}")
    figures: dict[str, list[Any]] = case["figures"]
    return figures


def _rows(found: dict[str, dict[str, dict[int, Any]]]) -> Iterator[Row]:
    for case, words in (("parallel", f"{MILLISECONDS} ms each"), ("rate", "0 ms each")):
        for cards in sorted({*CARDS["pcscd"], *CARDS["ccid"]}):
            here = {kind: by_cards[cards] for kind, by_cards in found[case].items() if cards in by_cards}
            name = f"{cards} card{'s' if cards > 1 else ''} of {words}"
            wall = {kind: [_wall(figures, cards, case)] for kind, figures in here.items()}
            cpu = {kind: [figures["cpu ms per apdu"] * 1000] for kind, figures in here.items()}
            if case == "parallel":
                yield Row.of(f"usb-slow-{cards}", "usb", f"{name}: time for {ROUNDS} APDUs each", "ms", wall)
            else:
                yield Row.of(f"usb-fast-{cards}", "usb", f"{name}: time per APDU", "µs", wall)
            yield Row.of(f"usb-{case}-{cards}-cpu", "usb", f"{name}: CPU of the daemon per APDU", "µs", cpu)
    slow = {
        kind: [by_cards[max(by_cards)]["seconds"] / by_cards[1]["seconds"]]
        for kind, by_cards in found["parallel"].items()
    }
    most = {kind: max(cards) for kind, cards in CARDS.items()}
    title = f"{most['ccid']} cards (pcscd: {most['pcscd']}) of {MILLISECONDS} ms: time beside one's"
    yield Row.of("usb-flat", "usb", title, TIMES, slow, compared=False)


def _wall(figures: Any, cards: int, case: str) -> float:
    """Milliseconds for all, or microseconds for an APDU."""
    seconds: float = figures["seconds"]
    return seconds * 1e3 if case == "parallel" else seconds * 1e6 / (figures["rounds"] * cards)
