"""Messages become calls of the PC/SC interface."""

import pytest
from exchanges import READERS, V43, V44, V46, pair

from pypcscd.protocol import Command, Dialect
from pypcscd.protocol.messages import (
    BeginTransaction,
    Cancel,
    Connect,
    Control,
    EstablishContext,
    Message,
    StatesSize,
    Status,
    Transmit,
    Version,
    Waiting,
)
from pypcscd.protocol.observer import Observer
from pypcscd.redact import MessageSecrets
from pypcscd.scard import ReaderStatus, ReturnCode
from pypcscd.tools.spy.calls import Folder
from pypcscd.tools.spy.model import Call, Connection, Note, Shown

EMPTY = (READERS[0]._replace(state=2, atr=b"", event_counter=0x0103), READERS[1])
SV = ReturnCode.E_SHARING_VIOLATION
every_wait = pytest.mark.parametrize("dialect", [V43, V44, V46], ids=str)


class Story:
    """A connection whose messages come at given times."""

    def __init__(self, dialect: Dialect) -> None:
        self.client, self.server = pair(dialect)
        self.dialect = dialect
        self.observer = Observer(dialect=dialect)
        self.folder = Folder(Connection(1, 42, 0, "/bin/program"))
        self.secrets = MessageSecrets()
        self.now = 100.0
        self.shown: list[Shown] = []

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def ask(self, command: Command, body: Message | None = None, data: bytes = b"") -> None:
        self.now += 0.00001
        raw = self.client.request(command, body, data)
        for seen in self.observer.client_sent(raw):
            self.shown += self.folder.feed(seen, self.now, self.secrets.parts(seen))
        self.server.receive_data(raw)
        assert self.server.next_request() is not None

    def answer(self, raw: bytes) -> None:
        self.now += 0.00001
        self.client.receive_data(raw)
        while self.client.next_event() is not None:
            pass
        for seen in self.observer.daemon_sent(raw):
            self.shown += self.folder.feed(seen, self.now, self.secrets.parts(seen))

    def call(self, command: Command, body: Message, reply: Message, data: bytes = b"") -> None:
        sent = data if isinstance(body, Transmit | Control) else b""
        self.ask(command, body, sent)
        self.answer(
            self.server.reply(reply, b"\x90\x00" if isinstance(reply, Transmit) and not reply.rv else b"")
        )

    def look(self, readers: tuple[ReaderStatus, ...] = READERS) -> None:
        if self.dialect.counted_table:
            self.ask(Command.READERS_STATE_SIZE)
            self.answer(self.server.reply(StatesSize(len(readers))))
            self.ask(Command.READERS_STATE_ARRAY)
            self.answer(self.server.reply_readers(self.server.codec.encode_records(readers)))
        else:
            self.ask(Command.GET_READERS_STATE)
            self.answer(self.server.reply_readers(self.server.codec.encode_table(readers, 16)))

    def first_look(self, readers: tuple[ReaderStatus, ...] = READERS) -> None:
        """The beginning of SCardGetStatusChange."""
        if self.dialect.wait_has_body:
            self.look(readers)
        else:
            self.register(readers)

    def register(self, readers: tuple[ReaderStatus, ...] = READERS) -> None:
        wait = Command.WAIT_READER_STATE_CHANGE
        if self.dialect.wait_has_body:
            self.ask(wait, Waiting(1000))
            assert self.server.no_reply() == b""
        elif self.dialect.counted_table:
            self.ask(wait)
            self.server.no_reply()
            self.look(readers)
        else:
            self.ask(wait)
            self.answer(self.server.reply_readers(self.server.codec.encode_table(readers, 16)))

    def stop(self) -> None:
        body = Waiting(1000) if self.dialect.wait_has_body else None
        self.ask(Command.STOP_WAITING_READER_STATE_CHANGE, body)
        self.answer(self.server.reply(Waiting()))

    def event(self, rv: int = 0) -> None:
        self.answer(self.server.event(rv))

    def time_out(self, readers: tuple[ReaderStatus, ...] = READERS) -> None:
        """The client library stops, and looks again."""
        self.stop()
        self.first_look(readers)

    def finish_wait(self) -> None:
        if not self.dialect.wait_has_body:
            self.stop()

    def settle(self) -> list[Call]:
        self.now += 1
        self.shown += self.folder.tick(self.now)
        return self.calls

    @property
    def calls(self) -> list[Call]:
        return [one for one in self.shown if isinstance(one, Call)]

    @property
    def notes(self) -> list[Note]:
        return [one for one in self.shown if isinstance(one, Note)]


