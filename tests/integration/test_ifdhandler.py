"""Native drivers in their helpers: commands, presence, slots, sharing, closing."""

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from harness import VPCD_LIBRARY
from scripted import (
    ATR,
    CCID_LIBRARY,
    Script,
    VpcdCard,
    build,
    children,
    config,
    free_port,
    helper_pids,
    no_leaks,
    order,
    real,
    until,
    until_presence,
)

from pypcscd.driver import DeviceOpenError, DriverError, NotMineError, Presence, Reason
from pypcscd.scard import Protocol
from pypcscd_ifdhandler.api import Tag
from pypcscd_ifdhandler.driver import IfdHandlerDriver


@pytest.fixture
async def driver() -> AsyncIterator[IfdHandlerDriver]:
    with no_leaks(), blockbuster_ctx(["pypcscd", "pypcscd_ifdhandler"]):
        driver = IfdHandlerDriver()
        yield driver
        await driver.close()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path / "script")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Build a variant of the scripted driver, once."""
    built: dict[tuple[str, ...], str] = {}

    def variant(*options: str) -> str:
        if options not in built:
            built[options] = build(tmp_path_factory.mktemp("driver"), *options)
        return built[options]

    return variant


# -- real drivers


async def test_vpcd_card_from_insertion_to_removal(driver: IfdHandlerDriver) -> None:
    port = free_port()
    device = await driver.open(config(real(VPCD_LIBRARY), f"/dev/null:{port}"))
    slot, other = device.slots
    assert slot.presence is Presence.ABSENT
    with pytest.raises(DriverError) as raised:
        await slot.power_on()
    assert raised.value.reason is Reason.NO_CARD

    card = await VpcdCard.insert(port)
    await until_presence(slot, Presence.PRESENT)
    assert await slot.power_on() == card.atr
    assert await slot.get_attribute(0x0303) == card.atr
    await slot.set_protocol(Protocol.T1)
    apdu = bytes.fromhex("00A4040000")
    assert await slot.transmit(Protocol.T1, apdu) == apdu + b"\x90\x00"
    assert await slot.transmit(Protocol.T1, bytes(60000)) == bytes(60000) + b"\x90\x00"
    assert await slot.reset() == card.atr
    await slot.power_off()
    await until(lambda: card.events == ["on", "reset", "off"])
    with pytest.raises(DriverError) as raised:
        await slot.control(0x42000001, b"")
    assert raised.value.reason is not Reason.NO_DEVICE
    with pytest.raises(DriverError) as raised:
        await slot.get_attribute(0x12345)
    assert raised.value.reason is Reason.UNKNOWN_ATTRIBUTE

    card.remove()
    await until_presence(slot, Presence.ABSENT)
    assert other.presence is Presence.ABSENT
    await device.close()


async def test_vpcd_devices_have_a_helper_each(driver: IfdHandlerDriver) -> None:
    # The library keeps its slots in static data, so that two devices in one process would clash.
    ports = [free_port()]
    devices = [await driver.open(config(real(VPCD_LIBRARY), f"/dev/null:{ports[0]}"))]
    ports.append(free_port())
    devices.append(await driver.open(config(real(VPCD_LIBRARY), f"/dev/null:{ports[1]}")))
    assert list(driver.helpers().values()) == [str(VPCD_LIBRARY)] * 2
    assert set(driver.helpers()) <= set(children())
    cards = [await VpcdCard.insert(port) for port in ports]
    for number, (device, card) in enumerate(zip(devices, cards, strict=True)):
        card.atr = ATR + bytes([number])
        await until_presence(device.slots[0], Presence.PRESENT)
        assert await device.slots[0].power_on() == card.atr
    for device in devices:
        await device.close()
    for card in cards:
        card.remove()


async def test_ccid_driver_loads_and_answers(driver: IfdHandlerDriver) -> None:
    report = await driver.probe(str(real(CCID_LIBRARY)))
    assert report.api_version == 3
    assert report.capabilities[Tag.SIMULTANEOUS_ACCESS] is not None
    assert report.capabilities[Tag.THREAD_SAFE] == b"\x01"
    assert not helper_pids(driver)


async def test_ccid_driver_without_its_reader(driver: IfdHandlerDriver) -> None:
    device = "usb:08e6/3437:libudev:0:/dev/bus/usb/001/002"
    with pytest.raises(DeviceOpenError) as raised:
        await driver.open(config(real(CCID_LIBRARY), device))
    for words in (str(CCID_LIBRARY), device, "IFD_NO_SUCH_DEVICE (617)"):
        assert words in str(raised.value)
    assert not raised.value.permanent


async def test_an_interface_that_may_be_no_reader_is_left_alone(driver: IfdHandlerDriver) -> None:
    usual = config(real(CCID_LIBRARY), "usb:08e6/3437:libudev:0:/dev/bus/usb/001/002")
    with pytest.raises(NotMineError, match="617"):
        await driver.open(replace(usual, options={**usual.options, "doubtful": "yes"}))
    assert not helper_pids(driver)


async def test_ccid_driver_finds_its_own_bundle(
    driver: IfdHandlerDriver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also if the daemon looks for bundles in several directories, which libccid does not understand."""
    bundle = real(CCID_LIBRARY).parents[2]
    shutil.copytree(bundle, tmp_path / bundle.name)
    monkeypatch.setenv("PCSCLITE_HP_DROPDIR", f"{tmp_path / 'other'}:{tmp_path}")
    library = tmp_path / CCID_LIBRARY.relative_to(bundle.parent)
    caplog.set_level("INFO", "pypcscd.ifdhandler")
    with pytest.raises(DeviceOpenError):
        await driver.open(config(library, "usb:08e6/3437:libudev:0:/dev/bus/usb/001/002"))
    await until(lambda: f"Using: {tmp_path / bundle.name}/Contents/Info.plist" in caplog.text)


