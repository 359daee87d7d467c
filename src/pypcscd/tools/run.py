"""``pypcscd run``: a private daemon around a command, as ``dbus-run-session`` does it for D-Bus.

The daemon lives in this process, on a socket in a temporary directory, and ends with the command.
"""

import argparse
import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pypcscd.configuration.config import Config, DaemonError
from pypcscd.configuration.device_options import add_device_options, chosen_devices
from pypcscd.daemon import Daemon
from pypcscd.process import logs
from pypcscd.server.rules import SocketConfig
from pypcscd.tools.child import SIGNALLED, Ending, complain, run_command

_TOOL = "pypcscd run"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=_TOOL,
        usage=f"{_TOOL} [options] -- COMMAND [ARGUMENT ...]",
        description="Run a command with a private PC/SC daemon of its own; no root, no hardware.",
        epilog="example: pypcscd run --card hello -- pcsc_scan",
    )
    add_device_options(parser, "--card")
    parser.add_argument("-d", "--debug", action="store_true", help="log everything the daemon does to stderr")
    parser.add_argument("command", metavar="COMMAND", nargs="?", help="the command; its exit status is ours")
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error("say which COMMAND to run")
    logs.configure(logging.DEBUG if options.debug else logging.WARNING)
    try:
        return asyncio.run(_run(options))
    except DaemonError as error:
        return complain(_TOOL, str(error), 1)


async def _run(options: argparse.Namespace) -> int:
    ending = Ending()
    with tempfile.TemporaryDirectory(prefix="pypcscd-") as directory:
        path = Path(directory, "pcscd.comm")
        config = Config(
            sockets=(SocketConfig(path),),
            devices=chosen_devices(options),
            reader_conf=options.reader_conf,
            usb=bool(options.usb),
        )
        daemon = Daemon(config)
        await daemon.start()
        try:
            if ending.asked_to_end:
                return SIGNALLED + ending.asked_to_end
            # Those of other drivers may come later, if at all.
            is_complete = all(daemon.devices.is_open(device) for device in config.devices)
            if daemon.devices.given_up or not is_complete:
                return complain(_TOOL, "a reader is missing (see above); the command was not run", 1)
            environment = os.environ | {"PCSCLITE_CSOCK_NAME": str(path)}
            return await run_command(_TOOL, [options.command, *options.arguments], environment, ending)
        finally:
            await daemon.stop()
