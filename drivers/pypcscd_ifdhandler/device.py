"""Devices and slots of native drivers, as the manager sees them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from socket import socket

from pypcscd.driver import Device, DriverError, Reason, Slot
from pypcscd.scard import Protocol
from pypcscd_ifdhandler import errors
from pypcscd_ifdhandler.api import ADDRESS_TAGS, ResponseCode, describe
from pypcscd_ifdhandler.channel import CommandChannel
from pypcscd_ifdhandler.wire import Kind

#: The protocol number in the header of a transmission; RAW is 4 in pcsc-lite's numbering.
_TRANSMIT_PROTOCOLS = {Protocol.T0: 0, Protocol.T1: 1, Protocol.RAW: 4}
_SHORTEST_ATR = 2


class IfdSlot(Slot):
    """One slot of a native driver."""

    # the channel gives up what lasts too long
    transmit_deadline = None

    def __init__(
        self,
        sock: socket,
        buffer: bytearray,
        api_version: int,
        presence_code: int,
        stuck: Callable[[], None],
    ) -> None:
        super().__init__()
        self.presence = errors.presence(presence_code)
        self._api_version = api_version
        self._channel = CommandChannel(sock, buffer, self._look, stuck)

    def _look(self, code: int) -> None:
        self.update_presence(errors.presence(code))

    async def _command(self, kind: Kind, argument: int = 0, payload: bytes = b"") -> bytes:
        code, answer = await self._channel.call(kind, argument, payload)
        if code != ResponseCode.SUCCESS:
            raise errors.driver_error(code)
        return answer

    async def _power(self, kind: Kind) -> bytes:
        atr = await self._command(kind)
        if len(atr) < _SHORTEST_ATR:
            raise DriverError(Reason.POWER, f"the driver gave an ATR of {len(atr)} bytes")
        return atr

    async def power_on(self) -> bytes:
        return await self._power(Kind.POWER_ON)

    async def power_off(self) -> None:
        await self._command(Kind.POWER_OFF)

    async def reset(self) -> bytes:
        return await self._power(Kind.RESET)

    async def set_protocol(self, protocol: Protocol) -> None:
        code, _ = await self._channel.call(Kind.SET_PROTOCOL, int(protocol), b"")
        if code == ResponseCode.ERROR_NOT_SUPPORTED:
            # here it speaks of the protocol, not of the call
            raise DriverError(Reason.PROTOCOL_UNSUPPORTED, describe(code))
        if code != ResponseCode.SUCCESS:
            raise errors.driver_error(code)

    async def transmit(self, protocol: Protocol, apdu: bytes) -> bytes:
        number = _TRANSMIT_PROTOCOLS.get(protocol)
        if number is None:
            raise DriverError(Reason.PROTOCOL_UNSUPPORTED, f"{protocol!r} is not known to native drivers")
        # what _command does, without a coroutine more for every APDU
        code, answer = await self._channel.call(Kind.TRANSMIT, number, apdu)
        if code:
            raise errors.driver_error(code)
        return answer

    async def control(self, code: int, data: bytes) -> bytes:
        if self._api_version == 2 and not data:
            # API 2.0 has no control code: there would be nothing to send
            raise DriverError(Reason.INVALID_PARAMETER, "a driver of API 2.0 needs data to send")
        return await self._command(Kind.CONTROL, code, data)

    async def get_attribute(self, attribute: int) -> bytes:
        if attribute in ADDRESS_TAGS:
            raise DriverError(Reason.UNKNOWN_ATTRIBUTE, f"0x{attribute:X} is an address in the helper")
        return await self._command(Kind.GET, attribute)

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        await self._command(Kind.SET, attribute, value)

    def fail(self, why: str) -> None:
        """The device is gone: all commands raise NO_DEVICE from now on, those under way at once."""
        self._channel.fail(why)


@dataclass(frozen=True)
class Opened:
    """What a helper said of a device that it has opened; one socket and presence code per slot."""

    index: int
    api_version: int
    sockets: list[socket]
    presences: list[int]


class IfdDevice(Device):
    """An open device of a native driver."""

    def __init__(
        self,
        opened: Opened,
        buffer: bytearray,
        give_back: Callable[["IfdDevice"], Awaitable[None]],
        stuck: Callable[[], None],
    ) -> None:
        """``give_back`` has the helper close the device, within a bounded time. ``stuck`` is called
        when the driver does not return from a command that was cancelled long ago."""
        self._loss: str | None = None
        super().__init__()
        self.index = opened.index
        self._give_back = give_back
        self._closed = False
        self._slots = [
            IfdSlot(sock, buffer, opened.api_version, code, stuck)
            for sock, code in zip(opened.sockets, opened.presences, strict=True)
        ]

    @property
    def slots(self) -> Sequence[Slot]:
        return self._slots

    @property
    def lost(self) -> Callable[[str], None]:
        return self._lost

    @lost.setter
    def lost(self, callback: Callable[[str], None]) -> None:
        # The helper may have died before anybody listened.
        self._lost = callback
        if self._loss is not None and not self._closed:
            asyncio.get_running_loop().call_soon(callback, self._loss)

    def helper_ended(self, how: str) -> None:
        """The helper is gone: fail what is under way and tell whoever opened the device."""
        if self._loss is not None or self._closed:
            return
        self._loss = how
        for slot in self._slots:
            slot.fail(how)
        self._lost(how)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for slot in self._slots:
            slot.fail("the reader is closed")
        if self._loss is None:
            await self._give_back(self)
