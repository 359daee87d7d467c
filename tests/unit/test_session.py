"""A listener with real Unix sockets: answers, their order, and clients that misbehave."""

import asyncio
import logging
import struct
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from exchanges import orders
from fakes import ATR, FakeSlot

from pypcscd.driver import Presence
from pypcscd.manager.manager import Manager
from pypcscd.protocol import DIALECTS, SHORT_4_2, ClientConnection, Command, Dialect, ReaderEvent, Reply
from pypcscd.protocol import messages as m
from pypcscd.protocol.dialects import NATIVE_ORDER, WaitAnswer, codec
from pypcscd.scard import ReaderStatus, ReturnCode
from pypcscd.server.calls import TableCache
from pypcscd.server.door import Door
from pypcscd.server.listener import Listener, open_socket
from pypcscd.server.rules import SocketConfig

NAME = "Fake 00 00"
MAX_CLIENTS = 4
ALL_DIALECTS = [*DIALECTS.values(), SHORT_4_2]


class Wire:
    """A client on a real socket."""

    def __init__(self, path: Path, dialect: Dialect, order: str) -> None:
        self.connection = ClientConnection(dialect, byte_order=order)
        self._path = path

    async def open(self) -> "Wire":
        self.reader, self.writer = await asyncio.open_unix_connection(str(self._path))
        return self

    async def say(self, command: Command, body: m.Message | None = None, data: bytes = b"") -> None:
        self.writer.write(self.connection.request(command, body, data))

    async def hear(self) -> Reply | ReaderEvent:
        async with asyncio.timeout(5):
            while (event := self.connection.next_event()) is None:
                data = await self.reader.read(100_000)
                assert data, "the daemon hung up"
                self.connection.receive_data(data)
            return event

    async def ask(self, command: Command, body: m.Message | None = None, data: bytes = b"") -> Any:
        await self.say(command, body, data)
        reply = await self.hear()
        assert isinstance(reply, Reply)
        return reply.body if reply.body is not None else reply

    async def context(self) -> int:
        version = await self.ask(Command.VERSION, m.Version(*self.connection.dialect.version))
        assert version == m.Version(*self.connection.dialect.version, 0)
        context: int = (await self.ask(Command.ESTABLISH_CONTEXT, m.EstablishContext(2))).context
        return context

    async def card(self, share_mode: int = 2) -> int:
        body = m.Connect(await self.context(), NAME.encode(), share_mode, 3)
        connected = await self.ask(Command.CONNECT, body)
        assert connected.rv == 0
        card: int = connected.card
        return card

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            try:
                return not await self.reader.read(1)
            except ConnectionResetError:
                return True

    def close(self) -> None:
        self.writer.transport.abort()


class House:
    """A manager with one reader, served on a socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.slot = FakeSlot()
        self.manager = Manager()
        self.clients: list[Wire] = []
        self.listener: Listener

    async def client(self, dialect: Dialect | None = None, order: str = NATIVE_ORDER) -> Wire:
        wire = await Wire(self.path, dialect or DIALECTS[4, 4], order).open()
        self.clients.append(wire)
        return wire


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "socket")
    await house.manager.add_readers("Fake", 0, [house.slot])
    config = SocketConfig(house.path)
    house.listener = Listener(Door(house.manager, config, ()), open_socket(config), MAX_CLIENTS)
    house.listener.start()
    yield house
    for client in house.clients:
        client.close()
    house.listener.close()
    await house.manager.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_long_response_leaves_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's own ``writelines`` is not for us: it may miss that a client is slow, or gone."""
    card = await (wire := await house.client()).card()
    written: list[int] = []
    transport = type(wire.writer.transport)
    write: Callable[[Any, bytes], None] = transport.write

    def note(self: Any, data: bytes) -> None:
        written.append(len(data))
        write(self, data)

    monkeypatch.setattr(transport, "write", note)
    monkeypatch.setattr(transport, "writelines", None)
    house.slot.response = bytes(60_000)
    await wire.say(Command.TRANSMIT, m.Transmit(card, 2, 16, 0, 0, 16, 65548))
    answer = await wire.hear()
    assert isinstance(answer, Reply)
    assert answer.data == house.slot.response
    assert written == [8 + 32, 32 + 60_000]


