"""All scenarios on pcscd and on ours: nothing differs but what is listed, and the list has its reasons."""

import os
import re
from pathlib import Path

import compare
import pytest
import walk
from differences import DIFFERENCES
from harness import Reference, missing, need

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"


def _need_reference() -> None:
    need("gcc", "unshare")
    if not Reference.usable():
        pytest.skip("the comparison needs pcscd and private namespaces")
    if not Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so").exists():
        missing("libifdvpcd.so is not installed")


@pytest.mark.timeout(400)
def test_every_scenario_is_the_same_or_listed() -> None:
    _need_reference()
    verdicts = compare.play_all()
    print(compare.summary(verdicts))
    problems = {verdict.scenario: verdict.problems() for verdict in verdicts if verdict.problems()}
    for scenario, found in problems.items():
        print(scenario, *found, sep="\n  ")
    assert not problems, compare.summary(verdicts)
    assert len(verdicts) >= 150
    assert {verdict.scenario for verdict in verdicts} >= set(DIFFERENCES)


@pytest.mark.timeout(400)
def test_a_random_walk_finds_no_difference() -> None:
    """Always the same walk, so that a failure is the fault of the last change; by hand it varies."""
    _need_reference()
    steps, seed = int(os.environ.get("WALK_STEPS", "2000")), int(os.environ.get("WALK_SEED", "1"))
    stumbles = walk.walk_all(steps, seed)
    print(*stumbles, sep="\n")
    assert not stumbles, f"{len(stumbles)} differences within {steps} steps"


def test_every_entry_of_the_page_is_shown_and_every_listed_line_explained() -> None:
    written = {int(number) for number in re.findall(r"^### (\d+)\.", PAGE.read_text(), re.MULTILINE)}
    listed = {known.entry for differences in DIFFERENCES.values() for known in differences}
    assert written == listed
    assert sorted(written) == list(range(1, len(written) + 1))


def test_every_entry_says_what_each_daemon_does_and_why() -> None:
    page = PAGE.read_text().partition("## What the comparison does not look at")[0]
    for entry in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        for part in ("*pcscd*:", "*Here*:", "*Why*:"):
            assert part in entry, entry
