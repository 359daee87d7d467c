"""From the start of a daemon to its socket, its first answer and its cards."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.daemons import RUN, Kind
from bench.lineup import Bench
from bench.programs import BrokenError, Conversation
from bench.results import Row

READERS = 2
_FIGURES = (
    ("socket", "socket accepts", "ms"),
    ("answer", "first answer", "ms"),
    ("cpu", "first answer: CPU of the daemon", "ms"),
    ("visible", "both cards visible", "ms"),
)


def measure(bench: Bench) -> Iterator[Row]:
    for how, words in (("exec", "exec to"), ("activate", "by socket activation, connect to")):
        if how not in bench.plan.starting:
            continue
        bench.say(f"start by {how}")
        samples: dict[str, dict[str, list[float]]] = {}
        kinds = [kind for kind in bench.kinds if _can(bench, how, kind)]
        for _ in range(bench.plan.starts):
            for kind in kinds:
                for figure, value in _start(bench, how, kind).items():
                    samples.setdefault(figure, {}).setdefault(kind.key, []).append(value)
        for figure, title, unit in _FIGURES:
            if figure in samples:
                yield Row.of(f"{how}-{figure}", "start", f"{words} {title}", unit, samples[figure])


def _can(bench: Bench, how: str, kind: Kind) -> bool:
    """Try it once, which also warms up."""
    try:
        _start(bench, how, kind)
    except BrokenError as error:
        if how == "exec":
            raise
        bench.say(f"{kind.title} cannot be started by its socket: {error}")
        return False
    return True


def _start(bench: Bench, how: str, kind: Kind) -> dict[str, float]:
    kind.socket.parent.mkdir(exist_ok=True)
    log = RUN / f"{kind.key}.log"
    log.unlink(missing_ok=True)
    command = kind.command(READERS, bench.programs.pypcscd)
    if how == "activate" and kind.is_ours:
        # the path comes with the socket
        command = _without(command, "--socket")
    env = {**os.environ, "PCSCLITE_CSOCK_NAME": str(kind.socket)}
    starting: list[str | Path] = [bench.programs["starting"], how, kind.socket, str(READERS), log, *command]
    found: dict[str, float] = {}
    with ExitStack() as stack:
        # the cards stand before the readers: they are inserted when somebody listens
        cards = []
        for number in range(READERS):
            line: list[str | Path] = [bench.programs["emulator"], str(kind.port + number), "1"]
            cards.append(stack.enter_context(Conversation(line, os.environ, bench.cpu)))
        for card in cards:
            card.say("insert 0")
        client = stack.enter_context(Conversation(starting, env, bench.cpu, timeout=15))
        while "visible" not in found:
            try:
                found |= client.hear()
            except BrokenError as error:
                text = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise BrokenError(f"{kind.title}: {error}\n{text}") from None
        for card in cards:
            card.hear()
    for path in kind.socket.parent.iterdir():
        path.unlink()
    return found


def _without(command: Sequence[str], option: str) -> list[Any]:
    at = command.index(option)
    return [*command[:at], *command[at + 2 :]]
