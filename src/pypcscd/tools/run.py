"""``pypcscd run``: a private daemon around a command, as ``dbus-run-session`` does it for D-Bus.

The daemon lives in this process, on a socket in a temporary directory, and ends with the command.
"""

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pypcscd import logs
from pypcscd.config import Config, add_device_options, chosen_devices
from pypcscd.daemon import Daemon, DaemonError
from pypcscd.server.rules import SocketConfig

#: exit statuses of shells and of env(1)
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_SIGNALLED = 128


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="pypcscd run",
        description="Run a command with a private PC/SC daemon of its own; no root, no hardware.",
        epilog="example: pypcscd run --card hello -- pcsc_scan",
    )
    add_device_options(parser, "--card")
    parser.add_argument("-d", "--debug", action="store_true", help="log everything the daemon does to stderr")
    parser.add_argument("command", metavar="COMMAND", help="the command; its exit status is ours")
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logs.configure(logging.DEBUG if options.debug else logging.WARNING)
    try:
        return asyncio.run(_run(options))
    except DaemonError as error:
        return _complain(str(error), 1)


async def _run(options: argparse.Namespace) -> int:
    ending = _Ending()
    with tempfile.TemporaryDirectory(prefix="pypcscd-") as directory:
        path = Path(directory, "pcscd.comm")
        config = Config(
            sockets=(SocketConfig(path),),
            devices=chosen_devices(options),
            reader_conf=options.reader_conf,
            usb=options.usb,
        )
        daemon = Daemon(config)
        await daemon.start()
        try:
            if ending.asked_to_end:
                return _SIGNALLED + ending.asked_to_end
            if daemon.devices.given_up:
                return _complain("a reader is missing (see above); the command was not run", 1)
            environment = os.environ | {"PCSCLITE_CSOCK_NAME": str(path)}
            return await _command([options.command, *options.arguments], environment, ending)
        finally:
            await daemon.stop()


class _Ending:
    """What happens to the signals that end programs while the command runs.

    A terminal sends SIGINT and SIGQUIT to the command too, which decides for both of us; the others
    are passed on.
    """

    def __init__(self) -> None:
        self.asked_to_end = 0
        self.child: subprocess.Popen[bytes] | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._leave_to_child, number)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._pass_on, number)

    def _leave_to_child(self, number: signal.Signals) -> None:
        if self.child is None:
            self.asked_to_end = number

    def _pass_on(self, number: signal.Signals) -> None:
        if self.child is None:
            self.asked_to_end = number
        else:
            self.child.send_signal(number)


async def _command(words: list[str], environment: dict[str, str], ending: _Ending) -> int:
    """Run the command to its end; returns the exit status to be ours."""
    try:
        child = ending.child = subprocess.Popen(words, env=environment)  # noqa: ASYNC220 - one short fork
    except FileNotFoundError:
        return _complain(f"{words[0]}: command not found", _NOT_FOUND)
    except OSError as error:
        return _complain(f"{words[0]}: {error.strerror}", _NOT_EXECUTABLE)
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
    return _SIGNALLED - status if status < 0 else status


def _complain(text: str, status: int) -> int:
    print(f"pypcscd run: {text}", file=sys.stderr)
    return status
