"""USB interfaces made into devices as they come, go and change, on a system that is ours."""

import asyncio
import errno
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from pypcscd.driver import DeviceConfig
from pypcscd.hotplug import scan, sources
from pypcscd.hotplug import udev as udev_module
from pypcscd.hotplug.interface import UsbInterface
from pypcscd.hotplug.match import Match, Matcher
from pypcscd.hotplug.scan import Scanner
from pypcscd.hotplug.settings import UsbSettings
from pypcscd.hotplug.sources import NetlinkSource, SlowScan, Source
from pypcscd.hotplug.udev import UsbWatcher


def interface(port: str = "1-2", number: int = 0, address: int = 17, **more: Any) -> UsbInterface:
    usual: dict[str, Any] = {"vendor": 0x076B, "product": 0x3031, "kind": 0x0B, "endpoints": 3}
    return UsbInterface(
        sys_name=f"{port}:1.{number}",
        port=port,
        node=f"/dev/bus/usb/001/{address:03}",
        bus=1,
        address=address,
        number=number,
        manufacturer="ACME",
        product_name="Reader",
        **({"made": 100 * address + number} | usual | more),
    )


class Ports:
    """``Scanner``: what is plugged in, as a test wants it."""

    def __init__(self) -> None:
        self.present: dict[str, list[UsbInterface]] = {}
        self.looks: list[str] = []
        #: the look at a port waits for its gate
        self.gates: dict[str, threading.Event] = {}
        self.main = threading.get_ident()

    def plug(self, *interfaces: UsbInterface) -> None:
        self.present[interfaces[0].port] = list(interfaces)

    def ports(self) -> dict[str, list[UsbInterface]]:
        assert threading.get_ident() != self.main, "the event loop must not wait for sysfs"
        self.looks.append("*")
        found = {port: list(interfaces) for port, interfaces in self.present.items()}
        if "*" in self.gates:
            assert self.gates["*"].wait(5)
        return found

    def port(self, name: str) -> list[UsbInterface]:
        assert threading.get_ident() != self.main, "the event loop must not wait for sysfs"
        self.looks.append(name)
        found = list(self.present.get(name, []))
        if name in self.gates:
            assert self.gates[name].wait(5)
        return found


class News(Source):
    def __init__(self, *, is_prepared: bool = True) -> None:
        self.is_prepared = is_prepared
        self.tell: Callable[[str, str], None] = self._not_started
        self.tell_missed: Callable[[], None] = lambda: None
        self.is_closed = False

    def _not_started(self, action: str, name: str) -> None:
        raise AssertionError("not started")

    def start(self, tell: Callable[[str, str], None], tell_missed: Callable[[], None]) -> None:
        self.tell, self.tell_missed = tell, tell_missed

    def close(self) -> None:
        self.is_closed = True


class Keeper:
    """As much of DeviceKeeper as is used."""

    def __init__(self) -> None:
        self.wanted: list[tuple[DeviceConfig, ...]] = []
        self.after: list[DeviceConfig | None] = []
        self.history: list[str] = []
        #: closing a device waits for this
        self.gate: asyncio.Event | None = None

    @property
    def addresses(self) -> list[str]:
        return [configs[0].options["address"] for configs in self.wanted]

    def add(self, *configs: DeviceConfig, after: DeviceConfig | None = None) -> None:
        assert all(configs[0] != one[0] for one in self.wanted)
        self.wanted.append(configs)
        self.after.append(after)
        self.history.append(f"add {configs[0].options['address']}")

    def try_again(self, config: DeviceConfig) -> None:
        self.history.append(f"again {config.options['address']}")

    def remove(self, config: DeviceConfig, why: str = "") -> asyncio.Future[None]:
        found = next(configs for configs in self.wanted if configs[0] == config)
        self.wanted.remove(found)
        return asyncio.ensure_future(self._close(config, why))

    async def _close(self, config: DeviceConfig, why: str) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.history.append(f"remove {config.options['address']}: {why}")


