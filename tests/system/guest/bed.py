"""What the scripts in the guest share: a daemon, simulated readers and a client; and how they report.

A script is a number of functions named ``case_…`` that take a ``Bed`` and may return figures. It is run as

    SCRIPT.py [--daemon pcscd|pypcscd] [CASE…]

and leaves ``cases.json`` in $RESULTS: for each case ``ok``, ``figures``, ``seconds`` and ``report``.
"""

import argparse
import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

TESTS = Path(__file__).parent.parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "conformance")]

from winscard import Winscard  # noqa: E402

from usbsim.client import Simulator  # noqa: E402

SOCKET = Path("/run/pcscd/pcscd.comm")
CASE_SECONDS = 40
#: Python needs long to start where several machines are emulated at the same time
START_SECONDS = 60
SHARED, DIRECT, T0, T1 = 2, 3, 1, 2
LEAVE, RESET, UNPOWER = 0, 1, 2
UNAWARE, CHANGED, EMPTY, PRESENT = 0, 2, 0x10, 0x20

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 10.0) -> T:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return value


class CallError(AssertionError):
    """A PC/SC call failed."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call}: {code:#x}")
        self.code = code


class Card:
    """A connection."""

    def __init__(self, client: "Client", handle: int, protocol: int) -> None:
        self.winscard, self.handle, self.protocol = client.winscard, handle, protocol

    def raw(self, apdu: str | bytes) -> tuple[int, bytes]:
        """The return code and the answer."""
        data = bytes.fromhex(apdu) if isinstance(apdu, str) else apdu
        rv, values = self.winscard.transmit(self.handle, self.protocol, data, 66000)
        return rv, values[1]  # type: ignore[return-value]

    def transmit(self, apdu: str | bytes) -> bytes:
        rv, answer = self.raw(apdu)
        if rv:
            raise CallError("SCardTransmit", rv)
        return answer

    def exchange(self, *pairs: tuple[str | bytes, str | bytes]) -> None:
        for apdu, expected in pairs:
            want = bytes.fromhex(expected) if isinstance(expected, str) else expected
            answer = self.transmit(apdu)
            assert answer == want, f"{apdu!r}: {answer.hex()} instead of {want.hex()}"

    def reconnect(self, initialization: int = RESET) -> int:
        rv, (protocol,) = self.winscard.reconnect(self.handle, SHARED, T0 | T1, initialization)
        if rv == 0:
            self.protocol = protocol  # type: ignore[assignment]
        return rv

    def disconnect(self, disposition: int = RESET) -> None:
        self.winscard.disconnect(self.handle, disposition)


class Client:
    """A context of its own: what waits in one must not keep another from anything."""

    def __init__(self) -> None:
        self.winscard = Winscard()
        self.context = 0

    def establish(self) -> bool:
        rv, (context,) = self.winscard.establish(2)
        assert isinstance(context, int)
        self.context = context
        return rv == 0

    def readers(self) -> list[str]:
        rv, (_, names) = self.winscard.list_readers(self.context, 65536)
        assert isinstance(names, bytes)
        return [name.decode() for name in names.split(b"\0") if name] if rv == 0 else []

    def connect(self, reader: str, protocols: int = T0 | T1, seconds: float = 5.0) -> Card:
        """Connect; a reader may be listed a moment before it can be used."""
        last = 0

        def connected() -> Card | None:
            nonlocal last
            last, (handle, protocol) = self.winscard.connect(self.context, reader, SHARED, protocols)
            return Card(self, handle, protocol) if last == 0 else None  # type: ignore[arg-type]

        try:
            return wait_for(connected, "a connection", seconds)
        except AssertionError:
            raise CallError("SCardConnect", last) from None

    def wait_usable(self, reader: str) -> None:
        """Wait until the reader itself can be reached, with a card or without."""

        def reached() -> bool:
            rv, (handle, _) = self.winscard.connect(self.context, reader, DIRECT, 0)
            if rv == 0:
                self.winscard.disconnect(handle, LEAVE)  # type: ignore[arg-type]
            return rv == 0

        wait_for(reached, "the reader")

    def wait_change(self, reader: str, current: int, milliseconds: int = 5000) -> int:
        """Wait in SCardGetStatusChange until the state differs; the new state."""
        rv, states = self.winscard.changes(self.context, milliseconds, [(reader, current)])
        if rv:
            raise CallError("SCardGetStatusChange", rv)
        state = states[0][0]  # type: ignore[index]
        assert isinstance(state, int)
        return state


class Bench(Client):
    """Simulated readers, and a client of a daemon that somebody else looks after."""

    def __init__(self, daemon: str) -> None:
        super().__init__()
        self.daemon = daemon
        self._plugged = 0
        self.simulator = Simulator()
        #: how the readers are listed; libpcsclite itself may have room for 16 only
        self.list: Callable[[], list[str]] = self.readers
        #: the daemon has been stopped by a case, on purpose
        self.stopped = False

    def start(self) -> None:
        """Let the daemon serve, also after it has died."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        raise NotImplementedError

    @property
    def ending(self) -> str:
        """How the daemon has ended."""
        raise NotImplementedError

    def log_end(self) -> Any:
        """The present end of the daemon's log."""
        raise NotImplementedError

    def log_since(self, end: Any) -> str:
        raise NotImplementedError

    def another(self) -> Client:
        client = Client()
        wait_for(client.establish, "a context")
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.simulator.alive:
            for name in self.simulator.order("names")["names"]:
                self.simulator.order("unplug", name=name)
        self.stop()
        self.simulator.__exit__()

    @contextmanager
    def reader(
        self, model: str, cards: dict[str, Any] | None = None, *, slots: int = 0, **changes: Any
    ) -> Iterator["Reader"]:
        """A reader plugged in and listed; at the end it is pulled, and must vanish.

        ``slots``: how many there will be, if not as many as its interfaces have together."""
        before = set(self.list())
        self._plugged += 1
        name = f"reader{self._plugged}"
        started = time.monotonic()
        self.simulator.plug(name, model, cards, **changes)
        reader = Reader(self, name)
        interfaces = self.simulator.state(name)["interfaces"]
        expected = slots or sum(len(interface["present"]) for interface in interfaces)

        def listed() -> list[str] | None:
            assert self.alive, "the daemon has died"
            names = sorted(set(self.list()) - before)
            return names if len(names) == expected else None

        try:
            reader.names = wait_for(listed, f"{expected} new readers", 15)  # type: ignore[assignment]
            reader.listed_seconds = time.monotonic() - started
            yield reader
        finally:
            # when a case ends, its reader is gone, whatever became of it
            if name in self.simulator.order("names")["names"]:
                self.simulator.order("unplug", name=name)
            started = time.monotonic()
            if self.alive:
                wait_for(lambda: not set(self.list()) - before, "the reader's end", 15)
            reader.gone_seconds = time.monotonic() - started


