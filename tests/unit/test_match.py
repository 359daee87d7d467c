"""Which driver is chosen for a USB interface, and under what name and number."""

from dataclasses import replace
from pathlib import Path

import pytest

from pypcscd.driver import DeviceConfig
from pypcscd.hotplug.bundles import Bundle, load_bundles
from pypcscd.hotplug.interface import UsbInterface
from pypcscd.hotplug.match import Match, Matcher
from pypcscd.hotplug.settings import UsbRule, UsbSettings
from pypcscd.manager.roster import Roster

READER = UsbInterface(
    sys_name="1-2.3:1.10",
    port="1-2.3",
    node="/dev/bus/usb/001/017",
    bus=1,
    address=17,
    vendor=0x076B,
    product=0x3021,
    number=10,
    kind=0x0B,
    endpoints=3,
    made=1,
    manufacturer="ACME",
    product_name="Reader",
    serial="4711",
    label="CCID Interface",
)
KEYBOARD = replace(READER, kind=0x03, endpoints=1, label="", number=0)
TOKEN = replace(READER, endpoints=0, label="")
#: one of the fifteen, without a class of its own
HIDDEN = replace(READER, vendor=0x04E6, product=0xE003, kind=0xFF)
OWN_NAME = "ACME Reader [CCID Interface] (4711)"
FRIENDLY_NAME = "OMNIKEY 3x21 [CCID Interface] (4711)"


def bundle(name: str, friendly: str, *ids: tuple[int, int], is_class_driver: bool = False) -> Bundle:
    contents = Path(f"/drivers/{name}.bundle/Contents")
    readers = dict.fromkeys(ids, friendly)
    return Bundle(contents / "Info.plist", contents / f"Linux/lib{name}.so", is_class_driver, readers)


IDS = (0x076B, 0x3021), (0x04E6, 0xE003)
LIBCCID = bundle("ccid", "OMNIKEY 3x21", *IDS, is_class_driver=True)
VENDOR = bundle("omnikey", "HID Omnikey", *IDS)
OTHER = bundle("other", "Other", (0x0001, 0x0002))
OTHER_CLASS = replace(OTHER, is_class_driver=True)
LIBCCID_PATH = "/drivers/ccid.bundle/Contents/Linux/libccid.so"
VENDOR_PATH = "/drivers/omnikey.bundle/Contents/Linux/libomnikey.so"


def match(interface: UsbInterface, /, *bundles: Bundle, **settings: object) -> Match:
    return Matcher(bundles, UsbSettings(**settings)).match(interface)  # type: ignore[arg-type]


def by_rule(interface: UsbInterface, /, *bundles: Bundle, **rule: object) -> Match:
    return match(interface, *bundles, rules=(UsbRule(origin="/etc/x.toml:7", **rule),))  # type: ignore[arg-type]


def libraries(found: Match) -> list[str]:
    """The drivers in the order in which they are tried."""
    assert bool(found.configs) != bool(found.why)
    assert len({(config.name, config.numbering, config.number) for config in found.configs}) <= 1
    return [config.options.get("library", config.driver) for config in found.configs]


# --- which driver -----------------------------------------------------------------------------


def test_our_driver_by_class() -> None:
    assert match(READER) == Match(
        (
            DeviceConfig(
                driver="ccid",
                name=OWN_NAME,
                numbering="ccid",
                options={"bus": "1", "address": "17", "interface": "10"},
                origin="USB 1-2.3:1.10",
            ),
        )
    )


def test_our_driver_by_class_under_the_name_that_libccid_has_for_it() -> None:
    found = match(READER, LIBCCID)
    assert libraries(found) == ["ccid"]
    assert found.configs[0].name == FRIENDLY_NAME


@pytest.mark.parametrize(("kind", "is_taken"), [(0x0B, True), (0xFF, True), (0x03, False), (0x08, False)])
def test_readers_without_a_class(kind: int, is_taken: bool) -> None:
    assert bool(match(replace(HIDDEN, kind=kind)).configs) is is_taken


