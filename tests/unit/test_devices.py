"""The keeper of devices: announced, lost, opened again, given up."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from fakes import FakeDevice, FakeSlot

from pypcscd.driver import Device, DeviceConfig, DeviceOpenError, Driver, NotMineError
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
        #: the drivers by whose names devices were opened, and after how many of these it was to be reset
        self.opened: list[str] = []
        self.reset_after: list[int] = []
        self.can_reset = False
        #: opening by the driver of that name waits
        self.gates: dict[str, asyncio.Event] = {}

    async def open(self, config: DeviceConfig) -> Device:
        await asyncio.sleep(0)
        self.opened.append(config.driver)
        if config.driver in self.gates:
            await self.gates[config.driver].wait()
        outcome = self.outcomes.pop(0) if self.outcomes else DeviceOpenError("nothing there")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def reset(self, config: DeviceConfig) -> bool:
        self.reset_after.append(len(self.opened))
        return self.can_reset

    async def close(self) -> None:
        self.is_closed = True


class FakeDrivers(Drivers):
    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._loaded |= {"fake": driver, "other": driver}


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
    gate = driver.gates["fake"] = asyncio.Event()
    first.lost("the helper was killed")
    first.lost("twice does not matter")
    await until(lambda: names(manager) == ["Other 01 00"])
    assert first.is_closed
    gate.set()
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
    assert "native drivers (.so) cannot be used" in caplog.text
    assert "installed without a C compiler; install gcc" in caplog.text


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
    driver.outcomes = [FakeDevice([FakeSlot()]), FakeDevice([slot])]
    driver.gates["other"] = gate = asyncio.Event()
    keeper.add(DeviceConfig("fake", "Quick", "quick", origin="a test"))
    await keeper.settle(5)
    keeper.add(CONFIG)
    keeper.add(DeviceConfig("other", "Slow", "slow", origin="USB 1-2:1.0"))
    with caplog.at_level(logging.WARNING):
        await keeper.settle(0.01)
        # of an hour nothing is left
        await keeper.settle(3600, since=asyncio.get_running_loop().time() - 3601)
    late = "s ([limits] start_wait), to be announced later: Fake (a test), Slow (USB 1-2:1.0)"
    assert messages(caplog) == [f"not ready after 0.01 {late}", f"not ready after 3600 {late}"]
    gate.set()
    slot.gate.set()
    await keeper.close()


# --- unplugged, reset, several drivers --------------------------------------------------------


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pypcscd.devices"]


async def test_what_was_unplugged_is_not_repaired(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    device = FakeDevice([FakeSlot()])
    driver.outcomes = [device]
    keeper.add(CONFIG)
    await keeper.settle(5)
    with caplog.at_level(logging.INFO):
        device.is_unplugged = True
        device.lost("the device is gone")
        await until(lambda: names(manager) == [] and device.is_closed)
        await keeper.remove(CONFIG, "unplugged")
    assert messages(caplog) == ["Fake: unplugged (a test)"]
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert driver.opened == ["fake"]


async def test_an_unplugged_device_that_nobody_removes_is_tried_after_all(
    keeper: DeviceKeeper,
    driver: FakeDriver,
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(devices_module, "_NOTICE_BOUND", 0.02)
    caplog.set_level(logging.INFO)
    gone = DeviceOpenError("not there", is_gone=True)
    first, second = FakeDevice([FakeSlot()]), FakeDevice([FakeSlot()])
    driver.outcomes = [first, gone, gone, gone, gone, second]
    driver.can_reset = True
    keeper.add(CONFIG)
    await keeper.settle(5)
    first.is_unplugged = True
    first.lost("the device is gone")
    await until(lambda: first.is_closed and names(manager) == ["Fake 00 00"])
    assert driver.opened == ["fake"] * 6
    assert driver.reset_after == []
    assert messages(caplog) == [
        "Fake: unplugged (a test; not there)",
        "Fake: still plugged in, and opened again after a reset (a test)",
    ]
    await keeper.remove(CONFIG, "unplugged")
    assert messages(caplog)[2:] == ["Fake: unplugged (a test)"], "it was opened again, so this is news"


async def test_a_device_that_fails_again_and_again_is_reset_once(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    hangs = DeviceOpenError("it does not answer", reset_may_help=True)
    driver.outcomes = [hangs, DeviceOpenError("busy"), hangs, hangs, hangs, hangs, FakeDevice([FakeSlot()])]
    driver.can_reset = True
    keeper.add(CONFIG)
    await until(lambda: names(manager) == ["Fake 00 00"])
    assert driver.reset_after == [3]
    assert "Fake (a test): reset, because it failed again and again" in messages(caplog)
    # plugged in again, or only as if, by what a reset does: not again so soon
    await keeper.remove(CONFIG)
    driver.outcomes = [hangs, hangs, hangs, hangs, FakeDevice([FakeSlot()])]
    keeper.add(CONFIG)
    await until(lambda: names(manager) == ["Fake 00 00"])
    assert driver.reset_after == [3]
    await keeper.close()


async def test_where_a_reset_is_impossible_or_no_help_the_pauses_go_on(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager
) -> None:
    refused = DeviceOpenError("no permission")
    hangs = DeviceOpenError("it does not answer", reset_may_help=True)
    driver.outcomes = [refused] * 4 + [hangs, FakeDevice([FakeSlot()])]
    keeper.add(CONFIG)
    await until(lambda: names(manager) == ["Fake 00 00"])
    assert driver.reset_after == [5], "asked, but it said no"
    await keeper.close()


async def test_the_next_driver_takes_what_the_first_never_can(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    driver.outcomes = [DeviceOpenError("no such library", permanent=True), FakeDevice([FakeSlot()])]
    keeper.add(CONFIG, replace(CONFIG, driver="other"))
    await keeper.settle(5)
    assert names(manager) == ["Fake 00 00"]
    assert driver.opened == ["fake", "other"]
    assert messages(caplog) == ["Fake (a test): no such library; trying another driver"]
    await keeper.remove(CONFIG)
    assert names(manager) == []


async def test_the_next_driver_takes_what_the_first_fails_to_open(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager
) -> None:
    hangs = DeviceOpenError("it does not answer", reset_may_help=True)
    driver.outcomes = [hangs, hangs, hangs, FakeDevice([FakeSlot()])]
    driver.can_reset = True
    keeper.add(CONFIG, replace(CONFIG, driver="other"))
    await until(lambda: names(manager) == ["Fake 00 00"])
    assert driver.opened == ["fake", "fake", "fake", "other"]
    assert driver.reset_after == [], "that is for the last driver"
    await keeper.close()


async def test_the_next_driver_takes_what_the_first_loses_again_and_again(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    crashing = [FakeDevice([FakeSlot()]) for _ in range(3)]
    driver.outcomes = [*crashing, FakeDevice([FakeSlot()])]
    driver.can_reset = True
    keeper.add(CONFIG, replace(CONFIG, driver="other"))
    for opened, device in enumerate(crashing, 1):
        await until(lambda opened=opened: len(driver.opened) == opened and bool(names(manager)))
        device.lost("its helper crashed")
        await until(lambda device=device: device.is_closed)
    await until(lambda: len(driver.opened) == 4 and names(manager) == ["Fake 00 00"])
    assert driver.opened == ["fake", "fake", "fake", "other"]
    assert driver.reset_after == [], "that is for the last driver"
    assert "Fake (a test): its helper crashed; trying another driver" in messages(caplog)
    await keeper.close()


async def test_what_is_no_reader_is_left_alone_without_a_word(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    keyboard = CONFIG
    reader = replace(CONFIG, origin="another interface")
    driver.outcomes = [NotMineError("a keyboard"), FakeDevice([FakeSlot()])]
    with caplog.at_level(logging.INFO):
        keeper.add(keyboard)
        keeper.add(reader, after=keyboard)
        await keeper.settle(5)
    # the keyboard has not used up a number
    assert names(manager) == ["Fake 00 00"]
    assert messages(caplog) == []
    assert keeper.given_up == []
    opened = len(driver.opened)
    keeper.try_again(keyboard)
    await asyncio.sleep(0.02)
    assert len(driver.opened) == opened, "a keyboard remains one"
    keeper.try_all_again()
    await until(lambda: len(driver.opened) == opened + 1)
    await keeper.close()


async def test_a_device_that_was_given_up_is_tried_when_something_changes(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager
) -> None:
    driver.outcomes = [DeviceOpenError("no such library", permanent=True)]
    keeper.add(CONFIG)
    await keeper.settle(5)
    await until(lambda: keeper.given_up == [CONFIG])
    driver.outcomes = [FakeDevice([FakeSlot()])]
    keeper.try_all_again()
    assert keeper.given_up == []
    await until(lambda: names(manager) == ["Fake 00 00"])
    keeper.try_again(CONFIG)
    await asyncio.sleep(0.02)
    assert names(manager) == ["Fake 00 00"], "an open device is left alone"
    await keeper.close()


async def test_a_change_ends_the_pause(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices_module, "_FIRST_PAUSE", 60.0)
    driver.outcomes = [DeviceOpenError("no permission"), FakeDevice([FakeSlot()])]
    keeper.add(CONFIG)
    await keeper.settle(5)
    assert names(manager) == []
    keeper.try_again(CONFIG)
    await until(lambda: names(manager) == ["Fake 00 00"])
    await keeper.close()


async def test_what_is_given_up_at_the_end_is_closed_with_the_rest(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager
) -> None:
    """A reader is unplugged, and nobody has waited for its end yet when the daemon stops."""
    device, neighbour = FakeDevice([FakeSlot()]), FakeDevice([FakeSlot()])
    driver.outcomes = [device, neighbour]
    keeper.add(CONFIG)
    await keeper.settle(5)
    keeper.add(replace(CONFIG, origin="a neighbour"))
    await keeper.settle(5)
    leaving = asyncio.ensure_future(keeper.remove(CONFIG))
    await keeper.close()
    assert device.is_closed
    assert neighbour.is_closed
    assert names(manager) == []
    await leaving


async def test_who_comes_while_another_leaves_takes_its_number(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager
) -> None:
    """As with a plug that is put into another port, when the daemon is late to hear of both."""
    driver.outcomes = [FakeDevice([FakeSlot()]) for _ in range(3)]
    moved = replace(CONFIG, origin="another port")
    keeper.add(CONFIG)
    keeper.add(replace(CONFIG, origin="a neighbour"))
    await keeper.settle(5)
    leaving = asyncio.ensure_future(keeper.remove(CONFIG))
    await asyncio.sleep(0)
    keeper.add(moved)
    await leaving
    await keeper.settle(5)
    assert sorted(names(manager)) == ["Fake 00 00", "Fake 01 00"]
    await keeper.close()


async def test_a_slow_device_delays_no_other(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager
) -> None:
    slow = replace(CONFIG, driver="other", name="Slow")
    driver.gates["other"] = asyncio.Event()
    driver.outcomes = [FakeDevice([FakeSlot()]), FakeDevice([FakeSlot()])]
    keeper.add(slow)
    keeper.add(CONFIG)
    await until(lambda: names(manager) == ["Fake 01 00"])
    driver.gates["other"].set()
    await keeper.settle(5)
    assert names(manager) == ["Fake 01 00", "Slow 00 00"]
    await keeper.close()


# --- reader numbers that were wished for ------------------------------------------------------


def wishing(name: str, origin: str, number: int | None = 3) -> DeviceConfig:
    return DeviceConfig("fake", name, "fake", origin=origin, number=number)


async def test_who_has_the_number_that_another_should_have(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    driver.outcomes = [FakeDevice([FakeSlot()]) for _ in range(2)]
    first, second = wishing("Desk", "USB 1-1:1.0"), wishing("Safe", "USB 1-2:1.0")
    keeper.add(first)
    await keeper.settle(5)
    assert messages(caplog) == []
    keeper.add(second)
    await keeper.settle(5)
    assert names(manager) == ["Desk 03 00", "Safe 00 00"]
    (line,) = messages(caplog)
    assert line.startswith(
        "Safe (USB 1-2:1.0): it should be reader number 03 (index = 3) and is 00 instead, "
    )
    assert "because Desk (USB 1-1:1.0) has 03, for which the same is wished; let the [[usb.reader]]" in line
    # the number is free again, so there is nothing to be said
    await keeper.remove(first)
    await keeper.remove(second)
    driver.outcomes = [FakeDevice([FakeSlot()])]
    keeper.add(second)
    await keeper.settle(5)
    assert names(manager) == ["Safe 03 00"]
    assert len(messages(caplog)) == 1
    await keeper.close()


async def test_a_number_that_was_given_before_somebody_wished_for_it(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    driver.outcomes = [FakeDevice([FakeSlot()]) for _ in range(3)]
    keeper.add(wishing("Desk", "USB 1-1:1.0", None))
    # of another group, whose numbers do not matter
    keeper.add(replace(wishing("Door", "USB 1-3:1.0", 0), numbering="other"))
    await keeper.settle(5)
    assert messages(caplog) == []
    keeper.add(wishing("Safe", "USB 1-2:1.0", 0))
    await keeper.settle(5)
    assert sorted(names(manager)) == ["Desk 00 00", "Door 00 00", "Safe 01 00"]
    (line,) = messages(caplog)
    assert "Safe (USB 1-2:1.0)" in line
    assert "because Desk (USB 1-1:1.0) has 00, which came before this was wished; restart" in line
    await keeper.close()


async def test_a_number_of_a_reader_that_does_not_close(
    keeper: DeviceKeeper,
    driver: FakeDriver,
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(devices_module, "_CLOSING_BOUND", 0.01)
    may_close = asyncio.Event()

    class Slow(FakeDevice):
        async def close(self) -> None:
            await may_close.wait()

    driver.outcomes = [Slow([FakeSlot()]), FakeDevice([FakeSlot()])]
    desk = wishing("Desk", "USB 1-1:1.0")
    keeper.add(desk)
    await keeper.settle(5)
    leaving = keeper.remove(desk)
    # the same name, in another group
    keeper.add(replace(wishing("Desk", "USB 1-1:1.0"), numbering="other"))
    await keeper.settle(5)
    assert names(manager) == ["Desk 00 00"]
    (line,) = messages(caplog)
    assert "because Desk (USB 1-1:1.0) has 03, which is still being closed; when it is gone" in line
    may_close.set()
    await leaving
    await keeper.close()


# --- closed to the end ------------------------------------------------------------------------


class SlowDevice(FakeDevice):
    """Closing it takes a moment, as the transfers of a USB reader have to end first."""

    def __init__(self) -> None:
        super().__init__([FakeSlot()])
        self.is_closing = False
        self.may_close = asyncio.Event()

    async def close(self) -> None:
        self.is_closing = True
        await self.may_close.wait()
        await super().close()


async def test_a_device_that_is_unplugged_while_it_is_closed_is_closed_all_the_same(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager
) -> None:
    device = SlowDevice()
    driver.outcomes = [device]
    keeper.add(CONFIG)
    await keeper.settle(5)
    assert keeper.is_open(CONFIG)
    device.lost("the device is gone")
    await until(lambda: device.is_closing)
    assert not keeper.is_open(CONFIG)
    removed = keeper.remove(CONFIG, "unplugged")
    await asyncio.sleep(0.02)
    assert not removed.done(), "its interface is still claimed"
    device.may_close.set()
    await removed
    assert device.is_closed


async def test_a_change_while_a_device_was_open_does_not_end_the_pause_after_its_loss(
    keeper: DeviceKeeper, driver: FakeDriver, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices_module, "_FIRST_PAUSE", 5.0)
    first = FakeDevice([FakeSlot()])
    driver.outcomes = [first, FakeDevice([FakeSlot()])]
    keeper.add(CONFIG)
    await keeper.settle(5)
    keeper.try_all_again()  # SIGUSR1, or a reload, perhaps hours before
    await asyncio.sleep(0.02)
    first.lost("the helper was killed")
    await asyncio.sleep(0.1)
    assert driver.opened == ["fake"], "the next try is in five seconds"
    await keeper.close()
