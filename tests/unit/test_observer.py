"""The protocol as seen by somebody between the two ends."""

import struct
from collections.abc import Callable
from typing import cast

import pytest
from exchanges import (
    ANSWERS,
    ARRAY,
    EVENTS,
    EXCHANGES,
    READERS,
    SIZE,
    STATES,
    STOP,
    V43,
    V44,
    V46,
    WAIT,
    cuts,
    exchanges,
    header,
    orders,
    pair,
)
from hypothesis import given
from hypothesis import strategies as st

from pypcscd.protocol import DIALECTS, ClientConnection, Command, Dialect, ServerConnection
from pypcscd.protocol.dialects import NATIVE_ORDER, SIBLINGS, WaitAnswer
from pypcscd.protocol.messages import Connect, EstablishContext, Message, Transmit, Version, Waiting
from pypcscd.protocol.observer import NotUnderstood, Observer, Seen, SeenEvent, SeenReply, SeenRequest

Cut = Callable[[bytes], list[bytes]]
EVERY = tuple(DIALECTS.values())
every_dialect = pytest.mark.parametrize("dialect", EVERY, ids=str)


class Talk:
    """A client and a daemon, and somebody who sees both."""

    def __init__(
        self,
        client: ClientConnection,
        server: ServerConnection,
        cut: Cut = lambda data: [data],
        **known: object,
    ) -> None:
        self.client = client
        self.server = server
        self.cut = cut
        self.observer = Observer(**known)  # type: ignore[arg-type]
        self.seen: list[Seen] = []
        self.sent = b""
        self.answered = b""

    def ask(self, command: Command, body: Message | None = None, data: bytes = b"") -> None:
        raw = self.client.request(command, body, data)
        self.sent += raw
        for piece in self.cut(raw):
            self.seen += self.observer.client_sent(piece)
        self.server.receive_data(raw)
        assert self.server.next_request() is not None

    def answer(self, raw: bytes) -> None:
        self.answered += raw
        self.client.receive_data(raw)
        while self.client.next_event() is not None:
            pass
        for piece in self.cut(raw):
            self.seen += self.observer.daemon_sent(piece)

    def raw(self, *, from_client: bool) -> bytes:
        return b"".join(
            seen.raw
            for seen in self.seen
            if isinstance(seen, SeenRequest) == from_client and not isinstance(seen, NotUnderstood)
        )


def table(server: ServerConnection) -> bytes:
    return server.codec.encode_table(READERS, server.table_size)


@every_dialect
@orders
@cuts
@pytest.mark.parametrize("table_size", [16, 48])
def test_every_exchange(dialect: Dialect, order: str, cut: Cut, table_size: int) -> None:
    client, server = pair(dialect, order=order, table_size=table_size)
    # a table of 48 that comes byte by byte cannot be told from one of 16
    known = table_size if cut(b"ab") != [b"ab"] else None
    talk = Talk(client, server, cut, dialect=dialect, table_size=known)
    expected: list[tuple[Command, Message | None, bytes]] = []
    for command, body, data, reply, reply_data in exchanges(dialect):
        if dialect.wait_has_body and command in (WAIT, STOP):
            body = Waiting(60_000)
        if isinstance(body, Connect):
            body = body._replace(reader=b"Reader 00 00".ljust(dialect.name_size, b"\0"))
            reply = cast(Connect, reply)._replace(reader=body.reader)
        if command is Command.VERSION or (command is Command.STATUS and dialect.has_long_status):
            continue
        talk.ask(command, body, data)
        request = talk.seen[-1]
        assert isinstance(request, SeenRequest)
        assert (request.command, request.body, request.data) == (command, body, data)
        if command in (STATES, ARRAY) or (command is WAIT and dialect.wait_answer is WaitAnswer.TABLE):
            records = table(server) if command is not ARRAY else server.codec.encode_records(READERS)
            talk.answer(server.reply_readers(records))
            seen = talk.seen[-1]
            assert isinstance(seen, SeenReply)
            assert (seen.command, seen.readers) == (command, READERS)
        elif reply is None:
            server.no_reply()
            assert talk.seen[-1] is request
        else:
            talk.answer(server.reply(reply, reply_data))
            seen = talk.seen[-1]
            assert isinstance(seen, SeenReply)
            assert (seen.command, seen.body, seen.data) == (command, reply, reply_data)
        expected.append((command, body, data))
    assert talk.observer.byte_order == order
    assert talk.raw(from_client=True) == talk.sent
    assert talk.raw(from_client=False) == talk.answered
    assert talk.observer.end() == []
    assert expected