@pytest.mark.parametrize("interface", [KEYBOARD, replace(READER, kind=0xFF), replace(READER, kind=0x08)])
def test_other_interfaces_are_left_alone_without_a_word(interface: UsbInterface) -> None:
    assert match(interface) == Match()
    assert match(interface, LIBCCID, OTHER) == Match(), "the class driver's list says nothing of interfaces"
    assert match(replace(interface, is_ignored=True), LIBCCID) == Match()
    assert by_rule(interface, LIBCCID, driver="ignore") == Match()


def test_the_driver_of_the_vendor_comes_first() -> None:
    found = match(READER, LIBCCID, OTHER, VENDOR)
    assert libraries(found) == [VENDOR_PATH, "ccid"]
    assert found.configs[0] == DeviceConfig(
        driver="ifdhandler",
        name="HID Omnikey [CCID Interface] (4711)",
        numbering=VENDOR_PATH,
        options={
            "library": VENDOR_PATH,
            "device": "usb:076b/3021:libudev:10:/dev/bus/usb/001/017",
            "channel": "2097152",
            "doubtful": "no",
        },
        origin="USB 1-2.3:1.10",
    )


def test_of_two_drivers_for_a_reader_the_first_counts() -> None:
    second = replace(bundle("second", "Second", *IDS))
    assert libraries(match(READER, VENDOR, second))[0] == VENDOR_PATH
    assert match(READER, second, VENDOR).configs[0].name.startswith("Second")


def test_the_driver_of_the_vendor_is_asked_about_every_interface() -> None:
    """But what it says of a keyboard is final, and nobody else is asked."""
    found = match(KEYBOARD, LIBCCID, VENDOR)
    assert libraries(found) == [VENDOR_PATH]
    assert found.configs[0].options["doubtful"] == "yes"
    assert match(replace(READER, kind=0xFF), VENDOR).configs[0].options["doubtful"] == "no"


def test_tokens_without_bulk_pipes_need_libccid() -> None:
    found = match(TOKEN, LIBCCID)
    assert libraries(found) == [LIBCCID_PATH]
    assert found.configs[0].numbering == "ccid", "they are numbered together with all others, as under pcscd"
    assert libraries(match(TOKEN, VENDOR, LIBCCID)) == [VENDOR_PATH, LIBCCID_PATH]
    assert match(TOKEN).why == (
        "ACME Reader (4711) (USB 1-2.3:1.10): left alone, "
        "it is a token without bulk pipes (ICCD), which needs libccid: install it"
    )
    assert match(TOKEN, OTHER_CLASS).why.endswith("the one that is installed does not know it")
    assert libraries(match(TOKEN, VENDOR)) == [VENDOR_PATH]


# --- what is left alone -----------------------------------------------------------------------


def test_udev_may_say_that_a_reader_is_to_be_left_alone() -> None:
    why = f"{OWN_NAME} (USB 1-2.3:1.10): left alone, as udev says (PCSCLITE_IGNORE)"
    assert match(replace(READER, is_ignored=True)) == Match(why=why)
    assert match(replace(READER, is_ignored=True), VENDOR).configs == ()
    assert "PCSCLITE_IGNORE" in match(replace(TOKEN, is_ignored=True)).why, "there is nothing to install"


@pytest.mark.parametrize(("part", "is_taken"), [("OMNIKEY", False), ("(4711)", False), ("omnikey", True)])
def test_names_can_be_ignored(part: str, is_taken: bool) -> None:
    found = match(READER, LIBCCID, ignore_names=("none", part))
    assert bool(found.configs) is is_taken
    assert (f'"{part}" is among the names to be ignored' in found.why) is not is_taken


def test_the_whole_name_is_looked_at_when_names_are_ignored() -> None:
    long = replace(READER, serial="S" * 126)
    assert match(long, ignore_names=("S" * 126,)).configs == ()


