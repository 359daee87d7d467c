"""A random walk over calls, clients, cards and sudden deaths, on both daemons in lock-step.

By hand: ``python tests/conformance/walk.py [--steps N] [--seed N] [--verbose]``. At the first
difference it prints the seed and the steps that led there.
"""

import argparse
import os
import random
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from compare import Player, StageError, build_scripted_driver
from walkmodel import Model, Step

#: after so many steps a walk starts anew, on fresh daemons: what led to a difference stays readable
LENGTH = 250
PARALLEL = 4


class Stumble(NamedTuple):
    """Where a walk found a difference."""

    seed: int
    steps: list[Step]
    pcscd: str
    ours: str

    def __str__(self) -> str:
        path = "\n".join(f"    {number:3} {step}" for number, step in enumerate(self.steps, 1))
        return (
            f"seed {self.seed}, {len(self.steps)} steps:\n{path}\n  pcscd: {self.pcscd}\n  ours:  {self.ours}"
        )


class Walker:
    """A stage of each daemon, and the walks on them."""

    def __init__(self, library: Path, *, verbose: bool = False) -> None:
        self._players = Player("pcscd", library), Player("ours", library)
        self._verbose = verbose
        #: what ours answered to each step of the last walk
        self._ours: list[str] = []

    def walk_for_sure(self, seed: int, length: int) -> Stumble | None:
        """A walk, taken once more where it finds a difference.

        pcscd polls its locks, so who comes first after a death varies. It is no difference if pcscd
        alone does otherwise the second time, and as ours did both times.
        """
        stumble = self.walk(seed, length)
        if stumble is None:
            return None
        again = self.walk(seed, length)
        is_ours_the_same = self._ours[len(stumble.steps) - 1 :][:1] == [stumble.ours]
        return None if again is None and is_ours_the_same else stumble

    def walk(self, seed: int, length: int) -> Stumble | None:
        model = Model(random.Random(seed))
        steps: list[Step] = []
        self._ours = []
        self._both(walk="start")
        try:
            for _ in range(length):
                step = model.choose()
                steps.append(step)
                theirs, ours = self._both(step=[step.name, list(step.arguments)])
                self._ours.append(str(ours))
                if self._verbose:
                    print(f"{seed}.{len(steps)}", *theirs, flush=True)
                if theirs != ours or (theirs[-1:] and theirs[-1][0] == "error"):
                    return Stumble(seed, steps, str(theirs), str(ours))
                model.learn(step, theirs)
        finally:
            self._both(walk="end")
        return None

    def _both(self, **order: object) -> tuple[list[list[str]], list[list[str]]]:
        """Ask both at the same time."""
        answers: list[list[list[str]]] = []
        for player in self._players:
            player.send(**order)
        for player in self._players:
            answer = player.receive()
            answers.append([*answer["lines"], *([["error", answer["error"]]] if answer["error"] else [])])
        return answers[0], answers[1]

    def close(self) -> None:
        for player in self._players:
            player.end()


def walk_all(steps: int, seed: int, *, verbose: bool = False) -> list[Stumble]:
    """Take so many steps in all, in walks with the seeds from ``seed`` on."""
    lengths = [min(LENGTH, steps - start) for start in range(0, steps, LENGTH)]
    todo = list(enumerate(lengths, seed))
    stumbles: list[Stumble] = []
    with tempfile.TemporaryDirectory(prefix="pypcscd-conformance-") as name:
        library = build_scripted_driver(Path(name))

        def work() -> None:
            walker = Walker(library, verbose=verbose)
            try:
                while todo:
                    stumble = walker.walk_for_sure(*todo.pop(0))
                    if stumble is not None:
                        stumbles.append(stumble)
            except StageError as error:
                stumbles.append(Stumble(0, [], str(error), ""))
            finally:
                walker.close()

        threads = [threading.Thread(target=work) for _ in range(min(PARALLEL, len(lengths)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return stumbles


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare pypcscd with pcscd on a random walk.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--verbose", action="store_true", help="print every step as it is taken")
    options = parser.parse_args()
    stumbles = walk_all(options.steps, options.seed, verbose=options.verbose)
    for stumble in stumbles:
        print(stumble)
    print(f"random walk: {options.steps} steps from seed {options.seed}, {len(stumbles)} differences")
    return bool(stumbles)


if __name__ == "__main__":
    sys.exit(main())
