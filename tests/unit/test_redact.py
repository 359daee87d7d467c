"""What of a command is secret."""

import pytest

from pypcscd.protocol import Command
from pypcscd.protocol.dialects import UNTOLD
from pypcscd.protocol.messages import Control, Transmit
from pypcscd.protocol.observer import NotUnderstood, SeenReply, SeenRequest
from pypcscd.redact import ControlCodes, MessageSecrets, apdu_parts, hide, to_hex

PIN = b"12345678"


def hidden(apdu: str) -> str:
    raw = bytes.fromhex(apdu)
    return "".join(to_hex(raw, apdu_parts(raw)))


@pytest.mark.parametrize(
    ("apdu", "shown"),
    [
        # VERIFY: plain, with Le, other class bits (chaining, channels), SIM class, storage card class
        ("00200001 04 31323334", "0020000104********"),
        ("00200001 04 31323334 00", "0020000104********00"),
        ("10200001 04 31323334", "1020000104********"),
        ("03200081 04 31323334", "0320008104********"),
        ("4F200081 04 31323334", "4F20008104********"),
        ("80200080 04 31323334", "8020008004********"),
        ("A0200001 04 31323334", "A020000104********"),
        ("FF200000 03 FFFFFF", "FF20000003******"),
        ("00210000 04 81023132", "0021000004********"),
        # extended lengths, with and without Le
        ("00200001 000004 31323334", "00200001000004********"),
        ("00200001 000004 31323334 0000", "00200001000004********0000"),
        # nothing to hide: is a PIN wanted, and how many tries are left?
        ("00200081", "00200081"),
        ("00200081 00", "0020008100"),
        ("00200081 000000", "00200081000000"),
        # CHANGE REFERENCE DATA, RESET RETRY COUNTER, DISABLE and ENABLE
        ("00240001 08 3132333435363738", "0024000108****************"),
        ("00240101 04 31323334", "0024010104********"),
        ("00250000 04 81023132", "0025000004********"),
        ("002C0001 08 3132333435363738", "002C000108****************"),
        ("002D0000 04 81023132", "002D000004********"),
        ("A02C0001 02 3132", "A02C000102****"),
        ("A0260001 02 3132", "A026000102****"),
        ("A0280001 02 3132", "A028000102****"),
        # EXTERNAL and MUTUAL AUTHENTICATE, LOAD KEYS, PUT KEY
        ("00820000 04 AABBCCDD", "0082000004********"),
        ("00820000 04 AABBCCDD 08", "0082000004********08"),
        ("84820100 10 000102030405060708090A0B0C0D0E0F", "8482010010" + "*" * 32),
        ("FF820000 06 FFFFFFFFFFFF", "FF82000006************"),
        ("80D80081 04 01800102", "80D8008104********"),
        ("84D80081 04 01800102", "84D8008104********"),
        # keys in data objects: OpenPGP and PIV
        ("00DB3FFF 04 4D020102", "00DB3FFF04********"),
        ("10DB3FFF 04 4D020102", "10DB3FFF04********"),
        ("00DA00D3 04 31323334", "00DA00D304********"),
        ("00FFFFFF 04 03119B00", "00FFFFFF04********"),
        ("00FE0700 04 01020304", "00FE070004********"),
        ("FFD20001 03 AABBCC", "FFD2000103******"),
        # lengths that do not fit: everything behind the header
        ("00200001 08 31323334", "00200001**********"),
        ("00200001 02 31323334", "00200001**********"),
        ("00200001 00 31323334", "00200001**********"),
        ("00200001 00 31", "00200001****"),
    ],
)
def test_secret_commands(apdu: str, shown: str) -> None:
    assert hidden(apdu) == shown


@pytest.mark.parametrize(
    "apdu",
    [
        "",
        "00",
        "00A40400",
        "00A40400 0A A0000000620301 0C0601",
        "00B0000000",
        "0084000008",
        "00860000 04 7C028100",  # GENERAL AUTHENTICATE
        "00870000 04 7C028100",
        "00DA00C4 01 00",
        "00DB0000 01 00",
        "80500000 08 0102030405060708 00",  # INITIALIZE UPDATE
        "80C20000 02 D600",  # a SIM toolkit's ENVELOPE
        "FFB0000004",
    ],
)
def test_other_commands_are_left(apdu: str) -> None:
    assert apdu_parts(bytes.fromhex(apdu)) == ()


@pytest.mark.parametrize(
    ("apdu", "shown"),
    [
        # encrypted: left as it is
        ("0C200001 0F 870301AABB 8E08 1122334455667788", "0C2000010F870301AABB8E081122334455667788"),
        ("6C200001 0F 870301AABB 8E08 1122334455667788", "6C2000010F870301AABB8E081122334455667788"),
        # a MAC only: the PIN itself is in 81
        ("0C200001 10 810431323334 8E08 1122334455667788", "0C200001108104********8E081122334455667788"),
        ("0C200001 11 81810431323334 8E08 1122334455667788", "0C20000111818104********8E081122334455667788"),
        # no data objects at all
        ("0C200001 04 31323334", "0C20000104********"),
        ("0C200001 04 87303132", "0C20000104********"),
    ],
)
def test_secure_messaging(apdu: str, shown: str) -> None:
    assert hidden(apdu) == shown


