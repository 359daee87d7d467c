"""The package builds with a C compiler and without one."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(tmp_path: Path, **environment: str) -> tuple[list[str], str]:
    """The names in the wheel, and what the build said."""
    source = tmp_path / "source"
    for name in ("src", "drivers"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--verbose",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        return content.namelist(), done.stdout + done.stderr


def has_native(names: list[str]) -> bool:
    return any(name.startswith("pypcscd_ifdhandler/_native") and name.endswith(".so") for name in names)


@pytest.mark.timeout(300)
def test_a_wheel_has_everything(tmp_path: Path) -> None:
    names, _ = build(tmp_path)
    assert has_native(names)
    modules = {
        str(file.relative_to(ROOT / top)) for top in ("src", "drivers") for file in (ROOT / top).rglob("*.py")
    }
    # what describes the build to cffi is not needed afterwards, but does no harm
    assert modules <= set(names)
    assert {"pypcscd/py.typed", "pypcscd_virtual/py.typed"} <= set(names)


@pytest.mark.timeout(300)
def test_without_a_compiler_it_says_what_is_missing(tmp_path: Path) -> None:
    names, said = build(tmp_path, CC="false")
    assert not has_native(names)
    assert "pypcscd/daemon.py" in names
    assert "installed without native drivers (.so). Install gcc and python3-dev" in said
