"""Virtual readers and the ready-made cards, driven through the driver interface."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import given
from hypothesis import strategies as st

from pypcscd import atr as atrs
from pypcscd.driver import DeviceConfig, DeviceOpenError, DriverError, Presence, Reason
from pypcscd.scard import Attribute, Protocol
from pypcscd_virtual import apdu as apdus
from pypcscd_virtual import cards
from pypcscd_virtual.attributes import GET_FEATURE_REQUEST
from pypcscd_virtual.card import DEFAULT_ATR, Card
from pypcscd_virtual.cards import CardNameError, Echo, Hello
from pypcscd_virtual.driver import VirtualDevice, VirtualDriver, VirtualSlot
from pypcscd_virtual.sle4442 import Sle4442

BOTH = Protocol.T0 | Protocol.T1
SELECT_HELLO = "00 A4 04 00 0A A0 00 00 00 62 03 01 0C 06 01"
SELECT_SLE4442 = "FF A4 00 00 01 06"
PRESENT_DEFAULT = "FF 20 00 00 03 FF FF FF"


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    with blockbuster_ctx() as blockbuster:
        yield blockbuster


async def powered(card: Card) -> VirtualSlot:
    slot = VirtualDevice(card).slot
    await slot.power_on()
    return slot


async def ask(slot: VirtualSlot, command: str) -> str:
    return (await slot.transmit(Protocol.T0, bytes.fromhex(command))).hex(" ").upper()


# --- command APDUs


@pytest.mark.parametrize(
    ("apdu", "data", "ne", "extended"),
    [
        ("00 B0 01 02", "", 0, False),
        ("00 B0 01 02 10", "", 16, False),
        ("00 B0 01 02 00", "", 256, False),
        ("00 B0 01 02 02 AA BB", "AA BB", 0, False),
        ("00 B0 01 02 02 AA BB 08", "AA BB", 8, False),
        ("00 B0 01 02 02 AA BB 00", "AA BB", 256, False),
        ("00 B0 01 02 00 01 00", "", 256, True),
        ("00 B0 01 02 00 00 00", "", 65536, True),
        ("00 B0 01 02 00 00 01 AA", "AA", 0, True),
        ("00 B0 01 02 00 00 01 AA 00 20", "AA", 32, True),
        ("00 B0 01 02 00 00 01 AA 00 00", "AA", 65536, True),
    ],
)
def test_the_seven_cases(apdu: str, data: str, ne: int, extended: bool) -> None:
    command = apdus.parse(bytes.fromhex(apdu))
    assert command == apdus.Command(0x00, 0xB0, 0x01, 0x02, bytes.fromhex(data), ne, extended)


@pytest.mark.parametrize(
    "apdu",
    [
        "",
        "00 B0 00",
        "00 B0 00 00 02 AA",
        "00 B0 00 00 01 AA 00 00",
        "00 B0 00 00 00 01",
        "00 B0 00 00 00 00 00 00",
        "00 B0 00 00 00 00 00 00 00",
        "00 B0 00 00 00 00 02 AA",
        "00 B0 00 00 00 00 01 AA 00",
    ],
)
def test_lengths_that_contradict_each_other(apdu: str) -> None:
    with pytest.raises(ValueError):
        apdus.parse(bytes.fromhex(apdu))


@given(st.binary(min_size=1, max_size=65535), st.sampled_from([None, 1, 255, 256, 257, 65536]))
def test_extended_commands_are_taken_apart(data: bytes, ne: int | None) -> None:
    le = b"" if ne is None else (ne % 65536).to_bytes(2, "big")
    command = apdus.parse(b"\x80\xd6\x01\x02\0" + len(data).to_bytes(2, "big") + data + le)
    assert (command.data, command.ne, command.extended) == (data, ne or 0, True)


@given(st.binary(max_size=600))
def test_any_bytes_are_parsed_or_refused(apdu: bytes) -> None:
    try:
        command = apdus.parse(apdu)
    except ValueError:
        return
    assert len(command.data) <= len(apdu) - 4
    assert 0 <= command.ne <= 65536


# --- answers to reset


@pytest.mark.parametrize(
    ("atr", "offered", "historical"),
    [
        (DEFAULT_ATR, BOTH, b"pypcscd"),
        (Hello.atr, BOTH, b"hello"),
        (Echo.atr, BOTH, bytes.fromhex("80 73 00 00 40")),
        (Sle4442.atr, Protocol.T0, bytes.fromhex("A2 13 10 91")),
    ],
)
def test_answers_to_reset_are_valid(atr: bytes, offered: Protocol, historical: bytes) -> None:
    parsed = atrs.parse(atr)
    assert parsed.protocols == offered
    assert parsed.default_protocol == Protocol.T0
    assert parsed.historical == historical
    if offered == BOTH:
        # with T=1 on offer there is a check character that makes the XOR of all after TS zero
        check = 0
        for byte in atr[1:]:
            check ^= byte
        assert parsed.tck is not None
        assert check == 0


# --- hello


async def test_hello_greets_whoever_selected_it() -> None:
    slot = await powered(Hello())
    assert await ask(slot, SELECT_HELLO) == "90 00"
    greeting = b"Hello world!".hex(" ").upper() + " 90 00"
    for command in ("00 00 00 00", "00 00 00 00 00", "00 00 00 00 0C"):
        assert await ask(slot, command) == greeting
    assert await ask(slot, "00 00 00 00 05") == "6C 0C"


async def test_a_card_without_power_does_not_answer() -> None:
    slot = await powered(Hello())
    await slot.power_off()
    assert await slot.get_attribute(Attribute.ATR_STRING) == b""
    with pytest.raises(DriverError) as caught:
        await slot.transmit(Protocol.T0, bytes(4))
    assert caught.value.reason is Reason.POWER


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("00 00 00 00", "69 85"),
        ("00 A4 04 00 0A A0 00 00 00 62 03 01 0C 06 01 00", "90 00"),
        ("00 A4 04 00 05 A0 00 00 00 62", "6A 82"),
        ("00 A4 04 00", "6A 82"),
        ("00 A4 00 00 02 3F 00", "6A 82"),
        ("00 A4 07 00 02 3F 00", "6A 86"),
        ("00 B0 00 00 00", "6D 00"),
        ("80 00 00 00", "6E 00"),
        ("00 A4 04 00 05 A0", "67 00"),
        ("00", "67 00"),
    ],
)
async def test_hello_says_what_is_wrong(command: str, status: str) -> None:
    assert await ask(await powered(Hello()), command) == status


async def test_hello_forgets_its_selection_without_power() -> None:
    slot = await powered(Hello())
    await ask(slot, SELECT_HELLO)
    await slot.reset()
    assert await ask(slot, "00 00 00 00") == "69 85"


# --- echo


async def test_echo() -> None:
    slot = await powered(Echo())
    assert await ask(slot, "00 10 00 00 03 01 02 03") == "01 02 03 90 00"
    assert await ask(slot, "00 10 00 00 03 01 02 03 00") == "01 02 03 90 00"
    assert await ask(slot, "00 10 00 00") == "00 10 00 00 90 00"
    assert await ask(slot, "AA") == "AA 90 00"
    data = bytes(range(256)) * 256
    longest = b"\0\x10\0\0\0\xff\xff" + data[:65535] + b"\0\0"
    assert await slot.transmit(Protocol.T1, longest) == data[:65535] + b"\x90\0"
    assert await slot.transmit(Protocol.T1, data[:65536] + bytes(12)) == data[:65536] + b"\x90\0"


# --- SLE 4442


async def test_memory_card_reads() -> None:
    slot = await powered(Sle4442())
    assert await ask(slot, SELECT_SLE4442) == "90 00"
    assert await ask(slot, "FF B0 00 00 04") == "A2 13 10 91 90 00"
    whole = await slot.transmit(Protocol.T0, bytes.fromhex("FF B0 00 00 00"))
    assert len(whole) == 258
    assert whole[:4] == Sle4442.atr[2:]
    assert await ask(slot, "FF B0 00 FF 01") == "FF 90 00"
    assert await ask(slot, "FF B0 00 FF 02") == "6B 00"
    assert await ask(slot, "FF B2 00 00 04") == "30 FF 1F F8 90 00"
    assert await ask(slot, "FF B1 00 00 04") == "07 00 00 00 90 00"


async def test_memory_card_writes_once_the_code_was_presented() -> None:
    slot = await powered(Sle4442())
    await ask(slot, SELECT_SLE4442)
    write = "FF D0 00 40 04 01 02 03 04"
    assert await ask(slot, write) == "69 82"
    assert await ask(slot, "FF B0 00 40 04") == "FF FF FF FF 90 00"
    assert await ask(slot, PRESENT_DEFAULT) == "90 07"
    assert await ask(slot, write) == "90 00"
    assert await ask(slot, "FF B0 00 40 05") == "01 02 03 04 FF 90 00"
    assert await ask(slot, "FF D0 00 FF 02 01 02") == "6B 00"

    await slot.power_off()
    await slot.power_on()
    assert await ask(slot, "FF B0 00 40 01") == "69 85"  # the card type is not selected
    await ask(slot, SELECT_SLE4442)
    assert await ask(slot, "FF B0 00 40 05") == "01 02 03 04 FF 90 00"
    assert await ask(slot, write) == "69 82"


async def test_memory_card_counts_wrong_codes() -> None:
    slot = await powered(Sle4442())
    await ask(slot, SELECT_SLE4442)
    wrong = "FF 20 00 00 03 12 34 56"
    assert await ask(slot, wrong) == "90 03"
    assert await ask(slot, wrong) == "90 01"
    assert await ask(slot, "FF B1 00 00 04") == "01 00 00 00 90 00"
    assert await ask(slot, PRESENT_DEFAULT) == "90 07"
    for left in ("03", "01", "00"):
        assert await ask(slot, wrong) == f"90 {left}"
        assert await ask(slot, "FF D0 00 40 01 55") == "69 82"
    assert await ask(slot, PRESENT_DEFAULT) == "90 00"
    assert await ask(slot, "FF D0 00 40 01 55") == "69 82"
    assert await ask(slot, "FF B0 00 40 01") == "FF 90 00"


async def test_memory_card_protects_bytes_for_good() -> None:
    slot = await powered(Sle4442())
    await ask(slot, SELECT_SLE4442)
    assert await ask(slot, "FF D1 00 04 01 FF") == "69 82"
    await ask(slot, PRESENT_DEFAULT)
    assert await ask(slot, "FF D0 00 00 04 A2 13 10 92") == "69 85"
    assert await ask(slot, "FF D0 00 00 06 A2 13 10 91 77 78") == "90 00"  # changes open bytes only
    assert await ask(slot, "FF D1 00 04 02 77 79") == "6A 80"  # the second does not match
    assert await ask(slot, "FF B2 00 00 04") == "20 FF 1F F8 90 00"
    assert await ask(slot, "FF D0 00 04 01 00") == "69 85"
    assert await ask(slot, "FF D0 00 05 01 00") == "90 00"
    assert await ask(slot, "FF D1 00 1F 02 FF FF") == "6B 00"


async def test_memory_card_changes_its_code() -> None:
    slot = await powered(Sle4442())
    await ask(slot, SELECT_SLE4442)
    assert await ask(slot, "FF D2 00 01 03 01 02 03") == "69 82"
    await ask(slot, PRESENT_DEFAULT)
    assert await ask(slot, "FF D2 00 01 03 01 02 03") == "90 00"
    await ask(slot, SELECT_SLE4442)
    assert await ask(slot, PRESENT_DEFAULT) == "90 03"
    assert await ask(slot, "FF 20 00 00 03 01 02 03") == "90 07"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("FF A4 00 00 01 05", "6A 80"),
        ("FF A4 00 00", "67 00"),
        ("FF B0 00 00", "67 00"),
        ("FF B1 00 00 05", "67 00"),
        ("FF B2 00 00 05", "67 00"),
        ("FF D0 00 40", "67 00"),
        ("FF D2 00 00 03 01 02 03", "6A 86"),
        ("FF D2 00 01 02 01 02", "67 00"),
        ("FF 20 00 00 02 FF FF", "67 00"),
        ("FF CA 00 00 00", "6D 00"),
        ("00 B0 00 00 04", "6E 00"),
        ("FF D0 00 40 04 01", "67 00"),
    ],
)
async def test_memory_card_says_what_is_wrong(command: str, status: str) -> None:
    slot = await powered(Sle4442())
    await ask(slot, SELECT_SLE4442)
    assert await ask(slot, command) == status


# --- cards of other people


class Failing(Card):
    """Raises whatever it is given, in every method."""

    def __init__(self, error: BaseException, *, later: bool = False) -> None:
        self._error = error
        self._later = later
        self.is_armed = False

    def power_on(self) -> Awaitable[None] | None:
        return None if not self.is_armed else self._raise()  # type: ignore[return-value]

    def transmit(self, apdu: bytes) -> bytes | Awaitable[bytes]:
        return self._raise()

    def control(self, code: int, data: bytes) -> bytes | Awaitable[bytes | None] | None:
        return self._raise()

    def attribute(self, attribute: int) -> bytes | Awaitable[bytes | None] | None:
        return self._raise()

    def _raise(self) -> Awaitable[bytes]:
        if self._later:
            return self._raise_later()
        raise self._error

    async def _raise_later(self) -> bytes:
        await asyncio.sleep(0)
        raise self._error


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), SystemExit(3), StopAsyncIteration()])
async def test_errors_in_a_card_are_contained(
    error: BaseException, later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    card = Failing(error, later=later)
    slot = await powered(card)
    verify = bytes.fromhex("00 20 00 01 04 31 33 35 37")
    with pytest.raises(DriverError) as caught:
        await slot.transmit(Protocol.T0, verify)
    assert caught.value.reason is Reason.COMMUNICATION
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pypcscd.virtual", logging.ERROR)
    assert "Failing" in caplog.text
    assert "00 20 00 01" in record.getMessage()
    assert "_raise" in caplog.text  # the traceback
    # the PIN is nowhere, however it may be spelled
    for secret in ("31 33", "3133", "1357", repr(verify[5:])):
        assert secret not in caplog.text

    card.is_armed = True
    for command in (
        slot.control(0x42000001, b""),
        slot.get_attribute(Attribute.VENDOR_NAME),
        slot.reset(),
        slot.power_on(),
    ):
        with pytest.raises(DriverError) as caught:
            await command
        assert caught.value.reason is Reason.COMMUNICATION


async def test_a_card_may_play_a_broken_reader(caplog: pytest.LogCaptureFixture) -> None:
    slot = await powered(Failing(DriverError(Reason.TIMEOUT, "played")))
    with pytest.raises(DriverError, match="played") as caught:
        await slot.transmit(Protocol.T0, bytes(4))
    assert caught.value.reason is Reason.TIMEOUT
    assert caplog.records == []


@pytest.mark.parametrize("answer", [None, "9000", b"", b"\x90", bytes(65539), 9000])
async def test_an_answer_that_is_none_fails_the_exchange(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Card):
        def transmit(self, apdu: bytes) -> bytes:
            return answer  # type: ignore[return-value]

    slot = await powered(Wrong())
    with pytest.raises(DriverError) as caught:
        await slot.transmit(Protocol.T0, bytes.fromhex("00 20 00 01 01 99"))
    assert caught.value.reason is Reason.COMMUNICATION
    assert "Wrong" in caplog.text
    assert "00 20 00 01" in caplog.text
    assert "99" not in caplog.records[0].getMessage()


async def test_the_longest_answers_pass() -> None:
    class Long(Card):
        def transmit(self, apdu: bytes) -> bytes:
            return bytearray(65536) + b"\x90\0"

    assert await (await powered(Long())).transmit(Protocol.T1, bytes(4)) == bytes(65536) + b"\x90\0"


@pytest.mark.parametrize("atr", [b"", b"\x3b", bytes(34), "3B00", None])
async def test_a_card_without_a_proper_atr_is_mute(atr: object, caplog: pytest.LogCaptureFixture) -> None:
    card = Card()
    card.atr = atr  # type: ignore[assignment]
    slot = VirtualDevice(card).slot
    with pytest.raises(DriverError):
        await slot.power_on()
    assert "atr" in caplog.text
    with pytest.raises(DriverError) as caught:
        await slot.transmit(Protocol.T0, bytes(4))
    assert caught.value.reason is Reason.POWER


async def test_hooks_of_a_card() -> None:
    class Hooked(Card):
        def control(self, code: int, data: bytes) -> bytes | None:
            return data[::-1] if code == 0x42000001 else None

        async def attribute(self, attribute: int) -> bytes | None:  # type: ignore[override]
            return b"own" if attribute == Attribute.VENDOR_NAME else None

    slot = await powered(Hooked())
    assert await slot.control(0x42000001, b"abc") == b"cba"
    assert await slot.control(GET_FEATURE_REQUEST, b"") == b""
    assert await slot.get_attribute(Attribute.VENDOR_NAME) == b"own"
    assert await slot.get_attribute(Attribute.ICC_PRESENCE) == b"\x02"


class Slow(Card):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.was_cancelled = False

    async def transmit(self, apdu: bytes) -> bytes:
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return b"\x90\0"


async def test_a_card_may_wait() -> None:
    card = Slow()
    slot = await powered(card)
    exchange = asyncio.create_task(slot.transmit(Protocol.T0, bytes(4)))
    await card.started.wait()
    assert not exchange.done()
    card.go.set()
    assert await exchange == b"\x90\0"


async def test_cancelling_reaches_the_card_and_leaves_the_slot_usable() -> None:
    card = Slow()
    slot = await powered(card)
    exchange = asyncio.create_task(slot.transmit(Protocol.T0, bytes(4)))
    await card.started.wait()
    exchange.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange
    assert card.was_cancelled
    card.go.set()
    assert await slot.transmit(Protocol.T0, bytes(4)) == b"\x90\0"


@pytest.mark.parametrize("put_back", [False, True])
async def test_pulling_the_card_ends_its_exchange(put_back: bool) -> None:
    card = Slow()
    slot = await powered(card)
    exchange = asyncio.create_task(slot.transmit(Protocol.T0, bytes(4)))
    await card.started.wait()
    if put_back:
        slot.insert(card)
    else:
        slot.remove()
    with pytest.raises(DriverError) as caught:
        await exchange
    assert caught.value.reason is Reason.NO_CARD
    assert card.was_cancelled


# --- the reader


async def test_insertion_and_removal_are_reported() -> None:
    device = VirtualDevice()
    seen: list[Presence] = []
    device.slot.presence_changed = seen.append
    assert device.slot.presence is Presence.ABSENT
    device.slot.remove()
    assert seen == []
    device.slot.insert(Hello())
    device.slot.insert(Echo())
    device.slot.remove()
    assert seen == [Presence.PRESENT, Presence.ABSENT, Presence.PRESENT, Presence.ABSENT]


async def test_commands_without_a_card_or_power() -> None:
    slot = VirtualDevice().slot
    await slot.power_off()
    for command in (
        slot.power_on(),
        slot.reset(),
        slot.set_protocol(Protocol.T0),
        slot.transmit(Protocol.T0, bytes(4)),
    ):
        with pytest.raises(DriverError) as caught:
            await command
        assert caught.value.reason is Reason.NO_CARD
    slot.insert(Hello())
    with pytest.raises(DriverError) as caught:
        await slot.transmit(Protocol.T0, bytes(4))
    assert caught.value.reason is Reason.POWER


async def test_protocols_are_those_of_the_atr() -> None:
    slot = await powered(Hello())
    await slot.set_protocol(Protocol.T0)
    await slot.set_protocol(Protocol.T1)
    slot = await powered(Sle4442())
    await slot.set_protocol(Protocol.T0)
    with pytest.raises(DriverError) as caught:
        await slot.set_protocol(Protocol.T1)
    assert caught.value.reason is Reason.PROTOCOL_UNSUPPORTED


async def test_attributes() -> None:
    slot = VirtualDevice(Hello()).slot

    async def get(attribute: int) -> bytes:
        return await slot.get_attribute(attribute)

    assert await get(Attribute.ATR_STRING) == b""
    await slot.power_on()
    assert await get(Attribute.ATR_STRING) == Hello.atr
    assert await get(Attribute.VENDOR_NAME) == b"pypcscd\0"
    assert await get(Attribute.ICC_PRESENCE) == b"\x02"
    assert await get(Attribute.ICC_INTERFACE_STATUS) == b"\x01"
    assert int.from_bytes(await get(Attribute.MAXINPUT), sys.byteorder) == 65548
    slot.remove()
    assert await get(Attribute.ATR_STRING) == b""
    assert await get(Attribute.ICC_PRESENCE) == b"\x00"
    assert await get(Attribute.ICC_INTERFACE_STATUS) == b"\x00"
    for unknown in (Attribute.DEVICE_FRIENDLY_NAME, Attribute.DEVICE_SYSTEM_NAME, 0xDEAD):
        with pytest.raises(DriverError) as caught:
            await get(unknown)
        assert caught.value.reason is Reason.UNKNOWN_ATTRIBUTE
    with pytest.raises(DriverError) as caught:
        await slot.set_attribute(Attribute.VENDOR_NAME, b"x")
    assert caught.value.reason is Reason.UNKNOWN_ATTRIBUTE


async def test_control_codes() -> None:
    slot = VirtualDevice().slot
    assert await slot.control(GET_FEATURE_REQUEST, b"") == b""
    with pytest.raises(DriverError) as caught:
        await slot.control(0x42000001, b"")
    assert caught.value.reason is Reason.NOT_SUPPORTED


async def test_a_closed_reader_is_gone() -> None:
    device = VirtualDevice(Hello())
    await device.slot.power_on()
    await device.close()
    slot = device.slot
    for command in (
        slot.power_on(),
        slot.power_off(),
        slot.reset(),
        slot.set_protocol(Protocol.T0),
        slot.transmit(Protocol.T0, bytes(4)),
        slot.control(GET_FEATURE_REQUEST, b""),
        slot.get_attribute(Attribute.VENDOR_NAME),
    ):
        with pytest.raises(DriverError) as caught:
            await command
        assert caught.value.reason is Reason.NO_DEVICE


# --- cards by name


def config(**options: str) -> DeviceConfig:
    return DeviceConfig("virtual", "Test reader", "virtual", options, origin="--virtual")


@pytest.mark.parametrize(("name", "card_class"), [("hello", Hello), ("sle4442", Sle4442), ("echo", Echo)])
async def test_ready_made_cards_by_name(name: str, card_class: type[Card]) -> None:
    assert type(cards.make(name)) is card_class
    device = await VirtualDriver().open(config(card=name))
    (slot,) = device.slots
    assert slot.presence is Presence.PRESENT
    assert await slot.power_on() == card_class.atr


async def test_default_card_and_empty_reader() -> None:
    assert type((await VirtualDriver().open(config())).slot.card) is Hello
    empty = await VirtualDriver().open(config(card="none"))
    assert empty.slot.presence is Presence.ABSENT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with modules in it; what a test imports from there is forgotten."""
    (tmp_path / "own_cards.py").write_text(
        "from own_helper import ATR\n"
        "from pypcscd_virtual.card import Card\n"
        "class Mine(Card):\n"
        "    atr = ATR\n"
        "class NeedsMore(Card):\n"
        "    def __init__(self, pin): ...\n"
        "class Other: ...\n"
    )
    (tmp_path / "own_helper.py").write_text("ATR = bytes.fromhex('3B 00')\n")
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    (tmp_path / "own_needy.py").write_text("import module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


async def test_own_card_from_the_current_directory(folder: Path) -> None:
    path = list(sys.path)
    slot = (await VirtualDriver().open(config(card="own_cards:Mine"))).slot
    assert await slot.power_on() == bytes.fromhex("3B 00")
    assert sys.path == path


def test_the_current_directory_comes_first(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "own_cards.py").write_text("raise RuntimeError('the wrong module')")
    monkeypatch.syspath_prepend(elsewhere)
    assert cards.make("own_cards:Mine").atr == bytes.fromhex("3B 00")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("helo", ["'helo'", "hello", "sle4442", "echo", "module:Class"]),
        ("own_cards:Nothing", ["'Nothing'", "Mine", "NeedsMore"]),
        ("own_cards:Other", ["'Other'", "Mine"]),
        ("own_cards:NeedsMore", ["NeedsMore", "pin", "without arguments"]),
        ("own_absent:Mine", ["no module 'own_absent'"]),
        ("own_cards.py:Mine", ["leave out the .py"]),
        ("own_broken:Mine", ["own_broken", "ZeroDivisionError"]),
        ("own_needy:Mine", ["own_needy", "module_that_is_not_there"]),
        (":Mine", ["module"]),
    ],
)
async def test_names_that_give_no_card(folder: Path, name: str, words: list[str]) -> None:
    with pytest.raises(CardNameError) as caught:
        await asyncio.to_thread(cards.make, name)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(DeviceOpenError) as refused:
        await VirtualDriver().open(config(card=name))
    assert refused.value.permanent


async def test_unknown_options_are_refused() -> None:
    with pytest.raises(DeviceOpenError, match="'crad'") as caught:
        await VirtualDriver().open(config(crad="hello"))
    assert caught.value.permanent
