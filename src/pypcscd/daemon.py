"""The composition root: the only place where the parts of the daemon meet, and its life cycle."""

import asyncio
import contextlib
import logging
import resource
import signal
from pathlib import Path

from pypcscd.config import Config
from pypcscd.hotplug.devices import DeviceKeeper
from pypcscd.hotplug.drivers import Drivers
from pypcscd.manager.manager import Manager
from pypcscd.server.instance import Instance, InstanceError
from pypcscd.server.listener import Listener, open_socket

log = logging.getLogger("pypcscd.daemon")


class DaemonError(Exception):
    """The daemon cannot start; the message says why and what to do."""


class Daemon:
    """A resource manager on one socket, from ``start`` to ``stop``, within a running event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._instance = Instance(config.socket)
        self.manager = Manager(config.settings)
        self._drivers = Drivers()
        self.devices = DeviceKeeper(self.manager, self._drivers)
        self._listener: Listener | None = None

    async def start(self) -> None:
        """Take the socket, open the devices, and serve. Raises DaemonError.

        Clients may connect as soon as the socket is there; they are answered when the first look at
        the devices is over, or ``settle_bound`` has passed.
        """
        try:
            self._instance.claim()
        except InstanceError as error:
            raise DaemonError(str(error)) from error
        try:
            self._listener = Listener(
                self.manager, open_socket(self._config.socket), self._config.max_clients
            )
        except OSError as error:
            self._instance.release()
            raise DaemonError(f"cannot listen on {self._config.socket}: {error.strerror or error}") from error
        try:
            await self._add_devices()
            await self.devices.settle(self._config.settle_bound)
            await self._listener.start()
        except BaseException:
            await self.stop()
            raise
        count = len(self.manager.readers())
        log.info("serving on %s, %d reader%s", self._config.socket, count, "" if count == 1 else "s")

    async def stop(self) -> None:
        """Hang up on the clients, power the cards off, close the devices, remove socket and pid file."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self.devices.close()
        await self._drivers.close()
        await self.manager.close()
        self._instance.release()

    async def _add_devices(self) -> None:
        for device in self._config.devices:
            self.devices.add(device)
        if self._config.reader_conf is not None:
            await self._add_native_devices(self._config.reader_conf)

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
