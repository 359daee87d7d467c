"""USB interfaces of udev made into devices, on udev objects that are ours."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from pypcscd.driver import DeviceConfig
from pypcscd.hotplug.usb import UsbWatcher, describe, reader_name


class UdevDevice:
    """As much of pyudev.Device as is used."""

    def __init__(self, path: str, parent: "UdevDevice | None" = None, **attributes: str) -> None:
        self.sys_path = path
        self.sys_name = path.rpartition("/")[2]
        self.attributes = {name: value.encode() for name, value in attributes.items()}
        self.properties: dict[str, str] = {}
        self.action: str | None = None
        self._parent = parent

    def find_parent(self, subsystem: str, device_type: str) -> "UdevDevice | None":
        assert (subsystem, device_type) == ("usb", "usb_device")
        return self._parent


def usb_device(port: str = "1-2", **attributes: str) -> UdevDevice:
    usual = {
        "idVendor": "076b",
        "idProduct": "3031",
        "busnum": "1",
        "devnum": "17",
        "manufacturer": "ACME",
        "product": "Reader",
    }
    return UdevDevice(f"/sys/devices/usb1/{port}", **(usual | attributes))


def usb_interface(parent: UdevDevice | None, number: str = "00", kind: str = "0b", **more: str) -> UdevDevice:
    path = f"{parent.sys_path if parent else '/sys'}:1.{int(number, 16)}"
    usual = {"bInterfaceNumber": number, "bInterfaceClass": kind, "bNumEndpoints": "03"}
    return UdevDevice(path, parent, **(usual | more))


def test_a_reader_is_described_by_its_place_and_its_strings() -> None:
    interface = usb_interface(usb_device(serial="4711"), "0a", interface="CCID Interface")
    assert describe(interface) == DeviceConfig(
        driver="ccid",
        name="ACME Reader [CCID Interface] (4711)",
        numbering="ccid",
        options={"bus": "1", "address": "17", "interface": "10"},
        origin="USB 1-2:1.10",
    )


@pytest.mark.parametrize(
    ("strings", "name"),
    [
        (("ACME", "Reader", "", ""), "ACME Reader"),
        (("ACME", "ACME Reader", "", ""), "ACME Reader"),
        (("", "Reader", "", "12"), "Reader (12)"),
        (("ACME", "Reader", "Slot 4711", "4711"), "ACME Reader [Slot 4711]"),
    ],
)
def test_names(strings: tuple[str, str, str, str], name: str) -> None:
    assert reader_name(*strings) == name


def test_names_are_printable() -> None:
    config = describe(usb_interface(usb_device(manufacturer="Müller", product="A\x07B")))
    assert config is not None
    assert config.name == "M.ller A.B"
    nameless = usb_device()
    del nameless.attributes["manufacturer"], nameless.attributes["product"]
    config = describe(usb_interface(nameless))
    assert config is not None
    assert config.name == "USB 076B:3031"


def test_other_interfaces_are_none() -> None:
    assert describe(usb_interface(usb_device(), kind="03")) is None
    assert describe(usb_interface(usb_device(), kind="ff")) is None
    assert describe(usb_interface(None)) is None
    hidden = usb_device(idVendor="04e6", idProduct="e003")
    assert describe(usb_interface(hidden, kind="ff")) is not None
    gone = usb_device()
    del gone.attributes["devnum"]
    assert describe(usb_interface(gone)) is None


def test_udev_may_say_that_a_reader_is_to_be_left_alone() -> None:
    device = usb_device()
    device.properties["PCSCLITE_IGNORE"] = "1"
    assert describe(usb_interface(device)) is None


@pytest.mark.parametrize(("endpoints", "is_taken"), [("00", False), ("01", False), ("02", True)])
def test_tokens_without_bulk_pipes_are_left_alone(
    endpoints: str, is_taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    taken = describe(usb_interface(usb_device(), bNumEndpoints=endpoints)) is not None
    assert taken is is_taken
    assert ("ICCD" in caplog.text) is not is_taken


class Keeper:
    """As much of DeviceKeeper as is used."""

    def __init__(self) -> None:
        self.wanted: list[DeviceConfig] = []
        self.changed = asyncio.Event()

    def add(self, config: DeviceConfig) -> None:
        self.wanted.append(config)
        self.changed.set()

    async def remove(self, config: DeviceConfig) -> None:
        await asyncio.sleep(0)
        self.wanted.remove(config)
        self.changed.set()


class Udev:
    """Context and monitor in one."""

    def __init__(self) -> None:
        self.present: list[UdevDevice] = []
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._events: deque[UdevDevice] = deque()
        self.is_started = False

    def list_devices(self, **wanted: str) -> list[UdevDevice]:
        assert self.is_started, "what comes between listing and monitoring would be lost"
        assert wanted == {"subsystem": "usb", "DEVTYPE": "usb_interface"}
        return self.present

    def start(self) -> None:
        self.is_started = True

    def fileno(self) -> int:
        return self.fd

    def poll(self, timeout: float) -> UdevDevice | None:
        assert timeout == 0
        if self._events:
            return self._events.popleft()
        os.eventfd_read(self.fd)
        return None

    def tell(self, action: str, device: UdevDevice) -> None:
        device.action = action
        self._events.append(device)
        os.eventfd_write(self.fd, 1)


class Scene:
    def __init__(self) -> None:
        self.udev = Udev()
        self.keeper = Keeper()
        keeper: Any = self.keeper
        self.watcher = UsbWatcher(keeper, self.udev, self.udev)

    async def until(self, count: int) -> list[str]:
        while len(self.keeper.wanted) != count:
            self.keeper.changed.clear()
            await self.keeper.changed.wait()
        return [config.options["address"] for config in self.keeper.wanted]


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    scene.watcher.close()
    os.close(scene.udev.fd)


async def test_readers_that_are_there_are_wanted_in_order(scene: Scene) -> None:
    scene.udev.present = [
        usb_interface(usb_device("1-3", devnum="5")),
        usb_interface(usb_device("1-1", devnum="9"), kind="03"),
        usb_interface(usb_device("1-2", devnum="7")),
    ]
    scene.watcher.start()
    assert await scene.until(2) == ["7", "5"]


async def test_readers_come_and_go(scene: Scene) -> None:
    scene.watcher.start()
    reader = usb_interface(usb_device())
    scene.udev.tell("add", reader)
    assert await scene.until(1) == ["17"]
    # seen twice, added once
    scene.udev.tell("add", usb_interface(usb_device()))
    scene.udev.tell("bind", reader)
    scene.udev.tell("add", usb_interface(usb_device("1-4", devnum="18")))
    assert await scene.until(2) == ["17", "18"]
    # of what is gone only the path is left
    scene.udev.tell("remove", UdevDevice(reader.sys_path))
    assert await scene.until(1) == ["18"]
    scene.udev.tell("remove", UdevDevice(reader.sys_path))
    scene.udev.tell("add", usb_interface(usb_device(devnum="19")))
    assert await scene.until(2) == ["18", "19"]
