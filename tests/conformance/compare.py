"""Play every scenario on both daemons and compare the transcripts, call by call.

By hand: ``python tests/conformance/compare.py [--all] [--native] [PART-OF-A-NAME ...]``; ``--all`` prints
whole transcripts, otherwise only the lines that differ unexpectedly are printed.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from differences import DIFFERENCES, Difference

HERE = Path(__file__).parent
Line = tuple[str, str]
#: the entry about our own readers for emulators: with the native driver there is no such difference
OUR_VPCD = 17
#: players of each daemon: theirs spend most of their time waiting for the next poll of a reader
PLAYERS = {"pcscd": 6, "ours": 3}


class StageError(Exception):
    """A stage could not be set up; the message says why."""


def build_scripted_driver(folder: Path) -> Path:
    """The driver that fails as it is told to (see its source)."""
    library = folder / "libscripted.so"
    source = HERE.parent / "native" / "scripted_ifd.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-DSLOTS=2", "-o", library, source], check=True)
    return library


class Player:
    """A stage in a process of its own."""

    def __init__(self, daemon: str, library: Path) -> None:
        self.daemon = daemon
        folders = [str(HERE), str(HERE.parent / "integration"), os.environ.get("PYTHONPATH")]
        path = os.pathsep.join(filter(None, folders))
        # what would lead the client library elsewhere
        surroundings = {key: value for key, value in os.environ.items() if not key.startswith("PCSCLITE_")}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "stage.py"), daemon],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**surroundings, "PYTHONPATH": path, "SCRIPTED_IFD_LIBRARY": str(library)},
        )
        self.scenarios: list[str] = self.receive()["ready"]

    def ask(self, **order: object) -> dict[str, Any]:
        self.send(**order)
        return self.receive()

    def send(self, **order: object) -> None:
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise StageError(f"the stage of {self.daemon} has ended: {self.end()}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def end(self) -> str:
        """Let the stage end; what it wrote to its standard error."""
        return self._process.communicate()[1]


class Played(NamedTuple):
    """What became of a scenario on one daemon."""

    lines: list[Line]
    error: str


class Verdict(NamedTuple):
    """A scenario on both daemons."""

    scenario: str
    theirs: Played
    ours: Played
    is_native: bool = False

    @property
    def listed(self) -> dict[str, Difference]:
        known = DIFFERENCES.get(self.scenario, [])
        return {line.label: line for line in known if not (self.is_native and line.entry == OUR_VPCD)}

    @property
    def entries(self) -> set[int]:
        """The entries of the documentation that this scenario shows."""
        return {known.entry for known in self.listed.values()}

    def _pairs(self) -> Iterable[tuple[str, str, str]]:
        """Label, outcome with pcscd, outcome with ours."""
        nothing = ("the end", "")
        for theirs, ours in zip_longest(self.theirs.lines, self.ours.lines, fillvalue=nothing):
            label = theirs[0] if theirs[0] == ours[0] else f"{theirs[0]} / {ours[0]}"
            yield label, theirs[1], ours[1]

    def differing(self) -> list[tuple[str, str, str]]:
        return [line for line in self._pairs() if line[1] != line[2]]

    def problems(self) -> list[str]:
        """What differs and is not listed, and what is listed and does not differ."""
        listed = self.listed
        found = [f"{who}: {played.error}" for who, played in self._sides() if played.error]
        for label, theirs, ours in self._pairs():
            known = listed.pop(label, None)
            if known is None and theirs != ours:
                found.append(f"{label}\n    pcscd: {theirs}\n    ours:  {ours}")
            elif known is not None and (known.pcscd, known.ours) != (theirs, ours):
                found.append(
                    f"{label}, listed under {known.entry}\n    pcscd:  {theirs}\n    listed: {known.pcscd}\n"
                    f"    ours:   {ours}\n    listed: {known.ours}"
                )
        found += [f"{label}, listed under {known.entry}, does not occur" for label, known in listed.items()]
        return found

    def _sides(self) -> Iterable[tuple[str, Played]]:
        return ("pcscd", self.theirs), ("ours", self.ours)

    def __str__(self) -> str:
        lines = [self.scenario]
        for label, theirs, ours in self._pairs():
            lines.append(f"    {label} -> {theirs}" + ("" if theirs == ours else f" | ours: {ours}"))
        return "\n".join(lines)


def summary(verdicts: Sequence[Verdict]) -> str:
    unlisted = sum(bool(verdict.problems()) for verdict in verdicts)
    listed = sum(bool(verdict.listed) and not verdict.problems() for verdict in verdicts)
    same = len(verdicts) - listed - unlisted
    return f"scenarios: {same} same, {listed} different and listed, {unlisted} different and unlisted"


def play_all(parts: Sequence[str] = (), *, native: bool = False) -> list[Verdict]:
    """Play the scenarios whose names contain one of ``parts`` (all without them).

    ``native``: ours with pcscd's driver for emulators too. Raises StageError.
    """
    with tempfile.TemporaryDirectory(prefix="pypcscd-conformance-") as name:
        library = build_scripted_driver(Path(name))
        first = {daemon: Player(daemon, library) for daemon in PLAYERS}
        names = [name for name in first["ours"].scenarios if not parts or any(part in name for part in parts)]
        played: dict[tuple[str, str], Played] = {}
        threads = []
        for daemon, count in PLAYERS.items():
            todo: queue.SimpleQueue[str] = queue.SimpleQueue()
            for name in names:
                todo.put(name)
            for number in range(min(count, max(len(names), 1))):
                player = first[daemon] if number == 0 else Player(daemon, library)
                threads.append(threading.Thread(target=_work, args=(player, library, todo, played, native)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lost = Played([], "was not played")
    return [
        Verdict(name, played.get(("pcscd", name), lost), played.get(("ours", name), lost), native)
        for name in names
    ]


def _work(
    player: Player,
    library: Path,
    todo: "queue.SimpleQueue[str]",
    played: dict[tuple[str, str], Played],
    native: bool,
) -> None:
    while True:
        try:
            name = todo.get_nowait()
        except queue.Empty:
            break
        try:
            answer = player.ask(scenario=name, native=native)
        except (StageError, OSError) as error:
            played[player.daemon, name] = Played([], str(error))
            player = Player(player.daemon, library)
        else:
            played[player.daemon, name] = Played([tuple(line) for line in answer["lines"]], answer["error"])
    player.end()


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare pypcscd with pcscd, scenario by scenario.")
    parser.add_argument("parts", nargs="*", metavar="PART-OF-A-NAME")
    parser.add_argument("--all", action="store_true", help="print whole transcripts")
    parser.add_argument("--native", action="store_true", help="play ours with libifdvpcd.so as well")
    options = parser.parse_args()
    verdicts = play_all(options.parts, native=options.native)
    for verdict in verdicts:
        problems = verdict.problems()
        if options.all:
            print(verdict)
        elif problems:
            print(verdict.scenario)
        for problem in problems:
            print(f"  {problem}")
    print(summary(verdicts))
    return any(verdict.problems() for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
