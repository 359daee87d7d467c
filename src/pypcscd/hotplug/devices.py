"""Keeps the wanted devices open: opens, reopens with back-off when one is lost, and closes them."""

import asyncio
import logging
from collections.abc import Collection, Coroutine
from typing import Any

from pypcscd.driver import Device, DeviceConfig, DeviceOpenError, NotMineError
from pypcscd.hotplug.drivers import Drivers
from pypcscd.manager.manager import Manager

log = logging.getLogger("pypcscd.devices")

#: seconds before a device that failed is tried again, doubled with each failure up to the second
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
#: a device that stayed open for this long, seconds, starts again with the first pause
_STABLE_AFTER = 60.0
#: failures in a row, after which the next driver is tried, or the device is reset
_ENOUGH_FAILURES = 3
#: seconds until a device may be reset again: a reset may look as if it had been plugged in anew
_RESET_INTERVAL = 60.0
#: seconds in which whoever follows what is plugged in should have heard that a device is not there
_NOTICE_BOUND = 3.0
#: seconds that a new device waits for those that are being closed, to take over their numbers
_CLOSING_BOUND = 1.0


class _Wanted:
    """A device that shall be open, with the drivers that may open it."""

    def __init__(self, configs: tuple[DeviceConfig, ...], before: "_Wanted | None") -> None:
        self.configs = configs
        #: the one that is to be tried first
        self.before = before
        self.task: asyncio.Task[None] | None = None
        #: the reader number that it has now
        self.number: int | None = None
        #: set once the device was announced, or could not be
        self.tried = asyncio.Event()
        #: something has changed, so that it is worth while to try now
        self.changed = asyncio.Event()
        #: its readers are announced
        self.is_open = False
        self.is_given_up = False
        self.was_reset = False
        #: the log has said that it was unplugged
        self.is_unplugged = False
        #: it has vanished, which a reset at its port looks like as well
        self.has_vanished = False

    @property
    def name(self) -> str:
        return self.configs[0].name

    @property
    def origin(self) -> str:
        return self.configs[0].origin


class _Patience:
    """Counts the failures of a device and says how long to wait."""

    def __init__(self) -> None:
        self.failures = 0
        self._pause = _FIRST_PAUSE

    def note_failure(self) -> float:
        """Seconds to wait now."""
        self.failures += 1
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return pause

    def note_open_for(self, seconds: float) -> None:
        if seconds > _STABLE_AFTER:
            self.failures, self._pause = 0, _FIRST_PAUSE


