"""What log lines look like where they go."""

import io
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pypcscd.process import logs
from pypcscd.process.journal import JournalHandler, syslog_priority
from pypcscd.scard import ReturnCode
from pypcscd.server.access import Peer

log = logging.getLogger("pypcscd.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("asyncio").level
    yield
    root.handlers[:], level, asyncio_level = before
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(asyncio_level)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(5)
        yield journal


def parse(entry: bytes) -> dict[str, str]:
    """An entry of the journal's native protocol."""
    found = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, is_short, value = line.partition(b"=")
        if not is_short:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        found[name.decode()] = value.decode()
        entry = rest
    return found


def test_readable_lines() -> None:
    stream = io.StringIO()
    logs.configure(logging.INFO, stream=stream)
    log.info("reader added: %s", "A 00 00")
    log.debug("not shown")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO reader added: A 00 00\n", stream.getvalue())


def test_letters_that_the_stream_does_not_have() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    logs.configure(logging.INFO, stream=stream)
    log.info("reader added: %s", "Lés 読 \udcff 00 00")
    written = stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert written.endswith(b"reader added: L\xe9s \\u8aad \\udcff 00 00\n")


def test_colours() -> None:
    stream = io.StringIO()
    logs.configure(logging.INFO, stream=stream, colours=True)
    log.error("no")
    assert re.fullmatch(
        r"\x1b\[36m\d\d:\d\d:\d\d\.\d{3}\x1b\[0m \x1b\[35mERROR no\x1b\[0m\n", stream.getvalue()
    )
    # a file is no terminal
    stream = io.StringIO()
    logs.configure(logging.INFO, stream=stream, colours=None)
    log.error("no")
    assert "\x1b" not in stream.getvalue()


def test_apdus_at_every_level() -> None:
    stream = io.StringIO()
    logs.configure(logging.CRITICAL, stream=stream)
    log.error("not shown")
    logging.getLogger("pypcscd.apdu").info("APDU: 00")
    assert stream.getvalue().endswith(" INFO APDU: 00\n")
    assert stream.getvalue().count("\n") == 1


def test_a_stream_that_leads_to_the_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(logs, "SOCKET", tmp_path / "none")
    with (tmp_path / "stream").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure(logging.INFO, stream=stream)
        log.warning("one\ntwo")
        stream.seek(0)
        assert stream.read() == "<4>one\n<4>two\n"


def test_journal_entries(journal: socket.socket) -> None:
    path = Path(journal.getsockname())
    handler = JournalHandler(lambda name: name == "A 00 00", path)
    peer = Peer(7)
    peer.pid, peer.uid = os.getpid(), 1000
    arguments = (peer, "A 00 00", "other", ReturnCode.E_SHARING_VIOLATION)
    try:
        handler.emit(logging.LogRecord("pypcscd.x", logging.WARNING, "", 0, "%s %s %s %s", arguments, None))
        entry = parse(journal.recv(65536))
        handler.emit(logging.LogRecord("pypcscd.x", logging.INFO, "", 0, "two\nlines", (), None))
        assert parse(journal.recv(65536))["MESSAGE"] == "two\nlines"
        handler.emit(logging.LogRecord("pypcscd.x", logging.INFO, "", 0, "x" * 100_000, (), None))
        assert len(parse(journal.recv(65536))["MESSAGE"]) == 48 * 1024
    finally:
        handler.close()
    assert entry.pop("MESSAGE").startswith("client 7 (")
    assert entry == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "pypcscd",
        "PCSC_LOGGER": "pypcscd.x",
        "PCSC_CLIENT": "7",
        "PCSC_CLIENT_PID": str(os.getpid()),
        "PCSC_CLIENT_UID": "1000",
        "PCSC_READER": "A 00 00",
        "PCSC_RV": "0x8010000B",
    }


def test_a_journal_that_does_not_listen_costs_nothing(tmp_path: Path) -> None:
    handler = JournalHandler(lambda _: False, tmp_path / "none")
    handler.emit(logging.LogRecord("pypcscd", logging.INFO, "", 0, "lost", (), None))
    handler.close()


def test_in_the_background_it_goes_to_the_journal(
    monkeypatch: pytest.MonkeyPatch, journal: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(journal.getsockname())
    monkeypatch.setattr(logs, "SOCKET", path)
    monkeypatch.setattr(logs, "JournalHandler", lambda is_reader: JournalHandler(is_reader, path))
    logs.configure(logging.INFO, in_background=True)
    try:
        log.info("begun")
        log.error("broken")
        assert parse(journal.recv(65536))["MESSAGE"] == "begun"
        assert parse(journal.recv(65536))["PRIORITY"] == "3"
    finally:
        for handler in logging.getLogger().handlers:
            handler.close()
    # who starts it sees what goes wrong
    assert "broken" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "priority"), [(10, 7), (20, 6), (30, 4), (40, 3), (50, 2), (45, 3)])
def test_priorities(level: int, priority: int) -> None:
    assert syslog_priority(level) == priority


@pytest.mark.parametrize(("level", "count"), [(logging.DEBUG, 100), (logging.INFO, 5)])
def test_whoever_debugs_gets_every_repeated_line(level: int, count: int) -> None:
    stream = io.StringIO()
    logs.configure(level, stream=stream)
    for _ in range(100):
        log.warning("%s: it failed again", "A 00 00")
    for _ in range(100):
        logging.getLogger("pypcscd.apdu").info("APDU: 00")
    assert stream.getvalue().count("it failed again") == count
    assert stream.getvalue().count("APDU: 00") == 100
    for handler in logging.getLogger().handlers:
        handler.close()
    assert ("(said 95 times more" in stream.getvalue()) is (count == 5)
