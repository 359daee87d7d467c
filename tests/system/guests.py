"""Scripts of ``guest/`` in the test VM: each runs once for a daemon, and its cases are tests here."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import missing
from vm import GUEST, Vm

REFERENCE, OURS = "pcscd", "pypcscd"
DAEMONS = [REFERENCE, OURS]


def cases(script: str) -> list[str]:
    """The names of a guest script's cases."""
    return re.findall(r"^def case_(\w+)", (GUEST / f"{script}.py").read_text(), re.MULTILINE)


def need_daemon(daemon: str) -> None:
    if daemon == REFERENCE:
        if shutil.which("pcscd", path="/usr/sbin") is None or not Path("/etc/libccid_Info.plist").exists():
            missing("pcscd and libccid are not installed")
        return
    help_text = subprocess.run(
        [Path(sys.executable).with_name("pypcscd"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    if "--usb" not in help_text:
        pytest.skip("this pypcscd does not drive USB readers yet")


class Guest:
    """Runs a script for a daemon when the first of its cases is asked for."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, ...], dict[str, Any]] = {}

    def case(self, vm: Vm, script: str, daemon: str, case: str, wanted: list[str], **env: str) -> Any:
        """The figures of a case; fails with the case's own report."""
        key = (script, daemon, *wanted)
        if key not in self._results:
            need_daemon(daemon)
            self._results[key] = self._run(vm, script, daemon, wanted, env)
        result = self._results[key].get(case)
        if result is None:
            pytest.fail(f"the script ended before this case:\n{self._results[key]['output']}")
        if not result["ok"]:
            pytest.fail(result["report"])
        return result["figures"]

    @staticmethod
    def _run(vm: Vm, script: str, daemon: str, wanted: list[str], env: dict[str, str]) -> dict[str, Any]:
        command: list[str | Path] = [sys.executable, GUEST / f"{script}.py", "--daemon", daemon, *wanted]
        timeout = 120 + 60.0 * len(wanted)
        result = vm.run(command, timeout, {"PYTHONDONTWRITEBYTECODE": "1", **env})
        found = json.loads(result.files.get("cases.json", b"{}"))
        return {**found, "output": result.output[-6000:]}
