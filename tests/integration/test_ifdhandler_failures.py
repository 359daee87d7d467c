"""Native drivers that crash, hang or cannot be used: what it costs and what is said about it."""

import asyncio
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from scripted import (
    ATR,
    Script,
    build,
    config,
    died,
    helper_pids,
    losses,
    no_leaks,
    open_files,
    order,
    until,
)

from pypcscd.driver import DeviceConfig, DeviceOpenError, DriverError, Presence, Reason
from pypcscd.scard import Protocol
from pypcscd_ifdhandler import channel, elf, process
from pypcscd_ifdhandler.driver import IfdHandlerDriver


@pytest.fixture
async def driver() -> AsyncIterator[IfdHandlerDriver]:
    with no_leaks(), blockbuster_ctx(["pypcscd", "pypcscd_ifdhandler"]):
        driver = IfdHandlerDriver()
        yield driver
        await driver.close()


@pytest.fixture
def killed_daemon(script: Script, library: Callable[..., str]) -> Callable[[], None]:
    """Run a daemon with one reader, powered up, and kill it."""
    program = f"""
import asyncio
from pypcscd.driver import DeviceConfig
from pypcscd_ifdhandler.driver import IfdHandlerDriver
async def main():
    options = {{"library": {library()!r}, "device": {str(script.path)!r}}}
    device = await IfdHandlerDriver().open(DeviceConfig("ifdhandler", "x", "x", options))
    await device.slots[0].power_on()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

    def run() -> None:
        script.set("card0")
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "ready\n"
            daemon.kill()

    return run


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


async def refusal(driver: IfdHandlerDriver, library: str | Path) -> DeviceOpenError:
    """Open a device with a library that does not work; returns the error."""
    with pytest.raises(DeviceOpenError) as raised:
        await driver.open(config(library))
    assert str(library) in str(raised.value)
    assert not helper_pids(driver)
    return raised.value


#: the machine type in the ELF header of this process
MACHINE = struct.unpack_from("=H", elf.own_header(), 18)[0]


def process_library() -> str:
    """A library that is no driver: one that this process has loaded."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return next(path for path in sorted(paths) if "/libc.so" in path)


# -- crashes


@pytest.mark.parametrize(
    ("command", "how"),
    [
        (order(1), "was killed by SIGABRT"),
        (order(2), "was killed by SIGSEGV"),
        (order(3, 7), "ended by itself with status 7"),
    ],
)
async def test_crash_costs_the_helper_only(
    driver: IfdHandlerDriver,
    script: Script,
    library: Callable[..., str],
    tmp_path: Path,
    command: bytes,
    how: str,
) -> None:
    path = library("SLOTS=2", "SLOT_THREAD_SAFE=1", "ACCESS=2", "THREAD_SAFE=1")
    script.set("card0")
    script.set("card1")
    neighbour = Script(tmp_path / "neighbour")
    device = await driver.open(config(path, script.path))
    shared = await driver.open(config(path, neighbour.path))
    other = await driver.open(config(path, neighbour.path))
    losses_of = [losses(each) for each in (device, shared, other)]
    waiting = asyncio.create_task(device.slots[1].transmit(Protocol.T0, order(4)))
    await until(lambda: "Holding 1 0" in script.calls)
    for failing in (asyncio.create_task(device.slots[0].transmit(Protocol.T0, command)), waiting):
        with pytest.raises(DriverError) as raised:
            await failing
        assert raised.value.reason is Reason.NO_DEVICE
    for found in losses_of[:2]:
        (text,) = found
        assert died(text, path, how)
    assert not losses_of[2]
    with pytest.raises(DriverError) as raised:
        await device.slots[0].power_on()
    assert raised.value.reason is Reason.NO_DEVICE
    assert other.slots[0].presence is Presence.ABSENT
    assert await other.slots[0].control(2, b"alive") == b"alive"

    await device.close()
    again = await driver.open(config(path, script.path))
    assert await again.slots[0].power_on() == ATR
    for each in (again, shared, other):
        await each.close()


