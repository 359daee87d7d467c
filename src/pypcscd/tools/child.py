"""A command that a tool runs: its exit status is the tool's, and signals reach it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

#: exit statuses of shells and of env(1)
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
SIGNALLED = 128


class Ending:
    """What happens to the signals that end programs while the command runs.

    A terminal sends SIGINT and SIGQUIT to the command too, which decides for both of us; the others
    are passed on.
    """

    def __init__(self) -> None:
        #: the signal that came before there was a command
        self.asked_to_end = 0
        self.child: subprocess.Popen[bytes] | None = None
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._leave_to_child, number)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._pass_on, number)

    async def wait(self) -> int:
        """Wait for such a signal; for tools that run no command. 0: it was the usual way to end."""
        await self._asked.wait()
        return 0

    def _end(self, number: signal.Signals) -> None:
        self.asked_to_end = number
        self._asked.set()

    def _leave_to_child(self, number: signal.Signals) -> None:
        if self.child is None:
            self._end(number)

    def _pass_on(self, number: signal.Signals) -> None:
        if self.child is None:
            self._end(number)
        else:
            self.child.send_signal(number)


async def run_command(tool: str, words: Sequence[str], environment: Mapping[str, str], ending: Ending) -> int:
    """Run the command to its end; returns the exit status to be ours. ``tool``: who complains."""
    try:
        child = ending.child = subprocess.Popen(words, env=environment)  # noqa: ASYNC220 - one short fork
    except FileNotFoundError:
        return complain(tool, f"{words[0]}: command not found", _NOT_FOUND)
    except OSError as error:
        return complain(tool, f"{words[0]}: {error.strerror}", _NOT_EXECUTABLE)
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    process = os.pidfd_open(child.pid)
    loop.add_reader(process, ended.set_result, None)
    try:
        await ended
    finally:
        loop.remove_reader(process)
        os.close(process)
    status = child.wait()  # it has ended: does not block
    return SIGNALLED - status if status < 0 else status


def complain(tool: str, text: str, status: int) -> int:
    """Say what is wrong; returns the status."""
    print(f"{tool}: {text}", file=sys.stderr)
    return status
