"""Readers and cables that misbehave. Each fault may cost one error on its slot; then all is as before.

The cases return what was seen. Whether that is good enough is judged outside, because the daemon that we
are compared with does worse in places.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bed import CHANGED, EMPTY, LEAVE, PRESENT, UNAWARE, Bed, CallError, Card, Reader, main, wait_for

READ = ("00B0000010", bytes(range(16)) + b"\x90\x00")
#: how long a slot may take to recover before the case gives up
RECOVERY_SECONDS = 8.0
#: how long a call may take before the case gives it up
GIVE_UP_SECONDS = 25.0


def works(card: Card) -> bool:
    rv, answer = card.raw(READ[0])
    return rv == 0 and answer == READ[1]


def observe(bed: Bed, reader: Reader, card: Card, **fault: Any) -> dict[str, Any]:
    """A command that meets the fault, and how the card can be used afterwards: at once (0), after
    reconnecting, or not at all (None); in seconds since the error."""
    assert works(card)
    reader.order("fault", **fault)
    started = time.monotonic()
    results: list[tuple[int, bytes]] = []
    call = threading.Thread(target=lambda: results.append(card.raw(READ[0])), daemon=True)
    call.start()
    call.join(GIVE_UP_SECONDS)
    if call.is_alive():
        # only the cable ends it
        reader.order("unplug")
        call.join()
        return {"code": None, "seconds": None, "next": False, "recovered": None}
    ended = time.monotonic()
    ((code, answer),) = results
    seen: dict[str, Any] = {
        "code": f"{code:#x}",
        "answer": answer.hex(),
        "seconds": round(ended - started, 3),
        "next": works(card),
        "recovered": 0.0,
    }
    while not works(card):
        if time.monotonic() - ended > RECOVERY_SECONDS or not bed.alive:
            seen["recovered"] = None
            break
        if card.reconnect() != 0:
            time.sleep(0.05)
        seen["recovered"] = round(time.monotonic() - ended, 3)
    return seen


def one_slot(bed: Bed, **fault: Any) -> dict[str, Any]:
    """On the second of two slots that may be busy together; the first works on meanwhile."""
    cards = {"0": {"protocol": 1}, "1": {"protocol": 1}}
    with bed.reader("short", cards, max_slot_index=1, max_busy_slots=2) as reader:
        second = reader.connect(1)
        done, slowest, failures = threading.Event(), 0.0, 0

        def neighbour() -> None:
            nonlocal slowest, failures
            while not done.is_set():
                started = time.monotonic()
                failures += not works(first)
                slowest = max(slowest, time.monotonic() - started)
                done.wait(0.01)

        # calls in one context wait for each other, so the neighbour has its own
        first = bed.another().connect(reader.names[0])
        thread = threading.Thread(target=neighbour)
        thread.start()
        try:
            seen = observe(bed, reader, second, slot=1, **fault)
        finally:
            done.set()
            thread.join()
        if bed.daemon == "pypcscd":
            seen["counters"] = counters(reader.names[1])
        return {**seen, "neighbour failures": failures, "neighbour slowest": round(slowest, 3)}


def counters(name: str) -> dict[str, int]:
    """What ``pypcscd status`` says that went wrong."""
    program = Path(sys.executable).with_name("pypcscd")
    done = subprocess.run([program, "status", "--json"], check=True, capture_output=True, text=True)
    found = {reader["name"]: reader["counters"] for reader in json.loads(done.stdout)["readers"]}
    known: dict[str, int] = found[name]
    return known


def case_no_answer(bed: Bed) -> Any:
    return one_slot(bed, kind="silent")


def case_no_answer_until_abort(bed: Bed) -> Any:
    return one_slot(bed, kind="silent", hang=True)


def case_short(bed: Bed) -> Any:
    return one_slot(bed, kind="short")


def case_garbage(bed: Bed) -> Any:
    return one_slot(bed, kind="garbage")


def case_wrong_slot(bed: Bed) -> Any:
    return one_slot(bed, kind="wrong_slot")


def case_wrong_sequence(bed: Bed) -> Any:
    return one_slot(bed, kind="wrong_seq")


def case_wrong_type(bed: Bed) -> Any:
    return one_slot(bed, kind="wrong_type")


def case_oversized(bed: Bed) -> Any:
    return one_slot(bed, kind="oversized")


def case_undersized(bed: Bed) -> Any:
    return one_slot(bed, kind="undersized")


def case_duplicate(bed: Bed) -> Any:
    return one_slot(bed, kind="duplicate")


def case_stall(bed: Bed) -> Any:
    return one_slot(bed, kind="stall")


def case_stall_out(bed: Bed) -> Any:
    return one_slot(bed, kind="stall_out")


def case_deaf(bed: Bed) -> Any:
    """A reader halts a pipe and answers no request any more: another reader does not notice."""
    card = {"0": {"protocol": 1}}
    with bed.reader("short", card) as neighbour, bed.reader("short", card) as reader:
        first = bed.another().connect(neighbour.names[0])
        second = reader.connect()
        reader.order("fault", kind="deaf")
        results: list[int] = []
        started = time.monotonic()
        call = threading.Thread(target=lambda: results.append(second.raw(READ[0])[0]), daemon=True)
        call.start()
        failures, slowest = 0, 0.0
        while (began := time.monotonic()) < started + 8:
            failures += not works(first)
            slowest = max(slowest, time.monotonic() - began)
        reader.order("unplug")
        call.join()
    return {
        "code": f"{results[0]:#x}",
        "neighbour failures": failures,
        "neighbour slowest": round(slowest, 3),
    }


def case_endless_time_extension(bed: Bed) -> Any:
    """Nothing tells it from a card that works for minutes: it may last as long as its client does."""
    cards = {"0": {"protocol": 1}, "1": {"protocol": 1}}
    with bed.reader("short", cards, max_slot_index=1, max_busy_slots=2) as reader:
        neighbour = reader.connect(0)
        reader.connect(1).disconnect(LEAVE)
        reader.order("fault", kind="extensions", slot=1, ms=200)
        pid = os.fork()
        if pid == 0:
            try:
                bed.another().connect(reader.names[1]).raw(READ[0])
            finally:
                os._exit(0)
        wait_for(lambda: reader.counters.get("faults") == 1, "the fault")
        failures, slowest, until = 0, 0.0, time.monotonic() + 3
        while (started := time.monotonic()) < until:
            failures += not works(neighbour)
            slowest = max(slowest, time.monotonic() - started)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ended = time.monotonic()
        seen = {"neighbour failures": failures, "neighbour slowest": round(slowest, 3), "seconds": 3.0}
        try:
            card = bed.another().connect(reader.names[1], seconds=RECOVERY_SECONDS)
        except CallError:
            return {**seen, "recovered": None}
        assert works(card)
        return {**seen, "recovered": round(time.monotonic() - ended, 3)}


def case_card_mute(bed: Bed) -> Any:
    return one_slot(bed, kind="error", code=0xFE)


def case_slot_busy(bed: Bed) -> Any:
    return one_slot(bed, kind="error", code=0xE0)


def case_time_extensions(bed: Bed) -> Any:
    """A card that takes longer than any time-out, in a reader that says so."""
    with bed.reader("short", {"0": {"protocol": 1, "extension_ms": 500}}) as reader:
        card = reader.connect()
        started = time.monotonic()
        card.exchange(("00101388", "9000"))
        return {"seconds": round(time.monotonic() - started, 3)}


def case_unplug_in_transmit(bed: Bed) -> Any:
    """The cable is pulled 200 ms into a command of 5 s."""
    with bed.reader("short", {"0": {"protocol": 1}}) as reader:
        card = reader.connect()
        # counted from the time at which the answer would come
        reader.order("fault", kind="unplug", ms=-4800)
        started = time.monotonic()
        code, _ = card.raw("00101388")
        seconds = time.monotonic() - started - 0.2
        card.disconnect(LEAVE)

    def closed() -> bool:
        return not any("/dev/bus/usb" in path for path in bed.daemon_files())

    started = time.monotonic()
    wait_for(closed, "the end of the last open device")
    return {
        "code": f"{code:#x}",
        "seconds": round(seconds, 3),
        "unlisted": round(reader.gone_seconds, 3),
        "closed": round(time.monotonic() - started, 3),
    }


def case_insert_and_remove(bed: Bed) -> Any:
    """From the card's movement to the end of a waiting SCardGetStatusChange."""
    return movement(bed, "short")