# -- commands


@pytest.mark.parametrize("options", [(), ("API=2",), ("UNDERSCORES",)])
async def test_commands_in_every_dialect(
    driver: IfdHandlerDriver,
    script: Script,
    library: Callable[..., str],
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SCRIPTED_IFD", str(script.path))
    script.set("card0")
    device = await driver.open(config(library(*options), script.path, "4660"))
    (slot,) = device.slots
    assert slot.presence is Presence.PRESENT
    assert await slot.power_on() == ATR
    await slot.set_protocol(Protocol.T0)
    for protocol, number in ((Protocol.T0, 0), (Protocol.T1, 1), (Protocol.RAW, 4)):
        for apdu in (b"", b"\x00", b"\x00\xb0\x00\x00\x00"):
            assert await slot.transmit(protocol, apdu) == apdu + b"\x90\x00"
            assert script.calls[-1] == f"TransmitToICC 0 {number}"
    assert await slot.control(2, b"data") == b"data"
    assert await slot.get_attribute(0x100) == b"v" * 264
    await slot.set_attribute(0x200, b"\x01\x02")
    with pytest.raises(DriverError) as raised:
        await slot.set_attribute(0x200, b"\x01")
    assert raised.value.reason is Reason.UNKNOWN_ATTRIBUTE
    assert await slot.reset() == ATR
    await slot.power_off()
    assert script.powers() == ["up", "reset", "down"]
    assert ("Channel 0 1234" in script.calls) == (options == ("API=2",))
    await device.close()
    assert script.calls[-1] == "CloseChannel 0 0"


async def test_channel_number_without_device_name(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_IFD", str(script.path))
    device = await driver.open(config(library(), channel="35963"))
    assert "Channel 0 8c7b" in script.calls
    await device.close()


async def test_control_of_a_2_0_driver_needs_data(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_IFD", str(script.path))
    device = await driver.open(config(library("API=2")))
    with pytest.raises(DriverError) as raised:
        await device.slots[0].control(2, b"")
    assert raised.value.reason is Reason.INVALID_PARAMETER
    await device.close()


async def test_longest_commands_and_answers(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    (slot,) = device.slots
    longest = os.urandom(65546)
    assert await slot.transmit(Protocol.T1, longest) == longest + b"\x90\x00"
    assert await slot.transmit(Protocol.T1, order(6, 65535)) == b"\x5a" * 65535 + b"\x90\x00"
    with pytest.raises(DriverError) as raised:
        await slot.transmit(Protocol.T1, bytes(65548))
    assert raised.value.reason is Reason.INSUFFICIENT_BUFFER
    with pytest.raises(DriverError) as raised:
        await slot.transmit(Protocol.T1, bytes(65549))
    assert raised.value.reason is Reason.INVALID_PARAMETER
    assert await slot.control(2, longest) == longest
    await device.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (612, Reason.COMMUNICATION),
        (613, Reason.TIMEOUT),
        (617, Reason.NO_DEVICE),
        (65535, Reason.COMMUNICATION),
    ],
)
async def test_response_codes_become_reasons(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], code: int, reason: Reason
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    with pytest.raises(DriverError) as raised:
        await device.slots[0].transmit(Protocol.T0, order(5, code))
    assert raised.value.reason is reason
    assert str(code) in raised.value.detail
    assert await device.slots[0].transmit(Protocol.T0, b"") == b"\x90\x00"
    await device.close()


async def test_answer_that_is_longer_than_the_room_is_refused(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    with pytest.raises(DriverError) as raised:
        await device.slots[0].transmit(Protocol.T0, order(8))
    assert raised.value.reason is Reason.COMMUNICATION
    await device.close()


async def test_power_commands_ask_for_the_card_first(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    device = await driver.open(config(library(), script.path))
    (slot,) = device.slots
    for command in (slot.power_on, slot.reset):
        with pytest.raises(DriverError) as raised:
            await command()
        assert raised.value.reason is Reason.NO_CARD
    await slot.power_off()
    assert not script.powers()
    script.set("card0")
    assert await slot.power_on() == ATR
    assert slot.presence is Presence.PRESENT
    for fault in ("mute", "long-atr"):
        script.set(fault)
        with pytest.raises(DriverError) as raised:
            await slot.reset()
        assert raised.value.reason is Reason.POWER
        script.clear(fault)
    await device.close()


async def test_protocol_selection(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    for options, protocol, reason in (
        ((), Protocol.T1, Reason.PROTOCOL_UNSUPPORTED),
        (("REFUSAL=606",), Protocol.T1, Reason.PROTOCOL_UNSUPPORTED),
        (("REFUSAL=614",), Protocol.T1, Reason.NOT_SUPPORTED),
        (("REFUSAL=605",), Protocol.T1, Reason.PROTOCOL_REFUSED),
        (("NO_PROTOCOL",), Protocol.T0, Reason.NOT_SUPPORTED),
    ):
        device = await driver.open(config(library(*options), script.path))
        with pytest.raises(DriverError) as raised:
            await device.slots[0].set_protocol(protocol)
        assert raised.value.reason is reason
        await device.close()


async def test_addresses_are_not_told(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    device = await driver.open(config(library("POLLING", "STOPPING"), script.path))
    for tag in (Tag.POLLING_THREAD_WITH_TIMEOUT, Tag.STOP_POLLING_THREAD):
        with pytest.raises(DriverError) as raised:
            await device.slots[0].get_attribute(tag)
        assert raised.value.reason is Reason.UNKNOWN_ATTRIBUTE
    await device.close()


async def test_cancelled_command_leaves_the_slot_usable(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    (slot,) = device.slots
    slow = asyncio.create_task(slot.transmit(Protocol.T0, order(4)))
    await until(lambda: "Holding 0 0" in script.calls)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    given_up = asyncio.create_task(slot.transmit(Protocol.T0, b"\x01"))
    following = asyncio.create_task(slot.transmit(Protocol.T0, b"\x02"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    script.set("go")
    assert await following == b"\x02\x90\x00"
    assert len([call for call in script.calls if call.startswith("Transmit")]) == 2
    await device.close()


# -- presence


@pytest.mark.parametrize("options", [(), ("POLLING",), ("POLLING", "STOPPING")])
async def test_presence_is_reported(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], options: tuple[str, ...]
) -> None:
    device = await driver.open(config(library(*options), script.path))
    (slot,) = device.slots
    seen: list[Presence] = []
    slot.presence_changed = seen.append
    for _ in range(2):
        script.set("card0")
        await until_presence(slot, Presence.PRESENT)
        script.clear("card0")
        await until_presence(slot, Presence.ABSENT)
    assert seen == [Presence.PRESENT, Presence.ABSENT] * 2
    bounds = {int(call.split()[2], 16) for call in script.calls if call.startswith("Poll ")}
    assert bounds == {(): set(), ("POLLING",): {1000}}.get(options, {5000})
    async with asyncio.timeout(1.5):
        await device.close()


async def test_reader_in_trouble_is_unknown(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    script.set("trouble")
    await until_presence(device.slots[0], Presence.UNKNOWN)
    await until(lambda: "IFD_COMMUNICATION_ERROR (612)" in caplog.text)
    with pytest.raises(DriverError):
        await device.slots[0].power_on()
    script.clear("trouble")
    await until_presence(device.slots[0], Presence.PRESENT)
    await device.close()


async def test_command_that_finds_no_card_tells_at_once(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    (slot,) = device.slots
    script.clear("card0")
    with pytest.raises(DriverError) as raised:
        await slot.transmit(Protocol.T0, b"")
    assert raised.value.reason is Reason.NO_CARD
    await slot.control(2, b"")
    assert slot.presence is Presence.ABSENT
    await device.close()


# -- slots, sharing, locks


@pytest.mark.parametrize("safe", [0, 1])
async def test_slots_run_in_parallel_if_the_driver_says_so(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], safe: int
) -> None:
    for number in range(3):
        script.set(f"card{number}")
    device = await driver.open(config(library("SLOTS=3", f"SLOT_THREAD_SAFE={safe}"), script.path))
    assert len(device.slots) == 3
    assert [call for call in script.calls if call.startswith("Create")] == [
        f"CreateChannel {n} 0" for n in range(3)
    ]
    first = asyncio.create_task(device.slots[0].transmit(Protocol.T0, order(4)))
    await until(lambda: "Holding 0 0" in script.calls)
    second = asyncio.create_task(device.slots[1].transmit(Protocol.T0, b"\x01"))
    if safe:
        assert await second == b"\x01\x90\x00"
        assert not first.done()
    else:
        # the polls of all slots are due meanwhile, and must wait as well
        await asyncio.wait([second], timeout=0.6)
        assert not second.done()
    script.set("go")
    await asyncio.gather(first, second)
    overlaps = int(await device.slots[2].control(1, b""))
    assert (overlaps > 0) == bool(safe)
    await device.close()
    assert sorted(call for call in script.calls if call.startswith("Close")) == [
        f"CloseChannel {n} 0" for n in range(3)
    ]


@pytest.mark.parametrize("safe", [0, 1])
async def test_devices_share_a_helper_if_the_driver_allows(
    driver: IfdHandlerDriver, tmp_path: Path, library: Callable[..., str], safe: int
) -> None:
    path = library("ACCESS=2", f"THREAD_SAFE={safe}")
    scripts = [Script(tmp_path / name) for name in "abc"]
    for script in scripts:
        script.set("card0")
    devices = await asyncio.gather(*(driver.open(config(path, script.path)) for script in scripts))
    assert len(helper_pids(driver)) == 2
    luns = [script.calls[0].split()[1] for script in scripts]
    assert luns == ["0", "10000", "0"]
    first = asyncio.create_task(devices[0].slots[0].transmit(Protocol.T0, order(4)))
    await until(lambda: "Holding 0 0" in scripts[0].calls)
    second = asyncio.create_task(devices[1].slots[0].transmit(Protocol.T0, b"\x01"))
    assert await devices[2].slots[0].transmit(Protocol.T0, b"\x03") == b"\x03\x90\x00"
    if safe:
        assert await second == b"\x01\x90\x00"
    else:
        assert not second.done()
    scripts[0].set("go")
    await asyncio.gather(first, second)

    await devices[0].close()
    assert scripts[0].calls[-1] == "CloseChannel 0 0"
    assert await devices[1].slots[0].transmit(Protocol.T0, b"\x01") == b"\x01\x90\x00"
    again = await driver.open(config(path, scripts[0].path))
    assert scripts[0].calls[-1].startswith("GetCapabilities 0 ")
    assert len(helper_pids(driver)) == 2
    for device in (again, *devices[1:]):
        await device.close()
    assert not helper_pids(driver)


# -- closing and logging


async def test_close_powers_the_card_down(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    await device.slots[0].power_on()
    await device.close()
    await device.close()
    assert script.powers() == ["up", "down"]
    assert script.calls[-1] == "CloseChannel 0 0"
    with pytest.raises(DriverError) as raised:
        await device.slots[0].transmit(Protocol.T0, b"")
    assert raised.value.reason is Reason.NO_DEVICE


async def test_helper_leaves_the_signals_of_its_group_to_the_daemon(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper_pids(driver)[0], number)
    assert await device.slots[0].power_on() == ATR
    await device.close()
    assert script.powers() == ["up", "down"]


async def test_log_lines_of_the_driver(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pypcscd.ifdhandler")
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    await device.slots[0].transmit(Protocol.T0, order(7))
    await until(lambda: "lines" in caplog.text)
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "pypcscd.ifdhandler"]
    assert lines == [
        ("DEBUG", "libscripted.so: debug 1"),
        ("INFO", "libscripted.so: info two"),
        ("ERROR", "libscripted.so: error, rv=0x8010002F"),
        ("CRITICAL", "libscripted.so: bytes: F0 07 00 00 "),
        ("INFO", "libscripted.so: two"),
        ("INFO", r"libscripted.so: lines \x1b[31mred"),
    ]
    await device.close()


async def test_flood_of_log_lines_delays_nothing_and_is_counted(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    count = 3000
    assert await device.slots[0].transmit(Protocol.T0, order(9, count)) == b"\x90\x00"
    await device.slots[0].transmit(Protocol.T0, order(9, 1))
    await device.close()
    messages = [r.getMessage().removeprefix("libscripted.so: ") for r in caplog.records]
    lost = sum(int(text.split()[0]) for text in messages if text.endswith("log lines were lost"))
    assert len([text for text in messages if text.startswith("line ")]) + lost == count + 1


async def test_reopening_many_times_leaves_nothing_behind(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    for _ in range(5):
        device = await driver.open(config(library("SLOTS=2"), script.path))
        await device.close()
        assert not helper_pids(driver)
