"""How fast, and at what cost: for the counted machine, where timings repeat.

Before the cases the environment says what to measure: ``PARALLEL``, the compiled client of that name;
``CARDS``, numbers of cards, such as "1,8,32,96"; ``ROUNDS`` and ``MILLISECONDS``, APDUs for each card and
the time that it takes for one.
"""

import os
import subprocess
from contextlib import ExitStack
from typing import Any

from bed import SOCKET, Bed, Reader, main

SLOTS = 8


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


def measure(bed: Bed, cards: int, rounds: int, milliseconds: float) -> dict[str, Any]:
    # each time with a new daemon, which is gone before its readers: pcscd is sometimes stuck for long
    # when several banks are pulled one after the other
    bed.stop()
    bed.start()
    if bed.daemon != "pcscd":
        bed.list = listed
    with ExitStack() as stack:
        readers = plugged(bed, stack, cards, milliseconds)
        used = []
        for reader in readers:
            present = reader.state()["present"]
            used += [name for name, here in zip(reader.names, present, strict=True) if here]
        assert len(used) == cards, (used, cards)
        for name in used:
            # the first connection powers the card up, which is not to be measured
            bed.connect(name).disconnect(0)
        seconds, cpu = run(bed, used, rounds)
        busy = max(reader.counters["most busy"] for reader in readers)
        bed.stop()
    return {
        "cards": cards,
        "seconds": round(seconds, 4),
        "cpu ms per apdu": round(cpu, 4),
        "apdus per second": round(rounds * cards / seconds),
        "most slots busy": busy,
    }


def case_parallel(bed: Bed) -> Any:
    """Cards that need time: any number of them takes as long as one."""
    rounds, milliseconds = int(setting("ROUNDS", "30")), float(setting("MILLISECONDS", "200"))
    return [measure(bed, int(cards), rounds, milliseconds) for cards in setting("CARDS", "1,8").split(",")]


def case_rate(bed: Bed) -> Any:
    """Cards that need none: what the rest of the chain can do."""
    rounds = int(setting("FAST_ROUNDS", "200"))
    return [measure(bed, int(cards), rounds, 0) for cards in setting("CARDS", "1,8").split(",")]


if __name__ == "__main__":
    main(globals())
