"""Protocols, PIN entry, control codes and attributes of a slot, on a simulated reader."""

import asyncio
import struct
import sys
from collections.abc import Callable

import pytest
from ccid_simulator import (
    CHARACTER,
    EXTENDED,
    FAST_ATR,
    PLAIN_ATR,
    SHORT,
    TPDU,
    Bench,
    Card,
    descriptor,
    echo,
)

from pypcscd.driver import DriverError, Reason
from pypcscd.scard import Protocol
from pypcscd_ccid import features
from pypcscd_ccid.slot import CcidSlot

T0, T1 = Protocol.T0, Protocol.T1
APDU = bytes.fromhex("00A4040000")
XFR, ON, OFF, SET, SECURE, STATUS, ESCAPE = 0x6F, 0x62, 0x63, 0x61, 0x69, 0x65, 0x6B
#: T=1 only, at the default rate
T1_ATR = bytes.fromhex("3B 80 81 31 20 75")
VERIFY = (
    struct.pack("<BBBBBHBBHB3sI", 30, 0, 0x82, 8, 0, 0x0408, 2, 1, 0x0409, 0, b"\0\0\0", 5)
    + b"\0\x20\0\x81\0"
)


async def powered(raw: bytes, card: Card | None = None) -> tuple[Bench, CcidSlot]:
    bench = Bench(raw)
    bench.insert(0, card)
    device = await bench.open()
    await device.slots[0].power_on()
    return bench, device.slots[0]


# --- selecting a protocol ------------------------------------------------------------------------


async def test_a_fast_card_on_a_tpdu_reader() -> None:
    bench, slot = await powered(descriptor(TPDU, features=0), Card(FAST_ATR))
    await slot.set_protocol(T1)
    pps, ifs = bench.reader.of_type(XFR)
    assert pps[10:] == bytes.fromhex("FF119678")
    assert ifs[10:] == bytes.fromhex("00C101FE3E")
    assert bench.reader.parameters == [bytes.fromhex("01 96 10 00 45 00 FE 00")]
    assert slot._timeout == 3.0
    await bench.close()


@pytest.mark.parametrize("answer", [b"", bytes.fromhex("FF00FF")], ids=["mute", "wrong"])
async def test_a_failed_pps_is_followed_by_the_default(answer: bytes) -> None:
    card = Card(FAST_ATR)
    card.pps = lambda request: answer if request[2] == 0x96 else request
    bench, slot = await powered(descriptor(TPDU, features=0), card)
    await slot.set_protocol(T1)
    sent = [message[0] for message in bench.reader.received if message[0] != STATUS]
    assert sent == [ON, XFR, OFF, ON, XFR, SET, XFR]
    assert bench.reader.parameters == [bytes.fromhex("01 11 10 00 45 00 FE 00")]
    assert await slot.transmit(T1, APDU) == echo(APDU)
    await bench.close()


async def test_a_card_that_refuses_the_default_too_is_refused() -> None:
    card = Card(FAST_ATR)
    card.pps = lambda request: b""
    bench, slot = await powered(descriptor(TPDU, features=0), card)
    with pytest.raises(DriverError) as refused:
        await slot.set_protocol(T1)
    assert refused.value.reason is Reason.PROTOCOL_REFUSED
    await bench.close()


async def test_a_reader_that_negotiates_is_told_nothing() -> None:
    bench, slot = await powered(descriptor(SHORT, features=0x40), Card(FAST_ATR))
    await slot.set_protocol(T1)
    assert not bench.reader.of_type(SET)
    assert not bench.reader.of_type(XFR)
    await bench.close()


@pytest.mark.parametrize(
    ("error", "reason"), [(0x100, Reason.NOT_SUPPORTED), (0xF6, Reason.PROTOCOL_REFUSED), (10, None)]
)
async def test_refused_parameters(error: int, reason: Reason | None) -> None:
    bench, slot = await powered(descriptor(EXTENDED))
    bench.reader.faults.append(lambda message: [bench.reader.make(0x82, message, error=error)])
    if reason is None:
        await slot.set_protocol(T0)
    else:
        with pytest.raises(DriverError) as refused:
            await slot.set_protocol(T0)
        assert refused.value.reason is reason
    await bench.close()


