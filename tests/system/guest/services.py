"""The daemon as a service of systemd: activation, its user, hardening, reload, installation.

With ``--daemon pcscd`` it is Debian's package as it is. With ``--daemon pypcscd`` that package is removed,
and ours is put in its place, from the archive $INSTALLATION. The cases can follow each other in
their order.
"""

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bed import LEAVE, PRESENT, SOCKET, UNAWARE, Bench, main, wait_for

SOCKET_UNIT, SERVICE = "pcscd.socket", "pcscd.service"
DEFAULTS = Path("/etc/default/pcscd")
VPCD_LIBRARY = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"
VPCD_PORT = 35963
AUTO_EXIT_SECONDS = 3
RULE = Path("/etc/polkit-1/rules.d/10-test.rules")
ALLOW_NOBODY = """\
polkit.addRule(function (action, subject) {
    if (action.id.startsWith("org.debian.pcsc-lite.access_") && subject.user == "nobody") {
        return polkit.Result.YES;
    }
});
"""
#: where the service can see it, which it cannot in a home
PREFIX = Path("/opt/pypcscd")
PYTHON = Path("/opt/python")
#: what an installation may have put files into
WATCHED = (
    *("/etc", "/usr/local", "/usr/lib/systemd", "/usr/lib/udev", "/usr/share/man", "/usr/share/polkit-1"),
    *("/run/pcscd", "/var/lib/pypcscd"),
)
#: what pcsc-lite's own unit has had since 2.3
UPSTREAM = """\
[Service]
ExecStart=/bin/true --foreground --auto-exit
User=pcscd
RuntimeDirectory=pcscd
RuntimeDirectoryPreserve=yes
ProtectProc=invisible
CapabilityBoundingSet=
NoNewPrivileges=yes
UMask=0077
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateUsers=identity
ProtectHostname=yes
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallFilter=@system-service
SystemCallFilter=~@resources @privileged
SystemCallArchitectures=native
"""


