"""For tests of native drivers: the scripted driver, an emulator for libifdvpcd, leak checks."""

import asyncio
import os
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import missing, need

from pypcscd.driver import Device, DeviceConfig, Presence, Slot
from pypcscd_ifdhandler.driver import IfdHandlerDriver

SOURCE = Path(__file__).parent.parent / "native" / "scripted_ifd.c"
CCID_LIBRARY = Path("/usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Linux/libccid.so")
ATR = bytes.fromhex("3B021450")


def build(directory: Path, *options: str, name: str = "libscripted.so", linked: Sequence[str] = ()) -> str:
    """Compile the scripted driver; ``options`` as "SLOTS=2", ``linked`` as "-lm"."""
    need("gcc")
    path = directory / name
    defines = [f"-D{option}" for option in options]
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", *defines, "-o", str(path), str(SOURCE), *linked]
    subprocess.run(command, check=True)
    return str(path)


def config(library: str | Path, device: str | Path = "", channel: str = "0") -> DeviceConfig:
    options = {"library": str(library), "device": str(device), "channel": channel}
    return DeviceConfig("ifdhandler", "x", str(library), options)


def real(library: Path) -> Path:
    """A driver of the system; without it the test is skipped."""
    if not library.exists():
        missing(f"{library} is not installed")
    return library


async def until(condition: Callable[[], object], what: str = "", seconds: float = 10) -> None:
    """Wait until the condition holds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain {what}"
        await asyncio.sleep(0.002)


async def until_presence(slot: Slot, presence: Presence) -> None:
    await until(lambda: slot.presence is presence, f"for {presence}")


class Script:
    """The directory that tells a scripted driver what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def set(self, name: str, text: str = "") -> None:
        (self.path / name).write_text(text)

    def clear(self, name: str) -> None:
        (self.path / name).unlink()

    @property
    def calls(self) -> list[str]:
        """What was called so far: name, Lun and argument, both hexadecimal."""
        path = self.path / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def powers(self) -> list[str]:
        names = {"1f4": "up", "1f5": "down", "1f6": "reset"}
        return [names[call.split()[2]] for call in self.calls if call.startswith("PowerICC")]


def order(instruction: int, number: int = 0) -> bytes:
    """An APDU that tells the scripted driver to do something."""
    return bytes([0xF0, instruction]) + struct.pack(">H", number)


def children() -> set[int]:
    """The process ids of this process's children."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update(map(int, (task / "children").read_text().split()))
    return found


def _descriptors(pid: int | str) -> Iterator[tuple[str, str]]:
    """Number and file of each, without those that are closed by the time they are read."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield link.name, str(link.readlink())


def _resources() -> dict[str, set[object]]:
    return {
        "descriptors": set(_descriptors("self")),
        "processes": set(children()),
        "threads": {thread.name for thread in threading.enumerate()},
    }


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fail if a thread, child process or file descriptor is left behind."""
    before = _resources()
    yield
    after = _resources()
    for kind, entries in after.items():
        assert entries <= before[kind], f"{kind} were left behind: {entries - before[kind]}"


def helper_pids(driver: IfdHandlerDriver) -> list[int]:
    return list(driver.helpers())


def open_files(pid: int) -> set[str]:
    """What the descriptors of a process refer to."""
    return {file for _, file in _descriptors(pid)}


def losses(device: Device) -> list[str]:
    """Collects what the device says when it is lost."""
    found: list[str] = []
    device.lost = found.append
    return found


def died(text: str, library: str, how: str) -> bool:
    return re.fullmatch(rf"driver helper for {re.escape(library)} \(pid \d+\) {how}", text) is not None


def free_port() -> int:
    """A free TCP port with a free one after it, outside of the range for outgoing connections."""
    for port in range(20011 + os.getpid() % 5000 * 2, 32000, 2):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class VpcdCard(asyncio.Protocol):
    """A card for libifdvpcd: a TCP client; each message is a big-endian length and that many bytes."""

    def __init__(self, atr: bytes = bytes.fromhex("3B951381018073FF01000B")) -> None:
        self.atr = atr
        self.events: list[str] = []
        self._data = b""
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def insert(cls, port: int) -> "VpcdCard":
        """Connect as soon as the driver listens."""
        card = cls()
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_connection(lambda: card, "127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.005)
            else:
                return card

    def remove(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        # The driver sends length and payload separately, with Nagle's algorithm on.
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._data += data
        while len(self._data) >= 2:
            (size,) = struct.unpack_from(">H", self._data)
            if len(self._data) < 2 + size:
                return
            message, self._data = self._data[2 : 2 + size], self._data[2 + size :]
            answer = self.respond(message)
            if answer is not None:
                self._transport.write(struct.pack(">H", len(answer)) + answer)

    def respond(self, message: bytes) -> bytes | None:
        controls = {b"\x00": "off", b"\x01": "on", b"\x02": "reset"}
        if message in controls:
            self.events.append(controls[message])
            return None
        if message == b"\x04":
            return self.atr
        return message + b"\x90\x00"