@pytest.mark.parametrize("raw", [PLAIN_ATR, FAST_ATR, T1_ATR], ids=["T=0", "fast", "T=1"])
async def test_a_reader_that_takes_no_parameters_has_the_cards_first_protocol(raw: bytes) -> None:
    """The manager goes on with it then, as pcscd does."""
    card = Card(raw, respond=lambda apdu: b"\x61\x10")
    bench, slot = await powered(descriptor(TPDU, features=0), card)

    def refuse(message: bytes) -> list[bytes] | None:
        bench.reader.faults.append(refuse)
        if message[0] == SET:
            return [bench.reader.make(0x82, message, error=0x100)]
        if raw is T1_ATR and message[0] == XFR:
            return [bench.reader.make(0x80, message, card.t1.receive(message[10:]))]
        return None

    bench.reader.faults.append(refuse)
    with pytest.raises(DriverError) as refused:
        await slot.set_protocol(T1 if raw is T1_ATR else T0)
    assert refused.value.reason is Reason.NOT_SUPPORTED
    assert await slot.transmit(T1 if raw is T1_ATR else T0, APDU) == b"\x61\x10"
    await bench.close()


@pytest.mark.parametrize(
    ("atr_bytes", "sent"),
    [
        # The ACOS-ID, an Austrian identity card, with a reader of Alcor.
        ("3B DF 96 FF 91 01 31 FE 46 80 31 90 52 41 02 64 05 02 00 AC 73 D6 22 C0 17", [ON, ON, SET]),
        ("3B DF 96 FF 91 81 31 FE 46 80 31 90 52 41 02 64 05 02 00 AC 73 D6 22 C0 97", [ON]),
    ],
    ids=["which it may change", "for good"],
)
async def test_a_card_that_insists_on_too_high_a_rate_is_reset(atr_bytes: str, sent: list[int]) -> None:
    """At a warm reset it offers a lower one, if TA2 does not rule that out."""
    card = Card(bytes.fromhex(atr_bytes))
    warm = bytes.fromhex("3B DF 18 FF 91 01 31 FE 46 80 31 90 52 41 02 64 05 02 00 AC 73 D6 22 C0 99")
    bench, slot = await powered(descriptor(EXTENDED, features=0xBE, max_rate=200_000), card)
    card.atr = warm
    if len(sent) > 1:
        await slot.set_protocol(T1)
        assert bench.reader.parameters[0][1] == 0x18
        assert await slot.transmit(T1, APDU) == echo(APDU)
    else:
        with pytest.raises(DriverError, match="insists on 250000 bit/s"):
            await slot.set_protocol(T1)
    assert [message[0] for message in bench.reader.received if message[0] not in (STATUS, XFR)] == sent
    await bench.close()


async def test_a_card_that_insists_after_its_reset_too_is_refused() -> None:
    card = Card(bytes.fromhex("3B DF 96 FF 91 01 31 FE 46 80 31 90 52 41 02 64 05 02 00 AC 73 D6 22 C0 17"))
    bench, slot = await powered(descriptor(EXTENDED, features=0xBE, max_rate=200_000), card)
    with pytest.raises(DriverError, match="insists on 250000 bit/s"):
        await slot.set_protocol(T1)
    await bench.close()


async def test_what_is_not_offered_is_not_selected() -> None:
    raw = bytearray(descriptor(TPDU))
    raw[6] = 1
    bench, slot = await powered(bytes(raw), Card(FAST_ATR))
    with pytest.raises(DriverError) as refused:
        await slot.set_protocol(T1)
    assert refused.value.reason is Reason.PROTOCOL_UNSUPPORTED
    await slot.power_off()
    with pytest.raises(DriverError) as refused:
        await slot.set_protocol(T0)
    assert refused.value.reason is Reason.PROTOCOL_REFUSED
    await bench.close()


# --- TPDU and character level ----------------------------------------------------------------------