@every_dialect
@orders
def test_the_version_decides(dialect: Dialect, order: str) -> None:
    client, server = pair(dialect, order=order)
    talk = Talk(client, server)
    talk.ask(Command.VERSION, Version(*dialect.version))
    talk.answer(server.reply(Version(*dialect.version)))
    assert talk.observer.dialect == dialect


@pytest.mark.parametrize(
    ("asked", "answered", "spoken"),
    [
        ((4, 4), (4, 6), (4, 4)),  # pcscd 2.5 always says 4.6; an older client does not look
        ((4, 6), (4, 4), (4, 4)),  # a newer client falls back
        ((4, 7), (4, 6), (4, 6)),
        ((9, 9), (8, 8), (4, 4)),  # nothing known: as before
    ],
)
def test_the_older_version_is_spoken(
    asked: tuple[int, int], answered: tuple[int, int], spoken: tuple[int, int]
) -> None:
    client, server = pair(V44)
    talk = Talk(client, server)
    talk.ask(Command.VERSION, Version(*asked))
    talk.answer(server.reply(Version(*answered)))
    assert talk.observer.dialect.version == spoken


def test_a_refused_version_decides_nothing() -> None:
    client, server = pair(V44)
    talk = Talk(client, server)
    talk.ask(Command.VERSION, Version(4, 6))
    talk.answer(server.reply(Version(4, 3, 0x8010001E)))
    assert talk.observer.dialect.version == (4, 4)


def test_short_names_of_4_2_by_the_connect() -> None:
    short = SIBLINGS[DIALECTS[4, 2]]
    short = short if short.name_size == 100 else DIALECTS[4, 2]
    client, server = pair(short)
    talk = Talk(client, server, dialect=DIALECTS[4, 2])
    body = Connect(1, b"Reader".ljust(100, b"\0"), 2, 3)
    talk.ask(Command.CONNECT, body)
    assert talk.observer.dialect == short
    assert cast(SeenRequest, talk.seen[-1]).body == body


def test_short_names_of_4_2_by_the_table() -> None:
    short = SIBLINGS[DIALECTS[4, 2]]
    short = short if short.name_size == 100 else DIALECTS[4, 2]
    client, server = pair(short)
    talk = Talk(client, server, dialect=DIALECTS[4, 2])
    talk.ask(STATES)
    talk.answer(server.reply_readers(server.codec.encode_table(READERS, 16)))
    talk.ask(Command.RELEASE_CONTEXT, EXCHANGES[Command.RELEASE_CONTEXT][0])
    seen = talk.seen[-2]
    assert isinstance(seen, SeenReply)
    assert seen.readers[0].name == READERS[0].name


@orders
def test_an_event_behind_a_table(order: str) -> None:
    """In one piece, so that it must be told where the table ends."""
    client, server = pair(V44, order=order)
    talk = Talk(client, server)
    talk.ask(WAIT)
    talk.answer(server.reply_readers(table(server)) + server.event(0))
    assert [type(seen) for seen in talk.seen] == [SeenRequest, SeenReply, SeenEvent]


def test_the_wait_of_4_6() -> None:
    client, server = pair(V46)
    talk = Talk(client, server, dialect=V46)
    talk.ask(WAIT)
    server.no_reply()
    talk.ask(EVENTS)
    talk.answer(server.reply(ANSWERS[EVENTS]))
    talk.ask(SIZE)
    talk.answer(server.reply(ANSWERS[SIZE]))
    talk.ask(ARRAY)
    talk.answer(server.reply_readers(server.codec.encode_records(READERS)))
    talk.answer(server.event(0))
    assert isinstance(talk.seen[-1], SeenEvent)
    assert cast(SeenReply, talk.seen[-2]).readers == READERS


def test_an_event_that_crosses_the_stop() -> None:
    """STOP then has no answer of its own: the event is taken for it."""
    client, server = pair(V44)
    talk = Talk(client, server)
    talk.ask(WAIT)
    talk.answer(server.reply_readers(table(server)))
    event = server.event(0)
    talk.ask(STOP)
    talk.answer(event)
    assert isinstance(talk.seen[-1], SeenReply)
    assert talk.seen[-1].command is STOP


def test_the_wait_of_4_3_is_answered_by_the_event() -> None:
    client, server = pair(V43)
    talk = Talk(client, server, dialect=V43)
    talk.ask(WAIT, Waiting(1000))
    talk.answer(server.event(0))
    assert isinstance(talk.seen[-1], SeenEvent)


# --- what is not understood -------------------------------------------------------------------


