"""Where scenarios are played: one daemon in a private namespace, its emulated cards and its clients.

Run as a program it reads orders, one JSON value per line, and answers each with a line: see ``main``.
"""

import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import daemons
import namespace
import show
from actors import Actor, HungError, Process
from daemons import SLOTS, LateError, Needs, wait_for
from emulated import ATRS, Card, Scripted, Socketed
from emulator import Power
from winscard import UNTOUCHED, Result
from wire import ENTRY, WireClient

#: label of a call or action, and its outcome
Line = tuple[str, str]
Scenario = Callable[["Stage"], None]
HERE = Path(__file__).parent
#: CMD_WAIT_READER_STATE_CHANGE of the client protocol
WAIT = 0x13


class Stage:
    """A fresh daemon with two empty readers."""

    def __init__(self, daemon: str, port: int, needs: Needs) -> None:
        self.transcript: list[Line] = []
        self.last = 0
        #: leave out what a refused SCardConnect gives
        self.is_brief = False
        self.daemon = daemons.DAEMONS[daemon](port, needs)
        self._port = port
        self._is_scripted = needs.scripted_driver
        self._emulators: list[Socketed | Scripted | None] = [None] * SLOTS
        #: how many power commands of each slot have been recorded
        self._powers = [0] * SLOTS
        self._actors: list[Process] = []
        self._names: dict[tuple[str, int], str] = {}

    # --- the transcript -------------------------------------------------------------------------

    def record(self, label: str, outcome: str) -> None:
        seen = sum(line[0].partition(" #")[0] == label for line in self.transcript)
        self.transcript.append((f"{label} #{seen + 1}" if seen else label, outcome))

    def name(self, kind: str, result: Result) -> str:
        """The name of the handle that a call gave, new ones numbered as they come."""
        code, values = result
        raw = values[0]
        assert isinstance(raw, int)
        if code == 0 and raw:
            count = sum(key[0] == kind for key in self._names)
            return self._names.setdefault((kind, raw), f"{kind}{count + 1}")
        if raw == UNTOUCHED:
            return f"{kind}=untouched"
        return f"{kind}={self.known(kind, raw)}"

    def known(self, kind: str, raw: int) -> str:
        # a refused call may leave any number behind
        return self._names.get((kind, raw), str(raw) if raw in (0, -1, 1, 0x7FFFFFFF) else "unknown")

    def raw(self, kind: str, name: str) -> int:
        """The handle of that name."""
        return next(raw for (of, raw), known in self._names.items() if (of, known) == (kind, name))

    # --- clients --------------------------------------------------------------------------------

    def actor(self, name: str, *, establish: bool = True) -> Actor:
        """A client process, with a context unless it shall have none yet."""
        process = Process()
        self._actors.append(process)
        actor = Actor(self, name, process)
        if establish:
            actor.establish()
        return actor

    def actors(self, names: str) -> list[Actor]:
        return [self.actor(name) for name in names.split()]

    def kill(self, actor: Actor, *, noticed: bool = True) -> None:
        """SIGKILL; ``noticed``: wait until the daemon has cleaned up after the client."""
        actor.process.kill()
        self._actors.remove(actor.process)
        self.record(f"kill {actor.name}", "")
        if noticed:
            left = sum(process.contexts for process in self._actors)
            wait_for(lambda: self.daemon.clients() <= left, f"the end of {actor.name}")

    def await_clients(self, count: int, timeout: float = 2.0) -> None:
        """Record whether the daemon comes down to that many connections."""
        self._await(f"{count} connections", lambda: self.daemon.clients() <= count, timeout)

    def await_users(self, count: int, slot: int = 0, timeout: float = 1.0) -> None:
        """Record whether the reader is shown with that many handles (-1: an exclusive one)."""
        label = f"{count} users of r{slot}"
        self._await(label, lambda: daemons.table()[slot].sharing == count, timeout)

    def _await(self, label: str, condition: Callable[[], bool], timeout: float) -> None:
        try:
            wait_for(condition, label, timeout)
        except LateError:
            self.record(label, "no")
        else:
            self.record(label, "yes")

    @contextmanager
    def signalled(self) -> Iterator[None]:
        """Wait, at the end, until a waiting client would be told of what happens inside: pcscd tells of
        a change of users when it next looks at the reader."""
        with WireClient(daemons.SOCKET) as client:
            client.establish()
            client.call(WAIT, b"", 16 * ENTRY.size)
            yield
            client.receive(8)

    # --- cards ----------------------------------------------------------------------------------

    def insert(self, atr: str = "T0T1", slot: int = 0, *, wait: bool = True) -> Card:
        """Put a card in and wait until the daemon has seen it."""
        before = self._events(slot)
        card = Card(ATRS[atr])
        emulator: Socketed | Scripted
        if self._is_scripted:
            emulator = Scripted(daemons.SCRIPT, slot)
        else:
            emulator = Socketed(self._port + slot, card)
            self._powers[slot] = 0
        emulator.plug()
        self._emulators[slot] = emulator
        self.record(f"insert {atr} into r{slot}", "")
        if wait:
            self.await_events(before + 1, slot)
        return card

    def remove(self, slot: int = 0, *, wait: bool = True) -> None:
        before = self._events(slot)
        self.emulator(slot).unplug()
        self._emulators[slot] = None
        self.record(f"remove from r{slot}", "")
        if wait:
            self.await_events(before + 1, slot)

    def swap(self, atr: str, slot: int = 0) -> Card:
        """Pull the card out and put another in at once, and record whether the daemon sees both."""
        before = self._events(slot)
        self.remove(slot, wait=False)
        card = self.insert(atr, slot, wait=False)
        self._await(f"two events in r{slot}", lambda: self._events(slot) == before + 2, 1.5)
        return card

    def _events(self, slot: int) -> int:
        return daemons.table()[slot].events

    def await_events(self, count: int, slot: int = 0) -> None:
        wait_for(lambda: self._events(slot) >= count, f"event {count} of reader {slot}")

    def script(self, name: str) -> None:
        """An order for the scripted driver."""
        (daemons.SCRIPT / name).touch()
        self.record(f"script: {name}", "")

    def unscript(self, name: str) -> None:
        (daemons.SCRIPT / name).unlink()
        self.record(f"script: no {name}", "")

    def emulator(self, slot: int = 0) -> Socketed | Scripted:
        emulator = self._emulators[slot]
        assert emulator is not None
        return emulator

    def await_frame(self, apdu: str, slot: int = 0) -> None:
        """Wait until the card has got an APDU."""
        emulator = self.emulator(slot)
        wait_for(lambda: bytes.fromhex(apdu) in emulator.apdus(), f"{apdu} at the card")

    def powers(self, slot: int = 0) -> None:
        """Record what was done to the card's power since the last question."""
        emulator = self.emulator(slot)
        wait_for(emulator.has_caught_up, "the emulator to have read all")
        powers = emulator.powers
        new, self._powers[slot] = powers[self._powers[slot] :], len(powers)
        self.record(f"power of r{slot}", show.words(power.name for power in new))

    def await_unpowered(self, slot: int = 0, timeout: float = 2.0) -> None:
        """Record whether the card loses its power within some time."""
        emulator = self.emulator(slot)
        self._await(f"power-off in r{slot}", lambda: emulator.powers[-1:] == [Power.OFF], timeout)

    def terminate(self) -> None:
        """SIGTERM to the daemon."""
        self.record("terminate the daemon", f"exit status {self.daemon.terminate()}")

    # --- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        for process in self._actors:
            process.kill()
        for emulator in self._emulators:
            if emulator is not None:
                emulator.unplug()
        self.daemon.stop()


