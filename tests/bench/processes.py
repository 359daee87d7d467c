"""What a process and its descendants have cost, and where they may run."""

import os
import time
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for task in _tasks(pid):
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """What the processes of a tree have used so far, their ended threads included."""
    return sum(_cpu_ns(each) for each in tree(pid)) / 1e9


def _cpu_ns(pid: int) -> int:
    # clock_getcpuclockid(3) of the process, on the clock of the scheduler
    with suppress(OSError):
        return time.clock_gettime_ns((~pid << 3) | 2)
    return 0


def wakeups(pid: int) -> int:
    """How often the threads of a tree have gone to sleep so far, which is how often they were woken."""
    total = 0
    for each in tree(pid):
        for task in _tasks(each):
            with suppress(OSError):
                total += _field(task / "status", "voluntary_ctxt_switches")
    return total


def resident_kib(pid: int) -> int:
    """Memory of the processes of a tree, in KiB; what they share counts for each."""
    return sum(_field(_PROC / str(each) / "status", "VmRSS") for each in tree(pid))


def _field(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def _tasks(pid: int) -> list[Path]:
    with suppress(OSError):
        return list((_PROC / str(pid) / "task").iterdir())
    return []


def allow(pid: int, cpus: set[int]) -> None:
    """Let all threads of a tree run on these processors."""
    for each in tree(pid):
        for task in _tasks(each):
            with suppress(OSError):
                os.sched_setaffinity(int(task.name), cpus)
