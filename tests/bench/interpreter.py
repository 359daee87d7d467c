"""What runs our daemon: the package as it is installed, compiled, and the system's Python, as for those who
install it.

Python builds differ by a third in speed, and one that was compiled for a developer, without the
optimisations of distributions, says little about what a user gets.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

_SYSTEM = Path("/usr/bin/python3")
#: where ``make compiled`` installs the package
INSTALLED = Path(__file__).parents[2] / "build" / "compiled"
_ASK = "import sys; print(sys.base_prefix, *sys.version_info[:3])"


class NotInstalledError(Exception):
    """The package that would be measured is not there; the text says what to do."""


def environment(folder: Path) -> Path:
    """The directory of programs of a virtual environment with this project, made in the folder.

    It has the packages of our own environment; if they do not fit the system's Python, it is of our own.
    """
    if not INSTALLED.is_dir():
        raise NotInstalledError(f"there is no {INSTALLED}; make compiled installs the package there")
    programs = folder / "venv" / "bin"
    if (programs / "pypcscd").exists():
        # made by whoever runs us, such as the host of a virtual machine
        return programs
    found = _version_of_system()
    fits = found is not None and found[1:3] == _own_version()
    venv = folder / "venv"
    python = _SYSTEM if fits else Path(sys.executable)
    subprocess.run([python, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    paths = [INSTALLED, sysconfig.get_path("purelib")]
    (packages / "bench.pth").write_text("".join(f"{path}\n" for path in paths))
    program = programs / "pypcscd"
    program.write_text(f"#!{venv}/bin/python\nimport sys\nfrom pypcscd.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return programs


def version(programs: Path) -> str:
    """Of the Python in such a directory, and whether it is the system's."""
    asked = subprocess.run([programs / "python", "-c", _ASK], capture_output=True, text=True, check=True)
    prefix, *numbers = asked.stdout.split()
    number = ".".join(numbers)
    return number if prefix == "/usr" else f"{number} (not the system's)"


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
