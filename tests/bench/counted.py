"""The calls of one client again, in a machine whose time is the number of its instructions.

No caches, no waiting: what a call costs is how many instructions all take together, kernel included. These
figures are not the times of a real machine, but they repeat, so they show what a change has brought.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench import guest, session
from bench.plan import COUNTED
from bench.programs import BrokenError, Programs
from bench.results import Row

GROUP = "counted"
UNIT = "1,000 instr."
_RESULT = "rows.json"


def measure(programs: Programs, say: Callable[[str], None]) -> Iterator[Row]:
    say("calls with counted instructions, in a virtual machine")
    for name in ("calls", "emulator"):
        # compiled here, where that is quick
        _ = programs[name]
    command: list[str | Path] = [programs.environment / "python", "-m", "bench", "in-guest", programs.folder]
    result = guest.run("counted calls", command, {"PYTHONPATH": str(guest.TESTS)})
    if _RESULT not in result.files:
        raise BrokenError(f"counted calls:\n{result.output[-3000:]}")
    for row in map(Row.load, json.loads(result.files[_RESULT])):
        yield replace(row, key=f"{GROUP}-{row.key}", group=GROUP, unit=UNIT)


def in_guest(folder: Path) -> None:
    """What the machine runs, with programs that are compiled already; a microsecond is 1,000 instructions."""
    with session.private(COUNTED, print, Programs(folder)) as bench:
        rows = session.measure(bench, "calls")
    Path(os.environ["RESULTS"], _RESULT).write_text(json.dumps([row.dump() for row in rows]))
