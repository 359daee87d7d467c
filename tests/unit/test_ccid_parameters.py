"""Rates, PPS, parameter structures and time-outs from ATRs."""

from dataclasses import replace

import pytest
from ccid_readers import READER

from pypcscd import atr
from pypcscd.driver import DriverError, Reason
from pypcscd.scard import Protocol
from pypcscd_ccid import parameters
from pypcscd_ccid.descriptor import Feature, Level

T0, T1 = Protocol.T0, Protocol.T1


def card(text: str) -> atr.Atr:
    return atr.parse(bytes.fromhex(text))


#: TA1 = 96 (512/32), T=0 and T=1, IFSC 254, BWI/CWI 45
FAST = card("3B 95 96 80 B1 FE 45 1F 03 11 22 33 44 55")
PLAIN = card("3B 02 14 50")


@pytest.mark.parametrize(
    ("f", "d", "guard", "waiting", "clock", "expected"),
    [
        (372, 1, 0, 10, 4000, 232133),
        (512, 32, 0, 10, 4800, 266240),
        (372, 1, 255, 10, 3580, 259499),
        (0, 1, 0, 10, 4000, 60000),
        (372, 64, 0, 0, 4000, 3000),
    ],
)
def test_timeouts_of_t0(f: int, d: int, guard: int, waiting: int, clock: int, expected: int) -> None:
    assert parameters.timeout_t0(f, d, guard, waiting, clock) == expected


@pytest.mark.parametrize(
    ("f", "d", "guard", "bwi_cwi", "clock", "expected"),
    [
        (372, 1, 0, 0x4D, 4000, 201067),
        (512, 32, 0, 0x45, 4800, 2237),
        (512, 64, 255, 0x75, 4000, 12588),
        (512, 0, 0, 0x4D, 4000, 60000),
        (512, 32, 0, 0x4D, 0, 60000),
    ],
)
def test_timeouts_of_t1(f: int, d: int, guard: int, bwi_cwi: int, clock: int, expected: int) -> None:
    assert parameters.timeout_t1(f, d, guard, bwi_cwi, clock) == expected


def test_a_fast_card_is_asked_for_its_rate() -> None:
    chosen = parameters.select(FAST, T1, READER, ())
    assert chosen.fi_di == 0x96
    assert chosen.pps == bytes.fromhex("FF 11 96 78")
    assert chosen.structure(0x96) == bytes.fromhex("96 10 00 45 00 FE 00")
    assert chosen.ifsd == 254
    assert chosen.sets_parameters


def test_t0_structure() -> None:
    inverse = card("3F 77 18 25 00 00 00 21 02 10 49 00 00")
    chosen = parameters.select(inverse, T0, READER, ())
    assert chosen.structure(0x11) == bytes.fromhex("11 02 00 0A 00")
    with_times = card("3B 60 05 00")  # TB1 TC1 are 05 00
    assert parameters.select(with_times, T0, READER, ()).structure(0x11)[2] == 0


@pytest.mark.parametrize(
    ("maximum", "rates", "expected"),
    [
        (344086, (), 0x96),
        (250000, (250001,), 0x96),
        (249999, (), 0x96),
        (249998, (), 0x95),
        (130000, (10752, 125000), 0x95),
        (250000, (10752, 62500, 100000), 0x94),
        (250000, (10752, 77777), 0x11),
        (10752, (), 0x11),
        (0, (), 0x11),
    ],
)
def test_the_fastest_rate_that_both_can_do(maximum: int, rates: tuple[int, ...], expected: int) -> None:
    reader = replace(READER, maximum_rate=maximum)
    assert parameters.select(FAST, T1, reader, rates).fi_di == expected


@pytest.mark.parametrize(
    ("ta1", "expected"), [("11", 0x11), ("01", 0x11), ("13", 0x13), ("7F", 0x11), ("91", 0x11)]
)
def test_reserved_and_slow_rates_are_the_default(ta1: str, expected: int) -> None:
    assert parameters.select(card(f"3B 10 {ta1}"), T0, READER, ()).fi_di == expected


def test_pps_is_sent_only_where_it_is_needed() -> None:
    assert parameters.select(PLAIN, T0, READER, ()).pps == b""
    slow_reader = replace(READER, maximum_rate=10752)
    assert parameters.select(FAST, T0, slow_reader, ()).pps == b""
    assert parameters.select(FAST, T1, slow_reader, ()).pps == bytes.fromhex("FF 01 FE")
    automatic = replace(READER, features=Feature.AUTO_PPS)
    chosen = parameters.select(FAST, T1, automatic, ())
    assert (chosen.pps, chosen.fi_di, chosen.sets_parameters) == (b"", 0x96, True)