async def test_t0_tpdus_are_passed_as_they_are() -> None:
    bench, slot = await powered(descriptor(TPDU, features=0), Card(respond=lambda tpdu: b"\x61\x10"))
    await slot.set_protocol(T0)
    for tpdu in (APDU[:4], APDU, APDU + b"\x01"):
        assert await slot.transmit(T0, tpdu) == b"\x61\x10"
        assert bench.reader.received[-1][10:] == tpdu
    await bench.close()


@pytest.mark.parametrize("size", [0, 5, 254, 255, 3000])
async def test_t1_by_the_host(size: int) -> None:
    bench, slot = await powered(descriptor(TPDU, features=0), Card(FAST_ATR))
    await slot.set_protocol(T1)
    for _ in range(2):
        assert await slot.transmit(T1, bytes(size)) == echo(bytes(size))
    await bench.close()


async def test_t1_survives_a_parity_error_and_waits_when_asked() -> None:
    bench, slot = await powered(descriptor(TPDU, features=0), Card(FAST_ATR))
    await slot.set_protocol(T1)
    bench.reader.faults.append(
        lambda message: [bench.reader.make(0x80, message, error=0xFD)] if bench.reader.answer(message) else []
    )
    assert await slot.transmit(T1, APDU) == echo(APDU)
    card = bench.reader.cards[0]
    assert card is not None
    card.t1.requests.append((0xC3, b"\x07"))
    assert await slot.transmit(T1, APDU) == echo(APDU)
    assert bench.reader.received[-1][7] == 7
    await bench.close()


async def test_a_mute_t1_card_is_resynchronised_for_the_next_command() -> None:
    bench, slot = await powered(descriptor(TPDU, features=0), Card(FAST_ATR))
    await slot.set_protocol(T1)
    for _ in range(6):
        bench.reader.faults.append(lambda message: [bench.reader.make(0x80, message, error=0xFE)])
    with pytest.raises(DriverError, match="resynchronise"):
        await slot.transmit(T1, APDU)
    assert await slot.transmit(T1, APDU) == echo(APDU)
    await bench.close()


async def test_a_t1_exchange_that_was_given_up_is_made_up_for() -> None:
    card = Card(FAST_ATR)
    bench, slot = await powered(descriptor(TPDU, features=0), card)
    await slot.set_protocol(T1)

    def hear(message: bytes) -> list[bytes]:
        card.t1.receive(message[10:])
        return []

    bench.reader.faults.append(hear)
    heard = len(bench.reader.of_type(XFR))
    waiting = asyncio.ensure_future(slot.transmit(T1, b"given up"))
    await bench.reader.until_received(heard + 1, XFR)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await slot.transmit(T1, APDU) == echo(APDU)
    assert card.t1.runs == [b"given up", APDU]
    await bench.close()


async def test_a_failed_reader_is_no_reason_to_bother_the_card_again() -> None:
    bench, slot = await powered(descriptor(TPDU, features=0), Card(FAST_ATR))
    await slot.set_protocol(T1)
    before = len(bench.reader.of_type(XFR))
    bench.reader.faults.append(lambda message: [bench.reader.make(0x80, message, error=0xFB)])
    with pytest.raises(DriverError, match="hardware"):
        await slot.transmit(T1, APDU)
    assert len(bench.reader.of_type(XFR)) == before + 1
    assert await slot.transmit(T1, APDU) == echo(APDU)
    await bench.close()


def byte_by_byte(respond: Callable[[bytes], bytes], one_at_a_time: bool) -> Callable[[bytes], bytes]:
    """A T=0 card on a reader that passes bytes; its state is in the closure."""
    state: dict[str, bytes] = {"header": b"", "data": b"", "out": b""}

    def receive(data: bytes) -> bytes:
        header = state["header"]
        if not header:
            state["header"] = header = data
            state["out"] = b"" if header[1] != 0xB0 else respond(header)
            return b"\x60"
        state["data"] += data
        if not data and state["out"] and state["out"] != b"sw":
            if not state.get("acked"):
                state["acked"] = b"1"
                return bytes((header[1] ^ (0xFF if one_at_a_time else 0),))
            size = 1 if one_at_a_time else len(state["out"])
            part, state["out"] = state["out"][:size], state["out"][size:] or b"sw"
            state["acked"] = b"" if one_at_a_time else b"1"
            return part
        if header[1] == 0xD6 and len(state["data"]) < header[4]:
            return bytes((header[1] ^ (0xFF if one_at_a_time else 0),))
        if not state.get("sw1"):
            state["sw1"] = b"1"
            return b"\x90"
        state.clear()
        state.update(header=b"", data=b"", out=b"")
        return b"\x00"

    return receive