class Scene:
    def __init__(self, *, is_prepared: bool = True) -> None:
        self.ports = Ports()
        self.news = News(is_prepared=is_prepared)
        self.keeper = Keeper()
        keeper: Any = self.keeper
        ports: Any = self.ports
        self.watcher = UsbWatcher(keeper, Matcher([], UsbSettings()), self.news, ports)

    @property
    def is_busy(self) -> bool:
        """A look is under way."""
        return len(asyncio.all_tasks()) > 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)

    async def until_wanted(self, *addresses: str) -> None:
        await self.until(lambda: self.keeper.addresses == list(addresses))

    async def until_looked(self, count: int) -> None:
        await self.until(lambda: len(self.ports.looks) == count)


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    scene.watcher.close()
    assert scene.news.is_closed
    for gate in scene.ports.gates.values():
        gate.set()


async def test_what_is_there_is_wanted_in_the_order_of_the_scan(scene: Scene) -> None:
    scene.ports.plug(interface("1-1", kind=0x03, address=4))
    scene.ports.plug(interface("1-2", 1, 7, endpoints=2), interface("1-2", 3, 7))
    scene.ports.plug(interface("1-3", address=5))
    await scene.watcher.start(5)
    assert scene.keeper.addresses == ["7", "7", "5"]
    first, second, third = (configs[0] for configs in scene.keeper.wanted)
    assert (first.options["interface"], second.options["interface"]) == ("1", "3")
    # all are readers for sure, so they get their numbers now
    assert scene.keeper.after == [None, None, None]
    assert third.name == "ACME Reader"


