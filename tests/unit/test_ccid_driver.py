"""Options of a device, and the way from a USB device to an open reader, on a backend that is ours."""

import asyncio
import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ccid_simulator import IN, INTERRUPT, OUT, SimulatedReader, descriptor
from fake_libusb import FakeLibusb

from pypcscd.driver import DeviceConfig, DeviceOpenError, NotMineError
from pypcscd_ccid import finder, nodes
from pypcscd_ccid.driver import CcidDriver, read_options
from pypcscd_ccid.finder import Wanted
from pypcscd_ccid.nodes import Nodes, OpenNode, Place

usb_core = pytest.importorskip("usb.core")


def config(**options: str) -> DeviceConfig:
    return DeviceConfig(driver="ccid", name="Test reader", numbering="ccid", options=options)


@pytest.mark.parametrize(
    ("options", "wanted", "escape"),
    [
        ({"bus": "3", "address": "017"}, Wanted(bus=3, address=17), False),
        (
            {"vendor": "08E6", "product": "3437", "interface": "1", "escape": "yes"},
            Wanted(vendor=0x08E6, product=0x3437, interface=1),
            True,
        ),
    ],
)
def test_options(options: dict[str, str], wanted: Wanted, escape: bool) -> None:
    assert read_options(options) == (wanted, escape)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "which USB device"),
        ({"bus": "1"}, "which USB device"),
        ({"vendor": "08E6"}, "which USB device"),
        ({"bus": "1", "address": "2", "port": "3"}, "unknown option 'port'"),
        ({"bus": "1", "address": "two"}, "'address' must be a decimal number up to 127, not 'two'"),
        ({"vendor": "12345", "product": "1"}, "'vendor' must be a hexadecimal number up to FFFF"),
        ({"bus": "1", "address": "2", "interface": "-1"}, "'interface' must be"),
        ({"bus": "1", "address": "2", "escape": "on"}, "'escape' must be yes or no"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, str], text: str) -> None:
    with pytest.raises(DeviceOpenError, match=text) as refused:
        read_options(options)
    assert refused.value.permanent


class Backend:
    """As much of pyusb's libusb backend as is used, with one composite device: HID, CCID, CCID."""

    def __init__(self) -> None:
        self.lib: Any = None
        self.ctx = SimpleNamespace(value=1)
        self.claim_error = 0
        self.claimed: list[int] = []
        hid = self._interface(0, 0x03, b"", [(0x84, 3)])
        reader = self._interface(1, 0x0B, descriptor(), [(OUT, 2), (IN, 2), (INTERRUPT, 3)])
        second = self._interface(2, 0x0B, descriptor(slots=2), [(OUT, 2), (IN, 2)])
        self.interfaces = [hid, reader, second]

    @staticmethod
    def _interface(number: int, kind: int, extra: bytes, endpoints: list[tuple[int, int]]) -> Any:
        return SimpleNamespace(
            bInterfaceNumber=number,
            bInterfaceClass=kind,
            bInterfaceProtocol=0,
            bNumEndpoints=len(endpoints),
            extra_descriptors=list(extra),
            endpoints=[
                SimpleNamespace(
                    bEndpointAddress=address, bmAttributes=kind, wMaxPacketSize=64, extra_descriptors=[]
                )
                for address, kind in endpoints
            ],
        )

    def get_device_descriptor(self, node: OpenNode) -> Any:
        return SimpleNamespace(
            idVendor=0x1234,
            idProduct=0x5679,
            bcdDevice=0x0100,
            iManufacturer=0,
            iSerialNumber=0,
            bNumConfigurations=2,
        )

    def get_configuration(self, node: OpenNode) -> int:
        return 2

    def get_configuration_descriptor(self, node: OpenNode, index: int) -> Any:
        count = len(self.interfaces) if index == 1 else 0
        return SimpleNamespace(bConfigurationValue=index + 1, bNumInterfaces=count)

    def get_interface_descriptor(self, node: OpenNode, position: int, setting: int, index: int) -> Any:
        assert (setting, index) == (0, 1)
        return self.interfaces[position]

    def get_endpoint_descriptor(
        self, node: OpenNode, number: int, position: int, setting: int, index: int
    ) -> Any:
        return self.interfaces[position].endpoints[number]

    def claim_interface(self, node: OpenNode, number: int) -> None:
        if self.claim_error:
            raise usb_core.USBError("no", None, self.claim_error)
        self.claimed.append(number)