def test_a_reader_that_negotiates_is_left_alone() -> None:
    chosen = parameters.select(FAST, T1, replace(READER, features=Feature.AUTO_NEGOTIATION), ())
    assert (chosen.pps, chosen.sets_parameters) == (b"", False)


@pytest.mark.parametrize(
    ("features", "level", "ifsd", "expected"),
    [
        (Feature(0), Level.TPDU, 254, 254),
        (Feature(0), Level.TPDU, 300, 254),
        (Feature(0), Level.TPDU, 0, 0),
        (Feature.AUTO_IFSD, Level.TPDU, 254, 0),
        (Feature(0), Level.SHORT_APDU, 254, 0),
    ],
)
def test_when_the_ifsd_is_told(features: Feature, level: Level, ifsd: int, expected: int) -> None:
    reader = replace(READER, features=features, level=level, declared_ifsd=ifsd)
    assert parameters.select(FAST, T1, reader, ()).ifsd == expected


def test_specific_mode() -> None:
    fast = card("3B 90 96 10 01")  # TA2 = 01: T=1 only
    assert fast.specific_mode
    chosen = parameters.select(fast, T1, READER, ())
    assert (chosen.fi_di, chosen.pps) == (0x96, b"")
    with pytest.raises(DriverError) as too_fast:
        parameters.select(fast, T1, replace(READER, maximum_rate=100000), ())
    assert too_fast.value.reason is Reason.PROTOCOL_REFUSED
    with pytest.raises(DriverError) as other:
        parameters.select(fast, T0, READER, ())
    assert other.value.reason is Reason.PROTOCOL_REFUSED
    with pytest.raises(DriverError, match="does not tell"):
        parameters.select(card("3B 90 96 10 11"), T1, READER, ())


def test_a_card_that_insists_on_a_slow_rate_gets_it() -> None:
    """In specific mode TA1 holds from the first byte on, whether faster than the default or not."""
    slow = card("3B 90 31 10 01")
    assert parameters.select(slow, T1, READER, ()).fi_di == 0x31
    assert parameters.select(slow, T1, READER, (5376, 10752)).fi_di == 0x31
    with pytest.raises(DriverError, match="5376 bit/s"):
        parameters.select(slow, T1, READER, (10752, 21505))
    # Where it may be negotiated the default holds.
    assert parameters.select(card("3B 90 31 80 01"), T1, READER, ()).fi_di == 0x11


def test_what_the_reader_cannot_speak() -> None:
    with pytest.raises(DriverError) as refused:
        parameters.select(FAST, T1, replace(READER, protocols=1), ())
    assert refused.value.reason is Reason.PROTOCOL_UNSUPPORTED
    with pytest.raises(DriverError):
        parameters.select(FAST, Protocol.RAW, READER, ())


def test_bytes_of_t1_are_those_that_follow_t1() -> None:
    # TD1 T=0, TD2 T=1 with TA3 TB3 TC3 = 20 75 01
    read = parameters.read_atr(card("3B 80 80 71 20 75 01"))
    assert (read.ifsc, read.bwi_cwi, read.uses_crc) == (0x20, 0x75, True)
    # the same bytes after T=15 say something else
    read = parameters.read_atr(card("3B 80 80 7F 20 75 01"))
    assert (read.ifsc, read.bwi_cwi, read.uses_crc) == (32, 0x4D, False)
    assert parameters.read_atr(card("3B 80 80 11 FF")).ifsc == 254


def test_a_card_that_needs_longer_than_it_says_gets_it() -> None:
    """The first OpenPGP cards say 1.4 s, and take up to 10 s to make a key."""
    openpgp = card("3B FA 13 00 FF 81 31 80 45 00 31 C1 73 C0 01 00 00 90 00 B1")
    chosen = parameters.select(openpgp, T1, READER, ())
    assert chosen.structure(0x13)[3] == 0x75
    assert chosen.timeout(4000, 0x13) > 11


def test_the_time_is_that_of_the_slower_possibility() -> None:
    chosen = parameters.select(FAST, T1, READER, ())
    assert chosen.timeout(4000, 0x96) == 3.0
    assert chosen.timeout(4000, 0x11) > chosen.timeout(4000, 0x96)
    plain = parameters.select(PLAIN, T0, READER, ())
    assert plain.timeout(4000, 0x11) == 232.133


def test_answers_to_pps() -> None:
    request = bytes.fromhex("FF 11 96 78")
    assert parameters.check_pps(request, request) == 0x96
    assert parameters.check_pps(request, bytes.fromhex("FF 01 FE")) == 0x11
    for answer in ("", "FF 11 95 7B", "FF 01 FF", "FF 00 FF", "FF 11 96", "FF 11 96 78 00", "00 01 01"):
        with pytest.raises(DriverError) as refused:
            parameters.check_pps(request, bytes.fromhex(answer))
        assert refused.value.reason is Reason.PROTOCOL_REFUSED
