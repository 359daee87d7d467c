"""A virtual machine with Debian's kernel, for what this machine's own kernel may not have: USB.

Its root is this machine's, read-only under a scratch layer, so that all programs and the virtual
environment are simply there. It needs neither KVM nor root.
"""

import ctypes
import mmap
import os
import platform
import shlex
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kernel import Kernel, UnavailableError, prepare

GUEST = Path(__file__).parent / "guest"
BOOT_TIMEOUT = 120.0
BOOT_ATTEMPTS = 3

# Without the two about the TSC the emulated clock is coarse, and some boots hang in its calibration.
KERNEL_LINE = (
    "console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr no_timer_check cryptomgr.notests "
    "rcupdate.rcu_expedited=1 audit=0 apparmor=0 selinux=0 nowatchdog random.trust_cpu=on net.ifnames=0 "
    "tsc=reliable tsc_early_khz={khz}"
)


class VmError(Exception):
    """The machine did not do what was asked; the text has the end of its console."""


@dataclass
class Result:
    status: int
    output: str
    seconds: float
    #: what the job left in its result folder
    files: dict[str, bytes] = field(default_factory=dict)


class Vm:
    """A running machine. ``counted``: one instruction takes one nanosecond of the guest's time, so that
    timings repeat whatever else this machine does; slower, and with a single processor. ``systemd``: it is
    started by systemd, and commands run in a unit of it; otherwise there is udev and nothing else."""

    def __init__(self, counted: bool = False, systemd: bool = False, memory: int = 1024) -> None:
        if platform.machine() != "x86_64":
            raise UnavailableError("the test VM is made for x86-64")
        if shutil.which("qemu-system-x86_64") is None:
            raise UnavailableError("qemu-system-x86_64 is not installed")
        if not Path("/lib/systemd/systemd-udevd").exists():
            raise UnavailableError("udev is not installed")
        if systemd and not Path("/lib/systemd/systemd").exists():
            raise UnavailableError("systemd is not installed")
        self.counted = counted
        self.memory = memory
        self.boot_seconds = 0.0
        self._jobs = 0
        self._exits = ExitStack()
        self._folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="pypcscd-vm-")))
        self._job_folder = self._folder / "job"
        self._job_folder.mkdir()
        first = "systemd.sh" if systemd else "init.sh"
        shutil.copyfile(GUEST / first, self._job_folder / "init.sh")
        shutil.copyfile(GUEST / "jobs.sh", self._job_folder / "jobs.sh")
        try:
            self._boot(prepare())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop()
        self._exits.close()

    @property
    def console(self) -> str:
        with suppress(OSError):
            return (self._folder / "console").read_text(errors="replace")
        return ""

    def pack(self, source: Path, name: str) -> str:
        """Put an archive of a folder's content where the guest sees it; its path there. Many small files
        would take the guest long to read."""
        with tarfile.open(self._job_folder / name, "w") as archive:
            archive.add(source, ".")
        return f"/job/{name}"

    def run(
        self, args: Sequence[str | Path], timeout: float = 60.0, env: dict[str, str] | None = None
    ) -> Result:
        """Run a program in the guest and wait for its end. It finds a folder for results in $RESULTS."""
        self._jobs += 1
        name = f"job{self._jobs}"
        results = self._job_folder / f"{name}.results"
        results.mkdir()
        exports = {"RESULTS": f"/job/{results.name}", **(env or {})}
        lines = [f"export {key}={shlex.quote(value)}" for key, value in exports.items()]
        lines.append(f"cd {shlex.quote(str(Path.cwd()))}")
        lines.append(f"exec {shlex.join(map(str, args))}")
        (self._job_folder / name).write_text("\n".join(lines) + "\n")
        started = time.monotonic()
        self._port.sendall(name.encode() + b"\n")
        marker = f"\n{name} ended with ".encode()
        output, _, rest = self._receive(marker, started + timeout).partition(marker)
        status = int(rest)
        files = {path.name: path.read_bytes() for path in sorted(results.iterdir()) if path.is_file()}
        return Result(status, output.decode(errors="replace"), time.monotonic() - started, files)

    def _boot(self, kernel: Kernel) -> None:
        for attempt in range(BOOT_ATTEMPTS):
            try:
                self._boot_once(kernel)
            except VmError:
                self._stop()
                if attempt + 1 == BOOT_ATTEMPTS:
                    raise
            else:
                return

    def _boot_once(self, kernel: Kernel) -> None:
        started = time.monotonic()
        path = self._folder / "jobs"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(BOOT_TIMEOUT)
            with (self._folder / "qemu").open("wb") as log:
                self._qemu = subprocess.Popen(
                    self._command(kernel), stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            try:
                self._port = listener.accept()[0]
            except TimeoutError:
                raise VmError(f"QEMU did not start: {self._qemu_output()}") from None
        self._receive(b"ready\n", started + BOOT_TIMEOUT)
        self.boot_seconds = time.monotonic() - started

    def _command(self, kernel: Kernel) -> list[str]:
        shares = [("host", "/", "readonly=on"), ("job", str(self._job_folder), "readonly=off")]
        if self.counted:
            speed = ["-icount", "shift=0,sleep=on", "-smp", "1", "-accel", "tcg,thread=single,tb-size=512"]
        else:
            speed = ["-smp", "2", "-accel", "tcg,thread=multi,tb-size=512"]
        khz = 1_000_000 if self.counted else tsc_khz()
        command = [
            # a VM never outlives the tests
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
            *("-M", "microvm,acpi=on,rtc=on,isa-serial=on,pit=on,pic=on", "-cpu", "max"),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", f"{self.memory}M"),
            *speed,
            *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs)),
            *("-append", KERNEL_LINE.format(khz=khz)),
            *("-serial", f"file:{self._folder / 'console'}"),
            *("-device", "virtio-serial-device"),
            *("-chardev", f"socket,id=jobs,path={self._folder / 'jobs'}"),
            *("-device", "virtserialport,chardev=jobs,name=jobs"),
        ]
        for tag, path, writable in shares:
            command += [
                "-fsdev",
                f"local,id={tag},path={path},{writable},security_model=none,multidevs=remap",
            ]
            command += ["-device", f"virtio-9p-device,fsdev={tag},mount_tag={tag}"]
        return command

    def _receive(self, marker: bytes, deadline: float) -> bytes:
        """Everything up to the line that contains the marker."""
        data = b""
        while True:
            found = data.find(marker)
            if found >= 0 and data.find(b"\n", found + len(marker) - 1) >= 0:
                return data
            self._port.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                more = self._port.recv(65536)
            except TimeoutError:
                raise VmError(self._report("it does not answer in time", data)) from None
            except OSError as error:
                raise VmError(self._report(str(error), data)) from None
            if not more:
                raise VmError(self._report("it ended", data))
            data += more

    def _report(self, what: str, output: bytes) -> str:
        shown = output.decode(errors="replace")[-6000:]
        parts = {"output": shown, "console": self.console[-4000:], "QEMU": self._qemu_output()}
        return "\n".join([what, *(f"--- {name}:\n{text}" for name, text in parts.items())])

    def _qemu_output(self) -> str:
        return (self._folder / "qemu").read_text(errors="replace")[-2000:]

    def _stop(self) -> None:
        for name in ("_port", "_qemu"):
            part = self.__dict__.pop(name, None)
            if isinstance(part, socket.socket):
                part.close()
            elif part is not None:
                part.kill()
                part.wait()


