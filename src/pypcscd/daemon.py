"""The composition root: the only place where the parts of the daemon meet, and its life cycle."""

import asyncio
import contextlib
import logging
import resource
import signal
from pathlib import Path

from pypcscd.config import Config
from pypcscd.control.admin import AdminSocket
from pypcscd.hotplug.devices import DeviceKeeper
from pypcscd.hotplug.drivers import Drivers, report_missing_parts
from pypcscd.hotplug.usb import HotplugError, UsbWatcher, watch_usb
from pypcscd.manager.manager import Manager
from pypcscd.server.door import Door
from pypcscd.server.instance import Instance, InstanceError
from pypcscd.server.listener import Listener, open_socket
from pypcscd.server.rules import SocketConfig

log = logging.getLogger("pypcscd.daemon")


class DaemonError(Exception):
    """The daemon cannot start; the message says why and what to do."""


class Daemon:
    """A resource manager on one or more sockets, from ``start`` to ``stop``, in a running event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.manager = Manager(config.settings)
        self._drivers = Drivers()
        self.devices = DeviceKeeper(self.manager, self._drivers)
        self._usb: UsbWatcher | None = None
        self._instances: list[Instance] = []
        self._listeners: list[Listener] = []
        self._admin: AdminSocket | None = None

    async def start(self) -> None:
        """Take the sockets, open the devices, and serve. Raises DaemonError.

        Clients may connect as soon as a socket is there; they are answered when the first look at
        the devices is over, or ``settle_bound`` has passed.
        """
        try:
            for socket_config in self._config.sockets:
                self._open(socket_config)
            await self._add_devices()
            await self.devices.settle(self._config.settle_bound)
            for listener in self._listeners:
                await listener.start()
            await self._open_admin_socket()
        except BaseException:
            await self.stop()
            raise
        report_missing_parts()
        count = len(self.manager.roster.everything.snapshot())
        paths = ", ".join(str(socket_config.path) for socket_config in self._config.sockets)
        log.info("serving on %s, %d reader%s", paths, count, "" if count == 1 else "s")

    def _open(self, socket_config: SocketConfig) -> None:
        instance = Instance(socket_config.path)
        try:
            instance.claim()
        except InstanceError as error:
            raise DaemonError(str(error)) from error
        self._instances.append(instance)
        try:
            listening = open_socket(socket_config)
        except OSError as error:
            raise DaemonError(f"cannot listen on {socket_config.path}: {error.strerror or error}") from error
        door = Door(self.manager, socket_config, self._config.client_rules)
        self._listeners.append(Listener(door, listening, self._config.max_clients))

    async def _open_admin_socket(self) -> None:
        """Beside the daemon's own socket: /run/pcscd/pcscd.comm and /run/pcscd/pcscd.admin."""
        path = self._config.sockets[0].path.with_suffix(".admin")
        admin = AdminSocket(path, self.manager, self._listeners)
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
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._usb is not None:
            self._usb.close()
            self._usb = None
        await self.devices.close()
        await self._drivers.close()
        await self.manager.close()
        for instance in self._instances:
            instance.release()
        self._instances.clear()

    async def _add_devices(self) -> None:
        for device in self._config.devices:
            self.devices.add(device)
        if self._config.reader_conf is not None:
            await self._add_native_devices(self._config.reader_conf)
        if self._config.usb:
            self._watch_usb()

    def _watch_usb(self) -> None:
        try:
            self._usb = watch_usb(self.devices)
        except HotplugError as error:
            raise DaemonError(str(error)) from error
        self._usb.start()

    async def _add_native_devices(self, path: Path) -> None:
        from pypcscd.hotplug import readerconf

        devices, errors = await asyncio.to_thread(readerconf.load, path)
        for error in errors:
            log.error("%s", error)
        for device in devices:
            self.devices.add(device)


def _allow_many_clients() -> None:
    """Each client takes a descriptor; the usual soft limit of 1,024 is there for select() only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(config: Config) -> None:
    """Run a daemon until SIGTERM, SIGINT or SIGQUIT. Raises DaemonError if it cannot start."""
    _allow_many_clients()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, stop.set)
    daemon = Daemon(config)
    starting = asyncio.ensure_future(daemon.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return
    try:
        starting.result()
        await stopping
        log.info("stopping")
        await daemon.stop()
    finally:
        stopping.cancel()