def run(*command: str | Path, status: int | None = 0, seconds: float = 120) -> str:
    """What a program prints; ``status`` is how it must end, None: anyhow."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
    )
    if status is not None:
        assert done.returncode == status, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def scanned(*prefix: str, status: int | None = 0) -> str:
    """The list of readers, of a program that is nothing but a client."""
    return run(*prefix, "timeout", "60", "pcsc_scan", "-r", status=status)


def unpack_environment(archive: str, python: Path) -> None:
    """Put a virtual environment where it is to be, with another interpreter; it was made elsewhere because
    pip takes minutes on an emulated processor."""
    PREFIX.mkdir()
    run("tar", "-xf", archive, "-C", PREFIX)
    settings = PREFIX / "pyvenv.cfg"
    old_home = re.search(r"^home = (.*)$", settings.read_text(), re.MULTILINE)
    old_command = re.search(r"^command = .* (\S+)$", settings.read_text(), re.MULTILINE)
    assert old_home and old_command
    settings.write_text(settings.read_text().replace(old_home[1], str(python / "bin")))
    for path in (PREFIX / "bin").iterdir():
        if path.is_symlink():
            target = path.readlink()
            if target.is_absolute():
                path.unlink()
                path.symlink_to(python / "bin" / target.name)
        else:
            path.write_text(path.read_text().replace(old_command[1], str(PREFIX)))


class Services(Bench):
    def __init__(self, daemon: str) -> None:
        super().__init__(daemon)
        self.refused = ""
        self.before: set[str] = set()
        if daemon == "pypcscd":
            self._install()
        self.start()

    def _install(self) -> None:
        python = Path(sys.base_prefix)
        if python.parts[1] in ("root", "home", "tmp"):
            # for everybody to see, as a system's own Python is
            PYTHON.mkdir()
            run("mount", "--bind", python, PYTHON)
            python = PYTHON
        unpack_environment(os.environ["INSTALLATION"], python)
        self.refused = run(PREFIX / "bin/pypcscd", "install", status=1)
        # as "apt remove pcscd" does, but what depends on the package is still wanted here
        run("dpkg", "--no-triggers", "--force-depends", "--remove", "pcscd")
        # what a daemon that ran before has left
        DEFAULTS.unlink(missing_ok=True)
        shutil.rmtree(SOCKET.parent, ignore_errors=True)
        self.before = files()
        print(run(PREFIX / "bin/pypcscd", "install"))

    def start(self) -> None:
        if self.show("LoadState", SOCKET_UNIT) == "not-found":
            return  # uninstalled
        run("systemctl", "reset-failed", SERVICE, status=None)
        run("systemctl", "start", SOCKET_UNIT)
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        run("systemctl", "stop", SERVICE, SOCKET_UNIT, status=None)

    @property
    def alive(self) -> bool:
        """The socket is; the service comes and goes."""
        return self.show("ActiveState", SOCKET_UNIT) == "active"

    @property
    def ending(self) -> str:
        return run("systemctl", "status", SERVICE, SOCKET_UNIT, status=None)

    def log_end(self) -> str:
        run("journalctl", "--sync")
        found = re.search(r"^-- cursor: (.*)$", run("journalctl", "-n0", "--show-cursor"), re.MULTILINE)
        assert found
        return found[1]

    def log_since(self, end: str) -> str:
        run("journalctl", "--sync")
        return run("journalctl", "--no-pager", "-q", "-o", "short-monotonic", f"--after-cursor={end}")

    def show(self, name: str, unit: str = SERVICE) -> str:
        return run("systemctl", "show", "--property", name, "--value", unit).strip()

    def rest(self, arguments: str = "") -> None:
        """Stop the service and leave its socket; it gets these options at its next start."""
        DEFAULTS.write_text(f"PCSCD_ARGS={arguments}\n")
        run("systemctl", "stop", SERVICE)
        run("systemctl", "reset-failed", SERVICE, status=None)
        run("systemctl", "start", SOCKET_UNIT)
        assert self.show("ActiveState") == "inactive"

    @contextmanager
    def plugged(self, model: str, cards: dict[str, Any] | None = None, **changes: Any) -> Iterator[None]:
        """A reader that the kernel and udev know; no daemon is asked."""
        self._plugged += 1
        name = f"reader{self._plugged}"
        self.simulator.plug(name, model, cards, **changes)
        classes = Path("/sys/bus/usb/devices")
        wait_for(
            lambda: any(path.read_text() == "0b\n" for path in classes.glob("*/bInterfaceClass")),
            "the kernel",
        )
        run("udevadm", "settle")
        try:
            yield
        finally:
            self.simulator.order("unplug", name=name)


def files() -> set[str]:
    return set(run("find", *(path for path in WATCHED if Path(path).exists()), "-xdev").splitlines())


def case_installed(bed: Services) -> Any:
    """A packaged pcscd is not fought with; afterwards everything is in place."""
    if bed.daemon == "pypcscd":
        assert "apt remove pcscd" in bed.refused, bed.refused
        print(run("pypcscd", "install", "--check"))
        assert run("systemctl", "is-enabled", SOCKET_UNIT) == "enabled\n"
    assert bed.show("ActiveState", SOCKET_UNIT) == "active"


def case_first_client_starts_it(bed: Services) -> Any:
    bed.rest()
    inode = SOCKET.stat().st_ino
    with bed.plugged("gemalto"):
        started = time.monotonic()
        listed = scanned()
        seconds = time.monotonic() - started
        assert bed.show("ActiveState") == "active"
        # A client waits for the first look at the devices, but not for ever.
        wait_for(lambda: "Gemalto PC Twin Reader 00 00" in scanned(), "the reader")
    assert SOCKET.stat().st_ino == inode
    user = run("stat", "--format=%U", f"/proc/{bed.show('MainPID')}").strip()
    if bed.daemon == "pypcscd":
        assert bed.show("Type") == "notify"
        assert os.sched_getscheduler(int(bed.show("MainPID"))) == os.SCHED_BATCH
        assert user == "pcscd"
        assert bed.show("StatusText")
    return {"seconds": round(seconds, 2), "at once": "Gemalto" in listed, "user": user}


def case_plugged_while_it_runs(bed: Services) -> Any:
    """Hot-plug events reach it, it may open the device, and a card answers."""
    wait_for(bed.establish, "a context")
    with bed.reader("short", {"0": {"protocol": 1}}) as reader:
        card = reader.connect()
        card.exchange(("00B0000004", "000102039000"))
        card.disconnect()
    return {"listed after": round(reader.listed_seconds, 2), "gone after": round(reader.gone_seconds, 2)}


def case_ordinary_user(bed: Services) -> Any:
    """Who has no rights may use cards if polkit agrees, and never the device itself."""
    wait_for(bed.establish, "a context")
    anybody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    with bed.reader("short", {"0": {"protocol": 1}}) as reader:
        if bed.daemon == "pypcscd":
            log_end = bed.log_end()
            denied = scanned(*anybody, status=255)
            assert "Access denied" in denied, denied
            assert "polkit says no" in bed.log_since(log_end)
            RULE.parent.mkdir(parents=True, exist_ok=True)
            RULE.write_text(ALLOW_NOBODY)
        try:
            wait_for(lambda: reader.names[0] in scanned(*anybody, status=None), "polkit to see the rule", 20)
            shown = run(*anybody, "opensc-tool", "-r", "0", "-s", "00:B0:00:00:04")
            assert "SW1=0x90, SW2=0x00" in shown, shown
        finally:
            RULE.unlink(missing_ok=True)
        if bed.daemon == "pypcscd":
            (device,) = (path.parent for path in Path("/sys/bus/usb/devices").glob("1-*/busnum"))
            bus, address = (int((device / name).read_text()) for name in ("busnum", "devnum"))
            access = run("stat", "--format=%U %G %a", f"/dev/bus/usb/{bus:03}/{address:03}")
            assert access == "root pcscd 660\n"


def case_reload_in_a_transaction(bed: Services) -> Any:
    """Nobody who is connected loses anything: not the transaction, nor the place in its line."""
    wait_for(bed.establish, "a context")
    with bed.reader("short", {"0": {"protocol": 1}}) as reader:
        holder = reader.connect()
        waiter = bed.another().connect(reader.names[0])
        watcher = bed.another()
        log_end = bed.log_end()
        assert bed.winscard.begin(holder.handle)[0] == 0
        pid = bed.show("MainPID")
        state = watcher.wait_change(reader.names[0], UNAWARE)
        assert state & PRESENT
        results: dict[str, int] = {}

        def begin() -> None:
            results["begin"] = waiter.winscard.begin(waiter.handle)[0]

        def watch() -> None:
            results["watch"], _ = watcher.winscard.changes(watcher.context, 60000, [(reader.names[0], state)])

        threads = [threading.Thread(target=target, daemon=True) for target in (begin, watch)]
        for thread in threads:
            thread.start()
        holder.exchange(("00B0000004", "000102039000"))
        started = time.monotonic()
        run("systemctl", "reload", SERVICE)
        seconds = time.monotonic() - started
        if bed.daemon == "pypcscd":
            wait_for(lambda: "reloaded" in bed.log_since(log_end), "the reload")
        holder.exchange(("00B0000004", "000102039000"))
        assert bed.show("MainPID") == pid
        assert not results, "somebody has been let in, or woken"
        assert bed.winscard.end(holder.handle, LEAVE)[0] == 0
        wait_for(lambda: "begin" in results, "the one in line")
        assert results["begin"] == 0
        waiter.exchange(("00B0000004", "000102039000"))
        bed.simulator.order("remove", name=reader.name)
        wait_for(lambda: "watch" in results, "the removal")
        assert results["watch"] == 0
        for thread in threads:
            thread.join()
    return {"reload took": round(seconds, 2)}


class Emulator(threading.Thread):
    """A card for vpcd, which says what it is asked: 16 bits of length, then one byte of what to do, or an
    APDU (vsmartcard's protocol)."""

    ATR = bytes.fromhex("3B80800101")

    def __init__(self) -> None:
        super().__init__(daemon=True)
        wait_for(self._connected, "vpcd's port", 20)
        self.start()

    def _connected(self) -> bool:
        self.socket = socket.socket()
        return self.socket.connect_ex(("127.0.0.1", VPCD_PORT)) == 0

    def run(self) -> None:
        stream = self.socket.makefile("rb")
        while len(header := stream.read(2)) == 2:
            (length,) = struct.unpack(">H", header)
            request = stream.read(length)
            if length > 1:
                self._send(request[:4] + b"\x90\x00")
            elif request == b"\x04":
                self._send(self.ATR)

    def _send(self, data: bytes) -> None:
        self.socket.sendall(struct.pack(">H", len(data)) + data)


def case_native_driver(bed: Services) -> Any:
    """A driver in C from reader.conf.d works within what the unit allows; ours finds it on reload."""
    if bed.daemon == "pcscd":
        bed.rest()
    wait_for(bed.establish, "a context")
    conf = Path("/etc/reader.conf.d/test")
    conf.write_text(
        f'FRIENDLYNAME "Test PCD"\nDEVICENAME /dev/null:{VPCD_PORT:#x}\nLIBPATH {VPCD_LIBRARY}\nCHANNELID 1\n'
    )
    try:
        run("systemctl", "reload-or-restart", SERVICE)
        if bed.daemon == "pcscd":
            bed.rest()
            wait_for(bed.establish, "a context")
        emulator = Emulator()
        card = bed.connect("Test PCD 00 00", seconds=20)
        card.exchange(("00A40000023F00", "00A400009000"))
        card.disconnect()
        names = bed.readers()
        emulator.socket.close()
    finally:
        conf.unlink()
    if bed.daemon == "pypcscd":
        run("systemctl", "reload", SERVICE)
        wait_for(lambda: not set(bed.readers()) & set(names), "the readers' end")
    return names


def case_auto_exit(bed: Services) -> Any:
    """It goes when nobody is there, not before; the next client finds the same socket, and a daemon."""
    bed.rest(f"--auto-exit={AUTO_EXIT_SECONDS}")
    inode = SOCKET.stat().st_ino
    reader = "Gemalto PC Twin Reader 00 00"
    with bed.plugged("gemalto"):
        client = bed.another()
        wait_for(lambda: client.readers() == [reader], "the reader")
        pid = bed.show("MainPID")
        time.sleep(AUTO_EXIT_SECONDS + 1)  # as long as that nothing must happen
        assert bed.show("MainPID") == pid
        client.winscard.release(client.context)
        started = time.monotonic()
        wait_for(lambda: bed.show("ActiveState") == "inactive", "the daemon's end", 30)
        seconds = time.monotonic() - started
        assert bed.show("Result") == "success", bed.ending
        assert bed.show("ActiveState", SOCKET_UNIT) == "active"
        wait_for(lambda: reader in scanned(), "the reader")
        assert SOCKET.stat().st_ino == inode
        assert bed.show("MainPID") != pid
    return {"gone after": round(seconds, 2)}


def case_exposure(bed: Services) -> Any:
    """What systemd thinks of the unit, and of the one that pcsc-lite has."""
    found = re.search(
        r"(\d+\.\d+) ", run("systemd-analyze", "security", "--no-pager", SERVICE).splitlines()[-1]
    )
    assert found
    path = Path("/run/upstream.service")
    path.write_text(UPSTREAM)
    lines = run("systemd-analyze", "security", "--no-pager", "--offline=true", path).splitlines()
    upstream = re.search(r"(\d+\.\d+) ", lines[-1])
    assert upstream, lines[-1]
    return {"exposure": float(found[1]), "upstream": float(upstream[1])}


def case_journal(bed: Services) -> Any:
    """Nothing was denied, nothing went wrong, in all the cases so far."""
    run("journalctl", "--sync")
    found = run(
        "journalctl", "-q", "-o", "cat", "-p", "warning", "-u", SERVICE, "-u", SOCKET_UNIT, status=None
    )
    kernel = [line for line in run("journalctl", "-k", "-q", "-o", "cat").splitlines() if "segfault" in line]
    # asked for by a case; and what a slow machine may say
    expected = re.compile(r"was denied access: polkit says no|^not ready after")
    return [line for line in found.splitlines() if not expected.search(line)] + kernel


def case_uninstall(bed: Services) -> Any:
    """From a daemon in use: nothing is left, and nothing is missing that was there before."""
    DEFAULTS.unlink()
    wait_for(bed.establish, "a context")
    print(run(PREFIX / "bin/pypcscd", "uninstall"))
    bed.stopped = True
    assert bed.show("LoadState", SERVICE) == "not-found"
    assert "pcscd" not in Path("/etc/passwd").read_text()
    after = files()
    return {"left": sorted(after - bed.before), "lost": sorted(bed.before - after)}


if __name__ == "__main__":
    main(globals(), Services, 240)
