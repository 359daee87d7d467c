"""Native drivers: IFD handler libraries (API 2.0 and 3.0), each in a helper process of its own."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from pypcscd.driver import Device, DeviceConfig, DeviceOpenError, Driver, NotMineError
from pypcscd_ifdhandler import wire
from pypcscd_ifdhandler.api import ResponseCode, Tag, describe
from pypcscd_ifdhandler.device import IfdDevice, Opened
from pypcscd_ifdhandler.process import CLOSE_LIMIT, HelperGoneError, HelperProcess, Reply, settle
from pypcscd_ifdhandler.wire import Kind

logger = logging.getLogger("pypcscd.ifdhandler")

#: Seconds for a new helper to load its library.
LOAD_LIMIT = 20.0
#: Seconds for a driver to open its device.
OPEN_LIMIT = 60.0
_MAX_CHANNEL = 2**64 - 1


@dataclass(frozen=True)
class LibraryReport:
    """What a driver library says of itself; a capability is None where it gave no value."""

    api_version: int
    capabilities: Mapping[Tag, bytes | None]


@dataclass(frozen=True)
class _Options:
    """The options of a device: LIBPATH, DEVICENAME and CHANNELID in the words of reader.conf."""

    library: str
    device: str
    channel: int
    #: it may well be no reader: a keyboard or a disk in one device with a reader
    is_doubtful: bool


def _parse_options(config: DeviceConfig) -> _Options:
    library = config.options.get("library", "")
    if not library:
        raise DeviceOpenError('no driver library is named; set the option "library"', permanent=True)
    channel = config.options.get("channel", "") or "0"
    if not (channel.isascii() and channel.isdecimal() and int(channel) <= _MAX_CHANNEL):
        raise DeviceOpenError(
            f'the channel "{channel}" is not a number from 0 to {_MAX_CHANNEL}; correct the option "channel"',
            permanent=True,
        )
    is_doubtful = config.options.get("doubtful", "no") == "yes"
    return _Options(library, config.options.get("device", ""), int(channel), is_doubtful)


@dataclass
class _Helper:
    """A helper process with its devices."""

    process: HelperProcess
    api_version: int = 0
    #: how many devices the library serves at once, as its first device said
    access: int = 1
    devices: dict[int, IfdDevice] = field(default_factory=dict)
    #: indices of devices that are being opened, or whose closing is not confirmed
    opening: set[int] = field(default_factory=set)
    closing: set[int] = field(default_factory=set)

    def can_share(self, library: str) -> bool:
        """Whether one more device of the library may be opened here.

        Not while another one's closing is not confirmed: it may hang and hold the driver's locks.
        """
        if self.process.library != library or not self.process.usable or not self.devices or self.closing:
            return False
        return len(self._used()) < self.access

    def _used(self) -> set[int]:
        return self.opening | self.closing | set(self.devices)

    def reserve(self) -> int:
        """The lowest free index: the upper half of the device's Luns."""
        used = self._used()
        index = next(number for number in range(len(used) + 1) if number not in used)
        self.opening.add(index)
        return index


