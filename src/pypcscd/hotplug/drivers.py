"""Drivers by name, each imported when the first device needs it."""

import logging
from importlib import import_module

from pypcscd.driver import DeviceOpenError, Driver

log = logging.getLogger("pypcscd.devices")

_GROUP = "pypcscd.drivers"
#: our own entry points again: to look for those of all installed packages takes a fifth of the start
_OWN = {
    "virtual": "pypcscd_virtual.driver:VirtualDriver",
    "vpcd": "pypcscd_virtual.vpcd:VpcdDriver",
    "ifdhandler": "pypcscd_ifdhandler.driver:IfdHandlerDriver",
    "ccid": "pypcscd_ccid.driver:CcidDriver",
}

#: the compiled part of the package, left out where it was installed without a C compiler
_NATIVE_PART = "pypcscd_ifdhandler._native"


def report_missing_parts() -> None:
    """Say at the start what cannot be used, before somebody misses it."""
    from importlib.util import find_spec

    if find_spec(_NATIVE_PART) is None:
        log.info(
            "native drivers (.so) cannot be used, and USB readers cost more CPU time than they need: pypcscd "
            "was installed without a C compiler; install gcc and python3-dev and reinstall it"
        )


class Drivers:
    """The drivers that are installed as entry points of the group ``pypcscd.drivers``."""

    def __init__(self) -> None:
        self._loaded: dict[str, Driver] = {}

    def get(self, name: str) -> Driver:
        """The driver of that name. Raises DeviceOpenError if it is not installed or does not load."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def helpers(self) -> dict[int, str]:
        """The processes that work for the drivers, by id: what runs in each."""
        return {pid: what for driver in self._loaded.values() for pid, what in driver.helpers().items()}

    async def close(self) -> None:
        """All devices are closed: end what the drivers shared between them."""
        loaded, self._loaded = self._loaded, {}
        for name, driver in loaded.items():
            try:
                await driver.close()
            except Exception:
                log.exception("the driver %r failed to close; please report this to its authors", name)

    def _load(self, name: str) -> Driver:
        place = _OWN.get(name) or _place_of(name)
        try:
            module, _, attribute = place.partition(":")
            driver = getattr(import_module(module), attribute)()
        except Exception as error:
            raise DeviceOpenError(
                f"the driver {name!r} ({place}) does not load: {error}", permanent=True
            ) from error
        if not isinstance(driver, Driver):
            raise DeviceOpenError(f"the driver {name!r} ({place}) is not a pypcscd driver", permanent=True)
        return driver


def _place_of(name: str) -> str:
    """Module and class of somebody else's driver. Raises DeviceOpenError."""
    # Costly to import, and needed only once.
    from importlib.metadata import entry_points

    found = list(entry_points(group=_GROUP, name=name))
    if not found:
        raise DeviceOpenError(
            f"no driver named {name!r} is installed (entry-point group {_GROUP})", permanent=True
        )
    return found[0].value