class DeviceKeeper:
    """One task for each wanted device, from ``add`` to ``remove`` or ``close``.

    A device keeps its reader number while it is wanted, so its readers come back under their names.
    """

    def __init__(self, manager: Manager, drivers: Drivers) -> None:
        self._manager = manager
        self._drivers = drivers
        self._wanted: list[_Wanted] = []
        #: those that are being closed; they have their numbers until that is done
        self._closing: dict[asyncio.Task[None], _Wanted] = {}
        #: when a device was reset, by its origin
        self._resets: dict[str, float] = {}

    @property
    def given_up(self) -> list[DeviceConfig]:
        """The devices that are not tried again before something changes, because that cannot help."""
        return [wanted.configs[0] for wanted in self._wanted if wanted.is_given_up]

    def is_open(self, config: DeviceConfig) -> bool:
        """The device is wanted, and its readers are announced."""
        return (wanted := self._find(config)) is not None and wanted.is_open

    def add(self, *configs: DeviceConfig, after: DeviceConfig | None = None) -> None:
        """Want this device, from now on.

        Several configs are several ways to drive it, tried in this order; name and numbering are those
        of the first. ``after``: another device that has its turn first, because the order decides about
        reader numbers.
        """
        before = None if after is None else self._find(after)
        wanted = _Wanted(configs, before)
        self._wanted.append(wanted)
        self._start(wanted)

    def try_again(self, config: DeviceConfig) -> None:
        """Something about this device has changed: if it is not open, try now. Also if it was given up."""
        if (wanted := self._find(config)) is not None:
            self._try_again(wanted)

    def try_all_again(self) -> None:
        """Try each device now that is not open, also those that were given up, or nothing for its driver."""
        for wanted in self._wanted:
            self._try_again(wanted)
            if wanted.task is not None and wanted.task.done():
                self._start(wanted)

    async def settle(self, bound: float, since: float | None = None) -> None:
        """Wait until each device is announced or has failed once, ``bound`` seconds at most.

        ``since``: when these seconds began, by the loop's clock, if that is not now.
        """
        now = asyncio.get_running_loop().time()
        left = bound if since is None else max(since + bound - now, 0.0)
        waiting = [asyncio.ensure_future(wanted.tried.wait()) for wanted in self._wanted]
        if not waiting:
            return
        _done, late = await asyncio.wait(waiting, timeout=left)
        for wait in late:
            wait.cancel()
        slow = [f"{wanted.name} ({wanted.origin})" for wanted in self._wanted if not wanted.tried.is_set()]
        if slow:
            log.warning(
                "not ready after %g s ([limits] start_wait), to be announced later: %s",
                bound,
                ", ".join(slow),
            )

    def remove(self, config: DeviceConfig, why: str = "") -> asyncio.Future[None]:
        """Give a device up, at once; its readers are gone when what is returned is done.

        ``config``: the first one that it was added with. ``why`` is for the log. ValueError: it is not
        wanted.
        """
        wanted = self._find(config)
        if wanted is None:
            raise ValueError(f"there is no device {config.name!r}")
        if why and not wanted.is_unplugged:
            log.info("%s: %s (%s)", wanted.name, why, wanted.origin)
        self._wanted.remove(wanted)
        return asyncio.get_running_loop().create_task(_wait_for_all(self._begin_to_close([wanted])))

    async def close(self) -> None:
        """Give all devices up, side by side."""
        all_wanted, self._wanted = self._wanted, []
        self._begin_to_close(all_wanted)
        await _wait_for_all(list(self._closing))

    def _find(self, config: DeviceConfig) -> _Wanted | None:
        return next((wanted for wanted in self._wanted if wanted.configs[0] == config), None)

    def _try_again(self, wanted: _Wanted) -> None:
        wanted.changed.set()
        if wanted.is_given_up:
            log.info("%s (%s): trying again", wanted.name, wanted.origin)
            wanted.is_given_up = False
            self._start(wanted)

    def _start(self, wanted: _Wanted) -> None:
        wanted.task = asyncio.get_running_loop().create_task(self._keep(wanted))

    def _begin_to_close(self, given_up: list[_Wanted]) -> Collection[asyncio.Task[None]]:
        """Those that will have ended then; they need nobody who waits for them."""
        tasks = {wanted.task: wanted for wanted in given_up if wanted.task is not None}
        self._closing |= tasks
        for wanted in given_up:
            # A task that is cancelled before its first step does not do so.
            wanted.tried.set()
        for task in tasks:
            task.add_done_callback(self._note_closed)
            task.cancel()
        return tasks

    def _note_closed(self, task: asyncio.Task[None]) -> None:
        del self._closing[task]

    async def _keep(self, wanted: _Wanted) -> None:
        first = wanted.configs[0]
        try:
            await self._wait_for_turn(wanted)
            number = self._manager.roster.allocate_number(
                first.numbering, first.number, first.spared_numbers, name=first.name
            )
            if first.number not in (None, number):
                self._say_who_has_its_number(first, number)
            wanted.number = number
            try:
                await self._keep_open(wanted, number)
            finally:
                wanted.number = None
                self._manager.roster.release_number(first.numbering, number)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s: given up because of a defect; please report this", wanted.name)
        finally:
            wanted.tried.set()

    def _say_who_has_its_number(self, config: DeviceConfig, number: int) -> None:
        """The number that the administrator wished for is taken, so a name that programs know is missing."""
        # As the roster has it: a number is taken within a group, and by a name whatever its group.
        other = next(
            other
            for other in [*self._wanted, *self._closing.values()]
            if other.number == config.number
            and (other.name == config.name or other.configs[0].numbering == config.numbering)
        )
        if other not in self._wanted:
            advice = "which is still being closed; when it is gone plug this one in again"
        elif other.configs[0].number == config.number:
            advice = (
                "for which the same is wished; let the [[usb.reader]] match one reader only, by serial or "
                "port, or give each an index of its own, and reload"
            )
        else:
            advice = (
                "which came before this was wished; restart the daemon, or plug both in again, this one first"
            )
        log.warning(
            "%s (%s): it should be reader number %02X (index = %d) and is %02X instead, because %s (%s) has "
            "%02X, %s",
            config.name,
            config.origin,
            config.number,
            config.number,
            number,
            other.name,
            other.origin,
            config.number,
            advice,
        )

    async def _wait_for_turn(self, wanted: _Wanted) -> None:
        if wanted.before is not None:
            await wanted.before.tried.wait()
            wanted.before = None
        numbering = wanted.configs[0].numbering
        if leaving := [task for task, one in self._closing.items() if one.configs[0].numbering == numbering]:
            await asyncio.wait(leaving, timeout=_CLOSING_BOUND)

    async def _keep_open(self, wanted: _Wanted, number: int) -> None:
        """Keep the device open by one of its drivers; returns when none of them can ever open it."""
        for config in wanted.configs:
            others = wanted.configs[-1] is not config
            error = await self._keep_open_by(wanted, config, number, others=others)
            what = "; trying another driver" if others else ""
            if isinstance(error, NotMineError):
                log.debug("%s (%s): %s", config.name, config.origin, error)
            else:
                wanted.is_given_up = not others
                log.error("%s (%s): %s%s", config.name, config.origin, error, what)

    async def _keep_open_by(
        self, wanted: _Wanted, config: DeviceConfig, number: int, *, others: bool
    ) -> DeviceOpenError:
        """Keep the device open by one driver; returns why that cannot be."""
        loop = asyncio.get_running_loop()
        patience = _Patience()
        while True:
            wanted.changed.clear()
            opened_at = loop.time()
            try:
                device = await self._drivers.get(config.driver).open(config)
            except DeviceOpenError as error:
                if error.permanent:
                    return error
                pause = patience.note_failure()
                if others and patience.failures >= _ENOUGH_FAILURES and not error.is_gone:
                    return error
                level, why, what = logging.WARNING, str(error), "trying"
                may_reset = error.reset_may_help
                if error.is_gone:
                    # What follows the system's devices tells soon what has become of it.
                    self._note_unplugged(wanted, why)
                    level, pause = logging.DEBUG, max(pause, _NOTICE_BOUND)
            else:
                self._note_open(wanted)
                level, why, what = logging.ERROR, await self._serve(wanted, number, device), "opening it"
                patience.note_open_for(loop.time() - opened_at)
                pause = patience.note_failure()
                wanted.has_vanished, may_reset = device.is_unplugged, not device.is_unplugged
                if device.is_unplugged:
                    # Mostly this wait is ended by the removal.
                    level = logging.DEBUG
                elif others and patience.failures >= _ENOUGH_FAILURES:
                    return DeviceOpenError(why)
            wanted.tried.set()
            if may_reset and patience.failures >= _ENOUGH_FAILURES and await self._reset(wanted, config):
                continue
            log.log(level, "%s (%s): %s; %s again in %.1f s", wanted.name, wanted.origin, why, what, pause)
            await self._wait_for_change(wanted, pause)

    async def _wait_for_change(self, wanted: _Wanted, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await wanted.changed.wait()
        except TimeoutError:
            return

    def _note_unplugged(self, wanted: _Wanted, why: str) -> None:
        if not wanted.is_unplugged:
            log.info("%s: unplugged (%s; %s)", wanted.name, wanted.origin, why)
        wanted.is_unplugged = True

    def _note_open(self, wanted: _Wanted) -> None:
        if wanted.has_vanished:
            log.info("%s: still plugged in, and opened again after a reset (%s)", wanted.name, wanted.origin)
        wanted.has_vanished = wanted.is_unplugged = False

    async def _reset(self, wanted: _Wanted, config: DeviceConfig) -> bool:
        """The last resort, once for each time that the device is plugged in; False: not done."""
        now = asyncio.get_running_loop().time()
        self._resets = {origin: at for origin, at in self._resets.items() if now - at < _RESET_INTERVAL}
        if wanted.was_reset or config.origin in self._resets:
            return False
        if not await self._drivers.get(config.driver).reset(config):
            return False
        wanted.was_reset = True
        self._resets[config.origin] = now
        log.warning("%s (%s): reset, because it failed again and again", config.name, config.origin)
        return True

    async def _serve(self, wanted: _Wanted, number: int, device: Device) -> str:
        """Show the device's readers until it is lost; returns why it was."""
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def note_loss(why: str) -> None:
            if not lost.done():
                lost.set_result(why)

        device.lost = note_loss
        try:
            readers = await self._manager.add_readers(wanted.name, number, device.slots)
            wanted.is_open = True
            wanted.tried.set()
            try:
                why = await lost
                # What has changed while it was open is no reason to try sooner.
                wanted.changed.clear()
                return why
            finally:
                wanted.is_open = False
                await _to_the_end(self._manager.remove_readers(readers))
        finally:
            await _to_the_end(device.close())


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await it. Who is cancelled meanwhile, as when a reader is unplugged, is so when it has ended."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _wait_for_all(tasks: Collection[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
