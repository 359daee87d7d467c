"""Part 10: feature lists, properties, PIN structures; and the table of quirks."""

import struct
from dataclasses import replace

import pytest
from ccid_readers import READER

from pypcscd.driver import DriverError, Reason
from pypcscd_ccid import features, quirks
from pypcscd_ccid.descriptor import Feature, Level
from pypcscd_ccid.quirks import Quirk

NONE = Quirk()
VERIFY_APDU = bytes.fromhex("00 20 00 81 08 FF FF FF FF FF FF FF FF")


def verify(
    apdu: bytes = VERIFY_APDU, condition: int = 2, timeout: int = 30, length: int | None = None
) -> bytes:
    size = len(apdu) if length is None else length
    return (
        struct.pack(
            "<BBBBBHBBHB3sI", timeout, 0, 0x82, 0x08, 0, 0x0408, condition, 1, 0x0409, 0, b"\0\0\0", size
        )
        + apdu
    )


def modify(messages: int = 3) -> bytes:
    apdu = bytes.fromhex("00 24 00 81 00")
    head = struct.pack(
        "<BBBBBBBHBBBHBBB3sI", 0, 0, 0x82, 8, 0, 1, 2, 0x0408, 3, 7, messages, 0x0407, 4, 5, 6, b"\0\0\0", 5
    )
    return head + apdu


def test_features_follow_the_descriptor() -> None:
    pinpad = replace(READER, pin_support=3)
    assert features.feature_list(pinpad, allows_escape=True).hex() == (
        "0604423300060704423300070a044233000a120442330012130442000001"
    )
    assert features.feature_list(READER, allows_escape=False).hex() == "120442330012"
    assert features.feature_list(replace(READER, pin_support=1), allows_escape=False)[:1] == b"\x06"


def test_properties() -> None:
    display = replace(READER, lcd_layout=0x0210)
    assert features.pin_properties(display, NONE) == b"\x10\x02\x07\x00"
    assert features.tlv_properties(
        display, NONE, vendor=0x1234, product=0x5678, allows_escape=False
    ).hex() == ("0102100204021000050202000301000901000b0234120c0278560a0400000100")
    short = replace(READER, level=Level.SHORT_APDU)
    gemalto = quirks.find(0x08E6, 0x3478, 0x100)
    assert features.tlv_properties(short, gemalto, vendor=1, product=2, allows_escape=True).hex() == (
        "010200000301000601040701080201020901010b0201000c0202000a0400000000"
    )


def test_verification() -> None:
    command = features.verify_command(verify(), NONE)
    assert command.payload.hex() == "001e82080008040201090400000000" + VERIFY_APDU.hex()
    assert command.payload[command.prologue : command.prologue + 3] == b"\0\0\0"
    assert command.payload[command.prologue + 3 :] == command.apdu == VERIFY_APDU
    assert command.timeout == 90
    assert features.verify_command(verify(timeout=200), NONE).timeout == 210


@pytest.mark.parametrize(("asked", "known", "sent"), [(0, 7, 2), (8, 7, 2), (7, 7, 7), (7, 2, 2), (1, 2, 2)])
def test_entry_conditions_that_the_keypad_does_not_know_are_replaced(
    asked: int, known: int, sent: int
) -> None:
    assert features.verify_command(verify(condition=asked), Quirk(entry_conditions=known)).payload[7] == sent


@pytest.mark.parametrize(
    ("messages", "indexes"), [(0, "04"), (1, "0405"), (2, "0405"), (3, "040506"), (255, "040506")]
)
def test_modification(messages: int, indexes: str) -> None:
    command = features.modify_command(modify(messages), NONE)
    assert command.payload.hex() == (
        f"0100820800010208040307{messages:02x}0704" + indexes + "0000000024008100"
    )
    assert command.payload[command.prologue + 3 :] == command.apdu


