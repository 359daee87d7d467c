"""Machines for the tests on a real USB stack, and what is compiled for them."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import Guest
from harness import CLIENTS, missing
from kernel import UnavailableError
from vm import Vm

from wheels import Built


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
def installation(tmp_path_factory: pytest.TempPathFactory, systemd_vm: Vm, wheel: Built) -> str:
    """An archive for the guest: a virtual environment with nothing but the wheel of pypcscd in it."""
    folder = tmp_path_factory.mktemp("installation")
    environment = folder / "venv"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for command in (
        [*pip, "wheel", "--wheel-dir", folder / "wheels", wheel.path],
        [sys.executable, "-m", "venv", "--without-pip", environment],
        [
            *(*pip, "--python", environment / "bin/python", "install"),
            *("--no-index", "--find-links", folder / "wheels", "pypcscd"),
        ],
    ):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    return systemd_vm.pack(environment, "installation.tar")


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