def understood(observer: Observer) -> bool:
    """The next exchange is seen as what it is."""
    client, _ = pair(V44)
    asked = observer.client_sent(client.request(Command.ESTABLISH_CONTEXT, EstablishContext(2)))
    answered = observer.daemon_sent(struct.pack("=III", 2, 77, 0))
    return [type(seen) for seen in asked + answered][-2:] == [SeenRequest, SeenReply]


@pytest.mark.parametrize("answer", [b"", b"whatever", bytes(12)])
def test_an_unknown_command(answer: bytes) -> None:
    observer = Observer()
    assert understood(observer)
    raw = header(4, 0x42) + b"\1\2\3\4"
    seen = observer.client_sent(raw)
    assert seen == [NotUnderstood(True, raw, "unknown command 0x42 with 4 bytes (protocol 4.4)")]
    seen = observer.daemon_sent(answer)
    assert b"".join(one.raw for one in seen) == answer
    assert all(isinstance(one, NotUnderstood) for one in seen)
    assert understood(observer)


def test_a_known_command_with_a_strange_body() -> None:
    observer = Observer()
    assert understood(observer)
    (seen,) = observer.client_sent(header(3, Command.CONNECT) + b"abc")
    assert isinstance(seen, NotUnderstood)
    assert "CONNECT with 3 bytes" in seen.why
    assert understood(observer)


def test_no_requests_at_all() -> None:
    observer = Observer()
    (seen,) = observer.client_sent(b"GET / HTTP/1.1\r\n\r\n")
    assert isinstance(seen, NotUnderstood)
    assert seen.raw == b"GET / HTTP/1.1\r\n\r\n"
    (answer,) = observer.daemon_sent(b"?")
    assert answer.raw == b"?"


def test_too_much_of_an_answer() -> None:
    observer = Observer()
    client, _ = pair(V44)
    observer.client_sent(client.request(Command.ESTABLISH_CONTEXT, EstablishContext(2)))
    observer.daemon_sent(struct.pack("=III", 2, 77, 0) + b"xyz")
    seen = observer.client_sent(header(0, STATES))
    assert seen[0] == NotUnderstood(False, b"xyz", "it is no answer to what was asked")
    assert isinstance(seen[1], SeenRequest)


def test_an_answer_to_what_was_asked_before() -> None:
    """A connection that is joined while the daemon is busy: eight bytes are not taken for an event."""
    observer = Observer(is_joined=True, byte_order=NATIVE_ORDER)
    assert observer.daemon_sent(bytes(8)) == [
        NotUnderstood(False, bytes(8), "it answers what is not understood")
    ]
    assert understood(observer)
    assert observer.daemon_sent(bytes(8)) == [SeenEvent(0, bytes(8))]


@pytest.mark.parametrize("length", [1, 7, 8, 20, 40])
def test_half_a_message(length: int) -> None:
    observer = Observer()
    client, _ = pair(V44)
    raw = client.request(Command.TRANSMIT, Transmit(7, 2, 16, 5, 2, 16, 258), b"\0\x20\0\1\0")[:length]
    assert observer.client_sent(raw) == []
    assert observer.end() == [NotUnderstood(True, raw, "the connection ended within it")]


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=20))
def test_any_bytes_come_out_again(pieces: list[tuple[bool, bytes]]) -> None:
    """Nothing raises, nothing is lost, nothing is doubled, in both directions."""
    observer = Observer()
    sent = {True: b"", False: b""}
    seen: list[Seen] = []
    for from_client, data in pieces:
        sent[from_client] += data
        seen += observer.client_sent(data) if from_client else observer.daemon_sent(data)
    seen += observer.end()
    came = {True: b"", False: b""}
    for one in seen:
        from_client = one.from_client if isinstance(one, NotUnderstood) else isinstance(one, SeenRequest)
        came[from_client] += one.raw
    assert came == sent


@given(
    st.sampled_from(EVERY),
    st.lists(st.tuples(st.integers(0, 0x20), st.binary(max_size=300), st.binary(max_size=3000)), max_size=8),
)
def test_any_answers_to_any_commands(dialect: Dialect, talk: list[tuple[int, bytes, bytes]]) -> None:
    observer = Observer(dialect=dialect)
    sent, answered = b"", b""
    seen: list[Seen] = []
    for number, body, answer in talk:
        raw = header(len(body), number) + body
        sent += raw
        answered += answer
        seen += observer.client_sent(raw) + observer.daemon_sent(answer)
    seen += observer.end()
    from_client = [
        one.raw
        for one in seen
        if isinstance(one, SeenRequest) or (isinstance(one, NotUnderstood) and one.from_client)
    ]
    assert b"".join(from_client) == sent
    assert sum(len(one.raw) for one in seen) == len(sent) + len(answered)
