"""The daemon as a service, in a VM that systemd has started: Debian's pcscd, and then ours in its place."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from guests import DAEMONS, OURS, REFERENCE, Guest, cases, need_daemon
from harness import VPCD_LIBRARY, missing
from vm import Vm

pytestmark = pytest.mark.timeout(900)

CASES = cases("services")
#: what the cases need beside the daemons
PARTS = [Path("/lib/systemd/system/dbus.socket"), Path("/usr/lib/polkit-1/polkitd"), VPCD_LIBRARY]
PROGRAMS = ["pcsc_scan", "opensc-tool", "setpriv", "dpkg"]
#: what can be asked of the other daemon: it always stays for 60 seconds, and is not installed by us
COMMON = [case for case in CASES if case not in ("installed", "auto_exit", "journal", "uninstall")]


def order() -> list[Any]:
    """The other daemon comes first, because ours takes its place."""
    return [(REFERENCE, case) for case in COMMON] + [(OURS, case) for case in CASES]


@pytest.mark.parametrize(("daemon", "case"), order())
def test_service(
    systemd_vm: Vm, guest: Guest, request: pytest.FixtureRequest, daemon: str, case: str
) -> None:
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    absent += [str(path) for path in PARTS if not path.exists()]
    if absent:
        missing(f"not installed: {', '.join(absent)}")
    need_daemon(REFERENCE)  # also for ours, which takes its place
    settings: dict[str, str] = {}
    if daemon == OURS:
        settings["INSTALLATION"] = request.getfixturevalue("installation")
    wanted = COMMON if daemon == REFERENCE else CASES
    figures = guest.case(systemd_vm, "services", daemon, case, wanted, **settings)
    print(daemon, case, figures)
    if daemon == REFERENCE:
        return
    match case:
        case "exposure":
            assert figures["exposure"] <= figures["upstream"]
        case "journal":
            assert not figures
        case "uninstall":
            assert figures == {"left": [], "lost": []}


@pytest.mark.parametrize("case", cases("names"))
def test_names(vm: Vm, guest: Guest, case: str) -> None:
    """Programs remember names: they are the same with both daemons."""
    expected, found = (guest.case(vm, "names", daemon, case, cases("names")) for daemon in DAEMONS)
    assert found == expected