@pytest.mark.parametrize("one_at_a_time", [False, True])
async def test_t0_byte_by_byte(one_at_a_time: bool) -> None:
    card = Card(respond=byte_by_byte(lambda header: bytes(range(header[4])), one_at_a_time))
    bench, slot = await powered(descriptor(CHARACTER, features=0), card)
    await slot.set_protocol(T0)
    assert await slot.transmit(T0, bytes.fromhex("00B0000004")) == bytes.fromhex("00010203 9000")
    assert await slot.transmit(T0, bytes.fromhex("00D6000003 AABBCC")) == b"\x90\x00"
    assert await slot.transmit(T0, bytes.fromhex("00440000")) == b"\x90\x00"
    assert bench.reader.of_type(XFR)[0][8:10] == b"\x01\x00"
    with pytest.raises(DriverError, match="procedure byte"):
        await slot.transmit(T0, bytes.fromhex("00600000"))
    with pytest.raises(DriverError, match="length byte"):
        await slot.transmit(T0, bytes.fromhex("00D6000003 AA"))
    await bench.close()


async def test_t0_data_longer_than_a_message_of_the_reader() -> None:
    """Such as a Winbond's, of 138 bytes: the card asks for all data at once, and gets them in pieces."""
    sent: list[bytes] = []

    def receive(data: bytes) -> bytes:
        sent.append(data)
        got = sum(map(len, sent))
        return b"\xd6" if got == 5 else b"\x90" if got == 205 and data else b"" if data else b"\x00"

    bench, slot = await powered(descriptor(CHARACTER, features=0, max_message=138), Card(respond=receive))
    await slot.set_protocol(T0)
    command = bytes.fromhex("00D60000C8") + bytes(range(200))
    assert await slot.transmit(T0, command) == b"\x90\x00"
    assert b"".join(sent) == command
    assert [message[8] for message in bench.reader.of_type(XFR)] == [1, 0, 1, 1]
    assert max(map(len, bench.reader.received)) == 138
    await bench.close()


@pytest.mark.parametrize(
    ("max_message", "size", "expected"),
    [(138, 200, [1, 128, 72, 1, 1]), (138, 128, [1, 128, 1, 1]), (271, 54, [1, 53, 1, 1, 1])],
    ids=["in pieces", "at once", "no full packet"],
)
async def test_t0_data_of_the_card_in_messages_of_the_reader(
    max_message: int, size: int, expected: list[int]
) -> None:
    """The card sends all at once, and they are fetched as the reader can pass them on.

    The Oz776 does not end a message that fills its last packet.
    """
    answer = bytes(range(size))
    rest = b""

    def receive(message: bytes) -> list[bytes]:
        nonlocal rest
        rest += b"\xb0" + answer + b"\x90\x00" if message[10:] else b""
        wanted = int.from_bytes(message[8:10], "little")
        part, rest = rest[:wanted], rest[wanted:]
        return [bench.reader.make(0x80, message, part)]

    bench, slot = await powered(descriptor(CHARACTER, features=0, max_message=max_message), Card())
    await slot.set_protocol(T0)
    bench.reader.faults.extend([receive] * 6)
    assert await slot.transmit(T0, bytes((0, 0xB0, 0, 0, size))) == answer + b"\x90\x00"
    assert [message[8] for message in bench.reader.of_type(XFR)] == expected
    await bench.close()