@pytest.mark.parametrize("dialect", ALL_DIALECTS, ids=str)
@orders
async def test_the_whole_story(house: House, dialect: Dialect, order: str) -> None:
    wire = await house.client(dialect, order)
    card = await wire.card()
    assert await wire.ask(Command.BEGIN_TRANSACTION, m.BeginTransaction(card)) == (card, 0)
    house.slot.response = bytes(range(256)) * 256 + b"\x90\x00"
    await wire.say(Command.TRANSMIT, m.Transmit(card, 2, 16, 65544, 0, 16, 65548), bytes(65544))
    answer = await wire.hear()
    assert isinstance(answer, Reply)
    assert answer.body == m.Transmit(card, 2, 16, 65544, 2, 16, 65538, 0)
    assert answer.data == house.slot.response
    refused = await wire.ask(Command.TRANSMIT, m.Transmit(card, 2, 16, 0, 0, 16, 100))
    assert (refused.rv, refused.receive_length) == (ReturnCode.E_INSUFFICIENT_BUFFER, 65538)
    await wire.say(Command.CONTROL, m.Control(card, 7, 3, 100), b"abc")
    controlled = await wire.hear()
    assert isinstance(controlled, Reply)
    assert controlled.data == b"cba"
    attribute = await wire.ask(Command.GET_ATTRIB, m.Attribute(card, 0x00090303, b"", 264))
    assert attribute.value[: attribute.length] == ATR
    await wire.ask(Command.SET_ATTRIB, m.Attribute(card, 9, b"\1\2", 2))
    assert house.slot.calls[-1] == "set_attribute 0x9 0102"
    status: m.Message = m.Status(card)
    if dialect.has_long_status:
        status = m.LongStatus(card, b"", 100, 0, 0, b"", 33)
        too_long = await wire.ask(Command.STATUS, status._replace(reader_length=101))
        assert too_long.rv == ReturnCode.E_INSUFFICIENT_BUFFER
        cancelled = await wire.ask(Command.CANCEL_TRANSACTION, m.CancelTransaction(card))
        assert cancelled == (card, 0)
    assert (await wire.ask(Command.STATUS, status)).rv == 0
    assert await wire.ask(Command.END_TRANSACTION, m.EndTransaction(card, 0)) == (card, 0, 0)
    reconnected = await wire.ask(Command.RECONNECT, m.Reconnect(card, 2, 3, 1))
    assert (reconnected.rv, reconnected.active_protocol) == (0, 2)
    refused = await wire.ask(Command.RECONNECT, m.Reconnect(card, 2, 1, 0, 0xDEAD))
    assert (refused.rv, refused.active_protocol) == (ReturnCode.E_PROTO_MISMATCH, 0)
    assert await wire.ask(Command.DISCONNECT, m.Disconnect(card, 0)) == (card, 0, 0)


@pytest.mark.parametrize("dialect", ALL_DIALECTS, ids=str)
@orders
async def test_waiting_for_a_change(house: House, dialect: Dialect, order: str) -> None:
    wire = await house.client(dialect, order)
    await wire.context()
    body = m.Waiting(60000) if dialect.wait_has_body else None
    for present in (False, True):
        await wire.say(Command.WAIT_READER_STATE_CHANGE, body)
        if dialect.wait_has_body:
            await until(lambda: bool(house.manager._waiting))
        elif dialect.counted_table:
            await wire.ask(Command.READERS_STATE_SIZE)
            table = await wire.ask(Command.READERS_STATE_ARRAY)
            assert len(table.readers) == 1
        else:
            first = await wire.hear()
            assert isinstance(first, Reply)
            assert len(first.readers) == 1
        house.slot.update_presence(Presence.PRESENT if present else Presence.ABSENT)
        assert await wire.hear() == ReaderEvent(0)
    await wire.say(Command.WAIT_READER_STATE_CHANGE, body)
    if dialect.wait_answer is WaitAnswer.TABLE:
        await wire.hear()
    stopped = await wire.ask(Command.STOP_WAITING_READER_STATE_CHANGE, body)
    assert stopped == m.Waiting(0, 0)


