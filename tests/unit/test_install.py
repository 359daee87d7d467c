"""``pypcscd install`` and ``uninstall`` on trees of files, with a system that answers as it should."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pytest

from pypcscd import cli
from pypcscd.tools.install import checks, manifest
from pypcscd.tools.install.installer import Installer
from pypcscd.tools.install.items import Item, wanted
from pypcscd.tools.install.machine import Done, InstallError, Machine
from pypcscd.tools.install.remover import uninstall

PROGRAM = PurePosixPath("/opt/pypcscd/bin/pypcscd")
ITEMS = tuple(wanted(PROGRAM, Path("/nowhere")))
SERVICE = "etc/systemd/system/pcscd.service"
SOCKET = "etc/systemd/system/pcscd.socket"
MANIFEST = "var/lib/pypcscd/installed.json"


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Every file with its bytes, every link with its target, every folder."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


class Programs:
    """systemctl, udevadm and the like: they remember what they were told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.users: set[str] = set()
        self.enabled: set[str] = set()
        self.active: set[str] = set()
        #: a command that fails
        self.broken = ""
        #: called with each command
        self.watch: Callable[[str], None] = lambda command: None

    def run(self, command: Sequence[str], *, as_nobody: bool = False) -> Done:
        line = " ".join(command)
        self.calls.append(line)
        self.watch(line)
        if self.broken and line.startswith(self.broken):
            return Done(1, "it is broken")
        return Done(0 if self._obey([*command]) else 1, "")

    def _obey(self, words: list[str]) -> bool:
        match words:
            case ["getent", "passwd", user]:
                return user in self.users
            case ["systemd-sysusers", path] if path.startswith("/"):
                self.users.add("pcscd")
            case ["userdel", user]:
                self.users.remove(user)
            case ["systemctl", "is-enabled", _, unit]:
                return unit in self.enabled
            case ["systemctl", "is-active", _, unit]:
                return unit in self.active
            case ["systemctl", "enable", *units]:
                self.enabled |= set(units)
            case ["systemctl", "disable", *units]:
                self.enabled -= set(units)
            case ["systemctl", "start", *units]:
                self.active |= set(units)
            case ["systemctl", "stop", *units]:
                self.active -= set(units)
        return True


@pytest.fixture
def programs() -> Programs:
    return Programs()


@pytest.fixture
def running(tmp_path: Path, programs: Programs) -> Machine:
    """A system with systemd and udev."""
    root = tmp_path / "root"
    (root / "run/systemd/system").mkdir(parents=True)
    (root / "run/udev").mkdir()
    (root / "run/udev/control").touch()
    return Machine(root, is_staged=False, run=programs.run)


def put(machine: Machine, said: list[str] | None = None) -> None:
    Installer(machine, ITEMS, (said if said is not None else []).append).install()


def staged(root: Path, *more: str) -> int:
    return cli.main(["install", "--prefix", str(root), "--program", str(PROGRAM), *more])


# --- staging ----------------------------------------------------------------------------------


def test_what_is_staged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert staged(tmp_path) == 0
    said = capsys.readouterr().out
    service = (tmp_path / SERVICE).read_text()
    assert f"\nExecStart={PROGRAM} --foreground --auto-exit $PCSCD_ARGS\n" in service
    assert "@program@" not in service
    for item in ITEMS:
        place = tmp_path / str(item.path).lstrip("/")
        assert f"wrote {place}" in said
        assert item.is_link or place.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "usr/local/bin/pypcscd").readlink() == Path(PROGRAM)
    assert f"systemctl --root={tmp_path} enable pcscd.socket" in said
    assert not (tmp_path / "etc/passwd").exists()


def test_a_program_that_is_found_anyway_gets_no_link() -> None:
    items = list(wanted(PurePosixPath("/usr/local/bin/pypcscd"), Path("/nowhere")))
    assert not any(item.is_link for item in items)


def test_drivers_of_vendors_may_open_their_readers(tmp_path: Path) -> None:
    """Those for the whole class need no rule of their own."""
    drivers = tmp_path / "usr/lib/pcsc/drivers"

    def add(name: str, kind: str, vendor: str, product: str) -> None:
        folder = drivers / f"{name}.bundle/Contents"
        folder.mkdir(parents=True)
        (folder / "Info.plist").write_text(
            f"<key>CFBundleExecutable</key><string>lib{name}.so</string>\n"
            f"<key>CFBundleName</key><string>{kind}</string>\n"
            f"<key>ifdVendorID</key><array><string>{vendor}</string></array>\n"
            f"<key>ifdProductID</key><array><string>{product}</string></array>\n"
            "<key>ifdFriendlyName</key><array><string>A reader</string></array>\n"
        )

    add("ifd-ccid", "CCIDCLASSDRIVER", "0x08E6", "0x3437")
    assert staged(tmp_path) == 0
    rules = tmp_path / "etc/udev/rules.d/92-pypcscd-drivers.rules"
    assert not rules.exists()
    add("vendor", "VENDOR", "0x0C4B", "0x0500")
    assert staged(tmp_path, "--check") == 1
    assert staged(tmp_path) == 0
    found = [line for line in rules.read_text().splitlines() if line.startswith("ATTR")]
    assert found == ['ATTR{idVendor}=="0c4b", ATTR{idProduct}=="0500", GROUP="pcscd", MODE="0660"']
    shutil.rmtree(drivers / "vendor.bundle")
    assert staged(tmp_path) == 0
    assert not rules.exists()
    assert str(rules.relative_to(tmp_path)) not in (tmp_path / MANIFEST).read_text()


