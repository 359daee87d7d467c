"""Readers that come, go, come back, fail and recover, on a real USB stack with a real udev."""

import json
import sys

import pytest
from guests import OURS, Guest, cases, need_daemon
from vm import GUEST, Vm

#: takes minutes, so it is run by itself
REPLUG = "replug"
CASES = [case for case in cases("hotplug") if case != REPLUG]
#: seen: flat but for one or two steps of 1.3 MiB, in either hundred of plugs: an arena more of Python's
#: allocator, which has 1 MiB, and tables for it; 16 KiB lost with each plug are more than this
MOST_GROWTH_KIB = 1600
MOST_GROWTH_AT_FIRST_KIB = 6144

pytestmark = pytest.mark.timeout(1500)


@pytest.mark.parametrize("case", CASES)
def test_hotplug(counted_vm: Vm, guest: Guest, case: str) -> None:
    figures = guest.case(counted_vm, "hotplug", OURS, case, CASES)
    print(case, figures)


def test_plugged_in_two_hundred_times(counted_vm: Vm) -> None:
    """One name, and nothing that is left behind."""
    need_daemon(OURS)
    command = [sys.executable, GUEST / "hotplug.py", "--daemon", OURS, REPLUG]
    result = counted_vm.run(command, 1200, {"PYTHONDONTWRITEBYTECODE": "1", "REPLUGS": "200"})
    found = json.loads(result.files.get("cases.json", b"{}")).get(REPLUG)
    assert found, result.output[-6000:]
    assert found["ok"], found["report"]
    figures = found["figures"]
    print(figures)
    assert len(figures["names"]) == 1
    warm, last, _ = figures["files"]
    assert last <= warm
    warm, last = figures["threads"]
    assert last <= warm
    warm, half, last = figures["KiB"]
    assert half - warm < MOST_GROWTH_AT_FIRST_KIB
    assert last - half < MOST_GROWTH_KIB