def connect(story: Story, name: str = "Virtual PCD 00 00", card: int = 7) -> None:
    body = Connect(5, name.encode().ljust(128, b"\0"), 2, 3)
    story.call(Command.CONNECT, body, body._replace(card=card, active_protocol=2))


def names(calls: list[Call]) -> list[str]:
    return [call.name.removeprefix("SCard") for call in calls]


def values(call: Call) -> dict[str, object]:
    return {parameter.name: parameter.value for parameter in call.inputs + call.outputs}


def test_a_context_is_version_and_establish() -> None:
    story = Story(V44)
    story.call(Command.VERSION, Version(4, 4), Version(4, 4))
    story.pause(0.5)
    story.call(Command.ESTABLISH_CONTEXT, EstablishContext(2), EstablishContext(2, 5))
    (call,) = story.calls
    assert (call.name, call.rv, values(call)) == ("SCardEstablishContext", 0, {"dwScope": 2, "hContext": 5})
    assert call.duration > 0.5


def test_a_second_version_belongs_to_it() -> None:
    """pcsc-lite from 2.4.1 on asks again with the daemon's version."""
    story = Story(V46)
    story.call(Command.VERSION, Version(4, 7), Version(4, 6, ReturnCode.E_SERVICE_STOPPED))
    story.call(Command.VERSION, Version(4, 6), Version(4, 6))
    story.call(Command.ESTABLISH_CONTEXT, EstablishContext(2), EstablishContext(2, 5))
    (call,) = story.calls
    assert call.rv == 0
    assert "4.6" in call.remarks[0]


def test_a_refused_version_is_a_refused_context() -> None:
    story = Story(V44)
    story.call(Command.VERSION, Version(4, 4), Version(4, 3, ReturnCode.E_SERVICE_STOPPED))
    story.shown += story.folder.end(story.now, "the client went away")
    (call,) = story.calls
    assert (call.name, call.rv) == ("SCardEstablishContext", ReturnCode.E_SERVICE_STOPPED)


@pytest.mark.parametrize("dialect", [V43, V44, V46], ids=str)
def test_a_look_at_the_table_is_a_list(dialect: Dialect) -> None:
    story = Story(dialect)
    story.look()
    assert story.calls == []
    story.look()
    assert names(story.calls) == ["ListReaders"]
    assert names(story.settle()) == ["ListReaders", "ListReaders"]
    call = story.calls[0]
    assert [one.value for one in call.outputs] == [42, "Virtual PCD 00 00", "Leser für alles 01 00"]
    assert call.rv == 0


def test_no_readers() -> None:
    story = Story(V44)
    story.look(())
    assert story.settle()[0].rv == ReturnCode.E_NO_READERS_AVAILABLE


@pytest.mark.parametrize("dialect", [V43, V44, V46], ids=str)
def test_a_status_is_a_look_and_the_command(dialect: Dialect) -> None:
    story = Story(dialect)
    connect(story)
    story.look()
    story.look()
    story.call(Command.STATUS, Status(7), Status(7))
    assert names(story.calls) == ["Connect", "ListReaders", "Status"]
    found = values(story.calls[-1])
    assert found["mszReaderName"] == "Virtual PCD 00 00"
    assert found["dwState"] == 0x01020034
    assert found["dwProtocol"] == 2
    assert found["bAtr"] == READERS[0].atr


def test_a_status_that_fails_says_nothing_of_the_card() -> None:
    story = Story(V44)
    connect(story)
    story.look()
    story.call(Command.STATUS, Status(7), Status(7, ReturnCode.W_RESET_CARD))
    assert values(story.calls[-1]) == {"hCard": 7}


@pytest.mark.parametrize("tries", [2, 5])
def test_a_transaction_that_is_waited_for(tries: int) -> None:
    """The library repeats the request; to the program it is one call."""
    story = Story(V44)
    for _ in range(tries - 1):
        story.call(Command.BEGIN_TRANSACTION, BeginTransaction(7), BeginTransaction(7, SV))
        story.pause(0.1)
        story.shown += story.folder.tick(story.now)
    assert story.calls == []
    story.call(Command.BEGIN_TRANSACTION, BeginTransaction(7), BeginTransaction(7))
    (call,) = story.calls
    assert (call.rv, call.attempts) == (0, tries)
    assert call.duration > 0.1 * (tries - 1)