@pytest.mark.parametrize(
    ("apdu", "shown"),
    [
        ("00C20000 09 00200001 04 31323334", "00C20000090020000104********"),
        ("00C20000 07 00A40000 02 3F00", "00C200000700A40000023F00"),
        ("10C20000 06 00200001 04 31", "10C2000006************"),
        ("00C20000 03 323334", "00C2000003******"),
        ("00C20000 0E 00C20000 09 00200001 04 31323334", "00C200000E" + "**" * 14),
    ],
)
def test_envelopes(apdu: str, shown: str) -> None:
    """A piece of a command cannot be judged, so it is hidden."""
    assert hidden(apdu) == shown


def test_envelopes_in_envelopes() -> None:
    apdu = bytes.fromhex("00200001 04 31323334")
    while len(apdu) < 60_000:
        apdu = bytes.fromhex("00C20000 00") + len(apdu).to_bytes(2, "big") + apdu
    assert apdu_parts(apdu) == ((7, len(apdu)),)


def pin_structure(size: int, order: str, apdu: bytes) -> bytes:
    head = bytearray(b"\x1e" * size)
    head[size - 4 :] = len(apdu).to_bytes(4, "little" if order == "<" else "big")
    return bytes(head) + apdu


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("size", [19, 24])
@pytest.mark.parametrize("code", [0x42330006, 0x42330007, 0x42000DB2])
def test_pin_pads(order: str, size: int, code: int) -> None:
    """The template of a PIN pad's structure is an APDU, whatever the control code."""
    verify = bytes.fromhex("00200001") + bytes([8]) + PIN
    data = pin_structure(size, order, verify)
    parts = ControlCodes().parts(code, data)
    assert hide(data, parts) == data[: size + 5] + b"*" * 8


def test_a_template_that_is_no_known_command_is_hidden() -> None:
    data = pin_structure(19, "<", b"\x00\x99\x00\x00\x08" + PIN)
    assert PIN not in hide(data, ControlCodes().parts(0x42330006, data))


@pytest.mark.parametrize("tag", [0x01, 0x03, 0x06, 0x07, 0x0D, 0x0E, 0x20])
def test_what_is_no_structure_is_hidden_whole(tag: int) -> None:
    data = b"?" + PIN
    codes = ControlCodes()
    assert codes.parts(0x42330000 + tag, data) == ((0, 9),)
    assert codes.parts(0x42001234, data) == ()
    codes.note_answer(0x42000D48, b"\x12\x04\x42\x33\x00\x12" + bytes([tag]) + b"\x04\x42\x00\x12\x34")
    assert codes.parts(0x42001234, data) == ((0, 9),)
    assert codes.parts(0x42330012, data) == ()


def test_only_the_answer_about_features_names_codes() -> None:
    codes = ControlCodes()
    codes.note_answer(0x42000001, b"\x06\x04\x42\x00\x12\x34")
    codes.note_answer(0x42000D48, b"\x06\x05\x42\x00\x12\x34\x00\x00")
    assert codes.parts(0x42001234, PIN) == ()


def test_a_key_for_the_reader() -> None:
    """Escape commands of storage card readers are APDUs of class FF."""
    data = bytes.fromhex("FF820000 06 A0A1A2A3A4A5")
    assert hide(data, ControlCodes().parts(0x42000001, data)) == data[:5] + b"******"


def seen_transmit(apdu: bytes) -> SeenRequest:
    body = Transmit(7, 2, 16, len(apdu), 2, 16, 258)
    return SeenRequest(Command.TRANSMIT, body, apdu, b"H" * 40 + apdu, UNTOLD)


def test_messages() -> None:
    secrets = MessageSecrets()
    verify = bytes.fromhex("0020000108") + PIN
    seen = seen_transmit(verify)
    parts = secrets.parts(seen)
    assert parts == ((5, 13),)
    assert secrets.hide(seen, parts) == b"H" * 40 + verify[:5] + b"********"
    harmless = seen_transmit(b"\x00\xb0\x00\x00\x00")
    assert secrets.hide(harmless, secrets.parts(harmless)) == harmless.raw


def test_messages_of_a_pin_pad() -> None:
    secrets = MessageSecrets()
    request = SeenRequest(Command.CONTROL, Control(7, 0x42001234, 8, 8), PIN, PIN, UNTOLD)
    assert secrets.parts(request) == ()
    features = b"\x06\x04\x42\x00\x12\x34"
    secrets.parts(SeenReply(Command.CONTROL, Control(7, 0x42000D48, 0, 8, 6), features, (), features))
    assert secrets.hide(request, secrets.parts(request)) == b"********"


def test_what_is_not_understood_is_secret() -> None:
    secrets = MessageSecrets()
    strange = NotUnderstood(True, PIN, "it is no request")
    assert secrets.hide(strange, secrets.parts(strange)) == b"********"
