"""Streams, packets and texts of the spy and of status."""

import io
import json
import struct
from typing import Any

import pytest
from fakes import FakeSlot
from hypothesis import given
from hypothesis import strategies as st

from pypcscd.control import stream
from pypcscd.control.status import StatusReport, atr_phrase
from pypcscd.control.stream import Closed, Data, Lost, Opened, Record, StreamError
from pypcscd.manager.manager import Manager
from pypcscd.scard import ReaderStatus
from pypcscd.tools.spy import names
from pypcscd.tools.spy.model import Call, Connection, Form, Note, Parameter
from pypcscd.tools.spy.objects import JsonRenderer
from pypcscd.tools.spy.pcapng import PcapngWriter
from pypcscd.tools.spy.render import TextRenderer, dump
from pypcscd.tools.status import duration, lines

PROGRAM = Connection(3, 42, 1000, "/bin/program")

# --- records ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        Opened(1, 12.5),
        Opened(2, 12.5, 42, 0, "/usr/bin/x y", (4, 3), ">", 48, True, 77, {7: "Leser 00 00"}),
        Data(1, 1795171641.964584, True, bytes(range(256))),
        Data(1, 1.0, False, b""),
        Closed(1, 13.0, 'the "client" went away'),
        Lost(14.0, "too slow"),
    ],
)
def test_records_come_back(record: Record) -> None:
    line = stream.encode(record)
    assert "\n" not in line
    assert json.loads(line)
    assert stream.decode(line) == record


@pytest.mark.parametrize("line", ['{"stream": "pypcscd-spy", "version": 1, "more": 2}', '{"new": 1}', "{}"])
def test_what_is_passed_over(line: str) -> None:
    assert stream.decode(line) is None


KEYS = st.sampled_from(["open", "data", "close", "lost", "time", "bytes", "from", "version", "handles"])
VALUES = st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.just({"a": 1})


@given(st.text() | st.dictionaries(KEYS, VALUES).map(json.dumps))
def test_any_line(line: str) -> None:
    """A record, nothing, or StreamError."""
    try:
        stream.decode(line)
    except StreamError as error:
        assert "line" in str(error)


def test_another_version() -> None:
    with pytest.raises(StreamError, match="version 2"):
        stream.decode('{"stream": "pypcscd-spy", "version": 2}')


# --- packets ----------------------------------------------------------------------------------


def test_the_blocks_of_a_packet_file() -> None:
    """Each block begins and ends with its length, and all are multiples of four bytes."""
    file = io.BytesIO()
    writer = PcapngWriter(file)
    for length in range(6):
        writer.command(bytes(length), 1.5, "x" * length)
    writer.response(b"\x90\x00", 2.000000001, "é")
    data, kinds, position = file.getvalue(), [], 0
    while position < len(data):
        kind, length = struct.unpack_from("<II", data, position)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, position + length - 4) == (length,)
        kinds.append(kind)
        position += length
    assert kinds == [0x0A0D0D0A, 1, *[6] * 7]
    assert position == len(data)


# --- text -------------------------------------------------------------------------------------