class Bed(Bench):
    """A daemon of its own, in the foreground."""

    def __init__(self, daemon: str) -> None:
        super().__init__(daemon)
        self.log = Path("/run/daemon.log")
        empty = Path("/run/no-readers")
        empty.mkdir(exist_ok=True)
        if daemon == "pcscd":
            self._command = [shutil.which("pcscd", path="/usr/sbin") or "pcscd", "-f", "-c", str(empty)]
        else:
            program = Path(sys.executable).with_name("pypcscd")
            self._command = [str(program), "-f", "--usb", "-c", str(empty)]
        #: what the daemon is started with besides, from the next start on
        self.options: list[str] = []
        self.environment: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        """Start the daemon, also after it has died, and be its client."""
        SOCKET.unlink(missing_ok=True)
        SOCKET.with_name("pcscd.pid").unlink(missing_ok=True)
        started = time.monotonic()
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command + self.options, stdout=out, stderr=out, env=os.environ | self.environment
            )
        self._group = Path(f"/sys/fs/cgroup/daemon{self.process.pid}")
        self._group.mkdir()
        (self._group / "cgroup.procs").write_text(str(self.process.pid))
        self.stopped = False
        wait_for(SOCKET.exists, "the daemon's socket", START_SECONDS)
        wait_for(self._established, "a context", START_SECONDS)
        self.start_seconds = time.monotonic() - started

    def stop(self) -> None:
        self.stopped = True
        if self.alive:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def ending(self) -> str:
        return f"it ended with {self.process.returncode}"

    def _established(self) -> bool:
        assert self.alive, f"the daemon ended: {self.log.read_text(errors='replace')}"
        return self.establish()

    def log_end(self) -> int:
        return self.log.stat().st_size

    def log_since(self, end: int) -> str:
        return self.log.read_bytes()[end:].decode(errors="replace")

    # costs

    def daemon_files(self) -> list[str]:
        """What the daemon has open, without what it closes just now."""
        found = []
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(str(path.readlink()))
        return found

    def cpu_seconds(self) -> float:
        """What the daemon has used so far, with the threads and children that have ended."""
        (usage,) = (
            line.split()[1]
            for line in (self._group / "cpu.stat").read_text().splitlines()
            if line.startswith("usage_usec")
        )
        return int(usage) / 1e6