class FakeNodes:
    """``Nodes`` with one device; what waits is refused outside of threads."""

    def __init__(self) -> None:
        self.place = Place(3, 17)
        self.main = threading.get_ident()
        self.open_error = 0
        self.reset_error = 0
        self.configuration: int | None = 2
        self.bound_to = ""
        self.opened = self.closed = self.resets = 0
        #: an open device is waited for
        self.gate: threading.Event | None = None
        self.has_begun = threading.Event()

    def _wait(self) -> None:
        assert threading.get_ident() != self.main, "the event loop must not wait"

    def find(self, vendor: int | None, product: int | None) -> list[Place]:
        self._wait()
        return [self.place] if (vendor, product) == (0x1234, 0x5679) else []

    def open(self, place: Place) -> OpenNode:
        self._wait()
        self.has_begun.set()
        if self.gate is not None:
            assert self.gate.wait(5)
        code = self.open_error or (errno.ENOENT if place != self.place else 0)
        if code:
            raise OSError(code, os.strerror(code))
        self.opened += 1
        return OpenNode(place, 0, ctypes.c_void_p(7), None)

    def active_configuration(self, node: OpenNode) -> int | None:
        self._wait()
        return self.configuration

    def kernel_driver(self, node: OpenNode, interface: int) -> str:
        self._wait()
        return self.bound_to

    def reset(self, node: OpenNode) -> None:
        self._wait()
        self.resets += 1
        if self.reset_error:
            raise OSError(self.reset_error, os.strerror(self.reset_error))

    def close(self, node: OpenNode) -> None:
        assert threading.get_ident() == self.main, "the event loop watches its descriptor"
        self.closed += 1


