"""What a wheel installs into a tree, judged by systemd's own programs."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import missing, need, need_root

from wheels import Built

UNITS = "etc/systemd/system"
#: what systemd 252 says of the unit of pcsc-lite 2.5; 9.6 of Debian's 1.9.9
EXPOSURE_OF_PCSCD = 2.0


def run(*command: str | Path) -> str:
    """Raises CalledProcessError; returns what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass
class Staged:
    program: Path
    root: Path

    def ask(self, *words: str | Path) -> str:
        return run(self.program, *words)

    def units(self, *names: str) -> Sequence[Path]:
        return [self.root / UNITS / name for name in names]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, wheel: Built) -> Staged:
    """A tree, filled by the program of a wheel in a new virtual environment."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder / "venv")
    # What it depends on is not needed to put files in place.
    run(folder / "venv/bin/pip", "install", "--quiet", "--no-deps", "--no-index", wheel.path)
    staged = Staged(folder / "venv/bin/pypcscd", folder / "root")
    staged.root.mkdir()
    staged.ask("install", "--prefix", staged.root)
    return staged


@pytest.mark.timeout(600)
def test_everything_is_in_place(staged: Staged) -> None:
    assert "everything is in place" in staged.ask("install", "--check", "--prefix", staged.root)
    assert f"\nExecStart={staged.program} " in (staged.root / UNITS / "pcscd.service").read_text()


@pytest.mark.timeout(600)
def test_the_program_takes_what_the_unit_gives_it(staged: Staged) -> None:
    (line,) = re.findall(
        r"^ExecStart=(.*)$", (staged.root / UNITS / "pcscd.service").read_text(), re.MULTILINE
    )
    words = line.replace("$PCSCD_ARGS", "").split()
    assert "--auto-exit" in words
    # --help comes last, so that whatever is wrong with the words before it comes first
    assert "usage:" in run(*words, "--help")


@pytest.mark.timeout(600)
def test_systemd_finds_nothing_wrong(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    need("systemd-analyze")
    template = staged.root / UNITS / "pcscd@.socket"
    instance = shutil.copy(template, staged.root / "pcscd@bank.socket")
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", f"{staged.root / UNITS}:")
    units = staged.units("pcscd.socket", "pcscd-admin.socket", "pcscd.service")
    assert run("systemd-analyze", "verify", "--man=no", *units, instance) == ""


@pytest.mark.timeout(600)
def test_the_service_is_no_more_exposed_than_that_of_pcscd(staged: Staged) -> None:
    need("systemd-analyze")
    said = run("systemd-analyze", "security", "--offline=true", *staged.units("pcscd.service"))
    found = re.search(r"Overall exposure level for pcscd\.service: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) < EXPOSURE_OF_PCSCD, said


@pytest.mark.timeout(600)
def test_enabling_brings_the_socket_with_the_system(staged: Staged) -> None:
    need("systemctl")
    link = staged.root / UNITS / "sockets.target.wants/pcscd.socket"
    try:
        run("systemctl", f"--root={staged.root}", "enable", "pcscd.socket")
        assert link.readlink() == Path("/") / UNITS / "pcscd.socket"
        # A package that was removed and not purged has left a link of this name; only the name matters.
        link.unlink()
        link.symlink_to("/lib/systemd/system/pcscd.socket")
        run("systemctl", f"--root={staged.root}", "enable", "pcscd.socket")
        assert run("systemctl", f"--root={staged.root}", "is-enabled", "pcscd.socket") == "enabled\n"
    finally:
        run("systemctl", f"--root={staged.root}", "disable", "pcscd.socket")
    assert not link.is_symlink()


@pytest.mark.timeout(600)
def test_the_user_has_no_password_and_no_shell(staged: Staged, tmp_path: Path) -> None:
    need("systemd-sysusers")
    need_root()
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", staged.root / "etc/sysusers.d/pypcscd.conf")
    name, _, uid, gid, _, _, shell = (tmp_path / "etc/passwd").read_text().splitlines()[-1].split(":")
    assert (name, shell.endswith("/nologin")) == ("pcscd", True)
    assert int(uid) < 1000
    assert f"pcscd:x:{gid}:" in (tmp_path / "etc/group").read_text()
    password = (tmp_path / "etc/shadow").read_text().splitlines()[-1].split(":")[1]
    assert password.startswith("!")


@pytest.mark.timeout(600)
def test_manual_pages_can_be_read(staged: Staged) -> None:
    if shutil.which("man") is None:
        missing("man is not installed")
    for page in ("man8/pypcscd.8", "man5/pypcscd.toml.5"):
        assert "DESCRIPTION" in run("man", "-P", "cat", "-l", staged.root / "usr/local/share/man" / page)


@pytest.mark.timeout(600)
def test_a_rule_for_each_reader_that_hides_its_class(staged: Staged) -> None:
    from pypcscd.hotplug import match

    rules = (staged.root / "etc/udev/rules.d/92-pypcscd.rules").read_text()
    named = re.findall(
        r'^ATTR\{idVendor\}=="(\w{4})", ATTR\{idProduct\}=="(\w{4})", GROUP', rules, re.MULTILINE
    )
    assert {(int(vendor, 16), int(product, 16)) for vendor, product in named} == match._VENDOR_CLASS_READERS
