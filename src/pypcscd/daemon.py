"""The composition root: the only place where the parts of the daemon meet."""

import asyncio
import logging
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pypcscd.client_sockets import ClientSockets, shown
from pypcscd.configuration.config import Config, DaemonError
from pypcscd.control.admin import AdminSocket
from pypcscd.driver import DeviceConfig
from pypcscd.hotplug.devices import DeviceKeeper
from pypcscd.hotplug.drivers import Drivers, report_missing_parts
from pypcscd.manager.manager import Manager
from pypcscd.paths import admin_path_of
from pypcscd.process.activation import Inherited

if TYPE_CHECKING:
    from pypcscd.hotplug.udev import UsbWatcher

log = logging.getLogger("pypcscd.daemon")


class Daemon:
    """A resource manager on one or more sockets, from ``start`` to ``stop``, in a running event loop."""

    def __init__(self, config: Config, inherited: Inherited | None = None) -> None:
        """``inherited``: the sockets that the service manager has opened."""
        self._config = config
        self._inherited = inherited or Inherited({})
        # a copy of its own, because a reload changes it
        self.manager = Manager(replace(config.settings))
        self._drivers = Drivers()
        self.devices = DeviceKeeper(self.manager, self._drivers)
        self.sockets = ClientSockets(self.manager, self._inherited)
        #: those of reader.conf, and where each stands now, which may be another file than at first
        self._native: list[tuple[DeviceConfig, str]] = []
        self._usb: UsbWatcher | None = None
        self._admin: AdminSocket | None = None

    @property
    def config(self) -> Config:
        return self._config

    @property
    def is_watched(self) -> bool:
        """Somebody follows what happens, by the admin socket."""
        return self._admin is not None and self._admin.is_watched

    def is_reader(self, name: str) -> bool:
        return self.manager.roster.everything.find(name) is not None

    async def start(self) -> None:
        """Take the sockets, open the devices, and serve. Raises DaemonError.

        Clients may connect as soon as a socket is there; they are answered when the first look at
        the devices is over, or ``settle_bound`` has passed.
        """
        try:
            self.sockets.open(self._config)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await self._add_devices()
            await self.devices.settle(self._config.settle_bound, since=begun)
            await self._open_admin_socket()
            self.sockets.start()
        except BaseException:
            await self.stop()
            raise
        report_missing_parts()
        count = len(self.manager.roster.everything.snapshot())
        log.info("serving on %s, %d reader%s", shown(self.sockets.paths), count, "" if count == 1 else "s")

    async def _open_admin_socket(self) -> None:
        """Beside the daemon's own socket: /run/pcscd/pcscd.comm and /run/pcscd/pcscd.admin."""
        path = admin_path_of(self.sockets.paths[0])
        helpers, inherited = self._drivers.helpers, self._inherited.admin
        admin = AdminSocket(path, self.manager, self.sockets.listeners, helpers, inherited)
        if self._config.logs_apdus:
            from pypcscd.control.apdu_log import ApduLog

            ApduLog(admin.service.taps)
        try:
            await admin.start()
        except OSError as error:
            reason = error.strerror or error
            log.error("no admin socket at %s, so status and spy will not work: %s", path, reason)
        else:
            self._admin = admin

    async def stop(self) -> None:
        """Hang up on the clients, power the cards off, close the devices, remove sockets and pid files."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        self.sockets.hang_up()
        if self._usb is not None:
            self._usb.close()
            self._usb = None
        await self.devices.close()
        await self._drivers.close()
        await self.manager.close()
        self.sockets.release()

    # --- while it runs ------------------------------------------------------------------------

    async def reconfigure(self, config: Config) -> None:
        """Do as ``config`` says from now on, without a word to those whom it does not concern.

        Raises DaemonError; then everything is as before.
        """
        self.sockets.reconfigure(config)
        self._config = config
        self.manager.settings.adopt(config.settings)
        for reader in self.manager.roster:
            # A connection may just be in the making, or a card not answer; what is under way looks itself.
            if not reader.handles and not reader.commands.locked():
                reader.let_rest()
        await self._change_native_devices(config.reader_conf)
        self.devices.try_all_again()
        if self._usb is not None:
            from pypcscd.hotplug.udev import load_matcher

            await self._usb.reload(await load_matcher(config.usb_settings), config.settle_bound)

    async def rescan(self) -> None:
        """Look for USB readers, and try those devices again that are not open."""
        self.devices.try_all_again()
        if self._usb is not None:
            await self._usb.rescan()

    # --- devices ------------------------------------------------------------------------------

    async def _add_devices(self) -> None:
        for device in self._config.devices:
            self.devices.add(device)
        await self._change_native_devices(self._config.reader_conf)
        if self._config.usb:
            await self._watch_usb()

    async def _watch_usb(self) -> None:
        from pypcscd.hotplug.udev import HotplugError, watch_usb

        try:
            self._usb = await watch_usb(self.devices, self._config.usb_settings)
        except HotplugError as error:
            if not self._config.usb_may_be_missing:
                raise DaemonError(str(error)) from error
            log.warning("no USB readers: %s", error)
        else:
            await self._usb.start(self._config.settle_bound)

    async def _change_native_devices(self, path: Path | None) -> None:
        """Want the devices of reader.conf, and no others; those that are unchanged are not touched."""
        wanted: list[DeviceConfig] = []
        mistaken: set[str] = set()
        if path is not None:
            from pypcscd.hotplug import names, readerconf

            configured, errors = await asyncio.to_thread(readerconf.load, path)
            for error in errors:
                log.error("%s", error)
            wanted, unwanted = names.filter_configured(configured, self._config.usb_settings)
            for line in unwanted:
                log.info("%s", line)
            mistaken = {error.origin for error in errors}
        # Whatever stood in a file that has a mistake now is kept: it may have been meant to stay.
        kept: list[tuple[DeviceConfig, str]] = []
        gone: list[DeviceConfig] = []
        for device, place in self._native:
            now = next((one.origin for one in wanted if _is_same(device, one)), None)
            if now is None and not _has_mistake(place, mistaken):
                gone.append(device)
            else:
                kept.append((device, now or place))
        new = [device for device in wanted if not any(_is_same(device, one) for one, _ in kept)]
        self._native = kept + [(device, device.origin) for device in new]
        for device in gone:
            log.info("%s: not configured any more (%s)", device.name, device.origin)
        await asyncio.gather(*(self.devices.remove(device) for device in gone))
        for device in new:
            self.devices.add(device)


def _has_mistake(place: str, mistaken: Container[str]) -> bool:
    """The file of a place, or its directory, could not be read without a mistake."""
    file = place.rpartition(":")[0]
    return file in mistaken or str(Path(file).parent) in mistaken


def _is_same(device: DeviceConfig, other: DeviceConfig) -> bool:
    """The same but for the line on which it stands."""
    return replace(device, origin=other.origin) == other
