"""The keeper of devices: announced, lost, opened again, given up."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from fakes import FakeDevice, FakeSlot

from pypcscd.driver import Device, DeviceConfig, DeviceOpenError, Driver
from pypcscd.hotplug import devices as devices_module
from pypcscd.hotplug import drivers as drivers_module
from pypcscd.hotplug.devices import DeviceKeeper
from pypcscd.hotplug.drivers import Drivers
from pypcscd.manager.manager import Manager


class FakeDriver(Driver):
    """Opens as many devices as there are; an exception among them is raised."""

    def __init__(self) -> None:
        self.outcomes: list[Device | Exception] = []
        self.is_closed = False

    async def open(self, config: DeviceConfig) -> Device:
        await asyncio.sleep(0)
        outcome = self.outcomes.pop(0) if self.outcomes else DeviceOpenError("nothing there")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        self.is_closed = True


class FakeDrivers(Drivers):
    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._loaded["fake"] = driver


CONFIG = DeviceConfig("fake", "Fake", "fake", origin="a test")


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def keeper(manager: Manager, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> DeviceKeeper:
    monkeypatch.setattr(devices_module, "_FIRST_PAUSE", 0.01)
    return DeviceKeeper(manager, FakeDrivers(driver))


def names(manager: Manager) -> list[str]:
    return [reader.name for reader in manager.roster.everything.snapshot()]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_device_is_announced_and_given_up(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager
) -> None:
    device = FakeDevice([FakeSlot(), FakeSlot(None)])
    driver.outcomes = [device]
    keeper.add(CONFIG)
    await keeper.settle(5)
    assert names(manager) == ["Fake 00 00", "Fake 00 01"]
    await keeper.remove(CONFIG)
    assert names(manager) == []
    assert device.is_closed
    with pytest.raises(ValueError, match="no device"):
        await keeper.remove(CONFIG)


async def test_a_lost_device_comes_back_under_its_name(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, neighbour = (FakeDevice([FakeSlot()]) for _ in range(3))
    driver.outcomes = [first, neighbour, DeviceOpenError("not yet"), second]
    keeper.add(CONFIG)
    await keeper.settle(5)
    keeper.add(DeviceConfig("fake", "Other", "fake"))
    await keeper.settle(5)
    assert names(manager) == ["Fake 00 00", "Other 01 00"]
    first.lost("the helper was killed")
    first.lost("twice does not matter")
    await until(lambda: names(manager) == ["Other 01 00"])
    assert first.is_closed
    await until(lambda: names(manager) == ["Other 01 00", "Fake 00 00"])
    assert "Fake (a test): the helper was killed; opening it again" in caplog.text
    assert "not yet; trying again" in caplog.text
    await keeper.close()
    assert second.is_closed
    assert neighbour.is_closed


async def test_a_device_that_can_never_open_is_named_once(
    keeper: DeviceKeeper, driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.outcomes = [DeviceOpenError("no such library", permanent=True), FakeDevice([FakeSlot()])]
    keeper.add(CONFIG)
    await keeper.settle(5)
    await asyncio.sleep(0.05)
    assert [record.getMessage() for record in caplog.records] == ["Fake (a test): no such library"]
    assert driver.outcomes, "it is not tried again"
    await keeper.close()


async def test_unknown_drivers_are_named(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    keeper = DeviceKeeper(manager, Drivers())
    keeper.add(DeviceConfig("no-such-driver", "Fake", "fake", origin="a test"))
    await keeper.settle(5)
    assert "no driver named 'no-such-driver' is installed" in caplog.text
    await keeper.close()


def test_missing_parts_are_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(drivers_module, "_NATIVE_PART", "pypcscd_ifdhandler.driver")
        drivers_module.report_missing_parts()
        assert caplog.text == ""
        monkeypatch.setattr(drivers_module, "_NATIVE_PART", "pypcscd_ifdhandler._missing")
        drivers_module.report_missing_parts()
    assert "native drivers (.so) cannot be used: pypcscd was installed without a C compiler" in caplog.text


async def test_a_mad_driver_costs_its_device_only(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    driver.outcomes = [RuntimeError("a defect"), FakeDevice([FakeSlot()])]
    keeper.add(CONFIG)
    await keeper.settle(5)
    keeper.add(DeviceConfig("fake", "Other", "fake"))
    await keeper.settle(5)
    assert names(manager) == ["Other 00 00"]
    assert "given up because of a defect" in caplog.text
    await keeper.close()


async def test_settle_does_not_wait_for_ever(
    keeper: DeviceKeeper, driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    slot = FakeSlot()
    slot.gate = asyncio.Event()
    driver.outcomes = [FakeDevice([slot])]
    keeper.add(CONFIG)
    with caplog.at_level(logging.WARNING):
        await keeper.settle(0.01)
    assert "to be announced later: Fake" in caplog.text
    slot.gate.set()
    await keeper.close()