class Setup:
    """A driver whose libusb is ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend = Backend()
        self.nodes = FakeNodes()
        self.libusb = FakeLibusb()
        self.reader = SimulatedReader(self.libusb, descriptor(slots=2))
        monkeypatch.setattr(finder, "BoundLibusb", lambda library, context: self.libusb)
        monkeypatch.setattr(finder, "Nodes", lambda library, context: self.nodes)
        monkeypatch.setattr(finder, "load", lambda: self.backend)
        self.driver = CcidDriver()


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    setup = Setup(monkeypatch)
    yield setup
    assert setup.nodes.closed == setup.nodes.opened
    setup.libusb.close()


async def test_the_first_ccid_interface_of_the_device_is_opened(setup: Setup) -> None:
    device = await setup.driver.open(config(bus="3", address="17"))
    assert setup.backend.claimed == [1]
    assert len(device.slots) == 1
    assert device.facts.title == "Test reader"
    await device.close()
    assert setup.nodes.closed == 1
    await setup.driver.close()
    assert setup.libusb.notifiers == (None, None)


async def test_another_interface_is_another_reader(setup: Setup) -> None:
    first = await setup.driver.open(config(vendor="1234", product="5679", interface="1"))
    setup.reader.cards.append(None)
    second = await setup.driver.open(config(vendor="1234", product="5679", interface="2"))
    assert setup.backend.claimed == [1, 2]
    assert len(second.slots) == 2
    await asyncio.gather(first.close(), second.close())
    await setup.driver.close()


async def test_a_device_that_is_not_there(setup: Setup) -> None:
    with pytest.raises(DeviceOpenError, match="/dev/bus/usb/003/018 is not there") as refused:
        await setup.driver.open(config(bus="3", address="18"))
    assert refused.value.is_gone
    with pytest.raises(DeviceOpenError, match="no USB device 08E6:3437"):
        await setup.driver.open(config(vendor="08e6", product="3437"))
    await setup.driver.close()


@pytest.mark.parametrize(
    ("code", "text", "reset_may_help"),
    [
        (errno.EACCES, "no access to /dev/bus/usb/003/017; run as root, or install a udev rule", False),
        (errno.EIO, "cannot be opened: Input/output error", True),
    ],
)
async def test_why_a_device_cannot_be_opened(
    setup: Setup, code: int, text: str, reset_may_help: bool
) -> None:
    setup.nodes.open_error = code
    with pytest.raises(DeviceOpenError, match=text) as refused:
        await setup.driver.open(config(bus="3", address="17"))
    assert not refused.value.permanent
    assert not refused.value.is_gone
    assert refused.value.reset_may_help is reset_may_help
    await setup.driver.close()


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        ("usbfs", "used by another program; if pcscd is running, stop it"),
        ("", "used by another program"),
        ("usbhid", "used by the kernel's driver usbhid; unbind it"),
    ],
)
async def test_who_has_an_interface_that_is_not_free(setup: Setup, holder: str, text: str) -> None:
    setup.backend.claim_error = errno.EBUSY
    setup.nodes.bound_to = holder
    with pytest.raises(DeviceOpenError, match=text) as refused:
        await setup.driver.open(config(bus="3", address="17"))
    assert not refused.value.reset_may_help
    await setup.driver.close()


async def test_a_device_that_goes_while_it_is_opened(setup: Setup) -> None:
    setup.backend.claim_error = errno.ENODEV
    with pytest.raises(DeviceOpenError) as refused:
        await setup.driver.open(config(bus="3", address="17"))
    assert refused.value.is_gone
    setup.backend.claim_error = 0
    setup.libusb.is_gone = True
    with pytest.raises(DeviceOpenError) as refused:
        await setup.driver.open(config(bus="3", address="17"))
    assert refused.value.is_gone
    await setup.driver.close()


async def test_the_device_is_asked_if_the_kernel_does_not_tell_its_configuration(setup: Setup) -> None:
    setup.nodes.configuration = None
    device = await setup.driver.open(config(bus="3", address="17"))
    await device.close()
    await setup.driver.close()


@pytest.mark.parametrize("interface", ["0", "5"])
async def test_an_interface_that_is_no_reader_is_none_of_ours(setup: Setup, interface: str) -> None:
    with pytest.raises(NotMineError, match=f"interface {interface} .* is no CCID reader"):
        await setup.driver.open(config(bus="3", address="17", interface=interface))
    await setup.driver.close()


async def test_a_device_without_readers(setup: Setup) -> None:
    del setup.backend.interfaces[1:]
    with pytest.raises(DeviceOpenError, match="no interface that is a CCID reader") as refused:
        await setup.driver.open(config(bus="3", address="17"))
    assert refused.value.permanent
    assert not isinstance(refused.value, NotMineError), "somebody has asked for it"
    await setup.driver.close()


async def test_a_device_that_hangs_while_it_is_opened_is_given_back(setup: Setup) -> None:
    setup.nodes.gate = threading.Event()
    opening = asyncio.ensure_future(setup.driver.open(config(bus="3", address="17")))
    await asyncio.to_thread(setup.nodes.has_begun.wait, 5)
    opening.cancel()
    await asyncio.sleep(0)
    assert not opening.done(), "what the thread opens would be lost"
    setup.nodes.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (setup.nodes.opened, setup.nodes.closed) == (1, 1)
    await setup.driver.close()


async def test_a_device_is_reset_if_nobody_uses_it(setup: Setup) -> None:
    here = config(bus="3", address="17", interface="1")
    assert await setup.driver.reset(here)
    assert setup.nodes.resets == 1
    device = await setup.driver.open(here)
    assert not await setup.driver.reset(config(bus="3", address="17", interface="2"))
    await device.close()
    assert not await setup.driver.reset(config(bus="3", address="18"))
    assert setup.nodes.resets == 1
    setup.nodes.reset_error = errno.EIO
    assert not await setup.driver.reset(here)
    assert setup.nodes.resets == 2
    await setup.driver.close()


# --- sysfs ------------------------------------------------------------------------------------


def test_devices_are_found_by_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_DEVICES", tmp_path)
    for name, *values in (
        ("1-2", "08e6", "3437", "1", "17"),
        ("1-2:1.0",),
        ("1-1", "08e6", "3437", "1", "18"),
        ("2-1", "076b", "3437", "2", "3"),
        ("usb1", "1d6b", "0002", "1", "1"),
    ):
        (tmp_path / name).mkdir()
        for file, value in zip(("idVendor", "idProduct", "busnum", "devnum"), values, strict=False):
            (tmp_path / name / file).write_text(f"{value}\n")
    assert Nodes.find(0x08E6, 0x3437) == [Place(1, 17), Place(1, 18)]
    assert Nodes.find(None, 0x3437) == [Place(1, 17), Place(1, 18), Place(2, 3)]
    assert Nodes.find(0x08E6, 0x1234) == []
    monkeypatch.setattr(nodes, "_DEVICES", tmp_path / "not there")
    assert Nodes.find(0x08E6, 0x3437) == []