@pytest.mark.parametrize("version", [(4, 2), (4, 3)])
async def test_a_client_that_forgets_to_stop_waiting(house: House, version: tuple[int, int]) -> None:
    wire = await house.client(DIALECTS[version])
    context = await wire.context()
    await wire.say(Command.WAIT_READER_STATE_CHANGE, m.Waiting(100))
    await until(lambda: bool(house.manager._waiting))
    connected = await wire.ask(Command.CONNECT, m.Connect(context, NAME.encode(), 3, 3))
    house.slot.update_presence(Presence.ABSENT)
    assert (await wire.ask(Command.STATUS, m.Status(connected.card))).rv == ReturnCode.W_REMOVED_CARD


async def look(wire: Wire) -> None:
    """Open a context and read a table, whatever is in it: 4.2a may still get that of 4.2b."""
    await wire.context()
    wire.connection.table_size = 0
    await wire.ask(Command.GET_READERS_STATE)
    dialect = DIALECTS[wire.connection.dialect.version]
    await wire.reader.readexactly(16 * codec(dialect, NATIVE_ORDER).record_size)


OLD = [dialect for dialect in ALL_DIALECTS if dialect.wait_has_body]


@pytest.mark.parametrize("dialect", OLD, ids=str)
async def test_a_change_between_the_table_and_waiting_is_not_missed(house: House, dialect: Dialect) -> None:
    """Up to 4.3 the client looks first and says later that it waits."""
    wire = await house.client(dialect)
    await look(wire)
    before = house.manager.roster.everything.snapshot()
    house.slot.update_presence(Presence.ABSENT)
    await until(lambda: house.manager.roster.everything.snapshot() != before)
    await wire.say(Command.WAIT_READER_STATE_CHANGE, m.Waiting(60000))
    assert await wire.hear() == ReaderEvent(0)
    # it has been told, so it does not wait any more: the next change says nothing
    house.slot.update_presence(Presence.PRESENT)
    await until(lambda: bool(house.manager.roster.everything.snapshot()[0].atr))
    assert (await wire.ask(Command.CANCEL, m.Cancel(1))).rv == ReturnCode.E_INVALID_HANDLE


@pytest.mark.parametrize("dialect", OLD, ids=str)
async def test_waiting_without_a_change_says_nothing(house: House, dialect: Dialect) -> None:
    wire = await house.client(dialect)
    await look(wire)
    await wire.say(Command.WAIT_READER_STATE_CHANGE, m.Waiting(60000))
    await until(lambda: bool(house.manager._waiting))
    house.slot.update_presence(Presence.ABSENT)
    assert await wire.hear() == ReaderEvent(0)


@pytest.mark.parametrize("dialect", [DIALECTS[4, 0], DIALECTS[4, 1], SHORT_4_2], ids=str)
async def test_a_reader_whose_name_is_too_long_for_the_client(house: House, dialect: Dialect) -> None:
    await house.manager.add_readers("long name " * 20, 0, [FakeSlot(), FakeSlot()])
    names = [reader.name for reader in house.manager.roster][1:]
    wire = await house.client(dialect)
    context = await wire.context()
    # told before the first table by a rule, where it is 4.2a
    await wire.ask(Command.CONNECT, m.Connect(context, NAME.encode(), 2, 3))
    shown = [status.name for status in (await wire.ask(Command.GET_READERS_STATE)).readers][1:]
    assert all(len(name) == 99 for name in shown)
    for slot, name in enumerate(shown):
        assert name.endswith(f" 00 {slot:02X}")
        for called in (name, names[slot]):
            body = m.Connect(context, called.encode()[:99], 2, 3)
            connected = await wire.ask(Command.CONNECT, body)
            assert (connected.rv == 0) is (called == name)
    in_use = {reader.name for reader in house.manager.roster if reader.status.sharing}
    assert in_use == {NAME, *names}