async def test_t1_blocks_fit_into_the_readers_messages() -> None:
    """Of 64 bytes with some security keys; the cards in them say that they take longer blocks."""
    card = Card(FAST_ATR)
    bench, slot = await powered(descriptor(TPDU, features=0xA8, max_message=64), card)
    await slot.set_protocol(T1)
    command = bytes(range(200))
    assert await slot.transmit(T1, command) == echo(command)
    card.t1.requests.append((0xC1, b"\xfe"))
    assert await slot.transmit(T1, command) == echo(command)
    assert max(map(len, bench.reader.received)) == 64
    await bench.close()


@pytest.mark.parametrize("what", ["escape", "PIN"])
async def test_what_the_reader_has_no_room_for_is_refused_and_costs_nothing(what: str) -> None:
    bench = Bench(descriptor(pin=1))
    bench.allows_escape = True
    bench.insert()
    slot = (await bench.open()).slots[0]
    await slot.power_on()
    data = bytes(262)
    code = features.ESCAPE
    if what == "PIN":
        code, data = features.VERIFY_PIN, bytes(15) + (262).to_bytes(4, "little") + data
    with pytest.raises(DriverError, match="takes commands of 261 bytes") as refused:
        await slot.control(code, data)
    assert refused.value.reason is Reason.INVALID_PARAMETER
    async with asyncio.timeout(1):
        assert await slot.transmit(T0, APDU) == echo(APDU)
    await bench.close()


async def test_t1_byte_by_byte() -> None:
    card = Card(FAST_ATR)
    bench, slot = await powered(descriptor(CHARACTER, features=0), card)
    rest = b""

    def in_two_steps(message: bytes) -> list[bytes] | None:
        nonlocal rest
        if message[0] != XFR or message[10:11] == b"\xff":
            return None
        block = card.t1.receive(message[10:]) if message[10:] else rest
        head, rest = (block[:3], block[3:]) if message[10:] else (block, b"")
        assert int.from_bytes(message[8:10], "little") == len(head)
        return [bench.reader.make(0x80, message, head)]

    await slot.set_protocol(T1)
    for _ in range(20):
        bench.reader.faults.append(in_two_steps)
    assert await slot.transmit(T1, APDU) == echo(APDU)
    await bench.close()


# --- PIN entry --------------------------------------------------------------------------------------


async def test_a_pin_is_verified_at_the_reader() -> None:
    bench, slot = await powered(descriptor(EXTENDED, pin=3))
    assert await slot.control(features.VERIFY_PIN, VERIFY) == echo(b"PIN")
    assert bench.reader.of_type(SECURE)[0][10:12] == b"\x00\x1e"
    for error, answer in ((0xEF, b"\x64\x01"), (0xF0, b"\x64\x00")):
        bench.reader.faults.append(
            lambda message, error=error: [bench.reader.make(0x80, message, error=error)]
        )
        assert await slot.control(features.VERIFY_PIN, VERIFY) == answer
    await bench.close()


async def test_a_pin_in_a_t1_block() -> None:
    card = Card(FAST_ATR)
    bench, slot = await powered(descriptor(TPDU, features=0, pin=1), card)
    await slot.set_protocol(T1)
    await slot.transmit(T1, APDU)

    def enter(message: bytes) -> list[bytes]:
        # the reader fills in the PIN and adds the check byte
        head = message[22:25] + b"\0\x20\0\x81\0"
        return [bench.reader.make(0x80, message, card.t1.receive(head + card.t1.edc(head)))]

    bench.reader.faults.append(enter)
    assert await slot.control(features.VERIFY_PIN, VERIFY) == echo(b"\0\x20\0\x81\0")
    # the numbers of blocks go on as if it had been an APDU
    assert await slot.transmit(T1, APDU) == echo(APDU)
    bench.reader.faults.append(lambda message: [bench.reader.make(0x80, message, error=0xEF)])
    assert await slot.control(features.VERIFY_PIN, VERIFY) == b"\x64\x01"
    assert await slot.transmit(T1, APDU) == echo(APDU)
    await bench.close()


async def test_a_pin_block_is_never_sent_without_its_pin() -> None:
    card = Card(FAST_ATR)
    bench, slot = await powered(descriptor(TPDU, features=0, pin=1), card)
    await slot.set_protocol(T1)
    asks_again = card.t1.block(0x81)
    bench.reader.faults.append(lambda message: [bench.reader.make(0x80, message, asks_again)])
    with pytest.raises(DriverError, match="did not get the PIN"):
        await slot.control(features.VERIFY_PIN, VERIFY)
    assert await slot.transmit(T1, APDU) == echo(APDU)
    await bench.close()


