"""The command ``pypcscd``, also installed as ``pcscd``: the daemon, and the tools around it."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from pypcscd import __version__
from pypcscd.config import DEFAULT_READER_CONF, DEFAULT_SOCKET, Config, add_device_options, chosen_devices
from pypcscd.server.rules import SocketConfig
from pypcscd.settings_file import DEFAULT_PATH, SettingsError, load

#: sub-command -> (module whose ``main(arguments)`` runs it, one line for the help)
_TOOLS = {
    "run": ("pypcscd.tools.run", "run a command with a private daemon and virtual readers"),
    "scan": ("pypcscd.tools.scan", "list the readers and cards, or watch them"),
    "status": ("pypcscd.tools.status", "show readers and clients, who holds a card, who waits"),
    "spy": ("pypcscd.tools.spy.command", "show the PC/SC calls of programs"),
    "apdu": ("pypcscd.tools.apdu", "send APDUs to a card and print the responses"),
}

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon or a tool; returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in _TOOLS:
        module, _ = _TOOLS[words[0]]
        status: int = import_module(module).main(words[1:])
        return status
    return _daemon(words)


def _parser() -> argparse.ArgumentParser:
    tools = "\n".join(f"  {name:<8}{text}" for name, (_, text) in _TOOLS.items())
    parser = argparse.ArgumentParser(
        prog="pypcscd",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A PC/SC resource manager daemon: lets programs share smart card readers.",
        epilog=f"tools (pypcscd TOOL --help tells more):\n{tools}",
    )
    parser.add_argument("-v", "--version", action="version", version=f"pypcscd {__version__}")
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="stay in the foreground, log to stderr"
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=Path,
        default=DEFAULT_SOCKET,
        help="socket for clients (%(default)s); they find another one by PCSCLITE_CSOCK_NAME",
    )
    add_device_options(parser, "--virtual")
    parser.add_argument(
        "--settings",
        metavar="FILE",
        type=Path,
        help=f"settings to be read instead of {DEFAULT_PATH} (see docs/settings.md)",
    )
    for flags, limited in (
        (("-t", "--max-thread"), "clients"),
        (("-s", "--max-card-handle-per-thread"), "card handles of one client"),
        (("-r", "--max-card-handle-per-reader"), "card handles on one reader"),
    ):
        parser.add_argument(*flags, metavar="N", type=int, default=0, help=f"most {limited} at a time")
    level = parser.add_mutually_exclusive_group()
    for flag, name in (("-d", "debug"), ("-i", "info"), ("-e", "error"), ("-C", "critical")):
        level.add_argument(
            flag,
            f"--{name}",
            dest="level",
            action="store_const",
            const=name,
            default="info",
            help=f"log lines of severity {name} and above",
        )
    return parser


def _daemon(words: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(words)
    if not options.foreground:
        parser.error("running in the background is not supported yet; add -f to stay in the foreground")
    # Costly imports, not needed to print a help text.
    import asyncio

    from pypcscd import logs
    from pypcscd.daemon import DaemonError, serve

    logs.configure(_LEVELS[options.level])
    try:
        asyncio.run(serve(_config(options)))
    except (DaemonError, SettingsError) as error:
        logging.getLogger("pypcscd").critical("%s", error)
        return 1
    return 0


def _config(options: argparse.Namespace) -> Config:
    devices = chosen_devices(options)
    reader_conf = options.reader_conf
    if reader_conf is None and not devices and DEFAULT_READER_CONF.is_dir():
        # A daemon that was asked for virtual readers has those only, unless -c adds native ones.
        reader_conf = DEFAULT_READER_CONF
    own_socket = SocketConfig(options.socket.absolute())
    config = Config(sockets=(own_socket,), devices=devices, reader_conf=reader_conf, usb=options.usb)
    if options.settings is not None or DEFAULT_PATH.exists():
        config = load(options.settings or DEFAULT_PATH, config)
    # As in pcscd, 0 leaves a limit as it is.
    settings = replace(
        config.settings,
        handles_per_client=options.max_card_handle_per_thread or config.settings.handles_per_client,
        handles_per_reader=options.max_card_handle_per_reader or config.settings.handles_per_reader,
    )
    return replace(config, settings=settings, max_clients=options.max_thread or config.max_clients)