class IfdHandlerDriver(Driver):
    """Runs native drivers. Options of a device: ``library``, ``device`` and ``channel``.

    And ``doubtful``: ``yes`` if IFD_NO_SUCH_DEVICE is no failure, but says that it is no reader.
    """

    def __init__(self) -> None:
        self._helpers: list[_Helper] = []
        #: per library: whether a second device may share a helper is known once the first is open
        self._locks: dict[str, asyncio.Lock] = {}
        self._buffer = bytearray(wire.MAX_MESSAGE)

    async def open(self, config: DeviceConfig) -> Device:
        """Open a device, in a helper that serves the library already if the driver allows that.

        Raises DeviceOpenError; permanent if the library cannot be used.
        """
        options = _parse_options(config)
        async with self._locks.setdefault(options.library, asyncio.Lock()):
            shared = (helper for helper in self._helpers if helper.can_share(options.library))
            helper = next(shared, None) or await self._start(options.library)
            return await self._open_in(helper, options)

    async def probe(self, library: str) -> LibraryReport:
        """Load a library in a helper of its own and ask what it can do, without opening a device.

        Raises DeviceOpenError.
        """
        helper = await self._start(library)
        capabilities: dict[Tag, bytes | None] = {}
        asked = (Tag.SIMULTANEOUS_ACCESS, Tag.THREAD_SAFE, Tag.SLOTS_NUMBER, Tag.SLOT_THREAD_SAFE)
        try:
            for tag in asked:
                reply = await settle(helper.process.ask(Kind.ASK, tag), LOAD_LIMIT)
                capabilities[tag] = reply.payload if reply.argument == ResponseCode.SUCCESS else None
        except HelperGoneError as gone:
            raise DeviceOpenError(f"{gone} when asked for its capabilities", permanent=True) from None
        except TimeoutError:
            raise DeviceOpenError(
                f"{library} did not tell its capabilities within {LOAD_LIMIT:g} s", permanent=True
            ) from None
        finally:
            await self._end(helper)
        return LibraryReport(helper.api_version, capabilities)

    def helpers(self) -> dict[int, str]:
        """The helper processes by id, and each one's library."""
        return {helper.process.pid: helper.process.library for helper in self._helpers}

    async def close(self) -> None:
        """End all helpers, within a bounded time. Never raises."""
        helpers = list(self._helpers)
        for helper in helpers:
            helper.process.dismiss()
        for helper in helpers:
            await helper.process.wait()

    # -- helpers

    async def _start(self, library: str) -> _Helper:
        try:
            helper = _Helper(HelperProcess(library, self._ended))
        except OSError as error:
            raise DeviceOpenError(
                f"cannot start a helper process for the driver library {library}: {error.strerror}"
            ) from None
        self._helpers.append(helper)
        try:
            reply = await settle(helper.process.ready, LOAD_LIMIT)
        except HelperGoneError as gone:
            raise DeviceOpenError(
                f"{gone} while it loaded the library; see the lines before this one for its last words"
            ) from None
        except TimeoutError:
            helper.process.dismiss()
            raise DeviceOpenError(
                f"the driver library {library} did not load within {LOAD_LIMIT:g} s; its helper is ended"
            ) from None
        except asyncio.CancelledError:
            helper.process.dismiss()
            raise
        if reply.kind == Kind.UNUSABLE:
            await self._end(helper)
            raise DeviceOpenError(reply.payload.decode("utf-8", "replace"), permanent=True)
        helper.api_version = reply.argument
        if reply.payload:
            logger.warning("%s", reply.payload.decode("utf-8", "replace"))
        return helper

    def _ended(self, process: HelperProcess, how: str) -> None:
        helper = next(helper for helper in self._helpers if helper.process is process)
        self._helpers.remove(helper)
        for device in list(helper.devices.values()):
            device.helper_ended(how)

    async def _end(self, helper: _Helper) -> None:
        helper.process.dismiss()
        await helper.process.wait()

    # -- devices

    async def _open_in(self, helper: _Helper, options: _Options) -> Device:
        index = helper.reserve()
        payload = wire.pack_open(options.channel, options.device.encode("utf-8", "surrogateescape"))
        request = helper.process.ask(Kind.OPEN, index, payload)
        try:
            reply = await settle(request, OPEN_LIMIT)
        except HelperGoneError as gone:
            raise DeviceOpenError(f"{gone} while it opened the reader") from None
        except TimeoutError:
            self._release(helper, index)
            raise DeviceOpenError(
                f"{helper.process} did not open the reader within {OPEN_LIMIT:g} s;"
                " check the device and its cable"
            ) from None
        except asyncio.CancelledError:
            self._release(helper, index)
            raise
        if reply.kind != Kind.OPENED:
            helper.opening.remove(index)
            if not helper.devices and not helper.opening:
                await self._end(helper)
            call = reply.payload.decode("utf-8", "replace")
            what = f"{call} of the driver {options.library} returned {describe(reply.argument)}"
            if options.is_doubtful and reply.argument == ResponseCode.NO_SUCH_DEVICE:
                raise NotMineError(what)
            raise DeviceOpenError(
                f"{what}; check that the device is connected and that DEVICENAME and CHANNELID are right"
            )
        if not helper.process.usable:
            # It has ended since it said so, when nobody knew of the device: its loss would never be told.
            for sock in reply.sockets:
                sock.close()
            raise DeviceOpenError(f"{helper.process} has ended just after it opened the reader")
        helper.access, presences = wire.unpack_opened(reply.payload)
        opened = Opened(index, helper.api_version, reply.sockets, presences)
        device = IfdDevice(
            opened, self._buffer, lambda device: self._give_back(helper, device), helper.process.kill_stuck
        )
        helper.opening.remove(index)
        helper.devices[index] = device
        return device

    def _release(self, helper: _Helper, index: int) -> "asyncio.Future[None] | None":
        """Start to close a device; its index is free again once the helper has confirmed that.

        Returns None when it was the helper's last device, and the helper is ended instead.
        """
        helper.opening.discard(index)
        helper.devices.pop(index, None)
        if not helper.devices and not helper.opening:
            helper.process.dismiss()
            return None
        helper.closing.add(index)
        request = helper.process.ask(Kind.CLOSE, index)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def free(request: "asyncio.Future[Reply]") -> None:
            if not request.cancelled() and request.exception() is None:
                helper.closing.discard(index)
            if not confirmed.done():
                confirmed.set_result(None)

        request.add_done_callback(free)
        return confirmed

    async def _give_back(self, helper: _Helper, device: IfdDevice) -> None:
        confirmed = self._release(helper, device.index)
        if confirmed is None:
            await helper.process.wait()
            return
        try:
            await settle(confirmed, CLOSE_LIMIT)
        except TimeoutError:
            logger.warning(
                "%s did not close a reader within %g s; it is ended when its other readers are closed",
                helper.process,
                CLOSE_LIMIT,
            )
