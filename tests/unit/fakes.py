"""A slot and a device that do what a test tells them, and write down what they were asked."""

import asyncio
from collections.abc import Sequence

from pypcscd.driver import Device, DriverError, Presence, Reason, Slot
from pypcscd.scard import Protocol

#: T=0 and T=1, and historical bytes "fake"
ATR = bytes.fromhex("3B84800166616B650C")


class FakeSlot(Slot):
    """Answers at once, unless ``gate`` is set: then each command waits for it."""

    def __init__(self, atr: bytes | None = ATR) -> None:
        super().__init__()
        self.atr = atr or ATR
        self.presence = Presence.ABSENT if atr is None else Presence.PRESENT
        self.calls: list[str] = []
        self.gate: asyncio.Event | None = None
        #: what the named command raises, until it is taken out again
        self.failures: dict[str, Reason] = {}
        #: what the named command raises once
        self.hiccups: dict[str, Reason] = {}
        self.response = b"\x90\x00"

    async def _do(self, name: str, text: str = "") -> None:
        self.calls.append(name + text)
        if self.gate is not None:
            await self.gate.wait()
        reason = self.hiccups.pop(name, None) or self.failures.get(name)
        if reason is not None:
            raise DriverError(reason, "as the test wants it")

    async def power_on(self) -> bytes:
        await self._do("power_on")
        return self.atr

    async def power_off(self) -> None:
        await self._do("power_off")

    async def reset(self) -> bytes:
        await self._do("reset")
        return self.atr

    async def set_protocol(self, protocol: Protocol) -> None:
        await self._do("set_protocol", f" {protocol.name}")

    async def transmit(self, protocol: Protocol, apdu: bytes) -> bytes:
        await self._do("transmit", f" {protocol.name} {apdu.hex()}")
        return self.response

    async def control(self, code: int, data: bytes) -> bytes:
        await self._do("control", f" {code:#x} {data.hex()}")
        return data[::-1]

    async def get_attribute(self, attribute: int) -> bytes:
        await self._do("get_attribute", f" {attribute:#x}")
        if attribute != 0x00090303:
            raise DriverError(Reason.UNKNOWN_ATTRIBUTE)
        return self.atr

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        await self._do("set_attribute", f" {attribute:#x} {value.hex()}")


class FakeDevice(Device):
    """A device of such slots."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        super().__init__()
        self._slots = slots
        self.is_closed = False

    @property
    def slots(self) -> Sequence[Slot]:
        return self._slots

    async def close(self) -> None:
        self.is_closed = True
