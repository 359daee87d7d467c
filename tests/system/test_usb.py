"""Simulated readers on a real USB stack, in a VM: with the daemon that we are compared with, and ours.

The limits for ours are those that the CCID driver was built for; the other daemon's figures are printed
(``pytest -s``) and not judged.
"""

from pathlib import Path
from typing import Any

import pytest
from guests import DAEMONS, OURS, REFERENCE, Guest, cases
from vm import Vm

READERS = cases("readers")
MOVEMENTS = ["insert_and_remove", "insert_and_remove_polled", "plug", "unplug_in_transmit", "time_extensions"]
FAULTS = [case for case in cases("faults") if case not in (*MOVEMENTS, "deaf")]
#: by what ``pypcscd status`` shows which fault it was
COUNTERS = {
    "no_answer": "timeouts",
    "no_answer_until_abort": "timeouts",
    "short": "broken",
    "garbage": "broken",
    "wrong_slot": "dropped",
    "wrong_sequence": "dropped",
    "wrong_type": "broken",
    "oversized": "broken",
    "undersized": "broken",
    "duplicate": "dropped",
    "stall": "transfer_failures",
    "stall_out": "transfer_failures",
    "slot_busy": "busy",
}

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("case", READERS)
@pytest.mark.parametrize("daemon", DAEMONS)
def test_reader(vm: Vm, guest: Guest, daemon: str, case: str) -> None:
    guest.case(vm, "readers", daemon, case, READERS)


@pytest.mark.parametrize("case", MOVEMENTS)
@pytest.mark.parametrize("daemon", DAEMONS)
def test_movement(counted_vm: Vm, guest: Guest, daemon: str, case: str) -> None:
    figures = guest.case(counted_vm, "faults", daemon, case, MOVEMENTS)
    print(daemon, case, figures)
    if daemon == REFERENCE:
        return
    match case:
        case "insert_and_remove":
            assert max(figures["insert ms"] + figures["remove ms"]) < 50
        case "insert_and_remove_polled":
            assert max(figures["insert ms"] + figures["remove ms"]) < 1000
        case "plug":
            assert max(figures["listed ms"] + figures["gone ms"]) < 2000
        case "unplug_in_transmit":
            assert figures["code"] != "0x0"
            assert figures["seconds"] < 1
            assert figures["closed"] < 2


@pytest.mark.parametrize("case", FAULTS)
def test_fault(counted_vm: Vm, guest: Guest, case: str) -> None:
    """A fault costs at most one error on its slot; then the card can be used again."""
    figures: dict[str, Any] = guest.case(counted_vm, "faults", OURS, case, FAULTS)
    print(case, figures)
    assert figures["neighbour failures"] == 0
    assert figures["neighbour slowest"] < 1
    assert figures["recovered"] is not None and figures["recovered"] < 1
    # as long as the card's own waiting time and the driver's margin allow, and not for ever
    assert figures["seconds"] is not None
    if case in COUNTERS:
        assert figures["counters"][COUNTERS[case]] == 1


def test_a_deaf_reader_holds_up_no_other(vm: Vm, guest: Guest) -> None:
    figures: dict[str, Any] = guest.case(vm, "faults", OURS, "deaf", ["deaf"])
    print(figures)
    assert figures["code"] != "0x0"
    assert figures["neighbour failures"] == 0
    assert figures["neighbour slowest"] < 1


@pytest.mark.parametrize("daemon", DAEMONS)
def test_cards_at_the_same_time(counted_vm: Vm, guest: Guest, parallel_client: Path, daemon: str) -> None:
    """Eight cards take as long as one."""
    settings = {"PARALLEL": str(parallel_client), "CARDS": "1,8", "ROUNDS": "5", "MILLISECONDS": "100"}
    one, eight = guest.case(counted_vm, "figures", daemon, "parallel", ["parallel"], **settings)
    print(daemon, one, eight, sep="\n")
    assert eight["most slots busy"] == 8
    assert eight["seconds"] < 1.2 * one["seconds"]