async def test_a_whole_name_is_taken_as_it_is(house: House) -> None:
    """4.2b and later have room for every name, so none is shortened or guessed."""
    await house.manager.add_readers("long name " * 20, 0, [FakeSlot()])
    name = list(house.manager.roster)[1].name
    wire = await house.client(DIALECTS[4, 3])
    context = await wire.context()
    assert (await wire.ask(Command.CONNECT, m.Connect(context, name.encode(), 2, 3))).rv == 0
    short = codec(DIALECTS[4, 0], "<").encode_name(name)
    refused = await wire.ask(Command.CONNECT, m.Connect(context, short, 2, 3, card=77))
    assert (refused.rv, refused.card) == (ReturnCode.E_UNKNOWN_READER, 0)


async def test_an_event_before_the_table_waits_for_it(house: House) -> None:
    wire = await house.client(DIALECTS[4, 6])
    await wire.context()
    await wire.say(Command.WAIT_READER_STATE_CHANGE)
    await until(lambda: bool(house.manager._waiting))
    house.slot.update_presence(Presence.ABSENT)
    assert await wire.ask(Command.READERS_STATE_SIZE) == m.StatesSize(16)
    await wire.ask(Command.READERS_STATE_ARRAY)
    assert await wire.hear() == ReaderEvent(0)


async def test_cancel_comes_on_a_connection_of_its_own(house: House) -> None:
    wire = await house.client()
    context = await wire.context()
    await wire.ask(Command.WAIT_READER_STATE_CHANGE)
    stranger = await house.client()
    assert await stranger.ask(Command.CANCEL, m.Cancel(context)) == (context, 0)
    assert await wire.hear() == ReaderEvent(ReturnCode.E_CANCELLED)
    unknown = await stranger.ask(Command.CANCEL, m.Cancel(context ^ 1))
    assert unknown.rv == ReturnCode.E_INVALID_HANDLE


async def test_versions(house: House) -> None:
    wire = await house.client()
    for asked in ((4, 7), (5, 0), (3, 0), (-1, -1)):
        reply = await wire.ask(Command.VERSION, m.Version(*asked))
        assert reply == m.Version(4, 6, ReturnCode.E_SERVICE_STOPPED)
    for version in DIALECTS:
        assert await wire.ask(Command.VERSION, m.Version(*version)) == m.Version(*version, 0)


@orders
async def test_numbers_among_the_attributes_have_the_byte_order_of_the_client(
    house: House, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        0x0007A007: (65548).to_bytes(4, sys.byteorder),
        0x00030125: (254).to_bytes(4, sys.byteorder),
        0x00090303: ATR,  # bytes are bytes
        0x00010100: b"abcd",
        0x00030121: b"abc",  # no number, whatever it is
    }

    async def get_attribute(attribute: int) -> bytes:
        return values[attribute]

    monkeypatch.setattr(house.slot, "get_attribute", get_attribute)
    wire = await house.client(DIALECTS[4, 4], order)
    card = await wire.card()
    seen = {}
    for attribute in values:
        answer = await wire.ask(Command.GET_ATTRIB, m.Attribute(card, attribute, b"", 264))
        seen[attribute] = answer.value[: answer.length]
        await wire.ask(Command.SET_ATTRIB, m.Attribute(card, attribute, answer.value, answer.length))
        # and back again
        assert house.slot.calls[-1] == f"set_attribute {attribute:#x} {values[attribute].hex()}"
    assert struct.unpack(order + "I", seen.pop(0x0007A007)) == (65548,)
    assert struct.unpack(order + "I", seen.pop(0x00030125)) == (254,)
    assert seen == {attribute: values[attribute] for attribute in seen}


