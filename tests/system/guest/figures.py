"""How fast, and at what cost: for the counted machine, where timings repeat.

Before the cases the environment says what to measure: ``PARALLEL``, the compiled client of that name;
``CARDS``, numbers of cards, such as "1,8,32,96"; ``ROUNDS`` and ``MILLISECONDS``, APDUs for each card and
the time that it takes for one.
"""

import os
import subprocess
from contextlib import ExitStack
from typing import Any

from bed import SOCKET, Bed, Reader, allow, main

SLOTS = 8
FEWEST_APDUS = 1000
#: seconds for all but the slow cards: plugging, and the quick ones
PATIENCE = 30


def setting(name: str, default: str) -> str:
    return os.environ.get(name, default)


def run(bed: Bed, names: list[str], rounds: int) -> tuple[float, float]:
    """Seconds from the first to the last answer, and the daemon's CPU milliseconds for an APDU."""
    command = [setting("PARALLEL", "parallel"), str(rounds), "00B0000010", *names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin and client.stdout
        assert client.stdout.readline() == "ready\n"
        used = bed.cpu_seconds()
        client.stdin.write("go\n")
        client.stdin.flush()
        begin, end, good = client.stdout.readline().split()
        used = bed.cpu_seconds() - used
        client.stdin.close()
    total = rounds * len(names)
    assert int(good) == total, f"{good} good answers of {total}"
    return float(end) - float(begin), used * 1000 / total


def plugged(bed: Bed, stack: ExitStack, cards: int, milliseconds: float) -> list[Reader]:
    """Banks of eight slots for so many cards, and the names of the readers that have one."""
    readers = []
    while cards > 0:
        here = min(cards, SLOTS)
        inserted = {str(slot): {"protocol": 0, "latency_ms": milliseconds} for slot in range(here)}
        readers.append(stack.enter_context(bed.reader("octsim", inserted)))
        cards -= here
    return readers


def listed() -> list[str]:
    """All readers, however many, of our daemon."""
    from pypcscd.tools.client import Client

    client = Client(SOCKET)
    try:
        return [reader.name for reader in client.readers()]
    finally:
        client.close()


def measure(bed: Bed, cards: int, *runs: tuple[int, float]) -> list[dict[str, Any]]:
    """``runs``: APDUs for each card, and the milliseconds that it takes for one."""
    # each time with a new daemon, which is gone before its readers: pcscd is sometimes stuck for long
    # when several banks are pulled one after the other
    bed.stop()
    bed.start()
    if bed.daemon != "pcscd":
        bed.list = listed
    figures = []
    with ExitStack() as stack:
        readers = plugged(bed, stack, cards, runs[0][1])
        used = []
        for reader in readers:
            present = reader.state()["present"]
            used += [name for name, here in zip(reader.names, present, strict=True) if here]
        assert len(used) == cards, (used, cards)
        for name in used:
            # the first connection powers the card up, which is not to be measured
            bed.connect(name).disconnect(0)
        for rounds, milliseconds in runs:
            for reader in readers:
                for slot, here in enumerate(reader.state()["present"]):
                    if here:
                        reader.order("card", slot=slot, latency_ms=milliseconds)
            seconds, cpu = run(bed, used, rounds)
            figures.append(
                {
                    "cards": cards,
                    "rounds": rounds,
                    "seconds": round(seconds, 4),
                    "cpu ms per apdu": round(cpu, 4),
                    "apdus per second": round(rounds * cards / seconds),
                    "most slots busy": max(reader.counters["most busy"] for reader in readers),
                }
            )
        bed.stop()
    return figures


def numbers() -> list[int]:
    return [int(cards) for cards in setting("CARDS", "1,8").split(",")]


def slow() -> tuple[int, float]:
    return int(setting("ROUNDS", "30")), float(setting("MILLISECONDS", "200"))


def fast() -> tuple[int, float]:
    return int(setting("FAST_ROUNDS", "200")), 0


def case_parallel(bed: Bed) -> Any:
    """Cards that need time: any number of them takes as long as one."""
    return [figures for cards in numbers() for figures in measure(bed, cards, slow())]


def case_rate(bed: Bed) -> Any:
    """Cards that need none: what the rest of the chain can do."""
    return [figures for cards in numbers() for figures in measure(bed, cards, fast())]


def case_both(bed: Bed) -> Any:
    """The two with the same readers, for plugging many takes most of the time."""
    found = []
    allow(len(numbers()) * int(slow()[0] * slow()[1] / 1000 + PATIENCE))
    for cards in numbers():
        rounds, milliseconds = fast()
        # so many that the first ones, which cost more, do not matter
        found.append(measure(bed, cards, slow(), (max(rounds, FEWEST_APDUS // cards), milliseconds)))
    return {"parallel": [first for first, _ in found], "rate": [second for _, second in found]}


if __name__ == "__main__":
    main(globals())