@pytest.mark.parametrize("dialect", [V44, V46], ids=str)
def test_a_status_that_is_waited_for(dialect: Dialect) -> None:
    story = Story(dialect)
    connect(story)
    for rv in (SV, SV, 0):
        story.look()
        story.call(Command.STATUS, Status(7), Status(7, rv))
        story.pause(0.1)
    assert [(call.name, call.rv) for call in story.calls[1:]] == [("SCardStatus", 0)]
    assert story.calls[-1].attempts == 3


def test_a_refusal_that_is_not_repeated() -> None:
    story = Story(V44)
    story.call(Command.BEGIN_TRANSACTION, BeginTransaction(7), BeginTransaction(7, SV))
    assert [call.rv for call in story.settle()] == [SV]
    story.call(Command.BEGIN_TRANSACTION, BeginTransaction(7), BeginTransaction(7, SV))
    story.call(Command.BEGIN_TRANSACTION, BeginTransaction(8), BeginTransaction(8))
    assert [call.rv for call in story.calls] == [SV, SV, 0]


# --- SCardGetStatusChange ---------------------------------------------------------------------


@every_wait
def test_a_change_that_is_there_already(dialect: Dialect) -> None:
    """Up to 4.3 such a call looks like a list of the readers."""
    story = Story(dialect)
    story.first_look()
    story.finish_wait()
    (call,) = story.settle()
    expected = "SCardListReaders" if dialect is V43 else "SCardGetStatusChange"
    assert (call.name, call.rv) == (expected, 0)


@every_wait
def test_a_change_that_is_waited_for(dialect: Dialect) -> None:
    story = Story(dialect)
    story.first_look()
    if dialect is V43:
        story.register()
    story.pause(2)
    story.event()
    story.first_look(EMPTY)
    story.finish_wait()
    (call,) = story.settle()
    assert (call.name, call.rv, call.is_inferred) == ("SCardGetStatusChange", 0, True)
    assert 2 < call.duration < 2.1
    states = [one.text for one in call.outputs if one.name == "dwEventState"]
    assert states[0] == "SCARD_STATE_CHANGED, SCARD_STATE_EMPTY, SCARD_STATE_EXCLUSIVE, SCARD_STATE_INUSE"
    assert "CHANGED" not in states[1]


@every_wait
def test_an_event_that_does_not_matter(dialect: Dialect) -> None:
    """The library looks and waits again; that is one call."""
    story = Story(dialect)
    story.first_look()
    if dialect is V43:
        story.register()
    for _ in range(3):
        story.pause(1)
        story.event()
        story.first_look()
        if dialect is V43:
            story.register()
    story.pause(1)
    story.event()
    story.first_look(EMPTY)
    story.finish_wait()
    (call,) = story.settle()
    assert call.rv == 0
    assert 4 < call.duration < 4.1


@every_wait
def test_a_time_out(dialect: Dialect) -> None:
    story = Story(dialect)
    story.first_look()
    if dialect is V43:
        story.register()
    story.pause(0.1)
    story.time_out()
    story.finish_wait()
    (call,) = story.settle()
    assert (call.name, call.rv) == ("SCardGetStatusChange", ReturnCode.E_TIMEOUT)
    assert 0.1 < call.duration < 0.2
    if dialect is V43:
        assert values(call)["dwTimeout"] == 1000


@pytest.mark.parametrize("dialect", [V44, V46], ids=str)
def test_an_infinite_wait_is_repeated_by_the_library(dialect: Dialect) -> None:
    story = Story(dialect)
    story.first_look()
    for _ in range(3):
        story.pause(60)
        story.time_out()
    story.pause(1)
    story.event()
    story.first_look(EMPTY)
    story.finish_wait()
    (call,) = story.settle()
    assert call.rv == 0
    assert 181 < call.duration < 182


@every_wait
def test_a_cancelled_wait(dialect: Dialect) -> None:
    story = Story(dialect)
    story.first_look()
    if dialect is V43:
        story.register()
    story.pause(1)
    story.event(ReturnCode.E_CANCELLED)
    assert [(call.name, call.rv) for call in story.calls] == [
        ("SCardGetStatusChange", ReturnCode.E_CANCELLED)
    ]


