"""Functional descriptors: those of all readers that are published, and where they are found."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from pypcscd_ccid import descriptor as ccid
from pypcscd_ccid.descriptor import DescriptorError, Endpoint, Interface, Level

DATA = Path(__file__).parents[1] / "data" / "ccid-descriptors.txt"


class Known(NamedTuple):
    interfaces: int
    level: str
    slots: int
    busy: int
    ifsd: int
    max_message: int
    max_rate: int
    raw: bytes


def read_known() -> list[Known]:
    known = []
    for line in DATA.read_text().splitlines():
        if not line.startswith("#"):
            count, level, slots, busy, ifsd, message, rate, raw = line.split()
            known.append(
                Known(
                    *(int(count), level, int(slots), int(busy), int(ifsd), int(message), int(rate)),
                    bytes.fromhex(raw),
                )
            )
    return known


KNOWN = read_known()
RAW = KNOWN[0].raw


def test_every_published_reader_is_understood() -> None:
    levels: Counter[Level] = Counter()
    for known in KNOWN:
        parsed = ccid.parse(known.raw)
        levels[parsed.level] += known.interfaces
        assert parsed.level.name.lower() == known.level
        assert parsed.slots == known.slots
        assert parsed.declared_busy_slots == known.busy
        assert 1 <= parsed.busy_slots <= parsed.slots
        assert parsed.declared_ifsd == known.ifsd
        assert 0 <= parsed.ifsd <= 254
        assert parsed.max_message == known.max_message
        assert parsed.maximum_rate == known.max_rate
    assert levels == {
        Level.EXTENDED_APDU: 295,
        Level.TPDU: 278,
        Level.SHORT_APDU: 194,
        Level.CHARACTER: 6,
    }


@pytest.mark.parametrize(
    ("slots", "told", "used"), [(2, 5, 2), (2, 0, 1), (1, 0, 1), (3, 2, 2), (8, 8, 8), (1, 255, 1)]
)
def test_busy_slots_are_clamped_at_both_ends(slots: int, told: int, used: int) -> None:
    raw = bytearray(RAW)
    raw[4], raw[53] = slots - 1, told
    assert ccid.parse(bytes(raw)).busy_slots == used


@pytest.mark.parametrize("raw", [b"", RAW[:-1], RAW + b"\0", b"\x35" + RAW[1:], RAW[:1] + b"\x04" + RAW[2:]])
def test_what_is_no_descriptor_is_refused(raw: bytes) -> None:
    with pytest.raises(DescriptorError, match="not valid"):
        ccid.parse(raw)


@pytest.mark.parametrize("length", [0, 10, 18])
def test_a_reader_without_room_for_a_command_is_refused(length: int) -> None:
    with pytest.raises(DescriptorError, match=f"longest message has {length} bytes"):
        ccid.parse(RAW[:44] + length.to_bytes(4, "little") + RAW[48:])


def test_two_levels_at_once_are_refused() -> None:
    raw = bytearray(RAW)
    raw[40:44] = (0x30000).to_bytes(4, "little")
    with pytest.raises(DescriptorError, match="several levels"):
        ccid.parse(bytes(raw))


BULK_OUT = Endpoint(0x01, 2, 64)
BULK_IN = Endpoint(0x82, 2, 64)
INTERRUPT = Endpoint(0x83, 3, 8)


@pytest.mark.parametrize(
    "interface",
    [
        Interface(0, 0x0B, 0, [BULK_OUT, BULK_IN], RAW),
        Interface(0, 0x0B, 0, [BULK_OUT, BULK_IN], b"\x03\x24\x00" + RAW + b"\x02\x30"),
        Interface(0, 0x0B, 0, [BULK_OUT, BULK_IN._replace(extra=RAW)]),
        Interface(0, 0x0B, 0, [BULK_OUT, BULK_IN], RAW[:1] + b"\xff" + RAW[2:]),
        Interface(0, 0xFF, 0, [BULK_OUT, BULK_IN], RAW),
    ],
    ids=["after the interface", "among others", "after the last endpoint", "type FF", "vendor's class"],
)
def test_the_descriptor_is_found(interface: Interface) -> None:
    found = ccid.find_descriptor(interface)
    assert found is not None
    assert found[2:] == RAW[2:]


@pytest.mark.parametrize(
    "interface",
    [
        Interface(0, 0x03, 0, [INTERRUPT], RAW),
        Interface(0, 0xFF, 0, [BULK_OUT, BULK_IN], RAW + b"\x02\x30"),
        Interface(0, 0xFF, 0, [BULK_OUT, BULK_IN._replace(extra=RAW)]),
        Interface(0, 0x0B, 0, [BULK_OUT, BULK_IN], RAW[:40]),
        Interface(0, 0x0B, 0, [BULK_OUT, BULK_IN], b"\x00" + RAW),
    ],
    ids=["HID", "vendor's class and more", "vendor's endpoint", "cut off", "no length"],
)
def test_other_interfaces_are_left_alone(interface: Interface) -> None:
    assert ccid.find_descriptor(interface) is None


def test_pipes_are_found_by_type_and_direction() -> None:
    pipes = ccid.find_pipes(Interface(0, 0x0B, 0, [INTERRUPT, BULK_IN, BULK_OUT]))
    assert pipes == (BULK_IN, BULK_OUT, INTERRUPT)
    assert ccid.find_pipes(Interface(0, 0x0B, 0, [BULK_IN, BULK_OUT])).interrupt is None


def test_interfaces_without_pipes_are_refused_with_a_reason() -> None:
    with pytest.raises(DescriptorError, match="interface 3 has no bulk pipe"):
        ccid.find_pipes(Interface(3, 0x0B, 0, [BULK_IN, INTERRUPT]))
    with pytest.raises(DescriptorError, match="ICCD"):
        ccid.find_pipes(Interface(0, 0x0B, 2, []))
