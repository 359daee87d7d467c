"""Where news of USB devices comes from: udev, the kernel, or, if need be, from looking again and again."""

import abc
import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pypcscd.hotplug import scan

log = logging.getLogger("pypcscd.usb")

_SUBSYSTEM = "usb"
_UDEV_SOCKET = Path("/run/udev/control")
#: seconds between two looks, where nobody tells
_INTERVAL = 2.0


class Source(abc.ABC):
    """Tells of changes, from ``start`` to ``close``."""

    #: whoever tells has prepared the device before: it has its file, and its permissions
    is_prepared: bool

    @abc.abstractmethod
    def start(self, tell: Callable[[str, str], None], tell_missed: Callable[[], None]) -> None:
        """``tell``: action ("add", "remove", "change", "bind", "unbind") and the kernel's name of a device
        ("1-2") or interface ("1-2:1.0"). ``tell_missed``: some changes have not been told.

        Changes that come after this source was made are told.
        """

    @abc.abstractmethod
    def close(self) -> None: ...


class NetlinkSource(Source):
    """What udev or the kernel sends."""

    def __init__(self, monitor: Any, *, is_prepared: bool) -> None:
        """``monitor``: of pyudev. Raises OSError."""
        self.is_prepared = is_prepared
        self._monitor = monitor
        self._tell: Callable[[str, str], None] | None = None
        monitor.filter_by(_SUBSYSTEM)
        monitor.start()

    def start(self, tell: Callable[[str, str], None], tell_missed: Callable[[], None]) -> None:
        def read() -> None:
            try:
                while (device := self._monitor.poll(timeout=0)) is not None:
                    tell(device.action, device.sys_name)
            except OSError as error:
                # More came at once than the socket holds.
                log.warning("the system has dropped news of USB devices (%s); looking at all of them", error)
                tell_missed()

        asyncio.get_running_loop().add_reader(self._monitor.fileno(), read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())


class SlowScan(Source):
    """Compares the list of USB devices with the one before; a process without netlink has nothing better."""

    is_prepared = False

    def __init__(self, fingerprint: Callable[[], dict[str, str]] = scan.fingerprint) -> None:
        """In a thread."""
        self._fingerprint = fingerprint
        self._known = fingerprint()
        self._task: asyncio.Task[None] | None = None

    def start(self, tell: Callable[[str, str], None], tell_missed: Callable[[], None]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(tell, tell_missed))

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, tell: Callable[[str, str], None], tell_missed: Callable[[], None]) -> None:
        has_failed = False
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                await self._compare(tell)
                if has_failed:
                    log.info("looking for USB devices works again")
                    tell_missed()
                has_failed = False
            except Exception:
                # Such as a thread that the system refuses. Nobody else would ever look again.
                if not has_failed:
                    log.exception("looking for USB devices failed; trying again every %.0f s", _INTERVAL)
                has_failed = True

    async def _compare(self, tell: Callable[[str, str], None]) -> None:
        before, self._known = self._known, await asyncio.to_thread(self._fingerprint)
        for name in before:
            if self._known.get(name) != before[name]:
                tell("remove", name)
        for name in self._known:
            if self._known[name] != before.get(name):
                tell("add", name)


def open_source() -> Source:
    """The best source that there is; in a thread, because it loads libudev. Raises ImportError."""
    import pyudev

    context = pyudev.Context()
    is_prepared = _UDEV_SOCKET.exists()
    if not is_prepared:
        log.warning(
            "udev is not running: USB readers are taken up as the kernel announces them, "
            "and access to them must have been arranged otherwise"
        )
    try:
        monitor = pyudev.Monitor.from_netlink(context, "udev" if is_prepared else "kernel")
        return NetlinkSource(monitor, is_prepared=is_prepared)
    except OSError as error:
        log.warning(
            "nobody can tell when USB readers come and go, as netlink sockets are refused (%s): looking "
            "every %.0f s; to spare that, allow this process the address family AF_NETLINK",
            error,
            _INTERVAL,
        )
    return SlowScan()