@pytest.mark.parametrize("dialect", [V44, V46], ids=str)
def test_a_poll(dialect: Dialect) -> None:
    """With time-out 0 and no change: two looks without a pause."""
    story = Story(dialect)
    for _ in range(3):
        story.first_look()
        story.time_out()
        story.finish_wait()
        story.pause(0.01)
    calls = story.settle()
    assert [(call.name, call.rv) for call in calls] == [("SCardGetStatusChange", ReturnCode.E_TIMEOUT)] * 3


@pytest.mark.parametrize("dialect", [V44, V46], ids=str)
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_look_and_then_a_wait(dialect: Dialect, pause: float) -> None:
    """The usual loop: what is there now, and from then on each change, even without a pause."""
    story = Story(dialect)
    story.first_look()
    story.finish_wait()
    story.pause(pause)
    story.first_look()
    story.pause(1)
    story.event()
    story.first_look(EMPTY)
    story.finish_wait()
    calls = story.settle()
    assert [(call.name, call.rv) for call in calls] == [("SCardGetStatusChange", 0)] * 2
    assert calls[0].duration < 0.001
    assert 1 < calls[1].duration < 1.01


@pytest.mark.parametrize("dialect", [V44, V46], ids=str)
def test_a_look_on_a_slow_machine(dialect: Dialect) -> None:
    """The STOP comes late, but nobody looks again: that was no time-out."""
    story = Story(dialect)
    for _ in range(2):
        story.first_look()
        story.pause(0.1)
        story.finish_wait()
        story.settle()
    story.first_look()
    story.pause(0.1)
    story.finish_wait()
    connect(story)
    assert [call.rv for call in story.calls] == [0, 0, 0, 0]
    assert names(story.calls) == ["GetStatusChange"] * 3 + ["Connect"]


@pytest.mark.parametrize("dialect", [V44, V46], ids=str)
def test_two_looks_with_different_results(dialect: Dialect) -> None:
    story = Story(dialect)
    story.first_look()
    story.finish_wait()
    story.first_look(EMPTY)
    story.finish_wait()
    assert [call.rv for call in story.settle()] == [0, 0]


def test_cancel_is_a_call_of_its_own_connection() -> None:
    story = Story(V44)
    story.call(Command.CANCEL, Cancel(5), Cancel(5))
    assert [(call.name, values(call)) for call in story.calls] == [("SCardCancel", {"hContext": 5})]


# --- ends and strangers -----------------------------------------------------------------------


def test_a_client_that_dies_in_a_call() -> None:
    story = Story(V44)
    connect(story)
    story.ask(Command.TRANSMIT, Transmit(7, 2, 16, 5, 2, 16, 258), b"\0\xb0\0\0\0")
    story.pause(3)
    story.shown += story.folder.end(story.now, "the client went away")
    call = story.calls[-1]
    assert (call.name, call.rv, call.remarks) == ("SCardTransmit", None, ["no answer: the client went away"])
    assert call.duration == pytest.approx(3)


@every_wait
def test_a_client_that_dies_in_a_wait(dialect: Dialect) -> None:
    story = Story(dialect)
    story.first_look()
    if dialect is V43:
        story.register()
    story.shown += story.folder.end(story.now, "the client went away")
    (call,) = story.calls
    assert (call.name, call.rv) == ("SCardGetStatusChange", None)
    assert "still waiting" in call.remarks[0]


def test_unknown_bytes_are_noted() -> None:
    story = Story(V44)
    for seen in story.observer.client_sent(b"\4\0\0\0\x42\0\0\0abcd"):
        story.shown += story.folder.feed(seen, story.now, story.secrets.parts(seen))
    connect(story)
    (note,) = story.notes
    assert "0x42" in note.text
    assert names(story.calls) == ["Connect"]


def test_secrets_go_with_the_call() -> None:
    story = Story(V44)
    connect(story)
    apdu = b"\0\x20\0\1\4" + b"1234"
    story.call(Command.TRANSMIT, Transmit(7, 2, 16, 9, 2, 16, 258), Transmit(7, 2, 16, 9, 2, 16, 2), apdu)
    (buffer,) = [one for one in story.calls[-1].inputs if one.name == "bSendBuffer"]
    assert buffer.secret == ((5, 9),)


def test_the_reader_goes_with_the_call() -> None:
    story = Story(V44)
    connect(story)
    connect(story, "Leser für alles 01 00", 8)
    story.call(Command.BEGIN_TRANSACTION, BeginTransaction(8), BeginTransaction(8))
    assert story.calls[-1].reader == "Leser für alles 01 00"
