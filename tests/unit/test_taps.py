"""Watching sessions costs nothing while nobody watches, and shows whole messages when somebody does."""

import asyncio
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pypcscd.control.stream import Closed, Data, Opened, Record
from pypcscd.control.taps import Taps, Watch
from pypcscd.manager.manager import Manager
from pypcscd.server.access import Peer
from pypcscd.server.door import Door
from pypcscd.server.rules import AccessRule, SocketConfig
from pypcscd.server.session import Session

ESTABLISH = struct.pack("=IIIII", 12, 1, 2, 0, 0)
#: not the session's own card handle, so that it is dropped; the PIN is seen before that
VERIFY = struct.pack("=IIiIIIIIII", 32, 9, 7, 2, 16, 9, 2, 16, 258, 0) + b"\x00\x20\x00\x81\x041234"


class Link(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        return struct.pack("3i", 4711, 1000, 1000)

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written.append(data)

    def abort(self) -> None:
        return


class Listener:
    """A door with sessions whose bytes are given by hand."""

    def __init__(self) -> None:
        self.door = Door(Manager(), SocketConfig(Path("/nowhere/pcscd.comm")), ())
        self.sessions: set[Session] = set()

    def connect(self) -> Session:
        session = Session(self.door, self.sessions.discard)
        self.sessions.add(session)
        session.connection_made(Link())
        return session


def send(session: Session, data: bytes) -> None:
    session.data_received(data)


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no process behind these connections (and a look into /proc would be taken for blocking)."""
    monkeypatch.setattr(Peer, "executable", lambda self: "/bin/program")


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def taps(listener: Listener) -> Taps:
    return Taps((listener,))


@pytest.fixture
def seen() -> list[Record]:
    return []


@pytest.fixture
def watch(taps: Taps, seen: list[Record]) -> Iterator[Watch]:
    watch = Watch(seen.append)
    taps.add(watch)
    yield watch
    taps.remove(watch)


def data(seen: list[Record]) -> list[Data]:
    return [record for record in seen if isinstance(record, Data)]


async def test_nobody_watches(listener: Listener, taps: Taps) -> None:
    session = listener.connect()
    send(session, ESTABLISH)
    assert session.tap is None
    assert listener.door.opened is None


async def test_all_is_seen(listener: Listener, watch: Watch, seen: list[Record]) -> None:
    session = listener.connect()
    send(session, ESTABLISH[:5])
    assert data(seen) == []
    send(session, ESTABLISH[5:])
    session.connection_lost(None)
    opened, request, answer, closed = seen
    assert isinstance(opened, Opened)
    assert (opened.number, opened.pid, opened.uid, opened.is_joined) == (1, 4711, 1000, False)
    assert isinstance(request, Data)
    assert (request.from_client, request.data) == (True, ESTABLISH)
    assert isinstance(answer, Data)
    assert (answer.from_client, len(answer.data)) == (False, 12)
    assert isinstance(closed, Closed)


async def test_joined_sessions_keep_their_state(listener: Listener, taps: Taps, seen: list[Record]) -> None:
    session = listener.connect()
    send(session, ESTABLISH)
    taps.add(Watch(seen.append))
    (opened,) = seen
    assert isinstance(opened, Opened)
    assert opened.is_joined
    assert opened.version == (4, 4)
    assert opened.context == session.client.context
    assert opened.table_size == 16


async def test_secrets_are_hidden_from_who_did_not_ask(listener: Listener, taps: Taps) -> None:
    hidden: list[Record] = []
    open_: list[Record] = []
    taps.add(Watch(hidden.append))
    taps.add(Watch(open_.append, shows_secrets=True))
    send(listener.connect(), VERIFY)
    assert data(hidden)[0].data == VERIFY[:-4] + b"****"
    assert data(open_)[0].data == VERIFY


async def test_the_last_watcher_turns_off_the_light(listener: Listener, taps: Taps) -> None:
    session = listener.connect()
    first, second = Watch(lambda record: None), Watch(lambda record: None)
    taps.add(first)
    taps.add(second)
    assert session.tap is not None
    taps.remove(first)
    assert session.tap is not None
    taps.remove(second)
    assert session.tap is None
    assert listener.door.opened is None
    assert listener.connect().tap is None


async def test_who_is_not_wanted_is_not_tapped(listener: Listener, taps: Taps, seen: list[Record]) -> None:
    before = listener.connect()
    taps.add(Watch(seen.append, uid=0))
    after = listener.connect()
    assert (before.tap, after.tap) == (None, None)
    assert seen == []
    taps.add(Watch(seen.append, uid=1000, pid=4711))
    assert before.tap is not None
    assert after.tap is not None


async def test_a_watcher_may_leave_while_it_is_told(listener: Listener, taps: Taps) -> None:
    """As one does that is dropped because it does not read."""
    told: list[Record] = []

    def leave(record: Record) -> None:
        told.append(record)
        if isinstance(record, Data):
            taps.remove(watch)

    watch = Watch(leave)
    other: list[Record] = []
    taps.add(watch)
    taps.add(Watch(other.append))
    send(listener.connect(), ESTABLISH)
    assert len(data(told)) == 1
    assert len(data(other)) == 2


async def test_requests_are_counted(listener: Listener, taps: Taps) -> None:
    watched, counted = listener.connect(), listener.connect()
    taps.add(Watch(lambda record: None))
    taps.remove(Watch(lambda record: None))
    quiet = Listener()
    session = quiet.connect()
    counting = Taps((quiet,))
    counts = counting.count()
    for _ in range(5):
        send(session, ESTABLISH)
    assert [count() for count in counts.values()] == [5]
    counting.stop_counting(counts)
    assert session.tap is None
    assert watched.tap is not None
    assert counted.tap is not None
    assert taps.count() == {}, "those that are watched keep their tap"


async def test_one_that_is_joined_in_the_middle_of_a_request(
    listener: Listener, taps: Taps, seen: list[Record]
) -> None:
    """It is followed from its next request on."""
    session = listener.connect()
    send(session, ESTABLISH[:7])
    taps.add(Watch(seen.append))
    send(session, ESTABLISH[7:])
    assert data(seen) == []
    send(session, ESTABLISH)
    assert data(seen)[0].data == ESTABLISH
    assert [record.from_client for record in data(seen)] == [True, False]


async def test_numbers_stay(listener: Listener) -> None:
    first, second = listener.connect(), listener.connect()
    listener.sessions.discard(first)
    third = listener.connect()
    assert [session.client.number for session in (first, second, third)] == [1, 2, 3]
    assert third.peer.number == 3, "the log names a client as status and spy do"


def test_a_view_goes_with_the_rule_that_lets_in(listener: Listener) -> None:
    door = listener.door
    door.reconfigure(door.config._replace(access=AccessRule(users=frozenset())), ())
    session = Session(door, listener.sessions.discard)
    # a reload comes between the session and its connection
    door.reconfigure(door.config._replace(readers=("SIM*",), access=AccessRule()), ())
    session.connection_made(Link())
    assert session.client.view is door.view


def test_a_session_without_its_connection_is_told_of_once(
    listener: Listener, taps: Taps, seen: list[Record]
) -> None:
    session = Session(listener.door, listener.sessions.discard)
    listener.sessions.add(session)
    taps.add(Watch(seen.append))
    session.connection_made(Link())
    (opened,) = seen
    assert isinstance(opened, Opened)
    assert (opened.pid, opened.is_joined) == (4711, False)