async def test_a_pin_can_be_entered_after_an_exchange_that_failed() -> None:
    """Also if no APDU comes between: programs ask for the PIN again at once."""
    card = Card(FAST_ATR)
    bench, slot = await powered(descriptor(TPDU, features=0, pin=1), card)
    await slot.set_protocol(T1)
    bench.reader.faults.append(lambda message: [bench.reader.make(0x80, message, error=0xFB)])
    with pytest.raises(DriverError, match="hardware"):
        await slot.control(features.VERIFY_PIN, VERIFY)

    def enter(message: bytes) -> list[bytes] | None:
        if message[0] != SECURE:
            bench.reader.faults.append(enter)
            return None
        head = message[22:25] + b"\0\x20\0\x81\0"
        return [bench.reader.make(0x80, message, card.t1.receive(head + card.t1.edc(head)))]

    bench.reader.faults.append(enter)
    assert await slot.control(features.VERIFY_PIN, VERIFY) == echo(b"\0\x20\0\x81\0")
    assert card.t1.runs == [b"\0\x20\0\x81\0"]
    assert await slot.transmit(T1, APDU) == echo(APDU)
    await bench.close()


async def test_readers_without_keypad_know_no_pin_commands() -> None:
    bench, slot = await powered(descriptor(EXTENDED))
    for code in (features.VERIFY_PIN, features.MODIFY_PIN, features.PIN_PROPERTIES, 0x42000E11):
        with pytest.raises(DriverError) as refused:
            await slot.control(code, VERIFY)
        assert refused.value.reason is Reason.NOT_SUPPORTED
    assert (await slot.control(features.GET_FEATURE_REQUEST, b"")).hex() == "120442330012"
    assert await slot.control(features.TLV_PROPERTIES, b"")
    await bench.close()


# --- Escape and attributes -----------------------------------------------------------------------------


async def test_escape_must_be_allowed() -> None:
    bench, slot = await powered(descriptor())
    with pytest.raises(DriverError, match="escape=yes"):
        await slot.control(features.ESCAPE, b"hi")
    await bench.close()
    bench = Bench()
    bench.allows_escape = True
    device = await bench.open()
    assert await device.slots[0].control(features.ESCAPE, b"hi") == b"escaped hi"
    assert (await device.slots[0].control(features.GET_FEATURE_REQUEST, b"")).hex().endswith("130442000001")
    await bench.close()


async def test_attributes() -> None:
    bench, slot = await powered(descriptor())
    number = {0x00010102: 0x01020000, 0x0007A007: 261, 0x00020110: 0x00200304}
    for attribute, value in number.items():
        assert await slot.get_attribute(attribute) == value.to_bytes(4, sys.byteorder)
    assert await slot.get_attribute(0x00090303) == bytes.fromhex("3B021450")
    assert await slot.get_attribute(0x00090300) == b"\x02"
    assert await slot.get_attribute(0x00090301) == b"\x01"
    assert await slot.get_attribute(0x00010100) == b""
    with pytest.raises(DriverError) as unknown:
        await slot.get_attribute(0x0FAE)
    assert unknown.value.reason is Reason.UNKNOWN_ATTRIBUTE
    with pytest.raises(DriverError):
        await slot.set_attribute(0x00010100, b"x")
    await slot.power_off()
    assert await slot.get_attribute(0x00090303) == b""
    await bench.close()


async def test_an_emv_reader_is_taught_iso() -> None:
    bench = Bench(vendor=0x046A, product=0x0005)
    bench.insert()
    device = await bench.open()
    bench.reader.faults.append(lambda message: [bench.reader.make(0x80, message, error=0xBB)])
    assert await device.slots[0].power_on() == bytes.fromhex("3B021450")
    (taught,) = bench.reader.of_type(ESCAPE)
    assert taught[10:] == b"\x1f\x01"
    await bench.close()