async def test_what_comes_after_a_doubtful_interface_may_get_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A native driver is offered keyboards too, and says which of them are no readers."""
    scene = Scene()

    def match(_: Matcher, one: UsbInterface) -> Match:
        options = {"address": str(one.address), "doubtful": "yes" if one.kind == 0x03 else "no"}
        return Match((DeviceConfig("ifdhandler", "ACME Reader", "acme", options, one.sys_name),))

    monkeypatch.setattr(Matcher, "match", match)
    keyboard = interface("1-1", 0, 4, kind=0x03)
    scene.ports.plug(keyboard, interface("1-1", 1, 4), interface("1-1", 2, 4))
    await scene.watcher.start(5)
    first, second, _ = (configs[0] for configs in scene.keeper.wanted)
    assert scene.keeper.after == [None, first, second]
    scene.watcher.close()


async def test_readers_come_and_go(scene: Scene) -> None:
    await scene.watcher.start(5)
    scene.ports.plug(interface())
    for action, name in (("add", "1-2"), ("add", "1-2:1.0"), ("bind", "1-2:1.0"), ("bind", "1-2")):
        scene.news.tell(action, name)
    await scene.until_wanted("17")
    del scene.ports.present["1-2"]
    for action, name in (("unbind", "1-2:1.0"), ("remove", "1-2:1.0"), ("unbind", "1-2"), ("remove", "1-2")):
        scene.news.tell(action, name)
    await scene.until_wanted()
    scene.ports.plug(interface(address=18))
    scene.news.tell("add", "1-2")
    await scene.until_wanted("18")
    assert scene.keeper.history == ["add 17", "remove 17: unplugged", "add 18"]


async def test_a_reader_waits_for_udev_and_its_rules(scene: Scene) -> None:
    """A look may come upon it before udev does, for what was told of the one before it in the port."""
    await scene.watcher.start(5)
    scene.ports.plug(interface(is_prepared=False))
    scene.news.tell("unbind", "1-2")
    await scene.until_looked(2)
    await scene.until(lambda: not scene.is_busy)
    assert scene.keeper.history == []
    scene.ports.plug(interface())
    scene.news.tell("add", "1-2")
    await scene.until_wanted("17")


async def test_what_is_seen_twice_is_added_once(scene: Scene) -> None:
    """Plugged in after the monitor began to listen, and before the scan came by."""
    scene.ports.plug(interface())
    await scene.watcher.start(5)
    scene.news.tell("add", "1-2:1.0")
    await scene.until_looked(2)
    scene.news.tell("bind", "1-2")
    await scene.until_looked(3)
    await scene.until(lambda: not scene.is_busy)
    assert scene.keeper.history == ["add 17"]


async def test_what_is_told_at_once_is_looked_at_once(scene: Scene) -> None:
    """Two looks side by side might end in the other order, and the older would count."""
    await scene.watcher.start(5)
    scene.ports.plug(interface())
    for action, name in (("unbind", "1-2"), ("remove", "1-2"), ("add", "1-2"), ("add", "1-2:1.0")):
        scene.news.tell(action, name)
    await scene.until_wanted("17")
    await scene.until(lambda: not scene.is_busy)
    assert scene.ports.looks == ["*", "1-2"]


async def test_a_change_lets_a_reader_be_tried_again(scene: Scene) -> None:
    """As when its file has other permissions."""
    scene.ports.plug(interface())
    await scene.watcher.start(5)
    scene.news.tell("change", "1-2")
    await scene.until(lambda: scene.keeper.history == ["add 17", "again 17"])


async def test_opening_and_closing_a_reader_is_no_news(scene: Scene) -> None:
    """The kernel tells when a program claims an interface, also when it is us."""
    scene.ports.plug(interface())
    await scene.watcher.start(5)
    for _ in range(3):
        scene.news.tell("unbind", "1-2:1.0")
        scene.news.tell("bind", "1-2:1.0")
    await scene.until(lambda: not scene.is_busy)
    assert scene.ports.looks == ["*"]
    assert scene.keeper.history == ["add 17"]


async def test_a_new_address_without_a_removal_is_opened_anew(scene: Scene) -> None:
    scene.ports.plug(interface())
    await scene.watcher.start(5)
    scene.ports.plug(interface(address=18))
    scene.news.tell("change", "1-2")
    await scene.until_wanted("18")
    assert scene.keeper.history == ["add 17", "remove 17: plugged in again", "add 18"]


async def test_what_returns_waits_until_what_was_there_is_closed(scene: Scene) -> None:
    scene.ports.plug(interface())
    await scene.watcher.start(5)
    scene.keeper.gate = asyncio.Event()
    scene.news.tell("remove", "1-2:1.0")
    scene.ports.plug(interface(address=18))
    scene.news.tell("add", "1-2:1.0")
    await scene.until_wanted()
    await asyncio.sleep(0.02)
    assert scene.keeper.addresses == []
    scene.keeper.gate.set()
    await scene.until_wanted("18")


async def test_a_removal_counts_even_if_the_reader_is_there_again(scene: Scene) -> None:
    """With the same address, as after "authorized" was 0 and 1: nothing that was open works any more."""
    scene.ports.plug(interface(made=1))
    await scene.watcher.start(5)
    scene.ports.plug(interface(made=2))
    scene.news.tell("remove", "1-2:1.0")
    scene.news.tell("add", "1-2:1.0")
    await scene.until(lambda: scene.keeper.history == ["add 17", "remove 17: plugged in again", "add 17"])


@pytest.mark.parametrize("late", [["1-2"], ["1-2:1.0", "1-2"]], ids=["device", "interface and device"])
async def test_a_late_removal_is_not_that_of_the_next_device(scene: Scene, late: list[str]) -> None:
    """Another device is in the port, and was found because of other news, when the removal is told."""
    scene.ports.plug(interface())
    await scene.watcher.start(5)
    scene.ports.plug(interface(address=18))
    scene.news.tell("unbind", "1-2")
    await scene.until_wanted("18")
    for name in late:
        scene.news.tell("remove", name)
    for action, name in (("add", "1-2"), ("add", "1-2:1.0"), ("bind", "1-2")):
        scene.news.tell(action, name)
    await scene.until(lambda: len(scene.ports.looks) > 2 and not scene.is_busy)
    assert scene.keeper.history == ["add 17", "remove 17: plugged in again", "add 18"]


async def test_what_changes_during_a_look_is_looked_at_again(scene: Scene) -> None:
    await scene.watcher.start(5)
    scene.ports.plug(interface())
    gate = scene.ports.gates["1-2"] = threading.Event()
    scene.news.tell("add", "1-2:1.0")
    await scene.until_looked(2)
    del scene.ports.present["1-2"]
    scene.news.tell("remove", "1-2:1.0")
    gate.set()
    await scene.until_looked(3)
    await scene.until(lambda: not scene.is_busy)
    assert scene.keeper.history == []


async def test_a_port_that_is_locked_delays_no_other(scene: Scene) -> None:
    await scene.watcher.start(5)
    scene.ports.gates["1-1"] = threading.Event()
    scene.ports.plug(interface("1-1", address=4))
    scene.ports.plug(interface("1-2", address=5))
    scene.news.tell("add", "1-1:1.0")
    scene.news.tell("add", "1-2:1.0")
    await scene.until_wanted("5")
    scene.ports.gates["1-1"].set()
    await scene.until_wanted("5", "4")


async def test_the_start_does_not_wait_for_ever(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    gate = scene.ports.gates["*"] = threading.Event()
    scene.ports.plug(interface())
    await scene.watcher.start(0.01)
    assert scene.keeper.addresses == []
    assert "to be announced later: what is plugged into some USB port; " in caplog.text
    gate.set()
    await scene.until_wanted("17")


async def test_the_start_tells_which_port_it_waits_for(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    everything = scene.ports.gates["*"] = threading.Event()
    scene.ports.plug(interface("1-1", address=4))
    starting = asyncio.ensure_future(scene.watcher.start(0.5))
    await scene.until_looked(1)
    scene.ports.plug(interface("1-2"))
    scene.news.tell("add", "1-2")
    await scene.until_wanted("17")
    # What was told during the scan is newer than what it finds, so there is one more look.
    slow = scene.ports.gates["1-2"] = threading.Event()
    everything.set()
    await starting
    assert scene.keeper.addresses == ["17", "4"]
    assert "to be announced later: what is plugged into USB port 1-2; " in caplog.text
    caplog.clear()
    slow.set()
    await scene.watcher.start(5)
    assert caplog.text == ""


@pytest.mark.parametrize("is_in_time", [True, False])
async def test_the_start_waits_for_what_was_announced_meanwhile(
    scene: Scene, caplog: pytest.LogCaptureFixture, *, is_in_time: bool
) -> None:
    """The look that the event began goes on when the scan is over; other readers do not wait for it."""
    everything = scene.ports.gates["*"] = threading.Event()
    slow = scene.ports.gates["1-2"] = threading.Event()
    scene.ports.plug(interface("1-1", address=4))
    starting = asyncio.ensure_future(scene.watcher.start(5 if is_in_time else 0.2))
    await scene.until_looked(1)
    scene.ports.plug(interface("1-2"))
    scene.news.tell("add", "1-2")
    await scene.until_looked(2)
    everything.set()
    await scene.until_wanted("4")
    if is_in_time:
        slow.set()
    await starting
    assert scene.keeper.addresses == (["4", "17"] if is_in_time else ["4"])
    warning = "not ready after 0.2 s ([limits] start_wait), to be announced later: what is plugged into USB "
    assert (f"{warning}port 1-2; " in caplog.text) is not is_in_time
    slow.set()
    await scene.until_wanted("4", "17")


async def test_a_look_outlives_a_rescan_that_waits_for_it(scene: Scene) -> None:
    await scene.watcher.start(5)
    scene.ports.plug(interface())
    gate = scene.ports.gates["1-2"] = threading.Event()
    scene.news.tell("add", "1-2")
    await scene.until_looked(2)
    rescan = asyncio.ensure_future(scene.watcher.rescan())
    await scene.until(lambda: "*" in scene.ports.looks[2:])
    _done, pending = await asyncio.wait([rescan], timeout=0.05)
    assert pending, "it returned before what is there was wanted"
    rescan.cancel()
    await asyncio.wait([rescan])
    gate.set()
    await scene.until_wanted("17")


async def test_udev_may_change_its_mind_about_a_reader(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene.ports.plug(interface(is_ignored=True))
    await scene.watcher.start(5)
    assert scene.keeper.addresses == []
    for is_ignored in (False, True, True, False):
        scene.ports.plug(interface(is_ignored=is_ignored))
        looks = len(scene.ports.looks)
        scene.news.tell("change", "1-2")
        await scene.until_looked(looks + 1)
        await scene.until(lambda ignored=is_ignored: scene.keeper.addresses == ([] if ignored else ["17"]))
    ignored = [record for record in caplog.records if "PCSCLITE_IGNORE" in record.getMessage()]
    assert len(ignored) == 2, "said once each time that it changes"


async def test_other_rules_touch_only_whom_they_concern(scene: Scene) -> None:
    scene.ports.plug(interface("1-1", address=4))
    scene.ports.plug(interface("1-2", address=5))
    await scene.watcher.start(5)

    class Rules(Matcher):
        def match(self, interface: UsbInterface) -> Match:
            match = super().match(interface)
            if interface.address == 5:
                return Match(tuple(replace(config, name="Mine") for config in match.configs))
            return match

    await scene.watcher.reload(Rules([], UsbSettings()), 5)
    assert [configs[0].name for configs in scene.keeper.wanted] == ["ACME Reader", "Mine"]
    assert scene.keeper.history == [
        "add 4",
        "add 5",
        "again 4",
        "remove 5: to be driven differently from now on",
        "add 5",
    ]


async def test_a_reload_does_not_wait_for_ever(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel has locked a device, or one that is to be driven differently does not close."""
    await scene.watcher.start(5)
    scene.ports.plug(interface())
    gate = scene.ports.gates["*"] = threading.Event()
    async with asyncio.timeout(2):
        await scene.watcher.reload(Matcher([], UsbSettings()), 0.01)
    assert "not ready after 0.01 s" in caplog.text
    gate.set()
    await scene.until_wanted("17")