@pytest.mark.parametrize(
    "data",
    [b"", verify()[:22], verify(length=12), verify(length=14), verify() + b"\0", verify(length=0x0D000000)],
)
def test_bad_verifications_are_refused(data: bytes) -> None:
    with pytest.raises(DriverError) as refused:
        features.verify_command(data, NONE)
    assert refused.value.reason is Reason.INVALID_PARAMETER


@pytest.mark.parametrize("data", [b"", modify()[:27], modify(4), modify() + b"\0"])
def test_bad_modifications_are_refused(data: bytes) -> None:
    with pytest.raises(DriverError) as refused:
        features.modify_command(data, NONE)
    assert refused.value.reason is Reason.INVALID_PARAMETER


def test_a_quirk_may_fix_the_messages() -> None:
    assert features.modify_command(modify(9), Quirk(modify_messages=3)).payload[11] == 3


@pytest.mark.parametrize(
    ("vendor", "product", "asked", "number", "indexes"),
    [
        # They have no display, and want all indexes of no messages.
        (0x04E6, 0xE003, 3, 0, "000000"),
        (0x046A, 0x003E, 1, 0, "000000"),
        # They want all, whatever the number.
        (0x08E6, 0x3478, 1, 1, "040506"),
        (0x0982, 0x0008, 0, 0, "040506"),
    ],
)
def test_keypads_with_an_own_idea_of_the_messages_of_a_modification(
    vendor: int, product: int, asked: int, number: int, indexes: str
) -> None:
    payload = features.modify_command(modify(asked), quirks.find(vendor, product, 0x0100)).payload
    assert payload[11] == number
    assert payload[14:-8].hex() == indexes


@pytest.mark.parametrize(
    ("vendor", "product", "number"), [(0x08E6, 0x3478, 1), (0x0982, 0x0008, 1), (0x413C, 0x2101, 0)]
)
def test_keypads_that_know_one_number_of_messages_for_a_verification(
    vendor: int, product: int, number: int
) -> None:
    quirk = quirks.find(vendor, product, 0x0100)
    for asked in (0, 1, 0xFF):
        data = bytearray(verify())
        data[8] = asked
        assert features.verify_command(bytes(data), quirk).payload[8] == number


def test_a_keypad_that_has_the_lengths_of_a_pin_the_other_way_round() -> None:
    swapped = features.verify_command(verify(), quirks.find(0x413C, 0x2100, 0x0100)).payload
    assert swapped[5:7] == verify()[5:7][::-1] != verify()[5:7]


def test_quirks_change_the_descriptor() -> None:
    pinpad = replace(READER, pin_support=3, level=Level.SHORT_APDU)
    omnikey = quirks.apply(quirks.find(0x076B, 0x3A21, 0), pinpad)
    assert (omnikey.level, omnikey.pin_support) == (Level.EXTENDED_APDU, 0)
    assert quirks.apply(quirks.find(0x058F, 0x9540, 0), READER).maximum_rate == 200_000
    assert (
        quirks.apply(quirks.find(0x058F, 0x9540, 0), replace(READER, maximum_rate=9600)).maximum_rate == 9600
    )
    assert quirks.apply(quirks.find(0x09BE, 0x0002, 0), READER).ifsd == 254
    assert quirks.apply(quirks.find(0x1234, 0x5679, 0), pinpad) == pinpad


def test_quirks_of_a_firmware_hold_for_no_other() -> None:
    with_fault = quirks.apply(quirks.find(0x0529, 0x0620, 0x0012), READER)
    assert Feature.AUTO_IFSD in with_fault.features
    assert quirks.find(0x0529, 0x0620, 0x0014) == Quirk()


def test_some_escapes_need_no_permission() -> None:
    assert quirks.allows_escape(NONE, 0x08E6, b"\x02")
    assert not quirks.allows_escape(NONE, 0x08E6, b"\x03")
    assert not quirks.allows_escape(NONE, 0x1234, b"\x02")
    assert quirks.allows_escape(quirks.find(0x076B, 0x5427, 0), 0x076B, b"\x03")