def tsc_khz() -> int:
    """The rate of this processor's time stamp counter, which the emulated one shows unchanged."""
    # rdtsc; shl rdx, 32; or rax, rdx; ret
    code = bytes.fromhex("0f31 48c1e220 4809d0 c3")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)

    def pair() -> tuple[int, int]:
        """Both clocks, read as close together as it gets."""
        best = (1 << 62, 0, 0)
        for _ in range(50):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            ticks = rdtsc()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            best = min(best, (after - before, ticks, (before + after) // 2))
        return best[1:]

    first_ticks, first_time = pair()
    time.sleep(0.05)
    ticks, now = pair()
    return round((ticks - first_ticks) * 1_000_000 / (now - first_time))


if __name__ == "__main__":
    # To look around: python vm.py [--counted] [--systemd] command …
    import sys

    arguments = sys.argv[1:]
    modes = [word for word in arguments[:2] if word in ("--counted", "--systemd")]
    with Vm(counted="--counted" in modes, systemd="--systemd" in modes) as machine:
        print(f"booted in {machine.boot_seconds:.1f} s", file=sys.stderr)
        result = machine.run(arguments[len(modes) :], timeout=float(os.environ.get("TIMEOUT", "120")))
        print(result.output)
        print(f"{result.seconds:.1f} s, console:\n{machine.console}", file=sys.stderr)
    sys.exit(result.status)
