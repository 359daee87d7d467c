"""Fixtures of the unit tests; no test may block the event loop."""

import sys
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(params=["callbacks", "compiled"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every USB transfer goes by ctypes alone, then by the compiled part."""
    if request.param == "compiled":
        pytest.importorskip("pypcscd_ccid._carrier", reason="installed without a C compiler")
    else:
        monkeypatch.setitem(sys.modules, "pypcscd_ccid.compiled", None)


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    """Any blocking call on the event loop's thread raises BlockingError."""
    ours = ["pypcscd", "pypcscd_virtual", "pypcscd_ifdhandler", "pypcscd_ccid"]
    with blockbuster_ctx(scanned_modules=ours) as guard:
        for function in guard.functions.values():
            # The name of a process comes from procfs, which is memory; a driver is imported once.
            function.can_block_in("pypcscd/server/access.py", "__str__")
            function.can_block_in("pypcscd/hotplug/drivers.py", "_load")
        yield guard