async def test_loss_before_anybody_listens_is_told_late(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    with pytest.raises(DriverError):
        await device.slots[0].transmit(Protocol.T0, order(1))
    found = losses(device)
    await until(lambda: found)
    await device.close()


async def test_crash_while_loading(driver: IfdHandlerDriver, library: Callable[..., str]) -> None:
    error = await refusal(driver, library("ABORT_ON_LOAD"))
    assert "was killed by SIGABRT while it loaded the library" in str(error)
    assert not error.permanent


async def test_helper_that_dies_while_it_opens_a_reader(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("hold-open")
    opening = asyncio.create_task(driver.open(config(library(), script.path)))
    await until(lambda: script.calls)
    os.kill(helper_pids(driver)[0], signal.SIGKILL)
    with pytest.raises(DeviceOpenError, match="SIGKILL while it opened the reader") as raised:
        await opening
    assert not raised.value.permanent


# -- failing and hanging


async def test_refused_channel_can_be_tried_again(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("fail-open", "612")
    with pytest.raises(DeviceOpenError) as raised:
        await driver.open(config(library(), script.path))
    for words in (library(), str(script.path), "IFD_COMMUNICATION_ERROR (612)"):
        assert words in str(raised.value)
    assert not raised.value.permanent
    assert not helper_pids(driver)
    assert not [call for call in script.calls if call.startswith("Close")]
    script.clear("fail-open")
    device = await driver.open(config(library(), script.path))
    await device.close()


async def test_cancelled_open_leaves_nothing_behind(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    script.set("hold-open")
    opening = asyncio.create_task(driver.open(config(library(), script.path)))
    await until(lambda: script.calls)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    script.clear("hold-open")
    await driver.close()
    assert script.calls[-1] == "CloseChannel 0 0"


async def test_cancelled_open_in_a_shared_helper(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], tmp_path: Path
) -> None:
    path = library("ACCESS=2", "THREAD_SAFE=1")
    device = await driver.open(config(path, script.path))
    slow = Script(tmp_path / "slow")
    slow.set("hold-open")
    opening = asyncio.create_task(driver.open(config(path, slow.path)))
    await until(lambda: slow.calls)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await device.slots[0].control(2, b"alive") == b"alive"
    slow.clear("hold-open")
    await until(lambda: slow.calls[-1] == "CloseChannel 10000 0")
    await device.close()


async def test_refused_channel_in_a_shared_helper(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], tmp_path: Path
) -> None:
    path = library("ACCESS=2", "THREAD_SAFE=1")
    device = await driver.open(config(path, script.path))
    second = Script(tmp_path / "second")
    second.set("fail-open", "617")
    with pytest.raises(DeviceOpenError, match="IFD_NO_SUCH_DEVICE"):
        await driver.open(config(path, second.path))
    second.clear("fail-open")
    again = await driver.open(config(path, second.path))
    assert [call for call in second.calls if call.startswith("Create")] == ["CreateChannel 10000 0"] * 2
    assert len(helper_pids(driver)) == 1
    await device.close()
    assert await again.slots[0].control(2, b"alive") == b"alive"
    await again.close()


async def test_helper_that_is_stuck_is_killed_at_close(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    script.set("card0")
    script.set("card1")
    device = await driver.open(config(library("SLOTS=2", "SLOT_THREAD_SAFE=1"), script.path))
    found = losses(device)
    await device.slots[1].power_on()
    stuck = asyncio.create_task(device.slots[0].transmit(Protocol.T0, order(4)))
    await until(lambda: "Holding 0 0" in script.calls)
    async with asyncio.timeout(process.CLOSE_LIMIT + process.KILL_LIMIT):
        await device.close()
    with pytest.raises(DriverError) as raised:
        await stuck
    assert raised.value.reason is Reason.NO_DEVICE
    assert script.powers() == ["up", "down"]
    assert "did not close its readers within 2 s and is killed" in caplog.text
    assert not found


async def test_driver_that_does_not_return_from_a_cancelled_command_is_killed(
    driver: IfdHandlerDriver,
    script: Script,
    library: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "GIVEN_UP_LIMIT", 0.05)
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    found = losses(device)
    slow = asyncio.create_task(device.slots[0].transmit(Protocol.T0, order(4)))
    await until(lambda: "Holding 0 0" in script.calls)
    slow.cancel()
    following = asyncio.create_task(device.slots[0].transmit(Protocol.T0, b""))
    with pytest.raises(DriverError) as raised:
        await following
    assert raised.value.reason is Reason.NO_DEVICE
    assert died(found[0], library(), "was killed by SIGKILL")
    assert f"{library()} has not returned from a cancelled command" in caplog.text
    await device.close()


async def test_command_that_lasts_too_long_is_given_up(
    driver: IfdHandlerDriver,
    script: Script,
    library: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script.set("card0")
    device = await driver.open(config(library(), script.path))
    with monkeypatch.context() as impatient:
        impatient.setattr(channel, "COMMAND_LIMIT", 0.05)
        slow = asyncio.create_task(device.slots[0].transmit(Protocol.T0, order(4)))
        async with asyncio.timeout(30):
            with pytest.raises(DriverError, match="within") as raised:
                await slow
    assert raised.value.reason is Reason.TIMEOUT
    # the driver comes to an end with it after all, and is asked again
    following = asyncio.create_task(device.slots[0].control(2, b"alive"))
    await until(lambda: "Holding 0 0" in script.calls)
    script.set("go")
    assert await following == b"alive"
    await device.close()


async def test_stuck_reader_does_not_cost_those_that_share_its_helper(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], tmp_path: Path
) -> None:
    path = library("ACCESS=3", "THREAD_SAFE=1")
    script.set("card0")
    neighbour = Script(tmp_path / "neighbour")
    device = await driver.open(config(path, script.path))
    other = await driver.open(config(path, neighbour.path))
    stuck = asyncio.create_task(device.slots[0].transmit(Protocol.T0, order(4)))
    await until(lambda: "Holding 0 0" in script.calls)
    await device.close()
    with pytest.raises(DriverError):
        await stuck
    assert await other.slots[0].control(2, b"alive") == b"alive"
    # a new reader gets a helper that nothing hangs in
    third = await driver.open(config(path, neighbour.path))
    assert len(helper_pids(driver)) == 2
    script.set("go")
    await until(lambda: script.calls[-1] == "CloseChannel 0 0")
    await third.close()
    await other.close()


async def test_helper_closes_its_readers_when_the_daemon_is_killed(
    script: Script, killed_daemon: Callable[[], None]
) -> None:
    with no_leaks():
        killed_daemon()
        await until(lambda: script.calls[-1] == "CloseChannel 0 0")
        assert script.powers() == ["up", "down"]


# -- libraries that cannot be used


async def test_missing_library(driver: IfdHandlerDriver, tmp_path: Path) -> None:
    error = await refusal(driver, tmp_path / "libnone.so")
    assert "there is no driver library" in str(error)
    assert error.permanent


async def test_text_file(driver: IfdHandlerDriver, tmp_path: Path) -> None:
    path = tmp_path / "libtext.so"
    path.write_text("INPUT(-lother)\n")
    error = await refusal(driver, path)
    assert "is not a shared library (no ELF header)" in str(error)
    assert error.permanent


async def test_32_bit_library(driver: IfdHandlerDriver, tmp_path: Path) -> None:
    path = tmp_path / "lib32.so"
    # class 1: 32 bits; data 1: little-endian; type 3: shared object; machine 3: i386
    path.write_bytes(b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x03\x00\x03\x00" + bytes(32))
    error = await refusal(driver, path)
    assert "is a 32-bit library (i386); this daemon is 64-bit" in str(error)
    assert error.permanent


async def test_damaged_library(driver: IfdHandlerDriver, tmp_path: Path) -> None:
    path = tmp_path / "libdamaged.so"
    bits, order = 8 * struct.calcsize("P") // 32, 1 if sys.byteorder == "little" else 2
    identification = b"\x7fELF" + bytes([bits, order, 1]) + bytes(9)
    path.write_bytes(identification + struct.pack("=HH", 3, MACHINE))
    error = await refusal(driver, path)
    assert "cannot be loaded: " in str(error)
    assert error.permanent


async def test_library_without_a_required_function(
    driver: IfdHandlerDriver, library: Callable[..., str]
) -> None:
    error = await refusal(driver, library("NO_POWER"))
    assert "it lacks IFDHPowerICC;" in str(error)
    assert error.permanent


async def test_library_that_is_no_driver(driver: IfdHandlerDriver) -> None:
    error = await refusal(driver, process_library())
    assert "it lacks IFDHCreateChannel, IFDHCloseChannel, " in str(error)


async def test_library_whose_dependency_is_missing(driver: IfdHandlerDriver, tmp_path: Path) -> None:
    build(tmp_path, name="liba.so")
    path = build(tmp_path, name="libb.so", linked=("-Wl,--no-as-needed", f"-L{tmp_path}", "-la"))
    # the name under which it was linked is found no more, as there is no path to search it in
    error = await refusal(driver, path)
    assert "liba.so" in str(error)
    assert error.permanent


async def test_unreadable_library(
    driver: IfdHandlerDriver, library: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "libsecret.so"
    shutil.copy(library(), path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    error = await refusal(driver, path)
    assert "may not be read" in str(error)


async def test_function_that_nobody_has_is_warned_of(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    script.set("card0")
    device = await driver.open(config(library("UNDEFINED"), script.path))
    assert "nobody_has_this_function" in caplog.text
    found = losses(device)
    assert await device.slots[0].transmit(Protocol.T0, b"") == b"\x90\x00"
    with pytest.raises(DriverError) as raised:
        await device.slots[0].transmit(Protocol.T0, order(10))
    assert raised.value.reason is Reason.NO_DEVICE
    assert died(found[0], library("UNDEFINED"), "ended by itself with status 127")
    await device.close()


def run_instead(program: str) -> Callable[[int, int, int, str], list[str]]:
    """A command line for helpers that run another program."""
    return lambda control, log, priority, path: [
        *(sys.executable, "-c", program, str(control), str(log), str(priority), path)
    ]


async def test_compiled_part_is_missing(
    driver: IfdHandlerDriver, library: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys; sys.modules['pypcscd_ifdhandler._native'] = None;"
        "from pypcscd_ifdhandler.helper import main; main(sys.argv[1:])"
    )
    monkeypatch.setattr(process, "helper_command", run_instead(program))
    with pytest.raises(DeviceOpenError, match="install gcc and python3-dev and reinstall") as raised:
        await driver.open(config(library()))
    assert raised.value.permanent


async def test_helper_that_sends_nonsense_is_killed(
    driver: IfdHandlerDriver, library: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import signal, socket, sys; socket.socket(fileno=int(sys.argv[1])).send(b'nonsense'); signal.pause()"
    )
    monkeypatch.setattr(process, "helper_command", run_instead(program))
    error = await refusal(driver, library())
    assert "was killed by SIGKILL" in str(error)


async def test_library_that_does_not_load_in_time(
    driver: IfdHandlerDriver, library: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "helper_command", run_instead("import signal; signal.pause()"))
    monkeypatch.setattr(process, "CLOSE_LIMIT", 0.05)
    monkeypatch.setattr("pypcscd_ifdhandler.driver.LOAD_LIMIT", 0.05)
    with pytest.raises(DeviceOpenError, match=r"did not load within 0\.05 s") as raised:
        await driver.open(config(library()))
    assert not raised.value.permanent


async def test_reader_that_does_not_open_in_time(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pypcscd_ifdhandler.driver.OPEN_LIMIT", 0.05)
    monkeypatch.setattr(process, "CLOSE_LIMIT", 0.05)
    script.set("hold-open")
    with pytest.raises(DeviceOpenError, match=r"did not open the reader within 0\.05 s") as raised:
        await driver.open(config(library(), script.path))
    assert not raised.value.permanent


async def test_helper_inherits_nothing_else(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    leaked = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        device = await driver.open(config(library(), script.path))
        assert "/dev/zero" not in open_files(helper_pids(driver)[0])
        await device.close()
    finally:
        os.close(leaked)


async def test_program_that_cannot_be_started(
    driver: IfdHandlerDriver, library: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "helper_command", lambda *_: ["/nonexistent/python"])
    error = await refusal(driver, library())
    assert "cannot start a helper process" in str(error)
    assert not error.permanent


@pytest.mark.parametrize(
    ("options", "words"),
    [({}, "no driver library is named"), ({"library": "/x.so", "channel": "0x1"}, 'channel "0x1"')],
)
async def test_options_are_checked(driver: IfdHandlerDriver, options: dict[str, str], words: str) -> None:
    with pytest.raises(DeviceOpenError, match=words) as raised:
        await driver.open(DeviceConfig("ifdhandler", "x", "x", options))
    assert raised.value.permanent


# -- in one turn of the event loop, which is busy meanwhile


async def test_helper_that_dies_right_after_it_opened_a_reader(
    driver: IfdHandlerDriver, script: Script, library: Callable[..., str]
) -> None:
    """Its last answer and its end are found at once; the loss must not be missed."""
    script.set("hold-open")
    opening = asyncio.create_task(driver.open(config(library(), script.path)))
    await until(lambda: script.calls)
    script.clear("hold-open")
    sleep_long_enough()
    os.kill(helper_pids(driver)[0], signal.SIGKILL)
    sleep_long_enough()
    with pytest.raises(DeviceOpenError, match="just after it opened"):
        await opening


async def test_helper_that_sends_nonsense_and_ends(
    driver: IfdHandlerDriver, library: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sent last is read when its process has been reaped, and there is nobody to be killed."""
    program = (
        "import socket, sys; control = socket.socket(fileno=int(sys.argv[1]));"
        "[control.send(b'nonsense') for _ in range(3)]"
    )
    monkeypatch.setattr(process, "helper_command", run_instead(program))
    opening = asyncio.create_task(driver.open(config(library())))
    await until(lambda: helper_pids(driver))
    sleep_long_enough()
    with pytest.raises(DeviceOpenError, match="ended by itself"):
        await opening
    assert not helper_pids(driver)


def sleep_long_enough() -> None:
    """As if something else took the event loop so long; the helpers go on."""
    subprocess.run(["sleep", "1"], check=True)
