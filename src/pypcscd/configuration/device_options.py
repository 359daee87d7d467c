"""The options that say which readers there are; the daemon and ``pypcscd run`` share them."""

from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pypcscd.driver import DeviceConfig

if TYPE_CHECKING:
    # what parsers and groups of options have in common
    from argparse import _ActionsContainer

#: where emulators look for vpcd
_DEFAULT_VPCD_PORT = 35963


def add_device_options(parser: "_ActionsContainer", card_option: str) -> None:
    """``card_option`` is the one that adds a virtual reader: "--virtual", "--card"."""
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
        default=_DEFAULT_VPCD_PORT,
        help="TCP port of the first of these slots, the others follow (%(default)s)",
    )
    parser.add_argument(
        "--vpcd-host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address on which emulators may connect (%(default)s: this machine only)",
    )
    # None: nothing was said about USB
    parser.add_argument(
        "--usb", action="store_true", default=None, help="take up readers on USB, as they come and go"
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
    """The virtual ones and vpcd; those on USB and in reader.conf are found by the daemon."""
    devices = [_virtual_device(card) for card in options.cards]
    if options.vpcd:
        devices.append(vpcd_device(options.vpcd, options.vpcd_port, options.vpcd_host))
    return tuple(devices)


def _virtual_device(card: str) -> DeviceConfig:
    """A virtual reader with a card: a ready-made one by its name, or ``module:Class``."""
    return DeviceConfig(
        driver="virtual",
        name=f"Virtual {card.rpartition(':')[2]}",
        numbering="virtual",
        options={"card": card},
        origin=f"virtual card {card}",
    )


def vpcd_device(slots: int, port: int, host: str) -> DeviceConfig:
    """A reader with ``slots`` slots, to which card emulators connect on TCP ports from ``port`` on."""
    return DeviceConfig(
        driver="vpcd",
        name="Virtual PCD",
        numbering="vpcd",
        options={"slots": str(slots), "port": str(port), "host": host},
        origin=f"vpcd on {host}, port {port}",
    )


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