def test_twice_is_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert staged(tmp_path) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert staged(tmp_path) == 0
    assert "wrote" not in capsys.readouterr().out
    assert tree(tmp_path) == before


def test_uninstall_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert staged(tmp_path) == 0
    assert len(tree(tmp_path)) > 20
    assert cli.main(["uninstall", "--prefix", str(tmp_path)]) == 0
    assert tree(tmp_path) == {"etc": None}, "what was there before stays"


def test_what_somebody_has_changed_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert staged(tmp_path) == 0
    service = tmp_path / SERVICE
    service.write_text("mine")
    assert staged(tmp_path) == 0
    assert f"kept {service}: changed since" in capsys.readouterr().out
    assert staged(tmp_path, "--check") == 0
    assert cli.main(["uninstall", "--prefix", str(tmp_path)]) == 1
    assert f"left {service}: changed since" in capsys.readouterr().out
    assert {name: content for name, content in tree(tmp_path).items() if content is not None} == {
        SERVICE: b"mine"
    }


def test_a_new_version_replaces_the_files_of_the_old_one(tmp_path: Path) -> None:
    assert staged(tmp_path) == 0
    other = ["--program", "/opt/other/bin/pypcscd"]
    assert staged(tmp_path, "--check", *other) == 1
    assert staged(tmp_path, *other) == 0
    assert "/opt/other/bin/pypcscd" in (tmp_path / SERVICE).read_text()
    assert (tmp_path / "usr/local/bin/pypcscd").readlink() == Path("/opt/other/bin/pypcscd")
    assert cli.main(["uninstall", "--prefix", str(tmp_path)]) == 0
    assert tree(tmp_path) == {}


def test_check_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert staged(tmp_path, "--check") == 1
    said = capsys.readouterr().out
    assert f"missing  {tmp_path / SOCKET}: would be written" in said
    assert tree(tmp_path) == {}
    assert staged(tmp_path) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert staged(tmp_path, "--check") == 0
    assert "missing" not in (said := capsys.readouterr().out)
    assert "everything is in place" in said
    assert tree(tmp_path) == before
    (tmp_path / SOCKET).unlink()
    assert staged(tmp_path, "--check") == 1


def test_without_anything_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["uninstall", "--prefix", str(tmp_path)]) == 1
    assert "nothing has been installed" in capsys.readouterr().err


def test_a_manifest_of_another_version_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert staged(tmp_path) == 0
    (tmp_path / MANIFEST).write_text(json.dumps({"version": 99}))
    assert cli.main(["uninstall", "--prefix", str(tmp_path)]) == 1
    assert "another version of pypcscd wrote it" in capsys.readouterr().err


# --- what stands in the way -------------------------------------------------------------------


def debian(root: Path, status: str) -> None:
    entries = f"Package: adduser\nStatus: install ok installed\n\nPackage: pcscd\nStatus: {status}\n"
    place = root / "var/lib/dpkg/status"
    place.parent.mkdir(parents=True)
    place.write_text(entries)
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/apt").touch()


