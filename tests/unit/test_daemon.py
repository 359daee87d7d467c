"""What becomes of configured readers when their files change."""

from pathlib import Path

from fakes import FakeDevice, FakeSlot
from test_devices import FakeDriver, FakeDrivers

from pypcscd.configuration.config import Config
from pypcscd.daemon import Daemon
from pypcscd.hotplug.devices import DeviceKeeper
from pypcscd.server.rules import SocketConfig

ENTRY = 'FRIENDLYNAME "Stays"\nLIBPATH /bin/sh\nCHANNELID 1\n'
MISTAKEN = ENTRY.replace("CHANNELID 1", "CHANNELID one")


async def test_a_mistake_in_a_file_keeps_the_readers_that_stood_there_last(tmp_path: Path) -> None:
    """The entry moves from one file to another, in which then is a mistake."""
    driver = FakeDriver()
    driver.outcomes = [FakeDevice([FakeSlot()])]
    daemon = Daemon(Config(sockets=(SocketConfig(tmp_path / "s.comm"),)))
    drivers = FakeDrivers(driver)
    drivers._loaded["ifdhandler"] = driver
    daemon.devices = DeviceKeeper(daemon.manager, drivers)
    conf = tmp_path / "conf"
    conf.mkdir()

    async def reload() -> list[str]:
        await daemon._change_native_devices(conf)
        await daemon.devices.settle(5)
        return [reader.name for reader in daemon.manager.roster.everything.snapshot()]

    (conf / "old").write_text(ENTRY)
    assert await reload() == ["Stays 00 00"]
    (conf / "old").rename(conf / "new")
    assert await reload() == ["Stays 00 00"]
    (conf / "new").write_text(MISTAKEN)
    assert await reload() == ["Stays 00 00"]
    # where it was at first does not count any more
    (conf / "new").unlink()
    (conf / "old").write_text(MISTAKEN)
    assert await reload() == []
    await daemon.devices.close()