async def test_the_start_waits_for_udev(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.ports.plug(interface("1-1", kind=0x03, is_prepared=False))
    scene.ports.plug(interface(is_prepared=False))
    starting = asyncio.ensure_future(scene.watcher.start(5))
    await scene.until_looked(1)
    _done, pending = await asyncio.wait([starting], timeout=0.05)
    assert pending
    scene.ports.plug(interface())
    scene.news.tell("add", "1-2")
    await starting
    assert scene.keeper.addresses == ["17"]
    assert caplog.text == ""


@pytest.mark.parametrize("is_pulled_out", [True, False])
async def test_the_start_does_not_wait_for_udev_for_ever(
    scene: Scene, caplog: pytest.LogCaptureFixture, *, is_pulled_out: bool
) -> None:
    scene.ports.plug(interface(is_prepared=False))
    starting = asyncio.ensure_future(scene.watcher.start(5 if is_pulled_out else 0.1))
    await scene.until_looked(1)
    if is_pulled_out:
        del scene.ports.present["1-2"]
        scene.news.tell("remove", "1-2")
    await starting
    assert ("not ready after 0.1 s" in caplog.text) is not is_pulled_out
    assert ("USB port 1-2; udev has not come to it" in caplog.text) is not is_pulled_out
    scene.ports.plug(interface())
    scene.news.tell("add", "1-2")
    await scene.until_wanted("17")


async def test_a_rescan_finds_what_nobody_told(scene: Scene) -> None:
    scene.ports.plug(interface("1-1", address=4))
    await scene.watcher.start(5)
    del scene.ports.present["1-1"]
    scene.ports.plug(interface("1-2", address=5))
    scene.news.tell_missed()
    await scene.until_wanted("5")


async def test_what_is_told_before_a_look_begins_is_newer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looks have what the scan found; the second reader is pulled while the first is taken up."""
    scene.ports.plug(interface("1-1", address=4))
    scene.ports.plug(interface("1-2", address=5))
    add = scene.keeper.add

    def add_and_pull(*configs: DeviceConfig, after: DeviceConfig | None = None) -> None:
        add(*configs, after=after)
        if scene.ports.present.pop("1-2", None):
            scene.news.tell("remove", "1-2")

    monkeypatch.setattr(scene.keeper, "add", add_and_pull)
    await scene.watcher.start(5)
    assert scene.keeper.addresses == ["4"]


async def test_what_is_told_during_a_rescan_is_newer(scene: Scene) -> None:
    scene.ports.plug(interface())
    await scene.watcher.start(5)
    gate = scene.ports.gates["*"] = threading.Event()
    rescan = asyncio.ensure_future(scene.watcher.rescan())
    await scene.until_looked(2)
    scene.ports.plug(interface(address=18))
    scene.news.tell("remove", "1-2:1.0")
    scene.news.tell("add", "1-2:1.0")
    await scene.until_wanted("18")
    gate.set()
    await rescan
    assert scene.keeper.addresses == ["18"]
    assert [entry for entry in scene.keeper.history if not entry.startswith("again")] == [
        "add 17",
        "remove 17: plugged in again",
        "add 18",
    ]


async def test_without_udev_the_devices_file_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(is_prepared=False)
    answers = [False, False, True]
    monkeypatch.setattr(udev_module, "_NODE_STEP", 0.001)
    monkeypatch.setattr("pypcscd.hotplug.scan.have_nodes", lambda interfaces: answers.pop(0))
    await scene.watcher.start(5)
    scene.ports.plug(interface())
    scene.news.tell("add", "1-2:1.0")
    await scene.until_wanted("17")
    assert answers == []
    scene.watcher.close()


# --- where news come from ---------------------------------------------------------------------


async def test_a_slow_scan_tells_what_is_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_INTERVAL", 0.001)
    states = [
        {"usb1": "1"},
        {"usb1": "1"},
        {"usb1": "1", "1-2": "17", "1-2:1.0": ""},
        {"usb1": "1", "1-2": "18", "1-2:1.0": ""},
        {"usb1": "1"},
    ]
    source = SlowScan(lambda: states.pop(0) if len(states) > 1 else states[0])
    told: list[tuple[str, str]] = []
    source.start(lambda action, name: told.append((action, name)), lambda: None)
    async with asyncio.timeout(5):
        while len(told) < 6:
            await asyncio.sleep(0.001)
    assert told == [
        ("add", "1-2"),
        ("add", "1-2:1.0"),
        ("remove", "1-2"),
        ("add", "1-2"),
        ("remove", "1-2"),
        ("remove", "1-2:1.0"),
    ]
    source.close()


async def test_a_slow_scan_outlives_a_round_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "_INTERVAL", 0.001)
    states: list[dict[str, str] | None] = [{}, None, None, {"1-2": "17"}, {"1-2": "17", "1-3": "18"}]

    def fingerprint() -> dict[str, str]:
        state = states.pop(0) if len(states) > 1 else states[0]
        if state is None:
            raise RuntimeError("can't start new thread")
        return state

    told: list[tuple[str, ...]] = []

    def tell(action: str, name: str) -> None:
        told.append((action, name))
        if name == "1-3":
            raise RuntimeError("somebody else's defect")

    source = SlowScan(fingerprint)
    source.start(tell, lambda: told.append(("missed",)))
    async with asyncio.timeout(5):
        while len(told) < 4:
            await asyncio.sleep(0.001)
    assert told == [("add", "1-2"), ("missed",), ("add", "1-3"), ("missed",)]
    assert caplog.text.count("looking for USB devices failed") == 2
    source.close()


class Monitor:
    """As much of pyudev.Monitor as is used; what is to be read is written by a test."""

    def __init__(self, error: OSError | None = None) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.error = error
        self.events: deque[Any] = deque()
        self.is_started = False

    def filter_by(self, subsystem: str) -> None:
        assert subsystem == "usb"

    def start(self) -> None:
        if self.error is not None:
            raise self.error
        self.is_started = True

    def fileno(self) -> int:
        return self.fd

    def poll(self, timeout: float) -> Any:
        assert timeout == 0
        if not self.events:
            os.eventfd_read(self.fd)
            return None
        event = self.events.popleft()
        if isinstance(event, OSError):
            raise event
        return event

    def send(self, *events: Any) -> None:
        self.events.extend(events)
        os.eventfd_write(self.fd, 1)


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    monitor = Monitor()
    yield monitor
    os.close(monitor.fd)


async def test_udev_tells(monitor: Monitor, caplog: pytest.LogCaptureFixture) -> None:
    source = NetlinkSource(monitor, is_prepared=True)
    assert monitor.is_started, "what comes between listing and monitoring would be lost"
    told: list[tuple[str, ...]] = []
    source.start(lambda action, name: told.append((action, name)), lambda: told.append(("missed",)))
    monitor.send(
        SimpleNamespace(action="add", sys_name="1-2"),
        SimpleNamespace(action="bind", sys_name="1-2:1.0"),
        OSError(errno.ENOBUFS, "No buffer space available"),
        SimpleNamespace(action="remove", sys_name="1-2"),
    )
    async with asyncio.timeout(5):
        while len(told) < 4:
            await asyncio.sleep(0)
    assert told == [("add", "1-2"), ("bind", "1-2:1.0"), ("missed",), ("remove", "1-2")]
    assert "dropped news of USB devices" in caplog.text
    source.close()
    monitor.send(SimpleNamespace(action="add", sys_name="1-2"))
    await asyncio.sleep(0.01)
    assert len(told) == 4


@pytest.mark.parametrize(
    ("has_udev", "error", "origin", "kind", "said"),
    [
        (True, None, "udev", NetlinkSource, ""),
        (False, None, "kernel", NetlinkSource, "udev is not running"),
        (True, OSError(errno.EPERM, "refused"), "udev", SlowScan, "netlink sockets are refused"),
    ],
)
def test_the_best_source_is_taken(
    has_udev: bool,
    error: OSError | None,
    origin: str,
    kind: type[Source],
    said: str,
    monitor: Monitor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    pyudev = pytest.importorskip("pyudev")
    asked: list[str] = []

    def from_netlink(_context: object, source: str) -> Monitor:
        asked.append(source)
        return monitor

    monitor.error = error
    monkeypatch.setattr(pyudev.Monitor, "from_netlink", from_netlink)
    monkeypatch.setattr(sources, "_UDEV_SOCKET", tmp_path if has_udev else tmp_path / "missing")
    source = sources.open_source()
    assert asked == [origin]
    assert type(source) is kind
    assert source.is_prepared is (kind is NetlinkSource and has_udev)
    assert said in caplog.text
    assert bool(said) is bool(caplog.text)


# --- sysfs ------------------------------------------------------------------------------------


def test_what_is_in_sysfs_changes_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_DEVICES", tmp_path)
    (tmp_path / "1-2").mkdir()
    (tmp_path / "1-2" / "devnum").write_text("17\n")
    (tmp_path / "1-2:1.0").mkdir()
    (tmp_path / "1-3").mkdir()
    (tmp_path / "1-4:1.0").symlink_to("gone")
    before = scan.fingerprint()
    made = before.pop("1-2:1.0")
    assert before == {"1-2": "17\n", "1-3": "", "1-4:1.0": ""}
    # its device keeps the address when the interface is made anew
    (tmp_path / "1-2:1.0").rename(tmp_path / "old")
    (tmp_path / "1-2:1.0").mkdir()
    after = scan.fingerprint()
    assert after["1-2:1.0"] != made
    assert after["1-2"] == "17\n"
    monkeypatch.setattr(scan, "_DEVICES", tmp_path / "missing")
    assert scan.fingerprint() == {}


def test_a_file_may_not_be_there_yet(tmp_path: Path) -> None:
    here = replace(interface(), node=str(tmp_path))
    assert scan.have_nodes([here])
    assert not scan.have_nodes([here, replace(here, node=str(tmp_path / "missing"))])


class Udev:
    """As much of pyudev as is used for looking."""

    class DeviceNotFoundError(Exception):
        pass

    def __init__(self, *found: "UdevDevice") -> None:
        self.found = found
        self.contexts = 0
        self.Devices = self

    def Context(self) -> "Udev":  # noqa: N802
        self.contexts += 1
        return self

    def from_name(self, _context: object, subsystem: str, name: str) -> "UdevDevice":
        assert subsystem == "usb"
        parents = (device.parent for device in self.found)
        found = next((parent for parent in parents if parent and parent.sys_name == name), None)
        if found is None:
            raise self.DeviceNotFoundError
        return found

    def list_devices(self, **wanted: Any) -> Iterator["UdevDevice"]:
        parent = wanted.pop("parent", None)
        assert wanted == {"subsystem": "usb", "DEVTYPE": "usb_interface"}
        for device in self.found:
            if parent is None or device.sys_path.startswith(parent.sys_path):
                yield device


class UdevDevice:
    """As much of pyudev.Device as is used."""

    device_node: str | None = None

    def __init__(self, path: str, parent: "UdevDevice | None" = None, **attributes: str) -> None:
        self.sys_path = path
        self.sys_name = path.rpartition("/")[2]
        self.attributes = {name: value.encode() for name, value in attributes.items()}
        self.properties: dict[str, str] = {}
        self.is_initialized = True
        self.parent = parent

    def find_parent(self, subsystem: str, device_type: str) -> "UdevDevice | None":
        assert (subsystem, device_type) == ("usb", "usb_device")
        return self.parent


def udev_device(root: Path, path: str = "1-2", **attributes: str) -> UdevDevice:
    usual = {"idVendor": "076b", "idProduct": "3031", "busnum": "1", "devnum": "17"}
    return UdevDevice(f"{root}/usb1/{path}", **(usual | attributes))


def udev_interface(parent: UdevDevice, number: str = "00", **more: str) -> UdevDevice:
    path = Path(parent.sys_path, f"{parent.sys_name}:1.{int(number, 16)}")
    path.mkdir(parents=True)
    usual = {"bInterfaceNumber": number, "bInterfaceClass": "0b", "bNumEndpoints": "03"}
    return UdevDevice(str(path), parent, **(usual | more))


def test_looking_at_all_ports_and_at_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = udev_device(tmp_path, "1-2", devnum="4")
    reader = udev_device(tmp_path, "1-2/1-2.1", serial="4711")
    gone, going = udev_device(tmp_path, "1-3"), udev_interface(udev_device(tmp_path, "1-4"))
    del gone.attributes["devnum"]
    Path(going.sys_path).rmdir()
    orphan = udev_interface(udev_device(tmp_path, "1-5"))
    orphan.parent = None
    udev = Udev(
        udev_interface(reader, "0a", interface="CCID Interface\n"),
        udev_interface(reader, "00", bInterfaceClass="03"),
        udev_interface(hub, bInterfaceClass="09"),
        udev_interface(gone),
        going,
        orphan,
    )
    monkeypatch.setitem(sys.modules, "pyudev", udev)
    scanner = Scanner()
    ports = scanner.ports()
    assert list(ports) == ["1-2.1", "1-2"]
    keyboard, ccid = scanner.port("1-2.1")
    assert ports["1-2.1"] == [keyboard, ccid]
    assert (ccid.number, ccid.label, ccid.serial, ccid.address) == (10, "CCID Interface", "4711", 17)
    assert ccid.node == "/dev/bus/usb/001/017"
    assert ccid.made == scanner.port("1-2.1")[1].made != keyboard.made
    assert [interface.kind for interface in scanner.port("1-2")] == [9]
    assert scanner.port("1-3") == scanner.port("1-4") == []
    assert udev.contexts == 1
    assert not ccid.is_ignored
    reader.properties["PCSCLITE_IGNORE"] = "1"
    assert scanner.port("1-2.1")[0].is_ignored
    assert ccid.is_prepared
    reader.is_initialized = False
    assert not scanner.port("1-2.1")[1].is_prepared


async def test_threads_do_not_share_a_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    udev = Udev(udev_interface(udev_device(tmp_path)))
    monkeypatch.setitem(sys.modules, "pyudev", udev)
    meet = threading.Barrier(2, timeout=5)
    list_devices = udev.list_devices

    def slow(**wanted: Any) -> Iterator[UdevDevice]:
        meet.wait()
        yield from list_devices(**wanted)

    udev.list_devices = slow  # type: ignore[method-assign]
    scanner = Scanner()
    for _ in range(3):
        await asyncio.gather(asyncio.to_thread(scanner.ports), asyncio.to_thread(scanner.port, "1-2"))
    assert udev.contexts == 2


async def test_a_look_that_the_system_refuses_is_made_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when there is no thread for it; nobody tells a second time that a reader was plugged in."""
    monkeypatch.setattr(udev_module, "_RETRY", 0.01)
    refused: list[str] = []

    def refusing_once(look: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*arguments: str) -> Any:
            if look.__name__ not in refused:
                refused.append(look.__name__)
                raise RuntimeError("can't start new thread")
            return look(*arguments)

        return asked

    for look in (scene.ports.ports, scene.ports.port):
        monkeypatch.setattr(scene.ports, look.__name__, refusing_once(look))
    await scene.watcher.start(5)
    scene.ports.plug(interface())
    scene.news.tell("add", "1-2:1.0")
    await scene.until_wanted("17")
    assert refused == ["ports", "port"]
    assert caplog.text.count("looking for USB devices failed (can't start new thread)") == 2