def call(**changes: Any) -> Call:
    made = Call("SCardTransmit", PROGRAM, 10.0, 10.25, rv=0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_call_as_text() -> None:
    made = call(
        inputs=[
            Parameter("hCard", Form.HANDLE, 7),
            Parameter("bSendBuffer", Form.DUMP, b"\0\x20\0\1\x04abcd" + bytes(10), secret=((5, 9),)),
        ],
        attempts=3,
    )
    assert TextRenderer().render(made) == [
        "(3) is /bin/program, pid 42, uid 1000",
        "(3) SCardTransmit",
        "(3)  i hCard: 0x00000007",
        "(3)  i bSendBuffer (4 secret bytes hidden; --show-secrets shows)",
        "(3)  i  0000 00 20 00 01 04 ** ** ** ** 00 00 00 00 00 00 00 . ...****.......",
        "(3)  i  0010 00 00 00                                        ...",
        "(3)  (asked 3 times, because another connection held the card)",
        "(3)  => The call succeeded. (SCARD_S_SUCCESS [0x00000000])  [0.250000]",
    ]


def test_results() -> None:
    renderer = TextRenderer()
    renderer.render(call())
    assert renderer.render(call(rv=0x8010000B))[-1] == (
        "(3)  => Another connection holds the card. (SCARD_E_SHARING_VIOLATION [0x8010000B])  [0.250000]"
    )
    assert "(UNKNOWN [0x12345678])" in renderer.render(call(rv=0x12345678))[-1]
    assert renderer.render(call(rv=None))[-1] == "(3)  => no result  [0.250000]"
    assert renderer.render(call(is_inferred=True))[-1].endswith("[0.250000]  inferred")


def test_the_table_of_times() -> None:
    renderer = TextRenderer()
    assert renderer.summary() == ["", "no calls"]
    for _ in range(3):
        renderer.render(call())
    renderer.render(call(name="SCardConnect", ended=10.5))
    assert renderer.summary() == [
        "",
        "1 connection, calls sorted by their total time",
        "total time: 1.250000 sec",
        "0.750000 sec (  3 calls) 60.00% SCardTransmit",
        "0.500000 sec (  1 call ) 40.00% SCardConnect",
    ]


@pytest.mark.parametrize("evil", ["\x1b]0;title\x07", "a\nb", "\x9b31m"])
def test_names_do_not_reach_the_terminal_as_commands(evil: str) -> None:
    connection = Connection(1, 1, 1, evil)
    made = Call("SCardConnect", connection, 1.0, rv=0, inputs=[Parameter("szReader", Form.TEXT, evil)])
    made.remarks = [evil]
    text = TextRenderer().render(made) + TextRenderer().render(Note(connection, 1.0, evil))
    assert len(text) == 7
    assert all(line.isprintable() for line in text)


def test_colours() -> None:
    plain = "".join(TextRenderer().render(call(rv=1)))
    colourful = "".join(TextRenderer(is_colourful=True).render(call(rv=1)))
    assert "\x1b" not in plain
    assert colourful.count("\x1b[0m") == colourful.count("\x1b[3")
    assert "\x1b[31m" in colourful


def test_json_hides_too() -> None:
    made = call(inputs=[Parameter("bSendBuffer", Form.DUMP, b"ab", secret=((1, 2),))])
    (line,) = JsonRenderer().render(made)
    assert json.loads(line)["in"] == [{"name": "bSendBuffer", "hex": "61**", "hidden": True}]
    (line,) = JsonRenderer(shows_secrets=True).render(made)
    assert json.loads(line)["in"] == [{"name": "bSendBuffer", "hex": "6162"}]


def test_lines_of_bytes() -> None:
    assert list(dump(b"")) == []
    assert list(dump(bytes(range(0x41, 0x52)))) == [
        "0000 41 42 43 44 45 46 47 48 49 4A 4B 4C 4D 4E 4F 50 ABCDEFGHIJKLMNOP",
        "0010 51                                              Q",
    ]


# --- names ------------------------------------------------------------------------------------


def test_names() -> None:
    assert names.protocols(3) == "T=0, T=1"
    assert names.protocols(0) == "UNDEFINED"
    assert names.share_mode(3) == "SCARD_SHARE_DIRECT"
    assert names.share_mode(9) == "UNKNOWN"
    assert names.attribute(0x00090303) == "SCARD_ATTR_ATR_STRING"
    assert names.control_code(0x42000D48, {}) == "CM_IOCTL_GET_FEATURE_REQUEST"
    assert names.control_code(0x42330006, {0x42330006: 6}) == "FEATURE_VERIFY_PIN_DIRECT"
    assert names.control_code(0x42000001, {}) == "SCARD_CTL_CODE(1)"
    assert names.control_code(0x00312000, {}) == "UNKNOWN"


@pytest.mark.parametrize(
    ("state", "sharing", "expected"),
    [
        (0x01, 0, "SCARD_STATE_UNAVAILABLE"),
        (0x02, 0, "SCARD_STATE_EMPTY"),
        (0x34, 0, "SCARD_STATE_PRESENT"),
        (0x34, 2, "SCARD_STATE_PRESENT, SCARD_STATE_INUSE"),
        (0x34, -1, "SCARD_STATE_PRESENT, SCARD_STATE_EXCLUSIVE, SCARD_STATE_INUSE"),
        (0x0C, 0, "SCARD_STATE_PRESENT, SCARD_STATE_MUTE"),
    ],
)
def test_states_as_programs_get_them(state: int, sharing: int, expected: str) -> None:
    reader = ReaderStatus("R", 5, state, sharing)
    found = names.event_state_of(reader, changed=False)
    assert names.event_state(found & 0xFFFF) == expected
    assert found >> 16 == 5


# --- status -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3456, "0.35 s"), (12.9, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("atr", "phrase"),
    [
        ("", ""),
        ("3B8580016865 6C6C6F66", 'T=0 and T=1, "hello"'),
        ("3B04A2131091", "T=0, 4 historical bytes"),
        ("3B80800101", "T=0 and T=1"),
        ("00", "not a valid ATR: an ATR has 2 to 33 bytes, not 1"),
    ],
)
def test_an_atr_in_a_phrase(atr: str, phrase: str) -> None:
    assert atr_phrase(bytes.fromhex(atr)) == phrase


