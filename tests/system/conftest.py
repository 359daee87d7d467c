"""Machines for the tests on a real USB stack, and what is compiled for them."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import Guest
from harness import CLIENTS, missing
from kernel import UnavailableError
from vm import Vm


@pytest.fixture(scope="session")
def vm() -> Iterator[Vm]:
    """A machine that runs as fast as it can."""
    yield from _vm()


@pytest.fixture(scope="session")
def counted_vm() -> Iterator[Vm]:
    """A machine whose time is the number of its instructions."""
    yield from _vm(counted=True)


@pytest.fixture(scope="session")
def systemd_vm() -> Iterator[Vm]:
    """A machine that systemd has started."""
    yield from _vm(systemd=True)


def _vm(counted: bool = False, systemd: bool = False) -> Iterator[Vm]:
    try:
        machine = Vm(counted=counted, systemd=systemd)
    except UnavailableError as error:
        missing(str(error))
    with machine:
        yield machine


@pytest.fixture(scope="session")
def guest() -> Guest:
    return Guest()


@pytest.fixture(scope="session")
def parallel_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tests/clients/parallel.c``, compiled where the guest sees it."""
    if shutil.which("gcc") is None:
        missing("gcc is not installed")
    out = tmp_path_factory.mktemp("compiled") / "parallel"
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-I/usr/include/PCSC", "-o", out]
    subprocess.run([*command, CLIENTS / "parallel.c", "-lpcsclite", "-lpthread"], check=True)
    return out
