"""Keeps the wanted devices open: opens, reopens with back-off when one is lost, and closes them."""

import asyncio
import logging

from pypcscd.driver import Device, DeviceConfig, DeviceOpenError
from pypcscd.hotplug.drivers import Drivers
from pypcscd.manager.manager import Manager

log = logging.getLogger("pypcscd.devices")

#: seconds before a device that failed is tried again, doubled with each failure up to the second
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
#: a device that stayed open for this long, seconds, starts again with the first pause
_STABLE_AFTER = 60.0


class _Wanted:
    """A device that shall be open."""

    def __init__(self, config: DeviceConfig) -> None:
        self.config = config
        self.task: asyncio.Task[None] | None = None
        #: set once the device was announced, or could not be
        self.tried = asyncio.Event()


class DeviceKeeper:
    """One task for each wanted device, from ``add`` to ``remove`` or ``close``.

    A device keeps its reader number while it is wanted, so its readers come back under their names.
    """

    def __init__(self, manager: Manager, drivers: Drivers) -> None:
        self._manager = manager
        self._drivers = drivers
        self._wanted: list[_Wanted] = []
        #: the devices that were given up because trying again cannot help
        self.given_up: list[DeviceConfig] = []

    def add(self, config: DeviceConfig) -> None:
        """Want this device, from now on."""
        wanted = _Wanted(config)
        self._wanted.append(wanted)
        wanted.task = asyncio.get_running_loop().create_task(self._keep(wanted))

    async def settle(self, bound: float) -> None:
        """Wait until each device is announced or has failed once, ``bound`` seconds at most."""
        waiting = [asyncio.ensure_future(wanted.tried.wait()) for wanted in self._wanted]
        if not waiting:
            return
        _done, late = await asyncio.wait(waiting, timeout=bound)
        for wait in late:
            wait.cancel()
        slow = [wanted.config.name for wanted in self._wanted if not wanted.tried.is_set()]
        if slow:
            log.warning("not ready after %.0f s, to be announced later: %s", bound, ", ".join(slow))

    async def remove(self, config: DeviceConfig) -> None:
        """Give a device up; its readers are gone when this returns. ValueError: it is not wanted."""
        wanted = next((wanted for wanted in self._wanted if wanted.config == config), None)
        if wanted is None:
            raise ValueError(f"there is no device {config.name!r}")
        self._wanted.remove(wanted)
        await self._end([wanted])

    async def close(self) -> None:
        """Give all devices up, side by side."""
        all_wanted, self._wanted = self._wanted, []
        await self._end(all_wanted)

    async def _end(self, given_up: list[_Wanted]) -> None:
        tasks = [wanted.task for wanted in given_up if wanted.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, wanted: _Wanted) -> None:
        config = wanted.config
        number = self._manager.roster.allocate_number(config.numbering, config.number, config.spared_numbers)
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        try:
            while True:
                opened_at = loop.time()
                try:
                    device = await self._drivers.get(config.driver).open(config)
                except DeviceOpenError as error:
                    if error.permanent:
                        log.error("%s (%s): %s", config.name, config.origin, error)
                        self.given_up.append(config)
                        return
                    log.warning(
                        "%s (%s): %s; trying again in %.1f s", config.name, config.origin, error, pause
                    )
                else:
                    why = await self._serve(wanted, number, device)
                    if loop.time() - opened_at > _STABLE_AFTER:
                        pause = _FIRST_PAUSE
                    log.error("%s: %s; opening it again in %.1f s", config.name, why, pause)
                wanted.tried.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s: given up because of a defect; please report this", config.name)
        finally:
            wanted.tried.set()
            self._manager.roster.release_number(config.numbering, number)

    async def _serve(self, wanted: _Wanted, number: int, device: Device) -> str:
        """Show the device's readers until it is lost; returns why it was."""
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def note_loss(why: str) -> None:
            if not lost.done():
                lost.set_result(why)

        device.lost = note_loss
        try:
            readers = await self._manager.add_readers(wanted.config.name, number, device.slots)
            wanted.tried.set()
            try:
                return await lost
            finally:
                await self._manager.remove_readers(readers)
        finally:
            await device.close()