def test_the_package_is_not_fought(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    debian(tmp_path, "install ok installed")
    before = tree(tmp_path)
    assert staged(tmp_path) == 1
    assert "the package pcscd is installed. Remove it first: apt remove pcscd" in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert staged(tmp_path, "--check") == 1
    assert "in the way: the package pcscd" in capsys.readouterr().out
    assert staged(tmp_path, "--over-package") == 0


@pytest.mark.parametrize("status", ["deinstall ok config-files", "purge ok not-installed"])
def test_a_removed_package_is_no_obstacle(tmp_path: Path, status: str) -> None:
    debian(tmp_path, status)
    assert staged(tmp_path) == 0


@pytest.mark.parametrize("path", ["usr/sbin/pcscd", "usr/lib/systemd/system/pcscd.service"])
def test_other_traces_of_pcscd(tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert staged(tmp_path) == 1
    said = capsys.readouterr().err
    assert f"as {tmp_path / path}. Remove it first: remove its package, but keep the library" in said


def test_somebody_elses_unit_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / SERVICE).parent.mkdir(parents=True)
    (tmp_path / SERVICE).write_text("[Service]\nExecStart=/usr/local/sbin/pcscd -f\n")
    before = tree(tmp_path)
    assert staged(tmp_path, "--over-package") == 1
    assert f"{tmp_path / SERVICE} is there and not from pypcscd install" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_masked_unit_is_masked_again_afterwards(tmp_path: Path) -> None:
    (tmp_path / SOCKET).parent.mkdir(parents=True)
    (tmp_path / SOCKET).symlink_to("/dev/null")
    before = tree(tmp_path)
    assert staged(tmp_path) == 0
    assert not (tmp_path / SOCKET).is_symlink()
    assert cli.main(["uninstall", "--prefix", str(tmp_path)]) == 0
    assert tree(tmp_path) == before


def test_a_daemon_without_a_unit(running: Machine) -> None:
    assert checks.stray_daemon(running) is None
    (running.root / "run/pcscd").mkdir()
    (running.root / "run/pcscd/pcscd.pid").write_bytes(b"4711\n\0")
    assert checks.stray_daemon(running) is None, "there is no such process"
    (running.root / "proc/4711").mkdir(parents=True)
    assert "running as process 4711" in (checks.stray_daemon(running) or "")


@pytest.mark.parametrize("folder", ["/home/anna/venv", "/root/venv", "/tmp/venv"])
def test_a_program_that_the_service_cannot_see(running: Machine, folder: str) -> None:
    assert checks.hidden_parts(running, PROGRAM) is None
    said = checks.hidden_parts(running, PurePosixPath(folder, "bin/pypcscd")) or ""
    assert f"cannot use {folder}/bin/pypcscd" in said
    assert "-m venv /opt/pypcscd" in said


def test_homes_may_be_shown(running: Machine) -> None:
    place = running.root / SERVICE
    folder = place.with_name("pcscd.service.d")
    folder.mkdir(parents=True)
    (folder / "home.conf").write_text("[Service]\nProtectHome=read-only\n")
    assert checks.hidden_parts(running, PurePosixPath("/home/anna/bin/pypcscd")) is None
    assert checks.hidden_parts(running, PurePosixPath("/tmp/bin/pypcscd")) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as somebody else")
def test_a_program_that_others_may_not_run(tmp_path: Path) -> None:
    machine = Machine(Path("/"), is_staged=False)
    program = tmp_path / "pypcscd"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o700)
    assert "cannot run" in (checks.closed_program(machine, PurePosixPath(program)) or "")
    assert checks.closed_program(machine, PurePosixPath("/bin/true")) is None


def test_only_root_installs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for word in ("install", "uninstall"):
        assert cli.main([word]) == 1
        assert "must be run by root: sudo " in capsys.readouterr().err


def test_the_own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(sys.executable).with_name("pypcscd")
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert checks.own_program() == PurePosixPath(program)


def test_the_own_program_by_the_link_that_was_made_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = Path(sys.executable).with_name("pypcscd")
    link = tmp_path / "pypcscd"
    link.symlink_to(program)
    monkeypatch.setattr(sys, "argv", [str(link)])
    assert checks.own_program() == PurePosixPath(link), "somebody else's link is as good as the program"
    monkeypatch.setattr(checks, "LINKS", PurePosixPath(tmp_path))
    assert checks.own_program() == PurePosixPath(program)


