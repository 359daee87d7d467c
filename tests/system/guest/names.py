"""How readers are called: what must be the same with every daemon, because programs remember names."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bed import Bed, main, wait_for

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
#: positions in the list above of those that options make a difference for
CONCERNED = (0, 2, 3, 4, 7)
#: options and environment
SETTINGS: dict[str, tuple[list[str], dict[str, str]]] = {
    "no serial": (["-S"], {}),
    "no interface": (["--reader-name-no-interface"], {}),
    "ignored and extended": (
        [],
        {
            "PCSCLITE_FILTER_IGNORE_READER_NAMES": "(OKCM001170309:[Contactless]:4711",
            "PCSCLITE_FILTER_EXTEND_READER_NAMES": " @desk-7",
        },
    ),
}
QUIET_SECONDS = 1.0


def settled(bed: Bed) -> list[str]:
    """The names, once they have not changed for a while."""
    names, since = bed.readers(), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        time.sleep(0.05)
        if (now := bed.readers()) != names:
            names, since = now, time.monotonic()
    return sorted(names)


def known_interfaces() -> int:
    """How many interfaces the kernel knows, without those of hubs."""
    classes = Path("/sys/bus/usb/devices").glob("*/bInterfaceClass")
    return sum(path.read_text().strip() != "09" for path in classes)


@contextmanager
def plugged(bed: Bed, *numbers: int) -> Iterator[None]:
    """Readers of the list, plugged in one after the other while no daemon looks."""
    with ExitStack() as stack:
        bed.stop()
        interfaces = 0
        for number in numbers:
            model, changes = READERS[number]
            name = f"named{number}"
            bed.simulator.plug(name, model, **changes)
            stack.callback(bed.simulator.order, "unplug", name=name)
            interfaces += len(bed.simulator.state(name)["interfaces"])
        wait_for(lambda: known_interfaces() == interfaces, "the kernel")
        subprocess.run(["udevadm", "settle"], check=True)
        yield
        bed.stop()
    bed.options, bed.environment = [], {}
    bed.start()


def case_one_after_the_other(bed: Bed) -> Any:
    """Everything plugged in while the daemon runs. The interfaces of a device are announced in any order,
    so which of them gets which number is not told."""
    with ExitStack() as stack:
        found = []
        for model, changes in READERS:
            reader = stack.enter_context(bed.reader(model, slots=model == "keyboard", **changes))
            split = [name.rsplit(" ", 2) for name in reader.names]
            found.append([sorted(words[column] for words in split) for column in range(3)])
        return found


def case_gaps(bed: Bed) -> Any:
    """A number that has become free is given to the next."""
    found = []
    plugged: set[str] = set()

    def listed(count: int) -> None:
        wait_for(lambda: len(bed.readers()) == count, f"{count} readers after {bed.readers()}")
        found.append(sorted(bed.readers()))

    def plug(name: str, model: str, count: int, **changes: Any) -> None:
        bed.simulator.plug(name, model, **changes)
        plugged.add(name)
        listed(count)

    def unplug(name: str, count: int) -> None:
        plugged.remove(name)
        bed.simulator.order("unplug", name=name)
        listed(count)

    try:
        plug("first", "gemalto", 1)
        plug("second", "short", 4, max_slot_index=2)
        plug("third", "tpdu", 5)
        unplug("second", 2)
        unplug("first", 1)
        for count, name in enumerate(["fourth", "fifth", "sixth"], start=2):
            plug(name, "gemalto", count)
        return found
    finally:
        for name in set(plugged):
            unplug(name, len(plugged) - 1)


def case_at_the_start(bed: Bed) -> Any:
    """Everything there before the daemon."""
    with plugged(bed, *range(len(READERS))):
        bed.start()
        return settled(bed)


def case_settings(bed: Bed) -> Any:
    """Options and environment that concern names."""
    found = {}
    with plugged(bed, *CONCERNED):
        for setting, (options, environment) in SETTINGS.items():
            bed.options, bed.environment = options, environment
            bed.start()
            found[setting] = settled(bed)
            bed.stop()
    return found


if __name__ == "__main__":
    main(globals())
