"""Lines that repeat themselves: the first few, then how many there were."""

import asyncio
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pypcscd.driver import DriverError, Reason
from pypcscd.process import repeats
from pypcscd.process.repeats import Repeats
from pypcscd.server.access import Peer

FEW = 5
FAILED = "%s: %s by %s failed: %s"


class Seen(logging.Handler):
    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []
        self.is_closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.is_closed = True
        super().close()

    def take(self) -> list[str]:
        taken, self.records = self.records, []
        return [record.getMessage() for record in taken]


class Bench:
    """A logger of its own, on a clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.seen = Seen()
        self.repeats = Repeats([self.seen])
        self.log = logging.Logger("pypcscd.test")
        self.log.addHandler(self.repeats)

    def fail(
        self, times: int = 1, reader: str = "A 00 00", error: object = "mute", client: object = "c"
    ) -> None:
        for _ in range(times):
            self.log.warning(FAILED, reader, "SCardTransmit", client, error)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench()
    monkeypatch.setattr(repeats, "time", SimpleNamespace(monotonic=lambda: bench.seconds))
    yield bench
    bench.repeats.close()


def line(reader: str = "A 00 00", error: str = "mute", client: str = "c") -> str:
    return f"{reader}: SCardTransmit by {client} failed: {error}"


def test_the_first_few_and_then_their_number(bench: Bench) -> None:
    bench.fail(FEW + 4212)
    assert bench.seen.take() == [line()] * FEW
    bench.seconds += 10.0
    bench.log.error("anything")
    assert bench.seen.take() == [f"{line()} (said 4,212 times more in 10 s)", "anything"]


def test_what_is_different_goes_through(bench: Bench) -> None:
    bench.fail(100)
    bench.seen.take()
    bench.fail(reader="B 00 00")
    bench.fail(error="gone")
    bench.fail(client="another program")
    bench.log.warning("%s: %s by %s was slow: %s", "A 00 00", "SCardTransmit", "c", "mute")
    bench.log.error(FAILED, "A 00 00", "SCardTransmit", "c", "mute")
    bench.log.warning(FAILED, "A 00 00", "SCardControl", "c", "mute")
    assert len(bench.seen.take()) == 6
    bench.fail()
    assert bench.seen.take() == []


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_only_warnings_are_limited(bench: Bench, level: int) -> None:
    for _ in range(100):
        bench.log.log(level, "APDU: %s", "00 A4")
    assert len(bench.seen.take()) == 100


def test_numbers_in_errors_and_of_clients_make_no_difference(bench: Bench) -> None:
    for number in range(700):
        said = f"{number} bytes, status {number:02X} or 0x{number:08X}, {number}th"
        error = DriverError(Reason.COMMUNICATION, said)
        peer = Peer(number)
        peer.uid = 1000
        bench.fail(error=error, client=peer)
    assert len(bench.seen.take()) == FEW
    # but who it was does, and so does a reader's name
    peer.uid = 1001
    bench.fail(error=error, client=peer)
    bench.fail(error=error, client=peer, reader="A 00 01")
    assert len(bench.seen.take()) == 2


def test_a_summary_has_the_fields_of_its_line(bench: Bench) -> None:
    bench.fail(100)
    bench.seen.take()
    bench.seconds += 10.0
    bench.fail(reader="B 00 00")
    summary, _ = bench.seen.records
    assert isinstance(summary.args, tuple)
    assert summary.args[:2] == ("A 00 00", "SCardTransmit")
    assert (summary.name, summary.levelno) == ("pypcscd.test", logging.WARNING)


def test_one_line_too_many_is_said_as_it_is(bench: Bench) -> None:
    bench.fail(FEW + 1)
    assert len(bench.seen.take()) == FEW
    bench.seconds += 10.0
    bench.log.error("100 %")
    assert bench.seen.take() == [line(), "100 %"]


def test_a_line_without_arguments(bench: Bench) -> None:
    for _ in range(FEW + 2):
        bench.log.error("100 %")
    bench.seen.take()
    bench.repeats.close()
    assert bench.seen.take() == ["100 % (said 2 times more in 0 s)"]


def test_what_goes_on_is_said_once_a_round(bench: Bench) -> None:
    bench.fail(100)
    bench.seen.take()
    for _ in range(3):
        bench.seconds += 10.5
        bench.fail(50)
    assert bench.seen.take() == [
        f"{line()} (said 95 times more in 10 s)",
        f"{line()} (said 50 times more in 10 s)",
        f"{line()} (said 50 times more in 10 s)",
    ]


def test_after_a_pause_it_begins_anew(bench: Bench) -> None:
    bench.fail(100)
    bench.seconds += 10.0
    bench.log.error("anything")
    bench.seconds += 10.0
    bench.seen.take()
    bench.fail(100)
    assert bench.seen.take() == [line()] * FEW
    bench.seconds += 3600.0
    bench.fail(100)
    assert bench.seen.take()[1:] == [line()] * FEW


def test_what_comes_now_and_then_is_never_left_out(bench: Bench) -> None:
    for _ in range(100):
        bench.fail()
        bench.seconds += 3.0
    assert bench.seen.take() == [line()] * 100


def test_memory_has_a_bound(bench: Bench) -> None:
    for number in range(2000):
        bench.fail(error=f"{number}")
    assert len(bench.seen.take()) == 2000
    assert len(bench.repeats._kinds) == repeats._MOST_KINDS < 1000
    bench.seconds += 10.0
    bench.fail()
    assert len(bench.repeats._kinds) == 1


def test_tracebacks(bench: Bench) -> None:
    defects = [ValueError("a defect")] * 100 + [KeyError("another")]
    for defect in defects:
        bench.log.error("%s: failed; please report this", "A 00 00", exc_info=defect)
    shown = [record.exc_info[0] for record in bench.seen.records if record.exc_info]
    assert shown == [ValueError] * FEW + [KeyError]
    bench.seen.take()
    bench.seconds += 10.0
    bench.fail()
    summary, _ = bench.seen.records
    assert summary.getMessage() == "A 00 00: failed; please report this (said 95 times more in 10 s)"
    assert summary.exc_info is None


async def test_the_number_is_said_even_if_nothing_follows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "_ROUND", 0.05)
    bench.fail(FEW)
    assert not bench.repeats._has_timer, "whoever is idle is not woken"
    bench.fail(3)
    assert len(bench.seen.records) == FEW
    async with asyncio.timeout(5):
        while len(bench.seen.records) == FEW:
            await asyncio.sleep(0.005)
    assert bench.seen.take()[FEW:] == [f"{line()} (said 3 times more in 0 s)"]
    assert not bench.repeats._has_timer
    bench.fail(2)
    assert bench.repeats._has_timer
    async with asyncio.timeout(5):
        while not bench.seen.records:
            await asyncio.sleep(0.005)
    assert bench.seen.take() == [f"{line()} (said 2 times more in 0 s)"]
    bench.repeats.close()
    assert bench.seen.take() == []


def test_in_a_thread_there_is_nothing_to_wait_for(bench: Bench) -> None:
    bench.fail(FEW + 2)
    assert not bench.repeats._has_timer


def test_at_the_end_what_is_left_is_said(bench: Bench) -> None:
    bench.fail(FEW + 2)
    bench.seen.take()
    bench.repeats.close()
    assert bench.seen.take() == [f"{line()} (said 2 times more in 0 s)"]
    assert bench.seen.is_closed


def test_a_line_that_cannot_be_made_ends_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    class Mad:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    bench.fail(error=Mad())
    assert bench.seen.records == []
    assert "no text" in capsys.readouterr().err


def test_each_handler_has_its_own_level() -> None:
    everything, errors = Seen(), Seen(logging.ERROR)
    repeating = Repeats([everything, errors])
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        repeating.handle(logging.LogRecord("x", level, "", 0, "%s", (level,), None))
    repeating.close()
    assert everything.take() == ["20", "30", "40"]
    assert errors.take() == ["40"]