class Reader:
    """A simulated reader that is plugged in."""

    def __init__(self, bed: Bench, name: str) -> None:
        self.bed, self.name = bed, name
        self.names: list[str] = []
        self.listed_seconds = self.gone_seconds = 0.0

    def order(self, what: str, **arguments: Any) -> dict[str, Any]:
        return self.bed.simulator.order(what, name=self.name, **arguments)

    def state(self, interface: int = 0) -> dict[str, Any]:
        state: dict[str, Any] = self.order("state")["state"]["interfaces"][interface]
        return state

    @property
    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.state()["counters"]
        return counters

    def connect(self, number: int = 0, protocols: int = T0 | T1) -> Card:
        return self.bed.connect(self.names[number], protocols)


def allow(seconds: int) -> None:
    """The case takes longer than others."""
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(seconds + 10, exit=True)


def main(cases: dict[str, Any], bench: Callable[[str], Bench] = Bed, seconds: int = CASE_SECONDS) -> None:
    """Run the cases that are asked for, each in so many seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--daemon", choices=["pcscd", "pypcscd"], default="pcscd")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    found = {name.removeprefix("case_"): case for name, case in cases.items() if name.startswith("case_")}
    results: dict[str, Any] = {}
    with bench(options.daemon) as bed:
        for name in options.cases or found:
            results[name] = _run(bed, found[name], seconds)
            shown = results[name]
            print(options.daemon, name, shown["seconds"], shown["figures"], shown["report"], flush=True)
            write(results)
    sys.exit(not all(result["ok"] for result in results.values()))


def write(results: dict[str, Any]) -> None:
    folder = os.environ.get("RESULTS")
    if folder:
        Path(folder, "cases.json").write_text(json.dumps(results))


def _run(bed: Bench, case: Callable[[Any], Any], seconds: int) -> dict[str, Any]:
    def too_long(*_: object) -> None:
        raise AssertionError(f"not done in {seconds} s")

    # a call of the library that never returns is not interrupted by the first
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(seconds + 10, exit=True)
    started = time.monotonic()
    position = bed.log_end()
    result: dict[str, Any] = {"ok": True, "figures": None, "report": ""}
    try:
        result["figures"] = case(bed)
    except Exception:
        log = bed.log_since(position)[-3000:]
        result |= {"ok": False, "report": f"{traceback.format_exc()}--- daemon:\n{log}"}
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
    if not bed.alive:
        if not bed.stopped:
            result |= {"ok": False, "report": f"{bed.ending}; {result['report']}"}
        bed.start()
    return {**result, "seconds": round(time.monotonic() - started, 3)}