def scenarios() -> dict[str, Scenario]:
    """All scenarios by their names: the functions of the ``scenarios_*`` modules, as written."""
    found: dict[str, Scenario] = {}
    for path in sorted(HERE.glob("scenarios_*.py")):
        module = importlib.import_module(path.stem)
        subject = path.stem.removeprefix("scenarios_")
        for name, function in vars(module).items():
            is_own = getattr(function, "__module__", "") == path.stem and callable(function)
            if is_own and not name.startswith("_"):
                found[f"{subject}.{name}"] = function
    return found


def play(daemon: str, port: int, scenario: Scenario, *, native: bool = False) -> dict[str, Any]:
    """Play a scenario to its end. Returns the transcript, and what went wrong in the playing."""
    error = ""
    needs = getattr(scenario, "needs", Needs())
    if native and not needs.scripted_driver:
        needs = needs._replace(native_driver=True)
    stage = Stage(daemon, port, needs)
    try:
        try:
            scenario(stage)
        finally:
            stage.close()
    except HungError:
        # said in the transcript; whether the other daemon agrees is for the comparison
        pass
    except Exception:
        error = f"{traceback.format_exc()}\n{stage.daemon.log[-3000:]}"
    return {"lines": stage.transcript, "error": error}


def with_default_settings(scenario: Scenario) -> Scenario:
    scenario.needs = Needs(default_settings=True)  # type: ignore[attr-defined]
    return scenario


def with_scripted_driver(scenario: Scenario) -> Scenario:
    """For drivers that fail: both daemons load the same one of our own."""
    scenario.needs = Needs(scripted_driver=True)  # type: ignore[attr-defined]
    return scenario


def with_native_driver(scenario: Scenario) -> Scenario:
    """For what drivers differ in: with the same one, nothing may differ."""
    scenario.needs = Needs(native_driver=True)  # type: ignore[attr-defined]
    return scenario


class Theatre:
    """Plays on the stages of one daemon, one after the other."""

    def __init__(self, daemon: str) -> None:
        self._daemon = daemon
        self._port = 20000
        self.scenarios = scenarios()
        self._walk: Any = None

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """``scenario``: play it, ``native`` driver or not.

        ``walk``: "start" or "end"; ``step``: name and arguments.
        """
        if "scenario" in order:
            scenario = self.scenarios[order["scenario"]]
            return play(self._daemon, self._next_port(), scenario, native=order["native"])
        lines: list[Line] = []
        error = ""
        try:
            if "step" in order:
                lines = self._walk.step(*order["step"])
            elif order["walk"] == "start":
                from walkstage import WalkStage

                self._walk = WalkStage(self._daemon, self._next_port())
            else:
                self._walk.close()
        except Exception:
            error = traceback.format_exc()
        return {"lines": lines, "error": error}

    def _next_port(self) -> int:
        self._port += SLOTS
        return self._port


def main(daemon: str) -> None:
    """Obey orders until the input ends, and answer each with a line."""
    namespace.enter()
    daemons.SOCKET.parent.mkdir()
    modules = ["worker", "pypcscd.daemon", "pypcscd.configuration.device_options", "pypcscd_virtual.vpcd"]
    daemons.processes.set_forkserver_preload(modules)
    theatre = Theatre(daemon)
    print(json.dumps({"ready": sorted(theatre.scenarios)}), flush=True)
    for text in sys.stdin:
        print(json.dumps(theatre.obey(json.loads(text))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
