"""Answers to reset: those of real cards, each rule by itself, and any bytes at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pypcscd.atr import Atr, InterfaceBytes, parse
from pypcscd.scard import MAX_ATR_SIZE, Protocol

T0, T1, T15 = Protocol.T0, Protocol.T1, Protocol.T15


def atr(text: str) -> Atr:
    return parse(bytes.fromhex(text))


# --- real cards -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "protocols", "default", "specific", "historical", "tck"),
    [
        pytest.param(
            "3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 01 00 00 00 00 6A",
            *(T0 | T1, T0, False, "80 4F 0C A0 00 00 03 06 03 00 01 00 00 00 00", 0x6A),
            id="contactless memory card (Mifare Classic 1K, PC/SC part 3)",
        ),
        pytest.param("3B 81 80 01 80 80", *(T0 | T1, T0, False, "80", 0x80), id="contactless card (DESFire)"),
        pytest.param(
            "3B 88 80 01 00 00 00 00 33 81 81 00 3A",
            *(T0 | T1, T0, False, "00 00 00 00 33 81 81 00", 0x3A),
            id="contactless type B",
        ),
        pytest.param(
            "3B FC 13 00 00 81 31 FE 15 59 75 62 69 6B 65 79 4E 45 4F 72 33 E1",
            *(T1, T1, False, "59 75 62 69 6B 65 79 4E 45 4F 72 33", 0xE1),
            id="YubiKey NEO",
        ),
        pytest.param(
            "3B DA 18 FF 81 B1 FE 75 1F 03 00 31 C5 73 C0 01 40 00 90 00 0C",
            *(T1 | T15, T1, False, "00 31 C5 73 C0 01 40 00 90 00", 0x0C),
            id="OpenPGP card 2.1",
        ),
        pytest.param(
            "3B 9F 95 81 31 FE 9F 00 66 46 53 05 23 00 25 71 DF 00 00 03 90 00 96",
            *(T1, T1, False, "00 66 46 53 05 23 00 25 71 DF 00 00 03 90 00", 0x96),
            id="Feitian token",
        ),
        pytest.param(
            "3B 9F 96 80 1F C7 80 31 A0 73 BE 21 13 67 43 20 07 18 00 00 01 A5",
            *(T0 | T15, T0, False, "80 31 A0 73 BE 21 13 67 43 20 07 18 00 00 01", 0xA5),
            id="SIM card (sysmoUSIM-SJS1)",
        ),
        pytest.param(
            "3B 65 00 00 20 63 CB 68 00",
            *(T0, T0, False, "20 63 CB 68 00", None),
            id="payment card, T=0 only",
        ),
        pytest.param(
            "3B 98 13 40 0A A5 03 01 01 01 AD 13 11",
            *(T0, T0, False, "A5 03 01 01 01 AD 13 11", None),
            id="Belgian eID 1.0, with TC2",
        ),
        pytest.param(
            "3B B2 11 00 10 80 00 04",
            *(T0, T0, True, "00 04", None),
            id="CryptoMemory (AT88SC0404C), TA2: specific T=0",
        ),
        pytest.param("3B 04 A2 13 10 91", *(T0, T0, False, "A2 13 10 91", None), id="memory card (SLE 4442)"),
        pytest.param(
            "3F 65 25 00 52 09 6A 90 00", *(T0, T0, False, "52 09 6A 90 00", None), id="inverse convention"
        ),
    ],
)
def test_real_card(
    text: str, protocols: Protocol, default: Protocol, specific: bool, historical: str, tck: int | None
) -> None:
    decoded = atr(text)
    assert decoded.raw == bytes.fromhex(text)
    assert decoded.convention == ("inverse" if text.startswith("3F") else "direct")
    assert decoded.protocols == protocols
    assert decoded.default_protocol == default
    assert decoded.specific_mode is specific
    assert decoded.historical == bytes.fromhex(historical)
    assert decoded.tck == tck


def test_interface_bytes_of_a_real_card() -> None:
    decoded = atr("3B DA 18 FF 81 B1 FE 75 1F 03 00 31 C5 73 C0 01 40 00 90 00 0C")
    assert decoded.interface == (
        InterfaceBytes(ta=0x18, tb=None, tc=0xFF, td=0x81),
        InterfaceBytes(ta=None, tb=None, tc=None, td=0xB1),
        InterfaceBytes(ta=0xFE, tb=0x75, tc=None, td=0x1F),
        InterfaceBytes(ta=0x03, tb=None, tc=None, td=None),
    )


# --- each rule --------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 34, 100])
def test_length(length: int) -> None:
    with pytest.raises(ValueError, match=f"2 to 33 bytes, not {length}"):
        parse((b"\x3b\x00" + bytes(100))[:length])


@pytest.mark.parametrize("length", [2, 33])
def test_shortest_and_longest(length: int) -> None:
    raw = b"\x3b\x0f".ljust(length, b"\x00")
    assert parse(raw).raw == raw


@pytest.mark.parametrize("first", [0x00, 0x03, 0x23, 0x3A, 0x3C, 0xFF])
def test_initial_character(first: int) -> None:
    with pytest.raises(ValueError, match=f"not {first:02X}"):
        parse(bytes((first, 0)))


@pytest.mark.parametrize(
    "text", ["3B 10", "3B F0 01 02 03", "3B 80", "3B 80 80", "3B 80 F1 01", "3B 80 81 31 FE"]
)
def test_interface_bytes_must_be_complete(text: str) -> None:
    with pytest.raises(ValueError, match="ends within its interface bytes"):
        atr(text)


def test_the_group_that_is_cut_is_named() -> None:
    with pytest.raises(ValueError, match="group 2"):
        atr("3B 80 81")


@pytest.mark.parametrize("flags", range(16))
def test_which_interface_bytes_are_sent(flags: int) -> None:
    wanted = [
        value if flags & bit else None
        for bit, value in zip((1, 2, 4, 8), (0xA1, 0xB1, 0xC1, 0x00), strict=True)
    ]
    sent = bytes(value for value in wanted if value is not None)
    decoded = parse(bytes((0x3B, flags << 4 | 2)) + sent + b"hi")
    assert decoded.historical == b"hi"
    assert decoded.interface == ((InterfaceBytes(*wanted),) if flags else ())


def test_chain_of_groups_ends_with_the_atr() -> None:
    """TD that always announces another TD: 31 of them fit, and there is no 32nd."""
    with pytest.raises(ValueError, match="group 32"):
        parse(b"\x3b\x80" + b"\x80" * 31)
    assert len(parse(b"\x3b\x80" + b"\x80" * 30 + b"\x00").interface) == 31


@pytest.mark.parametrize(
    ("text", "protocols", "default"),
    [
        ("3B 00", T0, T0),
        ("3B 80 00", T0, T0),
        ("3B 80 01", T1, T1),
        ("3B 80 80 01", T0 | T1, T0),
        ("3B 80 81 00", T0 | T1, T1),
        ("3B 80 81 81 1F 00", T1 | T15, T1),
    ],
)
def test_offered_protocols(text: str, protocols: Protocol, default: Protocol) -> None:
    decoded = atr(text)
    assert (decoded.protocols, decoded.default_protocol) == (protocols, default)
    assert not decoded.specific_mode


@pytest.mark.parametrize("number", range(2, 16))
def test_unknown_first_protocol(number: int) -> None:
    """Also T=15, which is no protocol but qualifies global interface bytes."""
    with pytest.raises(ValueError, match=f"T={number} "):
        parse(bytes((0x3B, 0x80, number)))


@pytest.mark.parametrize("number", range(2, 15))
def test_unknown_later_protocol_is_passed_over(number: int) -> None:
    decoded = parse(bytes((0x3B, 0x80, 0x81, number)))
    assert decoded.protocols == T1


@pytest.mark.parametrize("td1", [0x10, 0x11, 0x1E])
@pytest.mark.parametrize(("ta2", "protocol"), [(0x00, T0), (0x01, T1), (0x80, T0), (0x91, T1)])
def test_ta2_restricts_to_one_protocol(td1: int, ta2: int, protocol: Protocol) -> None:
    decoded = parse(bytes((0x3B, 0x80, td1, ta2)))
    assert (decoded.protocols, decoded.default_protocol) == (protocol, protocol)
    assert decoded.specific_mode


def test_ta2_restricts_even_if_more_is_offered() -> None:
    assert atr("3B 80 90 01 00").protocols == T1


@pytest.mark.parametrize("number", range(2, 16))
def test_ta2_with_an_unknown_protocol(number: int) -> None:
    with pytest.raises(ValueError, match=f"T={number} "):
        parse(bytes((0x3B, 0x80, 0x11, number)))


def test_ta1_and_ta3_do_not_restrict() -> None:
    decoded = atr("3B 90 11 81 11 FE")
    assert decoded.interface[0].ta == 0x11
    assert decoded.interface[2].ta == 0xFE
    assert not decoded.specific_mode


@pytest.mark.parametrize(
    ("sent", "historical", "tck"), [(0, "", None), (2, "AABB", None), (3, "AABBCC", None)]
)
def test_historical_bytes_may_be_missing(sent: int, historical: str, tck: int | None) -> None:
    decoded = parse(b"\x3b\x03" + b"\xaa\xbb\xcc"[:sent])
    assert decoded.historical == bytes.fromhex(historical)
    assert decoded.tck == tck


def test_check_character_follows_the_historical_bytes_and_is_not_checked() -> None:
    assert atr("3B 81 01 AA 00").tck == 0x00
    assert atr("3B 81 01 AA").tck is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_takes_any_bytes_and_keeps_a_copy(kind: type) -> None:
    source = bytearray.fromhex("3B 04 A2 13 10 91")
    decoded = parse(kind(source))
    source[2] = 0
    assert decoded.raw == bytes.fromhex("3B 04 A2 13 10 91")
    assert decoded.historical == bytes.fromhex("A2 13 10 91")
    assert hash(decoded) == hash(atr("3B 04 A2 13 10 91"))


# --- anything ---------------------------------------------------------------------------------

ANY_BYTES = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=32).map(b"\x3b".__add__),
    # many groups, so that their ends are reached
    st.lists(st.sampled_from((0x10, 0x80, 0x81, 0x91, 0xF1, 0x00, 0x1F)), max_size=34).map(
        lambda values: b"\x3b" + bytes(values)
    ),
)


@given(ANY_BYTES)
@settings(max_examples=3000, deadline=None)
def test_any_bytes_are_an_atr_or_a_value_error(raw: bytes) -> None:
    try:
        decoded = parse(raw)
    except ValueError as error:
        assert str(error)
        return
    assert decoded.raw == raw
    assert 2 <= len(raw) <= MAX_ATR_SIZE
    assert decoded.protocols
    assert decoded.default_protocol in (T0, T1)
    assert decoded.default_protocol in decoded.protocols
    interface = b"".join(
        bytes(value for value in (group.ta, group.tb, group.tc, group.td) if value is not None)
        for group in decoded.interface
    )
    assert (raw[:2] + interface + decoded.historical) == raw[: 2 + len(interface) + len(decoded.historical)]
    assert len(decoded.historical) <= raw[1] & 0x0F
    assert all(group.td is not None for group in decoded.interface[:-1])
    if decoded.specific_mode:
        assert decoded.protocols == decoded.default_protocol
