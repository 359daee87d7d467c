"""Lines that wait until the event loop has been through what it is at."""

import asyncio
import logging
import threading

from pypcscd.process.later import Later


class Seen(logging.Handler):
    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.lines: list[str] = []
        self.news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.news.set()


def logger(*handlers: logging.Handler) -> logging.Logger:
    log = logging.Logger("pypcscd.test")
    log.addHandler(Later(handlers))
    return log


async def test_lines_come_after_what_goes_on_and_in_their_order() -> None:
    seen = Seen()
    log = logger(seen)
    log.info("%s %d", "inserted", 1)
    log.info("inserted 2")
    await asyncio.sleep(0)
    assert seen.lines == []
    await asyncio.wait_for(seen.news.wait(), 10)
    assert seen.lines == ["inserted 1", "inserted 2"]
    seen.news.clear()
    log.info("removed")
    await asyncio.wait_for(seen.news.wait(), 10)
    assert seen.lines[2:] == ["removed"]


async def test_a_warning_comes_at_once_behind_what_was_said_before() -> None:
    seen, grave = Seen(), Seen(logging.WARNING)
    log = logger(seen, grave)
    log.info("inserted")
    log.warning("mute")
    assert seen.lines == ["inserted", "mute"]
    assert grave.lines == ["mute"]


async def test_nothing_is_lost_at_the_end() -> None:
    seen = Seen()
    log = logger(seen)
    log.info("stopping")
    assert seen.lines == []
    log.handlers[0].close()
    assert seen.lines == ["stopping"]


def test_without_a_loop_lines_are_written_at_once() -> None:
    seen = Seen()
    log = logger(seen)
    log.info("reading the configuration")
    assert seen.lines == ["reading the configuration"]


async def test_a_thread_does_not_wait_for_anybody() -> None:
    seen = Seen()
    log = logger(seen)
    thread = threading.Thread(target=log.info, args=("from a thread",))
    thread.start()
    thread.join()
    assert seen.lines == ["from a thread"]