def case_insert_and_remove_polled(bed: Bed) -> Any:
    return movement(bed, "polled")


def movement(bed: Bed, model: str) -> dict[str, Any]:
    waits: dict[str, list[float]] = {"insert": [], "remove": []}
    with bed.reader(model) as reader:
        name = reader.names[0]
        other = bed.another()
        other.wait_usable(name)
        state = other.wait_change(name, UNAWARE)
        for _ in range(4):
            for what, wanted in (("insert", PRESENT), ("remove", EMPTY)):
                known, seen = state & ~CHANGED, 0.0

                def wait(known: int = known, wanted: int = wanted) -> None:
                    nonlocal state, seen
                    state = known
                    while not state & wanted:
                        state = other.wait_change(name, state & ~CHANGED)
                    seen = time.monotonic()

                thread = threading.Thread(target=wait)
                thread.start()
                # the call must be under way; nothing tells that it is
                time.sleep(0.1)
                moved = reader.order(what, **({"protocol": 1} if what == "insert" else {}))["time"]
                thread.join()
                waits[what].append(round((seen - moved) * 1000, 2))
    return {f"{what} ms": times for what, times in waits.items()}


def case_plug(bed: Bed) -> Any:
    """From the cable to the list of readers and back, in milliseconds."""
    times: dict[str, list[float]] = {"listed ms": [], "gone ms": []}
    for _ in range(3):
        with bed.reader("short", {"0": {"protocol": 1}}) as reader:
            reader.connect().disconnect()
        times["listed ms"].append(round(reader.listed_seconds * 1000))
        times["gone ms"].append(round(reader.gone_seconds * 1000))
    return times


if __name__ == "__main__":
    main(globals())
