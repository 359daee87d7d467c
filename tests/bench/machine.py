"""What was measured, where: in general terms."""

import datetime
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.interpreter import environment, version


def describe() -> dict[str, Any]:
    """``date`` and ``machine``, for the results."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    system = platform.freedesktop_os_release()
    return {
        "date": today.isoformat(),
        "machine": {
            "processors": len(os.sched_getaffinity(0)),
            "system": system.get("PRETTY_NAME", platform.system()),
            "python": _python_version(),
            "pcscd": _pcscd_version(),
            "load": os.getloadavg()[0],
        },
    }


def _pcscd_version() -> str:
    program = shutil.which("pcscd", path="/usr/sbin:/sbin")
    if program is None:
        return "not installed"
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+\.\d+", text)
    return found.group() if found else "of unknown version"


def _python_version() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return version(environment(Path(folder)))
