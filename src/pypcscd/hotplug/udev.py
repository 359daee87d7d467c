"""USB readers as they come and go: what is plugged in, made into devices that are to be kept open.

An event is taken for a hint to look at a port: what sysfs shows then is what counts. So it does not
matter how often, how late and in which order things are told after a reset, a resume or a new
enumeration. That holds for "remove" as well: when udev tells it, the next device may be in the port
already, and open. The kernel takes what it removes out of sysfs before it says so, and whatever is there
again can be told from what was there before. By itself counts only "change", because then a reader that
does not open may do so.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pypcscd.driver import DeviceConfig
from pypcscd.eager import Background
from pypcscd.hotplug import scan
from pypcscd.hotplug.bundles import load_bundles
from pypcscd.hotplug.devices import DeviceKeeper
from pypcscd.hotplug.interface import UsbInterface
from pypcscd.hotplug.match import Match, Matcher
from pypcscd.hotplug.scan import Scanner
from pypcscd.hotplug.settings import UsbSettings
from pypcscd.hotplug.sources import Source, open_source

T = TypeVar("T")

log = logging.getLogger("pypcscd.usb")

#: where nobody prepares a device, it may take so many steps, of so many seconds, until its file is there
_NODE_STEPS = 40
_NODE_STEP = 0.05
#: seconds until what the system refuses is asked of it again
_RETRY = 2.0


class HotplugError(Exception):
    """USB readers cannot be found; the message says why and what to do."""


class _Port:
    """A port, and what is known of the device in it."""

    def __init__(self) -> None:
        #: what is plugged in, and what is done with it, by the kernel's name of the interface
        self.known: dict[str, tuple[UsbInterface, Match]] = {}
        #: the ends of the devices that are being closed
        self.leaving: set[asyncio.Future[None]] = set()
        #: how many changes were told
        self.changes = 0
        #: it was told that something is different, so what failed may work now
        self.may_work_now = False
        #: there is a reader in it that udev has not come to
        self.waits_for_udev = False
        #: the last one, which ends when nothing has changed while it looked
        self.look: asyncio.Task[None] | None = None

    @property
    def is_looking(self) -> bool:
        return self.look is not None and not self.look.done()


class UsbWatcher:
    """Keeps a device wanted for each reader that is plugged in, from ``start`` to ``close``."""

    def __init__(self, devices: DeviceKeeper, matcher: Matcher, source: Source, scanner: Scanner) -> None:
        """``watch_usb`` makes one for this system."""
        self._devices = devices
        self._matcher = matcher
        self._source = source
        self._scanner = scanner
        self._ports: dict[str, _Port] = {}
        self._background = Background(log)
        #: set by each look, for who waits until udev has come to all readers
        self._udev_came = asyncio.Event()

    async def start(self, bound: float) -> None:
        """Follow what changes, and want what is there; waits ``bound`` seconds at most for that."""
        begun = asyncio.get_running_loop().time()
        self._source.start(self._note_change, self._note_missed)
        await self._rescan_within(bound)
        await self._wait_for_udev(begun, bound)

    def close(self) -> None:
        """Follow nothing any more; the devices are left to their keeper."""
        self._source.close()
        self._background.cancel()

    async def reload(self, matcher: Matcher, bound: float) -> None:
        """Other rules: what is to be driven differently is closed and opened anew, the rest is left alone.

        Waits ``bound`` seconds at most; what takes longer follows.
        """
        self._matcher = matcher
        await self._rescan_within(bound)

    async def rescan(self) -> None:
        """Look at all ports; when this returns what is there is wanted, and nothing else.

        Ports of which something is told only after the scan are not waited for.
        """
        changes_before = {name: port.changes for name, port in self._ports.items()}
        found = await _ask(self._scanner.ports)
        # in the order of the scan, because reader numbers are given in that order
        for name in [*found, *(name for name in self._ports if name not in found)]:
            port = self._port(name)
            port.may_work_now = True
            if port.is_looking or port.changes != changes_before.get(name, 0):
                # What was found may be out of date.
                port.changes += 1
                if not port.is_looking:
                    self._begin_look(name, port)
            else:
                self._begin_look(name, port, found.get(name, []))
        # also those that an event began: they go on if nobody waits any more, or another one fails
        if looks := [port.look for port in self._ports.values() if port.look is not None]:
            await asyncio.wait(looks)

    async def _rescan_within(self, bound: float) -> None:
        """``rescan``, but go on without it after ``bound`` seconds."""
        _done, late = await asyncio.wait([self._spawn(self.rescan())], timeout=bound)
        if late:
            self._warn_of_delay(
                bound,
                [name for name, port in self._ports.items() if port.is_looking],
                "the system does not say what it is, so if it stays away unplug it and plug it in again",
            )

    async def _wait_for_udev(self, begun: float, bound: float) -> None:
        """As when a program is started by the reader that it wants: udev is at work on it just then."""
        try:
            async with asyncio.timeout_at(begun + bound):
                while self._ports_before_udev():
                    self._udev_came.clear()
                    await self._udev_came.wait()
        except TimeoutError:
            self._warn_of_delay(
                bound,
                self._ports_before_udev(),
                "udev has not come to it; if it stays away, 'udevadm trigger' may help",
            )

    def _ports_before_udev(self) -> list[str]:
        return [name for name, port in self._ports.items() if port.waits_for_udev]

    def _warn_of_delay(self, bound: float, ports: list[str], why: str) -> None:
        log.warning(
            "not ready after %g s ([limits] start_wait), to be announced later: what is plugged into %s; %s",
            bound,
            ", ".join(f"USB port {name}" for name in ports) or "some USB port",
            why,
        )

    # --- what is told -------------------------------------------------------------------------

    def _note_change(self, action: str, name: str) -> None:
        port_name, is_interface, _ = name.partition(":")
        if is_interface and action in ("bind", "unbind"):
            # That is what we do ourselves when a reader is opened and closed.
            return
        port = self._port(port_name)
        port.changes += 1
        # Of a plug three or four things are told; one look is enough for a reader that does not open.
        port.may_work_now |= action == "change"
        if not port.is_looking:
            self._begin_look(port_name, port)

    def _note_missed(self) -> None:
        self._spawn(self.rescan())

    # --- a port -------------------------------------------------------------------------------

    def _port(self, name: str) -> _Port:
        return self._ports.setdefault(name, _Port())

    def _begin_look(self, name: str, port: _Port, found: list[UsbInterface] | None = None) -> None:
        """``found``: what was seen there a moment ago."""
        # There is one at a time: of two looks side by side the older might count.
        port.look = self._spawn(self._look(name, port, found, port.changes))

    async def _look(self, name: str, port: _Port, found: list[UsbInterface] | None, changes: int) -> None:
        """Do what a look at the port asks for. ``changes``: how many were told before it was begun."""
        while True:
            if found is None:
                changes = port.changes
                found = await self._read(name)
            if port.changes == changes:
                await self._apply(port, found)
            if port.changes == changes:
                return
            found = None

    async def _read(self, name: str) -> list[UsbInterface]:
        found = await _ask(self._scanner.port, name)
        if not self._source.is_prepared:
            for _ in range(_NODE_STEPS):
                if await _ask(scan.have_nodes, found):
                    break
                await asyncio.sleep(_NODE_STEP)
        return found

    async def _apply(self, port: _Port, found: list[UsbInterface]) -> None:
        changes = port.changes
        if self._source.is_prepared:
            # What udev has not come to is told once more when it has; until then nobody knows its rules.
            unprepared = [interface for interface in found if not interface.is_prepared]
            port.waits_for_udev = any(self._matcher.match(interface).configs for interface in unprepared)
            self._udev_came.set()
            found = [interface for interface in found if interface.is_prepared]
        matches = {interface.sys_name: self._matcher.match(interface) for interface in found}
        for name in list(port.known):
            if name not in matches:
                self._drop(port, name, "unplugged")
        for interface in found:
            if interface.sys_name not in port.known:
                continue
            before, match_before = port.known[interface.sys_name]
            match = matches[interface.sys_name]
            if match != match_before or interface.made != before.made:
                self._drop(port, interface.sys_name, "" if match.why else _why_dropped(before, interface))
        if port.leaving:
            # Their numbers, and the interfaces that they have claimed, are needed.
            await asyncio.wait(port.leaving)
            if port.changes != changes:
                return
        may_work_now, port.may_work_now = port.may_work_now, False
        #: whose number the next may get, if it turns out to be no reader
        doubtful = None
        for interface in found:
            match = matches[interface.sys_name]
            is_known = interface.sys_name in port.known
            port.known[interface.sys_name] = (interface, match)
            if not match.configs:
                if match.why and not is_known:
                    log.info("%s", match.why)
                continue
            first = match.configs[0]
            if is_known and may_work_now:
                self._devices.try_again(first)
            elif not is_known:
                log.info("%s: plugged in (%s)", first.name, first.origin)
                self._devices.add(*match.configs, after=doubtful)
            if doubtful is not None or _may_refuse(first):
                doubtful = first

    def _drop(self, port: _Port, name: str, why: str) -> None:
        _, match = port.known.pop(name, (None, Match()))
        if match.configs:
            leaving = self._devices.remove(match.configs[0], why)
            port.leaving.add(leaving)
            leaving.add_done_callback(port.leaving.discard)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.adopt(task)
        return task


async def _ask(look: Callable[..., T], *arguments: Any) -> T:
    """What a look at the system gives, in a thread, because it may have to wait for a device."""
    while True:
        try:
            return await asyncio.to_thread(look, *arguments)
        except Exception as error:
            # Such as a thread that the system refuses. Nobody else would ever look again.
            log.warning("looking for USB devices failed (%s); trying again in %g s", error, _RETRY)
        await asyncio.sleep(_RETRY)


def _may_refuse(config: DeviceConfig) -> bool:
    return config.options.get("doubtful") == "yes"


def _why_dropped(before: UsbInterface, now: UsbInterface) -> str:
    if (before.bus, before.address, before.made) != (now.bus, now.address, now.made):
        return "plugged in again"
    return "to be driven differently from now on"


async def load_matcher(settings: UsbSettings) -> Matcher:
    """The rules, and the drivers that vendors have installed."""
    bundles, mistakes = await asyncio.to_thread(load_bundles, settings.driver_directories)
    for mistake in mistakes:
        log.error("%s", mistake)
    return Matcher(bundles, settings)


async def watch_usb(devices: DeviceKeeper, settings: UsbSettings) -> UsbWatcher:
    """A watcher for this system. Raises HotplugError."""
    try:
        source = await asyncio.to_thread(open_source)
        scanner = await asyncio.to_thread(Scanner)
    except ImportError as error:
        raise HotplugError(
            f"USB readers need pyudev and libudev ({error}); install them (pip install pyudev, the package "
            "libudev1), or start without --usb"
        ) from error
    return UsbWatcher(devices, await load_matcher(settings), source, scanner)
