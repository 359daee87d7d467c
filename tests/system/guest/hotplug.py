"""Readers that go and come back, are reset, left alone, forbidden or deaf; and systems without udev."""

import ctypes
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bed import CHANGED, PRESENT, SOCKET, UNAWARE, Bed, Reader, allow, main, wait_for

DEVICES = Path("/sys/bus/usb/devices")
RULES = Path("/run/udev/rules.d/99-hotplug-test.rules")
UDEV_CONTROL = Path("/run/udev/control")
UDEVD = "/lib/systemd/systemd-udevd"
NOBODY = 65534
#: _IO('U', 20)
USBDEVFS_RESET = 0x5514
NEWS = "\\\\?PnP?\\Notification"
CARD = {"0": {"protocol": 1}}
READ = ("00B0000010", bytes(range(16)) + b"\x90\x00")

#: times that the reader is plugged in anew, the first of them to warm up
REPLUGS = int(os.environ.get("REPLUGS", "20"))
WARM_UP = max(REPLUGS // 10, 3)
FEW = 10
REPLUG_SECONDS = 15.0


def devices() -> set[Path]:
    """The devices in sysfs, without hubs."""
    return {
        folder
        for folder in DEVICES.iterdir()
        if ":" not in folder.name and not folder.name.startswith("usb") and (folder / "idVendor").exists()
    }


@contextmanager
def plugged(bed: Bed, model: str = "short", **changes: Any) -> Iterator[tuple[Reader, Path]]:
    """A reader with a card, and where it is in sysfs."""
    before = devices()
    with bed.reader(model, CARD, **changes) as reader:
        (folder,) = devices() - before
        yield reader, folder


def node(folder: Path) -> Path:
    bus, address = (int((folder / name).read_text()) for name in ("busnum", "devnum"))
    return Path(f"/dev/bus/usb/{bus:03}/{address:03}")


def use(bed: Bed, name: str) -> None:
    """The reader can be used, by somebody who has not used it before."""
    card = bed.another().connect(name)
    card.exchange(READ)
    card.disconnect()


def until_used(bed: Bed, name: str, seconds: float = 10.0) -> float:
    """Seconds until the reader can be used."""

    def works() -> bool:
        try:
            use(bed, name)
        except AssertionError:
            return False
        return True

    started = time.monotonic()
    wait_for(works, f"{name} in use", seconds)
    return round(time.monotonic() - started, 3)


def until_listed(bed: Bed, *names: str, seconds: float = 15.0) -> float:
    started = time.monotonic()
    wait_for(lambda: sorted(bed.list()) == sorted(names), f"readers {names}", seconds)
    return round(time.monotonic() - started, 3)


def until_closed(bed: Bed) -> None:
    wait_for(lambda: not any("/dev/bus/usb" in path for path in bed.daemon_files()), "the device's end")


def log_of(bed: Bed, start: int) -> str:
    return bed.log.read_bytes()[start:].decode(errors="replace")


def udevadm(*words: str | Path) -> None:
    subprocess.run(["udevadm", *words], check=True, timeout=20)


@contextmanager
def rule(text: str) -> Iterator[None]:
    RULES.parent.mkdir(parents=True, exist_ok=True)
    RULES.write_text(text + "\n")
    udevadm("control", "--reload")
    try:
        yield
    finally:
        RULES.unlink()
        udevadm("control", "--reload")


@contextmanager
def daemon_by(bed: Bed, *wrapper: str) -> Iterator[int]:
    """A new daemon, started by a program; yields where its log begins. The next case has the usual one."""
    allow(120)
    command = list(bed._command)
    bed.stop()
    bed._command[:0] = wrapper
    start = bed.log.stat().st_size
    try:
        bed.start()
        yield start
    finally:
        bed.stop()
        bed._command[:] = command


# --- resets -----------------------------------------------------------------------------------


def reset_at_port(bed: Bed, model: str) -> Any:
    """As programs do it, and the kernel after a suspension without power."""
    with plugged(bed, model) as (reader, folder):
        (name,) = reader.names
        use(bed, name)
        times = []
        for _ in range(3):
            start = bed.log.stat().st_size
            with node(folder).open("r+b", buffering=0) as device:
                fcntl.ioctl(device, USBDEVFS_RESET)
            times.append(until_used(bed, name))
            # movements of cards are still noticed
            reader.order("remove")
            wait_for(lambda: not bed.wait_change(name, UNAWARE) & PRESENT, "the card's end")
            reader.order("insert", protocol=1)
            wait_for(lambda: bed.wait_change(name, UNAWARE) & PRESENT, "the card's return")
            use(bed, name)
            assert "Traceback" not in log_of(bed, start)
        assert bed.list() == [name]
        return {"usable after": times}


def case_reset_at_port(bed: Bed) -> Any:
    return reset_at_port(bed, "short")


def case_reset_at_port_polled(bed: Bed) -> Any:
    return reset_at_port(bed, "polled")


def case_reset_in_transmit(bed: Bed) -> Any:
    """The command fails soon, and the reader is usable again."""
    with plugged(bed) as (reader, folder):
        (name,) = reader.names
        card = reader.connect()
        results: list[int] = []
        call = threading.Thread(target=lambda: results.append(card.raw("00101388")[0]))
        call.start()
        wait_for(lambda: reader.counters.get("apdus", 0) or time.sleep(0.2) is None, "the command")
        started = time.monotonic()
        with node(folder).open("r+b", buffering=0) as device:
            fcntl.ioctl(device, USBDEVFS_RESET)
        call.join(20)
        assert not call.is_alive()
        seconds = round(time.monotonic() - started, 3)
        return {"code": f"{results[0]:#x}", "seconds": seconds, "usable after": until_used(bed, name)}


def case_authorized(bed: Bed) -> Any:
    """The interfaces go and come back; the device keeps its address."""
    with plugged(bed) as (reader, folder):
        (name,) = reader.names
        (folder / "authorized").write_text("0")
        gone = until_listed(bed)
        (folder / "authorized").write_text("1")
        back = until_listed(bed, name)
        use(bed, name)
        # faster than anybody can look
        (folder / "authorized").write_text("0")
        (folder / "authorized").write_text("1")
        return {"gone": gone, "back": back, "usable after": until_used(bed, name)}


def case_deaf(bed: Bed) -> Any:
    """A reader that does not answer is reset; meanwhile another one is taken up as if nothing were."""
    with plugged(bed) as (reader, _):
        allow(120)
        bed.stop()
        reader.order("hang")
        start = bed.log.stat().st_size
        bed.start()
        began = time.monotonic()
        bed.simulator.plug("other", "extended", CARD)
        (other,) = wait_for(bed.list, "the other reader")
        seconds = round(time.monotonic() - began, 3)
        use(bed, other)
        wait_for(lambda: len(bed.list()) == 2, "the deaf reader", 80)
        back = round(time.monotonic() - began, 3)
        use(bed, next(name for name in bed.list() if name != other))
        bed.simulator.order("unplug", name="other")
        log = log_of(bed, start)
        assert log.count("reset, because") == 1, log
        return {"other listed": seconds, "back after": back}


# --- plugged in again -------------------------------------------------------------------------


class Watcher:
    """A client that waits in SCardGetStatusChange all the time and notes what it sees."""

    def __init__(self, bed: Bed) -> None:
        self.client = bed.another()
        self.names: set[str] = set()
        self.listed: list[str] = []
        self.is_done = False
        self.failure = ""
        self.changes = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        state = UNAWARE
        while not self.is_done:
            rv, states = self.client.winscard.changes(self.client.context, 1000, [(NEWS, state)])
            if rv == 0:
                self.changes += 1
                state = states[0][0] & ~CHANGED  # type: ignore[index]
            elif rv != 0x8010000A:  # SCARD_E_TIMEOUT
                self.failure = f"{rv:#x}"
                return
            self.listed = self.client.readers()
            self.names.update(self.listed)

    def stop(self) -> None:
        self.is_done = True
        self.thread.join(10)
        assert not self.failure, self.failure


def resident(pid: int) -> int:
    """KiB of memory that are the process's own, or shared."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def case_replug(bed: Bed) -> Any:
    """Again and again, while a client watches: one name, and nothing is left behind."""
    allow(REPLUGS * 5 + 60)
    start = bed.log_end()  # the cases before it make errors on purpose
    watcher = Watcher(bed)
    files, memory, tasks = [], [], []
    for _ in range(REPLUGS):
        bed.simulator.plug("reader", "short", CARD)
        wait_for(lambda: len(watcher.listed) == 1, "the watcher to see the reader", REPLUG_SECONDS)
        bed.simulator.order("unplug", name="reader")
        wait_for(lambda: not watcher.listed, "the watcher to see it go", REPLUG_SECONDS)
        until_closed(bed)
        files.append(len(bed.daemon_files()))
        memory.append(resident(bed.process.pid))
        tasks.append(threads(bed.process.pid))
    watcher.stop()
    assert len(watcher.names) == 1, watcher.names
    errors = [line for line in log_of(bed, start).splitlines() if "ERROR" in line or "CRITICAL" in line]
    assert not errors, errors
    # The least of some: at any moment a look at a port may have something open.
    return {
        "replugs": REPLUGS,
        "names": sorted(watcher.names),
        "changes": watcher.changes,
        "files": [min(files[WARM_UP:][:FEW]), min(files[-FEW:]), max(files)],
        "KiB": [memory[WARM_UP], memory[REPLUGS // 2], memory[-1]],
        "threads": [min(tasks[WARM_UP:][:FEW]), min(tasks[-FEW:])],
    }


def case_two_identical(bed: Bed) -> Any:
    """Whichever of the two is plugged in again has its name again, and the other one keeps its own."""
    with bed.reader("short", CARD) as first, bed.reader("short", {"0": {"protocol": 0}}) as second:
        (one,), (two,) = first.names, second.names
        assert one != two
        for reader, name, other in ((first, one, two), (second, two, one), (first, one, two)):
            card = bed.another().connect(other)
            reader.order("unplug")
            until_listed(bed, other)
            bed.simulator.plug(reader.name, "short", CARD)
            until_listed(bed, one, two)
            use(bed, name)
            card.exchange(READ)
            card.disconnect()
        return [one, two]


def case_quick_replug(bed: Bed) -> Any:
    """Pulled and plugged in within a moment, before anybody has looked."""
    with bed.reader("short", CARD) as reader:
        (name,) = reader.names
        seen = Watcher(bed)
        for _ in range(5):
            reader.order("unplug")
            bed.simulator.plug(reader.name, "short", CARD)
            until_used(bed, name)
            assert bed.list() == [name]
        seen.stop()
        assert seen.names == {name}
        return name


# --- what udev says ---------------------------------------------------------------------------


def case_ignored(bed: Bed) -> Any:
    """PCSCLITE_IGNORE appears and goes while the reader is open, on the device and on the interface."""
    with plugged(bed) as (reader, folder):
        (name,) = reader.names
        times: list[float] = []
        for kind, changed in (("usb_device", folder), ("usb_interface", folder / f"{folder.name}:1.0")):
            use(bed, name)
            with rule(f'SUBSYSTEM=="usb", ENV{{DEVTYPE}}=="{kind}", ENV{{PCSCLITE_IGNORE}}="1"'):
                udevadm("trigger", "--action=change", changed)
                times.append(until_listed(bed))
                until_closed(bed)
                # said again, it changes nothing
                udevadm("trigger", "--action=change", "--settle", changed)
                assert bed.list() == []
            udevadm("trigger", "--action=change", changed)
            times.append(until_listed(bed, name))
        use(bed, name)
        return {"closed, back, closed, back": times}


def case_no_permission(bed: Bed) -> Any:
    """A daemon that is not root takes the reader up as soon as udev has given it access."""
    os.chown(SOCKET.parent, NOBODY, NOBODY)
    before = devices()
    try:
        with daemon_by(bed, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") as start:
            bed.simulator.plug("forbidden", "short", CARD)
            wait_for(lambda: "no access to /dev/bus/usb" in log_of(bed, start), "the refusal")
            (folder,) = devices() - before
            # the pauses have become long by now
            wait_for(lambda: "again in 2.0 s" in log_of(bed, start), "some refusals", 20)
            assert bed.list() == []
            with rule('SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", MODE="0666"'):
                udevadm("trigger", "--action=change", folder)
                wait_for(bed.list, "the reader")
                log = log_of(bed, start)
                use(bed, bed.list()[0])
            assert "reset" not in log, log
            bed.simulator.order("unplug", name="forbidden")
            until_listed(bed)
            return [line for line in log.splitlines() if "no access" in line][-1:]
    finally:
        os.chown(SOCKET.parent, 0, 0)


# --- without udev -----------------------------------------------------------------------------


def come_and_go(bed: Bed) -> dict[str, Any]:
    """There before the daemon, pulled, plugged in again."""
    times: dict[str, Any] = {}
    names = set(wait_for(bed.list, "the reader that was there before"))
    use(bed, *names)
    bed.simulator.order("unplug", name="early")
    until_listed(bed)
    for _ in range(2):
        with bed.reader("short", CARD) as reader:
            use(bed, reader.names[0])
            names.update(reader.names)
        times.setdefault("listed", []).append(round(reader.listed_seconds, 3))
        times.setdefault("gone", []).append(round(reader.gone_seconds, 3))
    assert len(names) == 1
    return times


def case_without_udev(bed: Bed) -> Any:
    """Nobody but the kernel tells."""
    udevadm("control", "--exit")
    wait_for(lambda: not udev_runs(), "udev's end")
    UDEV_CONTROL.unlink(missing_ok=True)
    bed.simulator.plug("early", "short", CARD)
    try:
        with daemon_by(bed) as start:
            times = come_and_go(bed)
            assert "udev is not running" in log_of(bed, start)
            return times
    finally:
        subprocess.run([UDEVD, "--daemon"], check=True, stdout=subprocess.DEVNULL)
        wait_for(UDEV_CONTROL.exists, "udev")


def udev_runs() -> bool:
    def name(folder: Path) -> str:
        try:
            return (folder / "comm").read_text().strip()
        except OSError:
            return ""

    return any(name(folder) == "systemd-udevd" for folder in Path("/proc").glob("[0-9]*"))


def case_without_netlink(bed: Bed) -> Any:
    """Not even the kernel may tell, as under ``RestrictAddressFamilies=AF_UNIX``."""
    bed.simulator.plug("early", "short", CARD)
    with daemon_by(bed, sys.executable, __file__, "--without-netlink") as start:
        times = come_and_go(bed)
        log = log_of(bed, start)
        assert "netlink sockets are refused" in log, log
        return times


def refuse_netlink(program: list[str]) -> None:
    """Become the program, with a filter that refuses netlink sockets."""

    def step(code: int, value: int, matches: int = 0, differs: int = 0) -> bytes:
        # struct sock_filter
        return code.to_bytes(2, sys.byteorder) + bytes((matches, differs)) + value.to_bytes(4, sys.byteorder)

    load, equal, answer = 0x20, 0x15, 0x06
    system_call, first_argument, socket_call = 0, 16, 41
    allow, refuse = 0x7FFF0000, 0x00050000 | 97  # EAFNOSUPPORT
    steps = (
        step(load, system_call),
        step(equal, socket_call, 0, 3),
        step(load, first_argument),
        step(equal, socket.AF_NETLINK, 0, 1),
        step(answer, refuse),
        step(answer, allow),
    )

    class Program(ctypes.Structure):
        _fields_ = (("count", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    filters = Program(len(steps), b"".join(steps))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    assert prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert prctl(set_seccomp, mode_filter, ctypes.addressof(filters), 0, 0) == 0, os.strerror(
        ctypes.get_errno()
    )
    os.execv(program[0], program)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--without-netlink"]:
        refuse_netlink(sys.argv[2:])
    assert shutil.which("udevadm")
    main(globals())
