"""What holds for all tests."""

import signal
from pathlib import Path

import pytest

from wheels import Built, build

#: what is run again with the compiled package, by the way its path begins
AGAIN_COMPILED = (
    "unit",
    "conformance",
    *(f"integration/test_{name}" for name in ("bad_input", "clients", "dialects", "events")),
    *(f"integration/test_{name}" for name in ("ifdhandler", "sharing", "vpcd")),
)

#: half of the time: what runs beside all others where two processes run the tests
BESIDE = tuple(f"system/test_{name}" for name in ("drivers", "hotplug", "usb"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compiled", action="store_true", help="only what matters with compiled modules; fails without them"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Programs under test are interrupted as on a terminal, also where the tests run in the background.

    A shell has its background jobs ignore SIGINT, and whoever they start ignores it too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--compiled"):
        import pypcscd.eager

        if not pypcscd.eager.__file__.endswith(".so"):
            pytest.exit(
                f"{pypcscd.eager.__file__} is not compiled; make compiled, and set PYTHONPATH=build/compiled",
                returncode=2,
            )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if config.getoption("--compiled"):
        items[:] = [item for item in items if str(item.path.relative_to(here)).startswith(AGAIN_COMPILED)]
    for item in items:
        is_long = str(item.path.relative_to(here)).startswith(BESIDE)
        item.add_marker(pytest.mark.xdist_group("beside" if is_long else "others"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The package as it is installed; compiling it takes most of a minute."""
    return build(tmp_path_factory.mktemp("wheel"))
