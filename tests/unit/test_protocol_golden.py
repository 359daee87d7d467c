"""Messages of every dialect as bytes, in ``tests/data/messages``, and what they mean: both directions.

A message is what one ``sender`` ("client", "daemon") puts on the socket for a command, in either byte
order; "event" is what ends a wait, with its rv. Bytes are hexadecimal, a group for each field;
``00*86`` is a byte repeated, and ``14 x`` at the beginning of a line repeats the line. Texts of fixed
length are given as bytes.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from exchanges import ALL, SIZES, WAIT, dialects, orders, serving

from pypcscd.protocol import ClientConnection, Command, Dialect, ReaderEvent, Reply, Request
from pypcscd.protocol import messages as m
from pypcscd.protocol.dialects import WaitAnswer
from pypcscd.scard import ReaderStatus

MESSAGES = Path(__file__).parent.parent / "data" / "messages"

Entry = dict[str, Any]


def load(dialect: Dialect) -> list[Entry]:
    loaded: list[Entry] = json.loads((MESSAGES / f"{dialect}.json").read_text(encoding="utf-8"))
    return loaded


def octets(text: str | list[str]) -> bytes:
    if isinstance(text, list):
        return b"".join(map(octets, text))
    count, repeated, rest = text.partition(" x ")
    if repeated:
        return octets(rest) * int(count)
    groups = (group.partition("*") for group in text.split())
    return b"".join(bytes.fromhex(group) * int(times or 1) for group, _, times in groups)


def body_of(entry: Entry) -> m.Message | None:
    if "body" not in entry:
        return None
    fields = dict(entry["body"])
    kind = getattr(m, fields.pop("type"))
    message: m.Message = kind(
        **{name: octets(value) if isinstance(value, str) else value for name, value in fields.items()}
    )
    return message


def readers_of(entry: Entry) -> tuple[ReaderStatus, ...]:
    return tuple(
        ReaderStatus(**{**reader, "atr": bytes.fromhex(reader["atr"])}) for reader in entry["readers"]
    )


def expected(entry: Entry, order: str) -> bytes:
    return octets(entry["little" if order == "<" else "big"])


def requests(dialect: Dialect) -> dict[str, Entry]:
    return {entry["command"]: entry for entry in load(dialect) if entry.get("sender") == "client"}


def sent_by(client: ClientConnection, entry: Entry) -> bytes:
    return client.request(Command[entry["command"]], body_of(entry), bytes.fromhex(entry.get("data", "")))


def test_the_shorthand_of_these_files() -> None:
    assert octets("0102 00*3 FF") == b"\1\2\0\0\0\xff"
    assert octets(["AA", "2 x 01 00*2"]) == b"\xaa\1\0\0\1\0\0"


@dialects
def test_every_command_is_there(dialect: Dialect) -> None:
    entries = Counter((entry.get("command"), entry.get("sender")) for entry in load(dialect))
    for command in SIZES[dialect]:
        assert entries[command.name, "client"]
        silent = command is WAIT and dialect.wait_answer is WaitAnswer.NOTHING
        assert bool(entries[command.name, "daemon"]) is not silent
    assert entries[None, None] == 2, "both events"
    assert set(MESSAGES.iterdir()) == {MESSAGES / f"{dialect}.json" for dialect in ALL}


@dialects
@orders
def test_what_a_client_says(dialect: Dialect, order: str) -> None:
    for entry in requests(dialect).values():
        whole = expected(entry, order)
        assert sent_by(ClientConnection(dialect, byte_order=order), entry) == whole, entry
        server = serving(dialect)
        server.receive_data(whole)
        data = bytes.fromhex(entry.get("data", ""))
        assert server.next_request() == Request(Command[entry["command"]], body_of(entry), data)
        assert server.buffered == 0
        assert server.dialect is dialect


@dialects
@orders
def test_what_a_daemon_says(dialect: Dialect, order: str) -> None:
    asked = requests(dialect)
    for entry in load(dialect):
        if entry.get("sender") != "daemon":
            continue
        whole = expected(entry, order)
        command, body, data = Command[entry["command"]], body_of(entry), bytes.fromhex(entry.get("data", ""))
        records = entry.get("records", 0)

        server = serving(dialect)
        server.receive_data(expected(asked[command.name], order))
        assert server.next_request() is not None
        if body is not None:
            answer, reply = server.reply(body, data), Reply(command, body, data)
        else:
            readers = readers_of(entry)
            answer = server.reply_readers(server.codec.encode_table(readers, records))
            reply = Reply(command, None, readers=readers)
        assert answer == whole, entry

        client = ClientConnection(dialect, table_size=records, byte_order=order)
        if command is Command.READERS_STATE_ARRAY:
            client.request(Command.READERS_STATE_SIZE)
            client.receive_data(records.to_bytes(4, "little" if order == "<" else "big"))
            assert client.next_event() == Reply(Command.READERS_STATE_SIZE, m.StatesSize(records))
        sent_by(client, asked[command.name])
        client.receive_data(whole[:-1])
        assert client.next_event() is None
        client.receive_data(whole[-1:])
        assert client.next_event() == reply
        assert client.next_event() is None


@dialects
@orders
def test_events(dialect: Dialect, order: str) -> None:
    for entry in load(dialect):
        if "event" in entry:
            whole = expected(entry, order)
            assert serving(dialect, order=order).event(entry["event"]) == whole
            client = ClientConnection(dialect, byte_order=order)
            client.receive_data(whole)
            assert client.next_event() == ReaderEvent(entry["event"])


@pytest.mark.parametrize("dialect", [one for one in ALL if one.version == (4, 2)], ids=str)
@orders
def test_the_other_layout_of_4_2_is_found_by_connect(dialect: Dialect, order: str) -> None:
    (other,) = {one for one in ALL if one.version == (4, 2)} - {dialect}
    entry = requests(dialect)["CONNECT"]
    server = serving(other)
    server.receive_data(expected(entry, order))
    assert server.next_request() == Request(Command.CONNECT, body_of(entry))
    assert server.dialect is dialect
