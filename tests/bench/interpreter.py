"""The Python that runs our daemon: the system's, as for those who install the package.

Python builds differ by a third in speed, and one that was compiled for a developer, without the
optimisations of distributions, says little about what a user gets.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

_SYSTEM = Path("/usr/bin/python3")
_PROJECT = Path(__file__).parents[2]
_ASK = "import sys; print(sys.prefix, *sys.version_info[:3])"


def environment(folder: Path) -> Path:
    """The directory of programs of a virtual environment with this project, made in the folder.

    It has the packages of our own environment; if they do not fit the system's Python, it is our own.
    """
    own = Path(sys.executable).parent
    found = _version_of_system()
    if found is None or found[0] == sys.base_prefix or found[1:3] != _own_version():
        return own
    venv = folder / "venv"
    subprocess.run([_SYSTEM, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    paths = [_PROJECT / "src", _PROJECT / "drivers", sysconfig.get_path("purelib")]
    (packages / "bench.pth").write_text("".join(f"{path}\n" for path in paths))
    program = venv / "bin" / "pypcscd"
    program.write_text(f"#!{venv}/bin/python\nimport sys\nfrom pypcscd.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return program.parent


def version(programs: Path) -> str:
    """Of the Python in such a directory, and whether it is the system's."""
    asked = subprocess.run([programs / "python", "-c", _ASK], capture_output=True, text=True, check=True)
    number = ".".join(asked.stdout.split()[-3:])
    own = programs == Path(sys.executable).parent and Path(sys.base_prefix) != Path("/usr")
    return f"{number} (not the system's)" if own else number


def _own_version() -> list[str]:
    return [str(number) for number in sys.version_info[:2]]


def _version_of_system() -> list[str] | None:
    """Prefix and numbers of its version."""
    if not os.access(_SYSTEM, os.X_OK):
        return None
    asked = subprocess.run([_SYSTEM, "-c", _ASK], capture_output=True, text=True, check=False)
    # without its module, no environment can be made
    has_venv = subprocess.run([_SYSTEM, "-c", "import venv"], capture_output=True, check=False)
    return None if asked.returncode or has_venv.returncode else asked.stdout.split()
