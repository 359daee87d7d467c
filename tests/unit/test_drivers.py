"""How drivers are found."""

from importlib.metadata import EntryPoint, entry_points

import pytest

from pypcscd.driver import DeviceOpenError
from pypcscd.hotplug import drivers
from pypcscd.hotplug.drivers import Drivers


def test_our_own_are_those_that_are_installed() -> None:
    """The table that makes the start quick says what pyproject.toml says."""
    installed = {point.name: point.value for point in entry_points(group="pypcscd.drivers")}
    assert drivers._OWN.items() <= installed.items()
    ours = {name for name, value in installed.items() if value.startswith("pypcscd_")}
    assert ours == set(drivers._OWN)


@pytest.mark.parametrize("name", drivers._OWN)
def test_each_loads_once(name: str) -> None:
    loaded = Drivers()
    assert loaded.get(name) is loaded.get(name)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (None, "no driver named 'theirs' is installed (entry-point group pypcscd.drivers)"),
        (
            "no_such_module:Driver",
            "the driver 'theirs' (no_such_module:Driver) does not load: No module named",
        ),
        ("json:Driver", "the driver 'theirs' (json:Driver) does not load: module 'json' has no attribute"),
        ("json:JSONDecoder", "the driver 'theirs' (json:JSONDecoder) is not a pypcscd driver"),
    ],
)
def test_those_of_others(monkeypatch: pytest.MonkeyPatch, place: str | None, why: str) -> None:
    points = [EntryPoint("theirs", place, "pypcscd.drivers")] if place else []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: points)
    with pytest.raises(DeviceOpenError) as caught:
        Drivers().get("theirs")
    assert str(caught.value).startswith(why)
    assert caught.value.permanent


def test_helpers_are_those_of_all_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Drivers()
    for name in ("ifdhandler", "ccid", "virtual"):
        loaded.get(name)
    assert loaded.helpers() == {}
    for name, running in (("ifdhandler", {4711: "/usr/lib/libacme.so"}), ("virtual", {4712: "a card"})):
        monkeypatch.setattr(loaded.get(name), "helpers", lambda running=running: running)
    assert loaded.helpers() == {4711: "/usr/lib/libacme.so", 4712: "a card"}


def test_a_driver_of_others_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("theirs", "pypcscd_virtual.vpcd:VpcdDriver", "pypcscd.drivers")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: points)
    assert type(Drivers().get("theirs")) is type(Drivers().get("vpcd"))
