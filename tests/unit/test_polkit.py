"""Clients about whom somebody is asked, and what polkit's answers mean."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import ErrorType, Message, MessageFlag, MessageType
from fakes import FakeSlot

from pypcscd.authority import ChosenAuthority
from pypcscd.configuration.config import Config
from pypcscd.configuration.settings_file import load
from pypcscd.manager.manager import Manager
from pypcscd.protocol import DIALECTS, ClientConnection, Command, Reply
from pypcscd.protocol import messages as m
from pypcscd.scard import ReturnCode
from pypcscd.server.access import Peer
from pypcscd.server.door import Door
from pypcscd.server.listener import Listener, open_socket
from pypcscd.server.polkit import ACCESS_CARD, ACCESS_PCSC, Polkit
from pypcscd.server.rules import EVERYBODY, AccessRule, SocketConfig

READER = "Fake 00 00"
DENIED = ReturnCode.W_SECURITY_VIOLATION


# --- sessions ---------------------------------------------------------------------------------


class Asked:
    """An authority whose answers the test gives."""

    needs_groups = False

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[bool]] = []
        self.readers: list[str] = []
        #: instead of a future
        self.connecting: Callable[[], Awaitable[bool]] | None = None

    def trusts(self, peer: Peer) -> bool:
        return False

    async def may_connect(self, peer: Peer) -> bool:
        if self.connecting is not None:
            return await self.connecting()
        return await self._answer()

    async def may_use(self, peer: Peer, reader: str) -> bool:
        self.readers.append(reader)
        return await self._answer()

    async def _answer(self) -> bool:
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


class House:
    """A reader behind a door with an authority."""

    def __init__(self, path: Path) -> None:
        self.manager = Manager()
        self.authority = Asked()
        config = SocketConfig(path)
        self.door = Door(self.manager, config, ())
        self.door.authority = self.authority
        self.listener = Listener(self.door, open_socket(config), 4)
        self.writers: list[asyncio.StreamWriter] = []

    async def client(self) -> "Client":
        reader, writer = await asyncio.open_unix_connection(str(self.door.config.path))
        self.writers.append(writer)
        return Client(reader, writer)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connection = ClientConnection(DIALECTS[4, 4])

    def say(self, command: Command, body: m.Message) -> None:
        self.writer.write(self.connection.request(command, body))

    async def hear(self) -> Any:
        async with asyncio.timeout(5):
            while (event := self.connection.next_event()) is None:
                data = await self.reader.read(100_000)
                assert data, "the daemon hung up"
                self.connection.receive_data(data)
        assert isinstance(event, Reply)
        return event.body

    async def ask(self, command: Command, body: m.Message) -> Any:
        self.say(command, body)
        return await self.hear()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "socket")
    await house.manager.add_readers("Fake", 0, [FakeSlot()])
    house.listener.start()
    yield house
    for writer in house.writers:
        writer.transport.abort()
    house.listener.close()
    await house.manager.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


VERSION = m.Version(4, 4)


async def test_nothing_is_answered_before_the_authority_has(house: House) -> None:
    client = await house.client()
    client.say(Command.VERSION, VERSION)
    await until(lambda: house.authority.answers)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.reader.read(1), 0.05)
    house.authority.answers[0].set_result(True)
    assert (await client.hear()).rv == 0
    assert (await client.ask(Command.ESTABLISH_CONTEXT, m.EstablishContext(2))).context != 0


async def test_others_do_not_notice(house: House) -> None:
    slow = await house.client()
    slow.say(Command.VERSION, VERSION)
    await until(lambda: house.authority.answers)
    house.door.authority = None
    other = await house.client()
    assert (await other.ask(Command.VERSION, VERSION)).rv == 0
    house.authority.answers[0].set_result(False)
    assert (await slow.hear()).rv == DENIED


async def test_each_card_is_asked_about(house: House) -> None:
    client = await house.client()
    await until(lambda: house.authority.answers)
    house.authority.answers[0].set_result(True)
    await client.ask(Command.VERSION, VERSION)
    context = (await client.ask(Command.ESTABLISH_CONTEXT, m.EstablishContext(2))).context
    for number, allowed in enumerate((False, True), 1):
        client.say(Command.CONNECT, m.Connect(context, READER.encode(), 2, 3))
        await until(lambda number=number: len(house.authority.answers) > number)
        house.authority.answers[number].set_result(allowed)
        connected = await client.hear()
        assert (connected.rv, connected.card != 0) == ((0, True) if allowed else (DENIED, False))
    assert house.authority.readers == [READER, READER]
    assert (await client.ask(Command.STATUS, m.Status(connected.card))).rv == 0
    assert len(house.authority.answers) == 3, "for nothing else"


async def test_a_client_that_goes_away_is_not_waited_for(house: House) -> None:
    client = await house.client()
    await until(lambda: house.authority.answers)
    client.writer.transport.abort()
    await until(house.authority.answers[0].cancelled)
    await until(lambda: not house.listener.sessions)


@pytest.mark.parametrize("is_slow", [False, True])
async def test_when_asking_goes_wrong_the_answer_is_no(
    house: House, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> bool:
        if is_slow:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        raise ValueError("a mistake of ours")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    house.authority.connecting = broken
    client = await house.client()
    client.say(Command.VERSION, VERSION)
    try:
        assert (await client.hear()).rv == DENIED
    except AssertionError as error:
        assert "hung up" in str(error)


# --- polkit -----------------------------------------------------------------------------------


class Bus:
    """The system bus with polkit on it."""

    connected = True

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.sent: list[Message] = []
        self.answer: Callable[[Message], Message] | None = None

    async def call(self, message: Message) -> Message:
        self.asked.append(message)
        if self.answer is None:
            await asyncio.get_running_loop().create_future()
        assert self.answer is not None
        return self.answer(message)

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def disconnect(self) -> None:
        self.connected = False


def says(*, authorized: bool, challenge: bool = False) -> Callable[[Message], Message]:
    return lambda asked: Message(
        message_type=MessageType.METHOD_RETURN,
        reply_serial=1,
        signature="(bba{ss})",
        body=[[authorized, challenge, {}]],
    )


@pytest.fixture
def bus() -> Bus:
    return Bus()


def polkit_on(bus: Bus, trusted: AccessRule = EVERYBODY, patience: float = 5.0) -> Polkit:
    polkit = Polkit(trusted, patience=patience)
    polkit._bus = bus  # type: ignore[assignment]
    return polkit


def somebody(uid: int = 1000) -> Peer:
    peer = Peer(1)
    peer.pid, peer.uid = 4711, uid
    return peer


async def test_what_polkit_is_asked(bus: Bus) -> None:
    bus.answer = says(authorized=True)
    polkit = polkit_on(bus)
    assert await polkit.may_connect(somebody())
    assert await polkit.may_use(somebody(0xFFFFFFFE), READER)
    (kind, process), action, details, flags, first = bus.asked[0].body
    assert (kind, action, details, flags) == ("unix-process", ACCESS_PCSC, {}, 1)
    assert {key: (value.signature, value.value) for key, value in process.items()} == {
        "pid": ("u", 4711),
        "start-time": ("t", 0),
        "uid": ("i", 1000),
    }
    (_, process), action, details, _, second = bus.asked[1].body
    assert (action, details, process["uid"].value) == (ACCESS_CARD, {"reader": READER}, -2)
    assert first != second
    assert bus.sent == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (says(authorized=False), "polkit says no"),
        (says(authorized=False, challenge=True), "polkit wants a password and nobody can be asked for it"),
        (
            lambda asked: Message(
                message_type=MessageType.ERROR,
                reply_serial=1,
                error_name=ErrorType.SERVICE_UNKNOWN.value,
                signature="s",
                body=["nobody is there"],
            ),
            "polkit could not decide (nobody is there)",
        ),
    ],
)
async def test_refusals_are_explained(
    bus: Bus, answer: Callable[[Message], Message], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus.answer = answer
    with caplog.at_level(logging.WARNING, "pypcscd.polkit"):
        assert not await polkit_on(bus).may_use(somebody(), READER)
    assert f"was denied access to reader {READER}: {why}; to allow it" in caplog.text
    assert f"the action {ACCESS_CARD} and uid 1000" in caplog.text


async def test_a_client_does_not_write_log_lines_by_what_it_asks_for(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    bus.answer = says(authorized=False)
    with caplog.at_level(logging.WARNING, "pypcscd.polkit"):
        assert not await polkit_on(bus).may_use(somebody(), "x\n12:00:00.000 ERROR \x1b[2J")
    (line,) = caplog.messages
    assert "access to reader x?12:00:00.000 ERROR ?[2J: polkit says no" in line


async def test_what_takes_too_long_is_cancelled_and_refused(bus: Bus) -> None:
    assert not await polkit_on(bus, patience=0.01).may_connect(somebody())
    (message,) = bus.sent
    assert message.member == "CancelCheckAuthorization"
    assert message.body == [bus.asked[0].body[4]]
    assert message.flags is MessageFlag.NO_REPLY_EXPECTED


async def test_nobody_waits_any_more(bus: Bus) -> None:
    task = asyncio.ensure_future(polkit_on(bus).may_connect(somebody()))
    await until(lambda: bus.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: bus.sent)
    assert bus.sent[0].body == [bus.asked[0].body[4]]


def test_who_needs_no_permission(bus: Bus) -> None:
    nobody = polkit_on(bus)
    assert nobody.trusts(somebody(0))
    assert not nobody.trusts(somebody(1000))
    some = polkit_on(bus, AccessRule(users=frozenset({1000})))
    assert some.trusts(somebody(1000))
    assert not some.trusts(somebody(1001))
    members = polkit_on(bus, AccessRule(groups=frozenset({7})))
    assert members.needs_groups
    member = somebody(1001)
    member.groups = frozenset({7})
    assert members.trusts(member)


# --- whether it is asked ----------------------------------------------------------------------


def test_when_polkit_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("bus", "service", "policy")]
    monkeypatch.setattr("pypcscd.authority._NEEDED", tuple(("it", path) for path in files))
    chosen = ChosenAuthority()
    chosen.choose(Config())
    assert chosen.current is None, "nothing is there"
    for path in files:
        path.touch()
    chosen.choose(Config(trusted=AccessRule(users=frozenset({5}))))
    first = chosen.current
    assert first is not None
    assert first.trusts(somebody(5))
    chosen.choose(Config())
    assert chosen.current is first
    assert not first.trusts(somebody(5)), "what was reconfigured counts"
    chosen.choose(Config(polkit=False))
    assert chosen.current is None
    elsewhere = (SocketConfig(tmp_path / "socket"),)
    chosen.choose(Config(sockets=elsewhere))
    assert chosen.current is None, "a private daemon"
    chosen.choose(Config(sockets=elsewhere, polkit_is_required=True))
    assert chosen.current is first
    chosen.close()
    assert chosen.current is None


@pytest.mark.parametrize(
    ("text", "is_disabled", "expected"),
    [
        ("", False, (True, False, EVERYBODY)),
        ("polkit = true", False, (True, True, EVERYBODY)),
        ("polkit = false", False, (False, False, EVERYBODY)),
        ("polkit = true", True, (False, True, EVERYBODY)),
        ("users = [1001]\ngroups = []", False, (True, False, AccessRule(frozenset({1001}), frozenset()))),
    ],
)
def test_settings(
    tmp_path: Path, text: str, is_disabled: bool, expected: tuple[bool, bool, AccessRule]
) -> None:
    """``--disable-polkit`` wins."""
    file = tmp_path / "pypcscd.toml"
    file.write_text(f"[access]\n{text}\n")
    config = load(file, Config(polkit=not is_disabled))
    assert (config.polkit, config.polkit_is_required, config.trusted) == expected
