"""Options of a device, and the way from a USB device to an open reader, on a backend that is ours."""

import asyncio
import ctypes
import errno
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ccid_simulator import IN, INTERRUPT, OUT, SimulatedReader, descriptor
from fake_libusb import FakeLibusb

from pypcscd.driver import DeviceConfig, DeviceOpenError
from pypcscd_ccid import finder
from pypcscd_ccid.driver import CcidDriver, read_options
from pypcscd_ccid.finder import Finder, Wanted

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
        self.open_error = 0
        self.claimed: list[int] = []
        self.closed = 0
        self.hidden_for = 0
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

    def enumerate_devices(self) -> Iterator[str]:
        self.hidden_for -= 1
        return iter([] if self.hidden_for >= 0 else ["device"])

    def get_device_descriptor(self, device: str) -> Any:
        return SimpleNamespace(
            bus=3,
            address=17,
            idVendor=0x1234,
            idProduct=0x5679,
            bcdDevice=0x0100,
            iManufacturer=0,
            iSerialNumber=0,
            bNumConfigurations=2,
        )

    def open_device(self, device: str) -> Any:
        if self.open_error:
            raise usb_core.USBError("no", None, self.open_error)
        return SimpleNamespace(handle=ctypes.c_void_p(7))

    def get_configuration(self, opened: Any) -> int:
        return 2

    def get_configuration_descriptor(self, device: str, index: int) -> Any:
        count = len(self.interfaces) if index == 1 else 0
        return SimpleNamespace(bConfigurationValue=index + 1, bNumInterfaces=count)

    def get_interface_descriptor(self, device: str, position: int, setting: int, index: int) -> Any:
        assert (setting, index) == (0, 1)
        return self.interfaces[position]

    def get_endpoint_descriptor(
        self, device: str, number: int, position: int, setting: int, index: int
    ) -> Any:
        return self.interfaces[position].endpoints[number]

    def claim_interface(self, opened: Any, number: int) -> None:
        self.claimed.append(number)

    def close_device(self, opened: Any) -> None:
        self.closed += 1


class Setup:
    """A driver whose libusb is ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend = Backend()
        self.libusb = FakeLibusb()
        self.reader = SimulatedReader(self.libusb, descriptor(slots=2))
        monkeypatch.setattr(finder, "BoundLibusb", lambda library, context: self.libusb)
        monkeypatch.setattr(finder, "load", lambda: Finder(self.backend))
        self.driver = CcidDriver()


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    setup = Setup(monkeypatch)
    yield setup
    setup.libusb.close()


async def test_the_first_ccid_interface_of_the_device_is_opened(setup: Setup) -> None:
    device = await setup.driver.open(config(bus="3", address="17"))
    assert setup.backend.claimed == [1]
    assert len(device.slots) == 1
    assert device.facts.title == "Test reader"
    await device.close()
    assert setup.backend.closed == 1
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


async def test_a_device_that_libusb_has_not_noticed_yet_is_waited_for(setup: Setup) -> None:
    setup.backend.hidden_for = 3
    device = await setup.driver.open(config(bus="3", address="17"))
    await device.close()
    await setup.driver.close()


async def test_a_device_that_is_not_there(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pypcscd_ccid.driver._NOTICE_STEP", 0)
    with pytest.raises(DeviceOpenError, match="no USB device at bus 3 address 18"):
        await setup.driver.open(config(bus="3", address="18"))
    with pytest.raises(DeviceOpenError, match="no USB device 08E6:3437"):
        await setup.driver.open(config(vendor="08e6", product="3437"))
    await setup.driver.close()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.EACCES, "no access to /dev/bus/usb/003/017; run as root, or install a udev rule"),
        (errno.EBUSY, "used by another program; if pcscd is running, stop it"),
        (errno.EIO, "cannot be opened"),
    ],
)
async def test_why_a_device_cannot_be_opened(setup: Setup, code: int, text: str) -> None:
    setup.backend.open_error = code
    with pytest.raises(DeviceOpenError, match=text) as refused:
        await setup.driver.open(config(bus="3", address="17"))
    assert not refused.value.permanent
    await setup.driver.close()


@pytest.mark.parametrize(
    ("interface", "text"), [("0", "interface 0 .* is no CCID reader"), ("5", "interface 5")]
)
async def test_an_interface_that_is_no_reader(setup: Setup, interface: str, text: str) -> None:
    with pytest.raises(DeviceOpenError, match=text) as refused:
        await setup.driver.open(config(bus="3", address="17", interface=interface))
    assert refused.value.permanent
    assert setup.backend.closed == 1
    await setup.driver.close()


async def test_a_device_without_readers(setup: Setup) -> None:
    del setup.backend.interfaces[1:]
    with pytest.raises(DeviceOpenError, match="no interface that is a CCID reader"):
        await setup.driver.open(config(bus="3", address="17"))
    await setup.driver.close()
