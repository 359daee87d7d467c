"""Two threads on one context: nothing ever hangs for good."""

from show import INFINITE, StateFlag
from stage import Stage
from vocabulary import EXCLUSIVE, R0, R1, RESET

EMPTY = int(StateFlag.EMPTY)


def list_while_waiting(s: Stage) -> None:
    """The library serves one call of a context at a time."""
    a = s.actor("A")
    waiting = a.changes_later([(R0, EMPTY)], 1000)
    waiting.waits()
    a.thread("2").list_readers()
    waiting.done()


def connect_while_waiting(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    waiting = a.changes_later([(R1, EMPTY)], 700)
    call = a.thread("2").connect_later()
    waiting.done()
    call.done()


def cancel_while_another_call_is_queued(s: Stage) -> None:
    a = s.actor("A")
    waiting = a.changes_later([(R0, EMPTY)], INFINITE)
    waiting.waits()
    queued = a.thread("2").connect_later()
    queued.waits()
    a.thread("3").cancel()
    waiting.done()
    queued.done()


def transmit_in_both(s: Stage) -> None:
    a = s.actor("A")
    card = s.insert()
    h = a.connect()
    card.hold()
    first = a.transmit_later(h, "80010000")
    s.await_frame("80010000")
    second = a.thread("2").transmit_later(h, "80020000")
    second.waits()
    card.go()
    first.done()
    second.done()


def begin_against_ones_own_other_handle(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h, g = a.connect(), a.connect()
    a.begin(h)
    second = a.thread("2")
    waiting = second.begin_later(g)
    waiting.waits()
    a.transmit(h)
    a.end(h)
    waiting.done()
    second.end(g)


def transmit_against_ones_own_other_handle(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h, g = a.connect(), a.connect()
    a.begin(h)
    waiting = a.thread("2").transmit_later(g)
    waiting.waits()
    a.transmit(h)
    a.end(h)
    waiting.done()


def reconnect_against_ones_own_other_handle(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h, g = a.connect(), a.connect()
    a.begin(h)
    waiting = a.thread("2").reconnect_later(g, initialization=RESET)
    waiting.waits()
    a.end(h)
    waiting.done()
    a.status(h)


def exclusive_reconnect_against_ones_own_other_handle(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h, g = a.connect(), a.connect()
    waiting = a.thread("2").reconnect_later(h, EXCLUSIVE)
    waiting.waits()
    a.disconnect(g)
    waiting.done()


def disconnect_against_ones_own_other_handle(s: Stage) -> None:
    """From the thread that ends the transaction, the library can take turns; the daemon must let it."""
    a = s.actor("A")
    s.insert()
    h, g = a.connect(), a.connect()
    a.begin(h)
    call = a.thread("2").disconnect_later(g, RESET)
    call.waits()
    a.end_later(h).waits()


def release_under_a_running_command(s: Stage) -> None:
    a = s.actor("A")
    card = s.insert()
    h = a.connect()
    card.hold()
    call = a.transmit_later(h)
    s.await_frame("80CA0000")
    release = a.thread("2").release_later()
    release.waits()
    card.go()
    call.done()
    release.done()


def two_contexts_in_two_threads(s: Stage) -> None:
    a = s.actor("A")
    card = s.insert()
    first = a.context
    h = a.connect()
    second = a.establish()
    g = a.connect()
    card.hold()
    running = a.transmit_later(h)
    s.await_frame("80CA0000")
    a.thread("2").list_readers()
    card.go()
    running.done()
    a.thread("2").transmit(g)
    assert first != second
