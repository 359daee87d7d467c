"""Whether polkit is asked about clients, and which one of them need no question."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pypcscd.configuration.config import DEFAULT_SOCKET, Config

if TYPE_CHECKING:
    from pypcscd.server.polkit import Polkit

log = logging.getLogger("pypcscd.daemon")

#: without one of these polkit cannot be asked, and refusing everybody would be no better than asking nobody
_NEEDED = (
    ("the system bus", Path("/run/dbus/system_bus_socket")),
    ("polkit", Path("/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service")),
    ("the policy for pcscd", Path("/usr/share/polkit-1/actions/org.debian.pcsc-lite.policy")),
)


class ChosenAuthority:
    """The authority that the configuration asks for, as long as the daemon runs."""

    def __init__(self) -> None:
        #: asked about clients; None: nobody is asked
        self.current: Polkit | None = None
        self._polkit: Polkit | None = None

    def choose(self, config: Config) -> None:
        """Do as ``config`` says, from the next client on."""
        self.current = None
        if not _is_wanted(config):
            return
        if self._polkit is None:
            from pypcscd.server.polkit import Polkit

            self._polkit = Polkit(config.trusted)
        self._polkit.trusted = config.trusted
        self.current = self._polkit

    def close(self) -> None:
        self.current = None
        if self._polkit is not None:
            self._polkit.close()
            self._polkit = None


def _is_wanted(config: Config) -> bool:
    if not config.polkit:
        return False
    if config.polkit_is_required:
        return True
    if config.sockets[0].path != DEFAULT_SOCKET:
        return False
    missing = next((what for what, path in _NEEDED if not path.exists()), None)
    if missing is not None:
        log.info("polkit is not asked about clients, because %s is not there", missing)
    return missing is None
