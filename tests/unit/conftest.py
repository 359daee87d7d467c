"""Fixtures of the unit tests; no test may block the event loop."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    """Any blocking call on the event loop's thread raises BlockingError."""
    with blockbuster_ctx(scanned_modules=["pypcscd", "pypcscd_virtual", "pypcscd_ifdhandler"]) as guard:
        yield guard
