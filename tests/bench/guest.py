"""Programs in a virtual machine of ``tests/system`` whose clock counts instructions: their figures repeat
whatever else this machine does."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.programs import BrokenError

TESTS = Path(__file__).parent.parent
SYSTEM = TESTS / "system"
#: real seconds; on a machine with nothing else to do it takes a tenth
TIMEOUT = 1500


def run(what: str, command: Sequence[str | Path], env: Mapping[str, str]) -> Any:
    """Run a command in a machine of its own; its output, status and result files. Raises BrokenError."""
    if str(SYSTEM) not in sys.path:
        sys.path.insert(0, str(SYSTEM))
    from kernel import UnavailableError  # type: ignore[import-not-found]
    from vm import Vm, VmError  # type: ignore[import-not-found]

    try:
        with Vm(counted=True) as machine:
            return machine.run(command, TIMEOUT, {"PYTHONDONTWRITEBYTECODE": "1", **env})
    except (UnavailableError, VmError) as error:
        raise BrokenError(f"{what}: {error}") from None
