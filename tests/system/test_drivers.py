"""The choice of drivers, and rules for names and numbers, on a real USB stack."""

from typing import Any

import pytest
from guests import OURS, Guest, cases, need_daemon
from vm import Vm

CASES = cases("drivers")
NAMES: dict[str, Any] = {
    "libccid_by_a_rule": ["Gemalto PC Twin Reader 00 00", "OMNIKEY AG CardMan 3121 01 00"],
    "driver_of_a_vendor": ["Vendor & Sons (K) 00 00"],
    "driver_of_a_vendor_that_does_not_load": ["Todos CX00 (R) 00 00"],
    "fixed_names_and_numbers": [
        ["Front desk 00 00", "Gemalto PC Twin Reader (B) 00 00", "Gemalto PC Twin Reader (C) 01 00"]
    ]
    * 2,
    "a_number_that_is_taken": [
        "Gemalto PC Twin Reader (A) 05 00",
        "Gemalto PC Twin Reader (B) 00 00",
        "Gemalto PC Twin Reader (B)",
        "reader number 05 (index = 5) and is 00 instead",
        "Gemalto PC Twin Reader (A)",
    ],
}

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("case", CASES)
def test_driver(counted_vm: Vm, guest: Guest, case: str) -> None:
    # libccid and its list of readers come with it
    need_daemon("pcscd")
    assert guest.case(counted_vm, "drivers", OURS, case, CASES) == NAMES[case]
