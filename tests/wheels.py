"""Wheels of the package, as ``pip`` makes them."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass
class Built:
    """A wheel, and what was said when it was made."""

    path: Path
    said: str

    @property
    def names(self) -> set[str]:
        with zipfile.ZipFile(self.path) as content:
            return set(content.namelist())

    def has_compiled(self, module: str) -> bool:
        """``module``: its path without an ending."""
        return any(name.startswith(f"{module}.") and name.endswith(".so") for name in self.names)


def build(folder: Path, **environment: str) -> Built:
    """A wheel in this folder, of sources without anything that was built before."""
    source = folder / "source"
    for name in ("src", "drivers"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    command = [*pip, "wheel", "--verbose", "--no-deps", "-w", folder, source]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return Built(path, done.stdout + done.stderr)