# --- rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({}, True),
        ({"vendor": 0x076B, "product": 0x3021}, True),
        ({"vendor": 0x076B, "product": 0x3022}, False),
        ({"vendor": 0x076C}, False),
        ({"serial": "4711"}, True),
        ({"serial": "471"}, False),
        ({"port": "1-2.3"}, True),
        ({"port": "1-2"}, False),
        ({"interface": 10}, True),
        ({"interface": 0}, False),
        ({"name": "OMNIKEY*"}, True),
        ({"name": FRIENDLY_NAME.replace("[", "[[]")}, True),
        ({"name": "*3121*"}, False),
        ({"vendor": 0x076B, "serial": "4712"}, False),
    ],
)
def test_all_that_a_rule_says_must_match(rule: dict[str, object], matches: bool) -> None:
    found = by_rule(READER, LIBCCID, driver="ignore", **rule)
    assert bool(found.why) is matches
    if matches:
        assert found.why == f"{FRIENDLY_NAME} (USB 1-2.3:1.10): left alone, as /etc/x.toml:7 says"


def test_spaces_around_a_serial_number_do_not_count() -> None:
    assert by_rule(replace(READER, serial=" 4711 "), driver="ignore", serial="4711").why


def test_the_first_rule_that_matches_counts() -> None:
    rules = (UsbRule(serial="0", index=1), UsbRule(port="1-2.3", index=2), UsbRule(rename="x", index=3))
    (config,) = match(READER, rules=rules).configs
    assert (config.name, config.number) == (OWN_NAME, 2)


def test_a_rule_may_want_our_driver() -> None:
    assert libraries(by_rule(READER, VENDOR, driver="ccid")) == ["ccid"]
    unlisted = replace(READER, kind=0xFF)
    assert libraries(by_rule(unlisted, driver="ccid", vendor=0x076B)) == ["ccid"]
    assert by_rule(KEYBOARD, VENDOR, driver="ccid") == Match()
    assert 'say driver = "libccid" at /etc/x.toml:7' in by_rule(TOKEN, driver="ccid").why


def test_a_rule_may_want_libccid() -> None:
    assert libraries(by_rule(READER, VENDOR, LIBCCID, driver="libccid")) == [LIBCCID_PATH]
    assert by_rule(KEYBOARD, LIBCCID, driver="libccid") == Match()
    assert "wants libccid for it, which is not installed" in by_rule(READER, driver="libccid").why
    assert (
        "wants libccid for it, which does not know it" in by_rule(READER, OTHER_CLASS, driver="libccid").why
    )


def test_a_rule_may_name_a_library() -> None:
    found = by_rule(READER, VENDOR, LIBCCID, driver="/opt/libx.so")
    assert libraries(found) == ["/opt/libx.so"]
    assert found.configs[0].numbering == "/opt/libx.so"
    keyboard = by_rule(KEYBOARD, driver="/opt/libx.so", port="1-2.3")
    assert keyboard.configs[0].options["doubtful"] == "yes"


@pytest.mark.parametrize("driver", ["ccid", "libccid", "/opt/libx.so"])
@pytest.mark.parametrize("kind", [0x03, 0xFF])
def test_a_rule_for_everything_is_for_what_looks_like_a_reader(driver: str, kind: int) -> None:
    """Not for every disk and every network adapter on this machine."""
    other = replace(READER, vendor=1, kind=kind)
    assert by_rule(other, VENDOR, LIBCCID, driver=driver) == Match()
    assert by_rule(READER, VENDOR, LIBCCID, driver=driver, name="*").configs
    assert by_rule(HIDDEN, VENDOR, LIBCCID, driver=driver).configs
    if kind == 0xFF:
        named = by_rule(other, OTHER_CLASS, driver=driver, vendor=1)
        assert named.configs or "does not know it" in named.why


