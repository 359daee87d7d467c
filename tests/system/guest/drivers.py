"""Which driver drives a reader, and the rules for names and numbers."""

import re
import shutil
from contextlib import ExitStack
from pathlib import Path

from bed import Bed, Card, main

FOLDER = Path("/run/drivers")
INSTALLED = Path("/usr/lib/pcsc/drivers")
BUNDLE = "ifd-ccid.bundle"
CARD = {"0": {"protocol": 0}}


def restart(bed: Bed, text: str = "", **environment: str) -> None:
    """Start the daemon with these settings."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "pypcscd.toml"
    path.write_text(text)
    bed.stop()
    bed.options, bed.environment = ["--settings", str(path)], environment
    bed.start()


def libraries(bed: Bed) -> set[str]:
    """The native drivers that are in use."""
    found = set()
    for task in Path(f"/proc/{bed.process.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            maps = Path(f"/proc/{child}/maps").read_text()
            found |= {line.split()[-1] for line in maps.splitlines() if line.endswith("libccid.so")}
    return found


def use(card: Card) -> None:
    card.exchange(("00B0000010", bytes(range(16)) + b"\x90\x00"))


def case_libccid_by_a_rule(bed: Bed) -> list[str]:
    """Its readers and those of our own driver are numbered together, as if all were libccid's."""
    rule = '[[usb.reader]]\nvendor = "076B"\ndriver = "libccid"\n'
    restart(bed, rule)
    with ExitStack() as stack:
        readers = [stack.enter_context(bed.reader(model, CARD)) for model in ("gemalto", "tpdu")]
        for reader in readers:
            use(reader.connect())
        assert libraries(bed) == {str(INSTALLED / BUNDLE / "Contents/Linux/libccid.so")}
        return [name for reader in readers for name in reader.names]


def make_bundle(old: str, new: str) -> str:
    """A vendor's driver in a directory of its own; the search path with it."""
    directory = FOLDER / "vendor"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(INSTALLED / BUNDLE, directory / BUNDLE)
    path = directory / BUNDLE / "Contents" / "Info.plist"
    text = path.read_text().replace("CCIDCLASSDRIVER", "VENDOR")
    assert old in text
    path.write_text(text.replace(old, new))
    return f"{directory}:{INSTALLED}"


def case_driver_of_a_vendor(bed: Bed) -> list[str]:
    """It is asked about the keyboard in the same device, too, which is not its business."""
    restart(bed, PCSCLITE_HP_DROPDIR=make_bundle("Todos CX00", "Vendor &amp; Sons"))
    end = bed.log.stat().st_size
    with bed.reader("keyboard", {"1:0": {"protocol": 0}}, slots=1, serial="K") as reader:
        use(reader.connect())
        assert libraries(bed) == {str(FOLDER / "vendor" / BUNDLE / "Contents/Linux/libccid.so")}
        log = bed.log.read_bytes()[end:].decode(errors="replace")
        assert "trying" not in log and "617" not in log, log
        return reader.names


def case_driver_of_a_vendor_that_does_not_load(bed: Bed) -> list[str]:
    """Our own driver takes over; the name stays."""
    search_path = make_bundle("<string>libccid.so</string>", "<string>missing.so</string>")
    restart(bed, PCSCLITE_HP_DROPDIR=search_path)
    with bed.reader("short", CARD, serial="R") as reader:
        use(reader.connect())
        assert libraries(bed) == set()
        return reader.names


def case_fixed_names_and_numbers(bed: Bed) -> list[list[str]]:
    """In whatever order the readers come."""
    rules = """
[[usb.reader]]
serial = "A"
rename = "Front desk"

[[usb.reader]]
serial = "B"
index = 0
options = { escape = true }
"""
    found = []
    restart(bed, rules)
    for order in ("CBA", "ACB"):
        with ExitStack() as stack:
            for serial in order:
                stack.enter_context(bed.reader("gemalto", CARD, serial=serial))
            found.append(sorted(bed.readers()))
    return found


def case_a_number_that_is_taken(bed: Bed) -> list[str]:
    """If a rule with a number matches two readers, the log says which one has it."""
    restart(bed, '[[usb.reader]]\nvendor = "08E6"\nindex = 5\n')
    with bed.reader("gemalto", CARD, serial="A"):
        end = bed.log_end()
        with bed.reader("gemalto", CARD, serial="B"):
            said = re.search(
                r"WARNING (.*\(B\)) \(USB [\d-]+:1\.0\): it should be (.*?),", bed.log_since(end)
            )
            assert said is not None, bed.log_since(end)
            because = re.search(r", because (.*\(A\)) \(USB [\d-]+:1\.0\) has 05", bed.log_since(end))
            assert because is not None, bed.log_since(end)
            return [*sorted(bed.readers()), said[1], said[2], because[1]]


if __name__ == "__main__":
    main(globals())
