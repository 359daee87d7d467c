"""A measuring session: a private namespace for the daemons, and the parts that measure in it."""

import importlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.lineup import Bench
from bench.plan import Plan
from bench.programs import BrokenError, Programs
from bench.results import Row
from conformance import namespace

#: what can be measured on this machine: the modules part_….py
PARTS = ("calls", "parallel", "contention", "events", "start", "idle")


@contextmanager
def private(plan: Plan, say: Callable[[str], None], programs: Programs | None = None) -> Iterator[Bench]:
    """Enters the namespace for good, so nothing else should be done by this process afterwards.

    ``programs``: where they are compiled already.
    """
    try:
        namespace.enter()
    except OSError as error:
        raise BrokenError(f"no private namespace ({error}): the daemons need one each; try as root") from None
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/run") as folder:
        yield Bench(plan, programs or Programs(Path(folder)), say)


def measure(bench: Bench, part: str) -> list[Row]:
    return list(importlib.import_module(f"bench.part_{part}").measure(bench))
