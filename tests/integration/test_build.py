"""The package builds with a C compiler and without one."""

from pathlib import Path

import pytest

from wheels import ROOT, Built, build

NATIVE = "pypcscd_ifdhandler/_native"
#: one of those that are compiled because an APDU passes through them, and what they share
QUICK = ("pypcscd/eager", "pypcscd__mypyc")
#: seconds for a wheel on a busy machine
PATIENCE = 600


@pytest.mark.timeout(PATIENCE)
def test_a_wheel_has_everything(wheel: Built) -> None:
    assert all(wheel.has_compiled(module) for module in (NATIVE, *QUICK))
    modules = {
        str(file.relative_to(ROOT / top)) for top in ("src", "drivers") for file in (ROOT / top).rglob("*.py")
    }
    # what describes the build to cffi is not needed afterwards, but does no harm
    assert modules <= wheel.names
    assert {"pypcscd/py.typed", "pypcscd_virtual/py.typed"} <= wheel.names


@pytest.mark.timeout(PATIENCE)
def test_without_a_compiler_it_says_what_is_missing(tmp_path: Path) -> None:
    wheel = build(tmp_path, CC="false")
    assert not any(wheel.has_compiled(module) for module in (NATIVE, *QUICK))
    assert "pypcscd/daemon.py" in wheel.names
    assert "installed without native drivers (.so). Install gcc and python3-dev" in wheel.said
    assert "installed with them as they are, which is slower" in wheel.said


@pytest.mark.timeout(PATIENCE)
def test_who_wants_it_pure_gets_it_pure(tmp_path: Path) -> None:
    wheel = build(tmp_path, PYPCSCD_PURE="1")
    assert wheel.has_compiled(NATIVE)
    assert not any(wheel.has_compiled(module) for module in QUICK)