def test_what_libccid_lists_may_still_be_no_reader() -> None:
    (config,) = by_rule(replace(READER, kind=0xFF), LIBCCID, driver="libccid").configs
    assert config.options["doubtful"] == "yes"
    (config,) = by_rule(HIDDEN, LIBCCID, driver="libccid").configs
    assert config.options["doubtful"] == "no"


def test_a_rule_may_set_options_of_our_driver() -> None:
    (config,) = by_rule(READER, options={"escape": "yes"}).configs
    assert config.options == {"bus": "1", "address": "17", "interface": "10", "escape": "yes"}


# --- names and numbers ------------------------------------------------------------------------


def test_a_rule_may_rename_a_reader() -> None:
    """Its numbers do not depend on other readers then, and are the same for all of its drivers."""
    found = by_rule(READER, VENDOR, rename="Front desk")
    assert [(config.name, config.numbering) for config in found.configs] == [
        ("Front desk", "name Front desk"),
        ("Front desk", "name Front desk"),
    ]
    assert match(READER, rules=(UsbRule(rename="Desk"),), name_extension=" at home").configs[0].name == (
        "Desk at home"
    )


def test_fixed_numbers_stay_free_for_their_readers() -> None:
    rules = (
        UsbRule(serial="1", index=0),
        UsbRule(serial="2", index=2),
        UsbRule(serial="3", rename="Desk", index=1),
        UsbRule(serial="4", rename="Desk"),
    )
    roster = Roster()

    def plug_in(serial: str) -> tuple[str, int]:
        (config,) = match(replace(READER, serial=serial), rules=rules, serial_in_names=False).configs
        wish = (config.numbering, config.number, config.spared_numbers)
        return config.numbering, roster.allocate_number(*wish)

    assert plug_in("x") == ("ccid", 1)
    assert plug_in("y") == ("ccid", 3)
    assert plug_in("1") == ("ccid", 0)
    assert plug_in("2") == ("ccid", 2)
    assert plug_in("4") == ("name Desk", 0)
    assert plug_in("3") == ("name Desk", 1)
    # a second reader for the same number gets another, not somebody else's
    assert plug_in("1") == ("ccid", 4)
    roster.release_number("ccid", 0)
    assert plug_in("x") == ("ccid", 5)
    assert plug_in("1") == ("ccid", 0)


def test_a_number_that_is_fixed_for_others_changes_nothing_for_a_reader() -> None:
    """It would be closed and opened when the settings are read again."""
    before = match(READER)
    after = match(READER, rules=(UsbRule(serial="1", index=0),))
    assert after == before
    assert after.configs[0].spared_numbers == {0}


def test_two_readers_of_one_name_have_different_numbers_with_different_drivers_too() -> None:
    rules = (UsbRule(port="1-1", driver="/opt/libx.so"),)
    roster = Roster()

    def plug_in(port: str) -> tuple[str, int]:
        (config,) = match(replace(READER, port=port), rules=rules).configs
        return config.numbering, roster.allocate_number(config.numbering, name=config.name)

    assert plug_in("1-1") == ("/opt/libx.so", 0)
    assert plug_in("1-2") == ("ccid", 1)
    assert roster.allocate_number("ccid", name="Other") == 0
    assert roster.allocate_number("/opt/libx.so", name="Other") == 1
    roster.release_number("/opt/libx.so", 0)
    assert plug_in("1-3") == ("ccid", 2)
    assert plug_in("1-1") == ("/opt/libx.so", 0)


def test_names_of_the_installed_libccid() -> None:
    bundles, _ = load_bundles([Path("/usr/lib/pcsc/drivers")])
    if not any(found.is_class_driver for found in bundles):
        pytest.skip("libccid is not installed")
    twin = replace(READER, vendor=0x08E6, product=0x3437, label="", serial="")
    (config,) = match(twin, *bundles).configs
    assert (config.driver, config.name) == ("ccid", "Gemalto PC Twin Reader")