def reader(**changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "name": "Reader 00 00",
        "driver": "virtual",
        "counters": {},
        "state": ["ABSENT"],
        "card": False,
        "powered": False,
        "atr": "",
        "atr_phrase": "",
        "protocol": "",
        "users": 0,
        "exclusive": False,
        "holder": None,
        "waiting": [],
    }
    return known | changes


def status(*readers: dict[str, Any]) -> list[str]:
    daemon = {"version": "1", "pid": 2, "uptime": 3.0}
    report = {"daemon": daemon, "sockets": [], "readers": readers, "clients": [], "helpers": []}
    return list(lines(report))


def test_nothing_is_said_where_nothing_went_wrong() -> None:
    without = reader()
    del without["counters"]
    assert (
        status(reader())[3:5] == status(without)[3:5] == ["  Reader 00 00  (driver virtual)", "    no card"]
    )
    assert not any("wrong" in line for line in status(reader()))


async def test_what_went_wrong_in_a_reader() -> None:
    class Counting(FakeSlot):
        def counters(self) -> dict[str, int]:
            return {"timeouts": 3, "aborts": 0}

    manager = Manager()
    await manager.add_readers("Fake", 0, [Counting(), FakeSlot()])
    report = StatusReport(manager, [], dict, 0.0).make([], {})
    await manager.close()
    assert [reader["counters"] for reader in report["readers"]] == [{"timeouts": 3}, {}]


async def test_which_processes_drivers_run_in() -> None:
    """On the event loop, where /proc must not be read."""
    running = {4711: "/usr/lib/libacme.so", 4712: "/usr/lib/lib\udcff.so"}
    report = StatusReport(Manager(), [], lambda: running, 0.0).make([], {})
    assert report["helpers"] == [
        {"pid": 4711, "library": "/usr/lib/libacme.so"},
        {"pid": 4712, "library": "/usr/lib/lib?.so"},
    ]


def test_an_empty_status() -> None:
    assert status() == ["pypcscd 1, pid 2, running for 3.00 s", "", "No readers", "", "No clients"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "no card"),
        ({"state": ["UNKNOWN"]}, "the reader does not answer"),
        ({"state": ["PRESENT", "SWALLOWED"], "card": True}, "a card that does not answer"),
        (
            {
                "state": ["PRESENT"],
                "card": True,
                "powered": True,
                "protocol": "T=1",
                "atr": "3B80",
                "atr_phrase": "T=0",
            },
            "card, powered, in use with T=1; ATR 3B 80 (T=0)",
        ),
        ({"users": 2}, "shared, 2 connections, free to take"),
        (
            {"counters": {"timeouts": 3, "transfer_failures": 1, "\x1b": 2}},
            "went wrong since it was opened: timeouts 3, transfer failures 1, ? 2",
        ),
        (
            {"holder": {"client": None, "pid": None, "executable": None, "seconds": 1}},
            "held by a client that is going away for 1.00 s",
        ),
        (
            {"exclusive": True, "holder": {"client": 1, "pid": 2, "executable": "/bin/\x1bx", "seconds": 1}},
            "in exclusive use by (1) /bin/?x, pid 2 for 1.00 s",
        ),
    ],
)
def test_a_reader_in_words(changes: dict[str, Any], line: str) -> None:
    assert "    " + line in status(reader(**changes))
