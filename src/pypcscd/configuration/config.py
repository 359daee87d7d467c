"""What one daemon is to do, as plain values, and where it looks if it is told nothing else."""

from dataclasses import dataclass, field
from pathlib import Path

from pypcscd.driver import DeviceConfig
from pypcscd.hotplug.settings import UsbSettings
from pypcscd.manager.settings import Settings
from pypcscd.server.rules import EVERYBODY, AccessRule, ClientRule, SocketConfig

DEFAULT_SOCKET = Path("/run/pcscd/pcscd.comm")
DEFAULT_READER_CONF = Path("/etc/reader.conf.d")
DEFAULT_SETTINGS = Path("/etc/pypcscd.toml")


class DaemonError(Exception):
    """The daemon cannot start, or cannot do what is configured; the message says why and what to do."""


@dataclass(frozen=True)
class Config:
    """The configuration of one daemon."""

    #: the first one is the daemon's own: the one that libpcsclite looks for
    sockets: tuple[SocketConfig, ...] = (SocketConfig(DEFAULT_SOCKET),)
    #: how to serve clients that are special; the first that matches counts
    client_rules: tuple[ClientRule, ...] = ()
    #: connections that may be open at the same time
    max_clients: int = 4096

    #: readers that are there from the start; those of ``reader_conf`` and on USB come on top
    devices: tuple[DeviceConfig, ...] = ()
    #: a reader.conf file, or a directory of them; None: no native readers are configured
    reader_conf: Path | None = None
    #: USB readers are taken up as they come
    usb: bool = False
    #: not to have them, for lack of a library, is no reason not to start
    usb_may_be_missing: bool = False
    usb_settings: UsbSettings = field(default_factory=UsbSettings)
    #: limits and delays of the manager
    settings: Settings = field(default_factory=Settings)

    #: polkit is asked whom to let in, if this daemon is the system's own: if it serves ``DEFAULT_SOCKET``
    polkit: bool = True
    #: it is asked even if this daemon is not the system's own, or polkit seems not to be there
    polkit_is_required: bool = False
    #: who is let in without asking polkit; if it names nobody, only root is
    trusted: AccessRule = EVERYBODY

    #: how long, in seconds, clients wait at most for the first readers when the daemon starts
    settle_bound: float = 3.0
    #: seconds without any client after which the daemon ends; None: never
    auto_exit: float | None = None
    #: what clients and cards say to each other is logged, at every level
    logs_apdus: bool = False