async def test_the_log_names_what_a_client_speaks(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await (await house.client(DIALECTS[4, 3], ">")).context()
        await (await house.client(DIALECTS[4, 6], "<")).context()
    lines = [line for line in caplog.messages if "speaks" in line]
    assert len(lines) == 2
    assert lines[0].startswith("client 1 (")
    assert lines[0].endswith(") speaks protocol 4.3, big-endian")
    assert lines[1].endswith(") speaks protocol 4.6, little-endian")


async def test_struct_and_data_come_in_one_piece(house: House) -> None:
    wire = await house.client()
    card = await wire.card()
    await wire.say(Command.TRANSMIT, m.Transmit(card, 2, 16, 1, 0, 16, 99), b"x")
    assert len(await wire.reader.read(1000)) == 32 + 2


async def test_byte_by_byte(house: House) -> None:
    wire = await house.client()
    card = await wire.card()
    request = wire.connection.request(Command.TRANSMIT, m.Transmit(card, 2, 16, 5, 0, 16, 99), b"12345")
    for byte in request:
        wire.writer.write(bytes([byte]))
        await wire.writer.drain()
        await asyncio.sleep(0)
    reply = await wire.hear()
    assert isinstance(reply, Reply)
    assert reply.data == b"\x90\x00"


async def test_requests_sent_ahead_are_answered_in_order(house: House) -> None:
    wire = await house.client()
    card = await wire.card()
    house.slot.gate = asyncio.Event()
    transmit = wire.connection.request(Command.TRANSMIT, m.Transmit(card, 2, 16, 1, 0, 16, 99), b"x")
    status = ClientConnection(DIALECTS[4, 4]).request(Command.STATUS, m.Status(card))
    wire.writer.write(transmit + status)
    await until(lambda: house.slot.calls[-1] == "transmit T1 78")
    house.slot.gate.set()
    assert len(await wire.reader.readexactly(34 + 8)) == 42


async def test_a_flood_of_requests_does_not_pile_up(house: House) -> None:
    wire = await house.client()
    await wire.context()
    request = ClientConnection(DIALECTS[4, 4]).request(Command.GET_READERS_STATE)
    flood = request * 4000
    sending = asyncio.create_task(wire.writer.drain())
    wire.writer.write(flood)
    received = 0
    async with asyncio.timeout(20):
        while received < 4000 * 16 * 184:
            received += len(await wire.reader.read(1 << 20))
    await sending


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(8),
        b"\x05\0\0\0\x04\0\0\0" + bytes(5),
        b"\x20\0\0\0\x09\0\0\0" + bytes(12) + b"\xff\xff\xff\x7f" + bytes(16),
    ],
)
async def test_garbage_costs_its_sender_only(
    house: House, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = await house.client(), await house.client()
    card = await good.card()
    with caplog.at_level(logging.INFO):
        bad.writer.write(garbage)
        assert await bad.is_closed()
    assert len(caplog.records) == 1
    assert "pytest" in caplog.text or "python" in caplog.text, "the line names the program"
    assert await good.ask(Command.STATUS, m.Status(card)) == (card, 0)


async def test_a_foreign_card_handle_closes_the_connection(house: House) -> None:
    owner, thief = await house.client(), await house.client()
    card = await owner.card()
    await thief.context()
    await thief.say(Command.STATUS, m.Status(card))
    assert await thief.is_closed()
    assert await owner.ask(Command.STATUS, m.Status(card)) == (card, 0)


async def test_a_client_that_dies_frees_its_card_at_once(house: House) -> None:
    owner, other = await house.client(), await house.client()
    card = await owner.card(share_mode=1)
    house.slot.gate = asyncio.Event()
    await owner.say(Command.TRANSMIT, m.Transmit(card, 2, 16, 1, 0, 16, 99), b"x")
    await until(lambda: house.slot.calls[-1] == "transmit T1 78")
    owner.close()
    await until(lambda: house.manager.roster.everything.snapshot()[0].sharing == 0)
    house.slot.gate.set()
    assert await other.card()
    assert "reset" in house.slot.calls


async def test_a_defect_of_the_daemon_costs_that_call_only(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("a defect")

    wire = await house.client()
    card = await wire.card()
    monkeypatch.setattr(house.slot, "transmit", broken)
    refused = await wire.ask(Command.TRANSMIT, m.Transmit(card, 2, 16, 0, 0, 16, 99))
    assert refused.rv == ReturnCode.F_INTERNAL_ERROR
    assert "please report this" in caplog.text
    assert await wire.ask(Command.STATUS, m.Status(card)) == (card, 0)


async def test_who_cannot_be_told_apart_is_not_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no such process")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    monkeypatch.setattr(Door, "adapt", fail)
    wire = await house.client()
    version = await wire.ask(Command.VERSION, m.Version(*wire.connection.dialect.version))
    assert version.rv == ReturnCode.W_SECURITY_VIOLATION
    refused = await wire.ask(Command.ESTABLISH_CONTEXT, m.EstablishContext(2))
    assert refused.rv == ReturnCode.W_SECURITY_VIOLATION


@pytest.mark.parametrize("readers", [0, 1, 15, 16, 17])
async def test_a_fixed_table_has_sixteen_records(house: House, readers: int) -> None:
    old, new = await house.client(DIALECTS[4, 5]), await house.client(DIALECTS[4, 6])
    await old.context()
    await new.context()
    if readers > 1:
        slots = [FakeSlot(None) for _ in range(readers - 1)]
        await house.manager.add_readers("Many", 0, slots)
    elif readers == 0:
        await house.manager.remove_readers(list(house.manager.roster))
    assert len((await old.ask(Command.GET_READERS_STATE)).readers) == min(readers, 16)
    assert await new.ask(Command.READERS_STATE_SIZE) == m.StatesSize(max(16, readers))
    assert len((await new.ask(Command.READERS_STATE_ARRAY)).readers) == readers


def test_tables_are_made_once_and_not_kept_longer_than_they_hold() -> None:
    tables = TableCache()
    one, other = (codec(DIALECTS[version], "<") for version in ((4, 0), (4, 6)))
    readers = (ReaderStatus("R 00 00"),)
    first = tables.get(one, readers, 16)
    assert first == one.encode_table(readers, 16)
    assert tables.get(other, readers, 16) == other.encode_table(readers, 16)
    assert tables.get(one, readers, 48) == one.encode_table(readers, 48)
    assert tables.get(one, readers, 16) is first
    for number in range(20):
        changed = (*readers, ReaderStatus(f"R 01 {number:02X}"))
        for size in (16, 16 + number):
            assert tables.get(other, changed, size) == other.encode_table(changed, size)
        assert len(tables._tables) <= 2
    assert tables.get(one, readers, 16) == first


async def test_one_client_too_many(house: House, caplog: pytest.LogCaptureFixture) -> None:
    clients = [await house.client() for _ in range(MAX_CLIENTS)]
    for client in clients:
        await client.context()
    assert await (await house.client()).is_closed()
    assert "connection 5 is one too many: 4 clients are connected" in caplog.text
    clients[0].close()
    await until(lambda: len(house.manager._contexts) == MAX_CLIENTS - 1)
    await (await house.client()).context()


async def test_the_end_is_no_denial_for_who_was_about_to_say_something(house: House) -> None:
    """libpcsclite tells its program of ECONNRESET as "access denied"."""
    wire = await house.client()
    await wire.context()
    await wire.say(Command.GET_READERS_STATE)
    house.listener.close()
    assert await wire.reader.read() == b"", "and not a ConnectionResetError"


async def test_a_driver_that_cancels_itself_costs_that_call_only(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await house.client()
    card = await client.card()

    async def transmit(*_: object) -> bytes:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    monkeypatch.setattr(house.slot, "transmit", transmit)
    body = m.Transmit(card, 2, 16, 1, 2, 16, 258)
    answer = await client.ask(Command.TRANSMIT, body, b"\0")
    assert answer.rv == ReturnCode.F_INTERNAL_ERROR
