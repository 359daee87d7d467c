"""Daemons side by side, measured in turns: what the machine does meanwhile touches them alike."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from bench import processes
from bench.daemons import KINDS, PCSCD, VPCD, Daemon, Kind
from bench.plan import Plan
from bench.programs import Conversation, Programs

#: what one turn gave: name of a figure -> value
Figures = Mapping[str, float]
#: figure -> daemon -> one value per round
Samples = dict[str, dict[str, list[float]]]


class Bench:
    """What all measurements need."""

    def __init__(self, plan: Plan, programs: Programs, say: Callable[[str], None]) -> None:
        self.plan, self.programs, self.say = plan, programs, say
        processors = sorted(os.sched_getaffinity(0))
        #: daemons, cards and clients share one processor, or the wake-up of another one would be most of
        #: what is measured; who measures stays on the others
        self.cpu = processors[-1]
        if len(processors) > 1:
            os.sched_setaffinity(0, set(processors[:-1]))
        self.all_cpus = set(processors)
        self.kinds = KINDS if plan.native_everywhere else (PCSCD, VPCD)

    @contextmanager
    def daemons(self, kinds: Sequence[Kind], readers: int) -> Iterator[list[Daemon]]:
        """A daemon of each kind, with so many readers."""
        with ExitStack() as stack:
            yield [stack.enter_context(Daemon(kind, readers, self.programs, self.cpu)) for kind in kinds]

    def in_turns(
        self,
        daemons: Sequence[Daemon],
        client: Callable[[Daemon], Conversation],
        rounds: int,
        order: float,
        figures: Callable[[Any, float], Figures],
        free: bool = False,
    ) -> Samples:
        """Give each daemon's client the order, again and again.

        ``figures`` makes them of the client's answer and of the daemon's processor seconds meanwhile.
        ``free``: on any processor.
        """
        samples: Samples = {}
        with ExitStack() as stack:
            clients = []
            for daemon in daemons:
                talk = stack.enter_context(client(daemon))
                clients.append(talk)
                if free:
                    daemon.pin(self.all_cpus)
                    processes.allow(talk.pid, self.all_cpus)
                    stack.callback(daemon.pin, {self.cpu})
                # to warm up, and to see that it works
                talk.ask(min(order, 0.05))
            pairs = list(zip(daemons, clients, strict=True))
            for _ in range(rounds):
                for daemon, talk in pairs:
                    used = daemon.cpu_seconds()
                    answer = talk.ask(order)
                    used = daemon.cpu_seconds() - used
                    for name, value in figures(answer, used).items():
                        samples.setdefault(name, {}).setdefault(daemon.kind.key, []).append(value)
        return samples
