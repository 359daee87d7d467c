"""The daemon's command line: the options of pcscd(8), and ours; and the configuration that they make."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from pypcscd import __version__
from pypcscd.configuration.config import DEFAULT_READER_CONF, DEFAULT_SETTINGS, DEFAULT_SOCKET, Config
from pypcscd.configuration.device_options import add_device_options, chosen_devices
from pypcscd.paths import excess
from pypcscd.scard import MAX_READERNAME
from pypcscd.server.rules import SocketConfig

#: seconds, as in pcscd
_DEFAULT_AUTO_EXIT = 60.0

#: options of one letter and without argument
_FLAGS = frozenset("afTdieCHSIhv")

#: the lines of pcscd that scripts look for
_VERSION = f"""\
pypcscd {__version__}
Protocol versions: 4.0 to 4.6
Enabled features: Linux serial usb libudev systemd filter \
ipcdir={DEFAULT_SOCKET.parent} configdir={DEFAULT_READER_CONF}
MAX_READERNAME: {MAX_READERNAME}, PCSCLITE_MAX_READERS_CONTEXTS: 16 for clients without a list of any length
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """As pcscd: usage and exit status 1."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def parse(words: Sequence[str], tools: str) -> argparse.Namespace:
    """The options. Exits on its own for --help, --version and mistakes. ``tools``: lines for the help."""
    return _make_parser(tools).parse_args(_separated(words))


def _separated(words: Sequence[str]) -> list[str]:
    """-xf as -x -f: so pcscd has it, while ``argparse`` would take the f for the argument of -x."""
    result: list[str] = []
    for word in words:
        before, x, after = word.partition("x")
        is_cluster = before.startswith("-") and _FLAGS.issuperset(before[1:])
        if is_cluster and x and after[:1].isalpha():
            result += [f"{before}x", f"-{after}"]
        else:
            result.append(word)
    return result


def _make_parser(tools: str) -> _Parser:
    parser = _Parser(
        prog="pypcscd",
        # One is made for each option, and would load what finds out the terminal's width.
        formatter_class=partial(argparse.HelpFormatter, width=80),
        description="A PC/SC resource manager daemon: lets programs share smart card readers.",
        epilog=f"tools (pypcscd TOOL --help tells more):\n{tools}",
    )
    parser.add_argument(
        "-v", "--version", action="version", version=_VERSION, help="show version and limits, and exit"
    )
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="stay in the foreground and log to stdout"
    )
    parser.add_argument(
        "-H",
        "--hotplug",
        action="store_true",
        help="have the running daemon look for readers again, and exit",
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=_socket_path,
        default=DEFAULT_SOCKET,
        help="socket for clients (%(default)s); they find another one by PCSCLITE_CSOCK_NAME",
    )
    parser.add_argument(
        "--settings",
        metavar="FILE",
        type=Path,
        help=f"settings to be read instead of {DEFAULT_SETTINGS} (see pypcscd.toml(5))",
    )
    parser.add_argument(
        "-x",
        "--auto-exit",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=_DEFAULT_AUTO_EXIT,
        help="exit after so long without any client (%(const)g)",
    )
    _add_reader_options(parser)
    _add_limit_options(parser)
    _add_log_options(parser)
    parser.add_argument("--disable-polkit", action="store_true", help="do not ask polkit whom to let in")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _add_reader_options(parser: argparse.ArgumentParser) -> None:
    readers = parser.add_argument_group(
        "readers",
        f"by default those on USB and those in {DEFAULT_READER_CONF}; --virtual and --vpcd replace them",
    )
    add_device_options(readers, "--virtual")
    readers.add_argument("--no-usb", dest="usb", action="store_false", help="leave the readers on USB alone")
    readers.add_argument(
        "-S",
        "--reader-name-no-serial",
        action="store_true",
        help="no serial numbers in the names of USB readers",
    )
    readers.add_argument(
        "-I",
        "--reader-name-no-interface",
        action="store_true",
        help="no interface names in the names of USB readers",
    )
    readers.add_argument(
        "--force-reader-polling",
        nargs="?",
        metavar="N",
        help="accepted for pcscd's sake; nothing is polled here that need not be",
    )


def _add_limit_options(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits", "0 leaves one as it is, in the settings or by default")
    for flags, limited in (
        (("-t", "--max-thread"), "clients"),
        (("-s", "--max-card-handle-per-thread"), "card handles of one client"),
        (("-r", "--max-card-handle-per-reader"), "card handles on one reader"),
    ):
        limits.add_argument(*flags, metavar="N", type=_limit, default=0, help=f"most {limited} at a time")


def _add_log_options(parser: argparse.ArgumentParser) -> None:
    logs = parser.add_argument_group("log", "to the journal or syslog, with -f to standard output")
    for flag, name in (("-d", "debug"), ("-i", "info"), ("-e", "error"), ("-C", "critical")):
        logs.add_argument(
            flag,
            f"--{name}",
            dest="level",
            action="store_const",
            const=name,
            default="info",
            help=f"lines of severity {name} and above{' (the default)' if name == 'info' else ''}",
        )
    logs.add_argument(
        "-a", "--apdu", action="store_true", help="the APDUs of all clients, with PINs hidden, at every level"
    )
    logs.add_argument("-T", "--color", action="store_true", default=None, help="colours, with -f")


def _socket_path(text: str) -> Path:
    path = Path(text).absolute()
    if too_long := excess(path):
        raise argparse.ArgumentTypeError(too_long)
    return path


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def make_config(options: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """Defaults, then what the file says, then the environment, then the options. Raises SettingsError."""
    config = _first_word(options)
    if options.settings is not None or DEFAULT_SETTINGS.exists():
        # Not needed by a daemon that has no such file.
        from pypcscd.configuration.settings_file import load

        config = load(options.settings or DEFAULT_SETTINGS, config)
    config = replace(config, usb_settings=config.usb_settings.with_environment(environment))
    return _with_last_word(config, options)


def _first_word(options: argparse.Namespace) -> Config:
    """What the file cannot change, or goes on from: it adds to the own socket, and may turn polkit off."""
    devices = chosen_devices(options)
    reader_conf = options.reader_conf
    if reader_conf is None and not devices and DEFAULT_READER_CONF.is_dir():
        # A daemon that was asked for virtual readers has those only, unless -c adds native ones.
        reader_conf = DEFAULT_READER_CONF
    return Config(
        sockets=(SocketConfig(options.socket),),
        devices=devices,
        reader_conf=reader_conf,
        usb=not devices if options.usb is None else options.usb,
        usb_may_be_missing=options.usb is None,
        polkit=not options.disable_polkit,
        auto_exit=options.auto_exit,
        logs_apdus=options.apdu,
    )


def _with_last_word(config: Config, options: argparse.Namespace) -> Config:
    """``config``, but with what the options say against file and environment."""
    usb_settings = config.usb_settings
    if options.reader_name_no_serial:
        usb_settings = usb_settings._replace(serial_in_names=False)
    if options.reader_name_no_interface:
        usb_settings = usb_settings._replace(interface_in_names=False)
    # As in pcscd, 0 leaves a limit as it is.
    settings = replace(
        config.settings,
        handles_per_client=options.max_card_handle_per_thread or config.settings.handles_per_client,
        handles_per_reader=options.max_card_handle_per_reader or config.settings.handles_per_reader,
    )
    return replace(
        config,
        settings=settings,
        usb_settings=usb_settings,
        max_clients=options.max_thread or config.max_clients,
    )
