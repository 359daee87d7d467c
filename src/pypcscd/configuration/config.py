"""What the daemon is to do, and the options that say which readers there are."""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pypcscd.driver import DeviceConfig
from pypcscd.hotplug.settings import UsbSettings
from pypcscd.manager.settings import Settings
from pypcscd.server.rules import EVERYBODY, AccessRule, ClientRule, SocketConfig

DEFAULT_SOCKET = Path("/run/pcscd/pcscd.comm")
DEFAULT_READER_CONF = Path("/etc/reader.conf.d")
DEFAULT_SETTINGS = Path("/etc/pypcscd.toml")
#: where emulators look for vpcd
DEFAULT_VPCD_PORT = 35963


class DaemonError(Exception):
    """The daemon cannot start, or cannot do what is configured; the message says why and what to do."""


@dataclass(frozen=True)
class Config:
    """The configuration of one daemon."""

    #: the first one is the daemon's own: the one that libpcsclite looks for
    sockets: tuple[SocketConfig, ...] = (SocketConfig(DEFAULT_SOCKET),)
    #: how to serve clients that are special; the first that matches counts
    client_rules: tuple[ClientRule, ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    #: a reader.conf file, or a directory of them; None: no native readers are configured
    reader_conf: Path | None = None
    #: USB readers are taken up as they come
    usb: bool = False
    usb_settings: UsbSettings = field(default_factory=UsbSettings)
    #: not to have them, for lack of a library, is no reason not to start
    usb_may_be_missing: bool = False
    settings: Settings = field(default_factory=Settings)
    #: connections that may be open at the same time
    max_clients: int = 4096
    #: how long, in seconds, clients wait at most for the first readers when the daemon starts
    settle_bound: float = 3.0
    #: what clients and cards say to each other is logged, at every level
    logs_apdus: bool = False
    #: seconds without any client after which the daemon ends; None: never
    auto_exit: float | None = None
    #: polkit is asked whom to let in, if this daemon is the system's own
    polkit: bool = True
    #: and also if it is not
    polkit_is_required: bool = False
    #: who is let in without asking polkit; if it names nobody, only root is
    trusted: AccessRule = EVERYBODY


def virtual_devices(cards: Sequence[str]) -> list[DeviceConfig]:
    """A virtual reader for each card: a ready-made one by its name, or ``module:Class``."""
    return [
        DeviceConfig(
            driver="virtual",
            name=f"Virtual {card.rpartition(':')[2]}",
            numbering="virtual",
            options={"card": card},
            origin=f"virtual card {card}",
        )
        for card in cards
    ]


def vpcd_device(slots: int, port: int, host: str) -> DeviceConfig:
    """A reader with ``slots`` slots, to which card emulators connect on TCP ports from ``port`` on."""
    return DeviceConfig(
        driver="vpcd",
        name="Virtual PCD",
        numbering="vpcd",
        options={"slots": str(slots), "port": str(port), "host": host},
        origin=f"vpcd on {host}, port {port}",
    )


class Options(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **settings: Any) -> Any: ...


def add_device_options(parser: Options, card_option: str) -> None:
    """The options that say which readers there are; the daemon and ``run`` share them."""
    parser.add_argument(
        card_option,
        dest="cards",
        metavar="CARD",
        action="append",
        default=[],
        help="add a virtual reader with this card: hello, sle4442, echo, module:Class, or none; repeatable",
    )
    parser.add_argument(
        "--vpcd",
        metavar="N",
        type=_count,
        default=0,
        help="add a reader with N slots for card emulators (vpcd)",
    )
    parser.add_argument(
        "--vpcd-port",
        metavar="PORT",
        type=_port,
        default=DEFAULT_VPCD_PORT,
        help="TCP port of the first of these slots, the others follow (%(default)s)",
    )
    parser.add_argument(
        "--vpcd-host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address on which emulators may connect (%(default)s: this machine only)",
    )
    parser.add_argument(
        "--usb", action="store_true", default=None, help="take up CCID readers on USB, as they come and go"
    )
    parser.add_argument(
        "-c",
        "--config",
        dest="reader_conf",
        metavar="PATH",
        type=_existing_path,
        help="reader.conf file, or a directory of them, that names native drivers",
    )


def chosen_devices(options: Namespace) -> tuple[DeviceConfig, ...]:
    """The devices that the options of ``add_device_options`` ask for."""
    devices = virtual_devices(options.cards)
    if options.vpcd:
        devices.append(vpcd_device(options.vpcd, options.vpcd_port, options.vpcd_host))
    return tuple(devices)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a number of slots")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ArgumentTypeError(f"{text!r} is not a TCP port (1 to 65535)")
    return int(text)


def _existing_path(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise ArgumentTypeError(f"{text} does not exist")
    return path.absolute()