@pytest.mark.parametrize("path", ["bin/pypcscd", "/opt/my programs/pypcscd", "/opt/%i/pypcscd"])
def test_paths_that_a_unit_cannot_name(path: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cli.main(["install", "--prefix", str(tmp_path), "--program", path])


# --- a running system -------------------------------------------------------------------------


def test_everything_is_started(running: Machine, programs: Programs) -> None:
    before = tree(running.root)
    said: list[str] = []
    put(running, said)
    assert programs.users == {"pcscd"}
    assert programs.enabled == programs.active == {"pcscd.socket"}
    order = [programs.calls.index(line) for line in programs.calls if line.startswith("systemd-sysusers /")]
    assert order[0] < programs.calls.index("udevadm control --reload"), "the rules name the group"
    assert order[0] < programs.calls.index("systemctl start pcscd.socket")
    assert "created user and group pcscd" in said
    assert any(line.startswith("started pcscd.socket") for line in said)
    calls = len(programs.calls)
    put(running)
    asked = ("getent", "systemctl is-")
    assert all(line.startswith(asked) for line in programs.calls[calls:]), "the second time nothing is done"
    assert uninstall(running, said.append)
    assert programs.users == programs.enabled == programs.active == set()
    assert tree(running.root) == before


def test_a_user_who_was_there_stays(running: Machine, programs: Programs) -> None:
    programs.users.add("pcscd")
    put(running)
    assert uninstall(running, lambda line: None)
    assert programs.users == {"pcscd"}


def package(machine: Machine) -> None:
    """The units of an installed package."""
    folder = machine.root / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    for unit in ("pcscd.socket", "pcscd.service"):
        (folder / unit).touch()


def test_what_init_would_do_is_no_unit(running: Machine, programs: Programs) -> None:
    """A removed package leaves its script, of which systemctl says that it is enabled."""
    programs.enabled = {"pcscd.service"}
    put(running)
    assert uninstall(running, lambda line: None)
    assert "systemctl enable pcscd.service" not in programs.calls


def test_the_place_of_a_package_is_taken_and_given_back(running: Machine, programs: Programs) -> None:
    package(running)
    programs.enabled = {"pcscd.socket", "pcscd.service"}
    programs.active = {"pcscd.socket", "pcscd.service"}
    put(running)
    assert "systemctl stop pcscd.socket pcscd.service" in programs.calls
    assert programs.active == {"pcscd.socket"}
    assert uninstall(running, lambda line: None)
    assert programs.enabled == programs.active == {"pcscd.socket", "pcscd.service"}


@pytest.mark.parametrize(
    "broken",
    [
        "systemd-sysusers /",
        "udevadm control",
        "udevadm trigger",
        "systemctl daemon-reload",
        "systemctl enable",
        "systemctl start pcscd.socket",
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_failure_is_undone(running: Machine, programs: Programs, broken: str, *, beside: bool) -> None:
    if beside:
        package(running)
        programs.enabled, programs.active = {"pcscd.socket"}, {"pcscd.socket"}
    before, units, said = tree(running.root), programs.active.copy(), []
    programs.broken = broken

    def mend(line: str) -> None:
        """What fails does so once: undoing may need the same command."""
        if sum(call.startswith(broken) for call in programs.calls) > 1:
            programs.broken = ""

    programs.watch = mend
    with pytest.raises(InstallError, match="it is broken"):
        put(running, said)
    assert tree(running.root) == before
    assert programs.users == set()
    assert programs.enabled == programs.active == units
    assert any(line.startswith("restored ") for line in said)


def test_a_disk_that_is_full_in_the_middle(running: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(running.root)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "pypcscd.toml.5" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InstallError, match=r"cannot write .*pypcscd\.toml\.5: No space left on device"):
        put(running)
    assert tree(running.root) == before


def test_an_upgrade_that_fails_leaves_the_old_version(running: Machine, programs: Programs) -> None:
    put(running)
    before = tree(running.root)
    programs.broken = "systemctl daemon-reload"
    newer = tuple(wanted(PurePosixPath("/opt/other/bin/pypcscd"), Path("/nowhere")))
    with pytest.raises(InstallError):
        Installer(running, newer, lambda line: None).install()
    assert tree(running.root) == before
    assert programs.active == {"pcscd.socket"}


def test_units_that_are_gone_do_not_keep_from_uninstalling(running: Machine, programs: Programs) -> None:
    before = tree(running.root)
    put(running)
    programs.broken = "systemctl stop"
    (running.root / SOCKET).unlink()
    said: list[str] = []
    assert uninstall(running, said.append)
    assert any(line.startswith("could not stop pcscd.socket") for line in said)
    assert tree(running.root) == before


def test_after_a_power_failure_everything_can_be_taken_away(
    running: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(running.root)
    with monkeypatch.context() as patched:
        patched.setattr(Installer, "_make_user", lambda self: None)
        patched.setattr(Installer, "_take_back", lambda self: None)
        patched.setattr(Installer, "_read_rules", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(running)
    assert manifest.load(running) is not None
    assert uninstall(running, lambda line: None)
    assert tree(running.root) == before


def test_a_container_is_told_what_is_left_out(tmp_path: Path, programs: Programs) -> None:
    said: list[str] = []
    put(Machine(tmp_path, is_staged=False, run=programs.run), said)
    assert programs.users == {"pcscd"}
    assert [line for line in said if line.startswith("skipped:")] == [
        "skipped: udev does not run here; it reads its rules when it starts",
        "skipped: systemd does not run here; to be done: systemctl enable pcscd.socket",
    ]
    assert not any(line.startswith(("systemctl", "udevadm")) for line in programs.calls)


def test_nothing_is_left_of_a_file_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", disk_is_full)
    with pytest.raises(InstallError):
        Machine(tmp_path, is_staged=True).write(Item(PurePosixPath("/etc/systemd/system/pcscd.socket"), b"x"))
    assert list(tmp_path.rglob("*")) == []
