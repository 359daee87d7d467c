"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """Programs under test are interrupted as on a terminal, also where the tests run in the background.

    A shell has its background jobs ignore SIGINT, and whoever they start ignores it too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
