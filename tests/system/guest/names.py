"""How readers are called: what must be the same with every daemon, because programs remember names."""

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bed import START_SECONDS, Bed, main, wait_for

LONG = "A reader whose interface says at great length what it is, what it was, and what it would like to be"
#: model and changes, in the order of plugging. All of them are known to libccid by vendor and product.
READERS: list[tuple[str, dict[str, Any]]] = [
    ("gemalto", {}),
    ("gemalto", {}),
    ("tpdu", {"serial": "OKCM0011703091440352140371"}),
    ("composite", {"serial": "7F0B53"}),
    # three slots, and an interface string that is not ASCII
    ("short", {"max_slot_index": 2, "label": "Kartenleser für Bürger", "serial": "42"}),
    ("short", {"vendor": 0x0483, "product": 0xACD1, "label": "a & <b> 'c'"}),
    ("short", {"label": LONG, "serial": "00000000000000000000000017"}),
    # the serial number is a part of the interface string
    ("short", {"label": "CCID 4711 Interface", "serial": "4711"}),
    ("short", {"serial": "Nº 5"}),
    ("keyboard", {"serial": "K 1"}),
    ("short", {"label": " blank ", "serial": " 8 "}),
]
#: those of them that differ in how they are numbered
NUMBERED = (0, 1, 3, 4, 9)
#: options and environment that concern names, and how many readers there are then
SETTINGS: dict[str, tuple[list[str], dict[str, str], int]] = {
    "plain": ([], {}, 14),
    "no serial": (["-S"], {}, 14),
    "no interface": (["--reader-name-no-interface"], {}, 14),
    "ignored and extended": (
        [],
        {
            # also the long name: with the extension pcscd cuts off its numbers, and then loses others
            "PCSCLITE_FILTER_IGNORE_READER_NAMES": "(OKCM001170309:[Contactless]:4711:at great length",
            "PCSCLITE_FILTER_EXTEND_READER_NAMES": " @desk-7",
        },
        10,
    ),
}


def known_interfaces() -> int:
    """How many interfaces the kernel knows, without those of hubs."""
    classes = Path("/sys/bus/usb/devices").glob("*/bInterfaceClass")
    return sum(path.read_text().strip() != "09" for path in classes)


def case_one_after_the_other(bed: Bed) -> Any:
    """Plugged in while the daemon runs. The interfaces of a device are announced in any order, so which of
    them gets which number is not told."""
    with ExitStack() as stack:
        found = []
        for model, changes in (READERS[number] for number in NUMBERED):
            reader = stack.enter_context(bed.reader(model, slots=model == "keyboard", **changes))
            split = [name.rsplit(" ", 2) for name in reader.names]
            found.append([sorted(words[column] for words in split) for column in range(3)])
        return found


def case_gaps(bed: Bed) -> Any:
    """A number that has become free is given to the next."""
    found = []
    plugged = []

    def wait_listed(count: int) -> None:
        wait_for(lambda: len(bed.readers()) == count, f"{count} readers after {bed.readers()}", 20)

    def plug(name: str, model: str, count: int, **changes: Any) -> None:
        bed.simulator.plug(name, model, **changes)
        plugged.append(name)
        wait_listed(count)
        found.append(sorted(bed.readers()))

    def unplug(name: str, count: int) -> None:
        plugged.remove(name)
        bed.simulator.order("unplug", name=name)
        wait_listed(count)

    plug("first", "gemalto", 1)
    plug("second", "short", 4, max_slot_index=2)
    plug("third", "tpdu", 5)
    unplug("second", 2)
    unplug("first", 1)
    for count, name in enumerate(["fourth", "fifth", "sixth"], start=2):
        plug(name, "gemalto", count)
    # before its readers, because pcscd is sometimes stuck when several are pulled together
    bed.stop()
    for name in plugged:
        bed.simulator.order("unplug", name=name)
    return found


def case_at_the_start(bed: Bed) -> Any:
    """Everything there before the daemon, which is started with one setting after the other."""
    bed.stop()
    wait_for(lambda: known_interfaces() == 0, "the end of other readers")
    interfaces = 0
    for number, (model, changes) in enumerate(READERS):
        bed.simulator.plug(f"named{number}", model, **changes)
        interfaces += len(bed.simulator.state(f"named{number}")["interfaces"])
    wait_for(lambda: known_interfaces() == interfaces, "the kernel", 20)
    subprocess.run(["udevadm", "settle"], check=True)
    found = {}
    for setting, (bed.options, bed.environment, count) in SETTINGS.items():
        bed.start()
        wait_for(lambda count=count: len(bed.readers()) == count, f"readers: {setting}", START_SECONDS)  # type: ignore[misc]
        found[setting] = sorted(bed.readers())
        bed.stop()
    for number in range(len(READERS)):
        bed.simulator.order("unplug", name=f"named{number}")
    return found


if __name__ == "__main__":
    main(globals(), seconds=240)
