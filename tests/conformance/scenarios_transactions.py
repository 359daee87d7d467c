"""Transactions: nesting, other people's, resets at the end, waiting, and what they keep others from."""

from stage import Stage
from vocabulary import ANY, DIRECT, EJECT, EXCLUSIVE, LEAVE, R1, RESET, SHARED, UNPOWER


def begin_and_end(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.begin(h)
    a.transmit(h)
    a.end(h)
    a.status(h)


def nested(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    a.begin(h)
    a.begin(h)
    a.end(h)
    a.end(h)
    call = b.begin_later(g)
    call.waits()
    a.end(h)
    call.done()


def end_without_begin(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.end(h)
    a.begin(h)
    a.end(h)
    a.end(h)


def end_of_anothers(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    for disposition in (LEAVE, RESET, UNPOWER, EJECT):
        b.end(g, disposition)
    s.powers()
    a.end(h)


def end_without_begin_but_with_reset(s: Stage) -> None:
    """The card is reset all the same."""
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.end(h, RESET)
    s.powers()
    a.status(h)
    b.status(g)


def disposition_out_of_range(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.begin(h)
    a.end(h, 4)
    a.end(h, 0x7FFFFFFF)
    a.end(h)


def unknown_handles(s: Stage) -> None:
    a = s.actor("A")
    a.begin(0)
    a.end(0)
    a.begin(0x7FFFFFFF)
    a.end(0x7FFFFFFF)


def end_reset(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.begin(h)
    a.end(h, RESET)
    a.status(h)
    a.transmit(h)
    a.begin(h)
    a.end(h)
    s.powers()
    a.reconnect(h)
    a.transmit(h)


def end_unpower(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.begin(h)
    a.end(h, UNPOWER)
    a.status(h)
    s.powers()
    a.reconnect(h)
    a.status(h)
    a.transmit(h)


def end_eject(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    a.end(h, EJECT)
    b.begin(g)
    b.end(g)
    a.status(h)
    s.powers()


def end_reset_seen_by_others(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    a.end(h, RESET)
    b.begin(g)
    b.transmit(g)
    b.status(g)
    b.reconnect(g)
    b.begin(g)


def end_reset_of_a_nested_one(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    a.begin(h)
    a.end(h, RESET)
    a.end(h)
    call = b.reconnect_later(g)
    call.waits()
    a.reconnect(h)
    a.end(h)
    call.done()


def end_reset_while_another_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.begin_later(g)
    call.waits()
    a.end(h, RESET)
    call.done()
    b.reconnect(g)
    b.begin(g)


def disconnect_inside_ones_own(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    a.begin(h)
    a.disconnect(h)
    b.begin(g)
    b.status(g)


def disconnect_reset_inside_ones_own(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    a.disconnect(h, RESET)
    b.begin(g)
    s.powers()


def inside_an_exclusive_connection(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(EXCLUSIVE)
    a.end(h)
    a.begin(h)
    a.begin(h)
    a.end(h)
    a.end(h)
    a.end(h)
    a.transmit(h)


def exclusive_keeps_the_card_after_end(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    a.begin(h)
    a.end(h)
    b.connect()
    a.end(h, RESET)
    b.connect()
    a.reconnect(h, EXCLUSIVE)
    a.status(h)


def without_card(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.begin(h)
    a.end(h)
    a.begin(h)
    a.end(h, RESET)
    a.state()
    a.begin(h)
    a.end(h)


def unpower_without_card(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.begin(h)
    a.end(h, UNPOWER)
    a.state()
    a.status(h)


def eject_without_card(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.begin(h)
    a.end(h, EJECT)
    a.status(h)


def with_a_direct_handle(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(DIRECT, 0), b.connect()
    a.begin(h)
    b.transmit_later(g).waits()
    a.end(h)


def removal_inside(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    s.remove()
    a.transmit(h)
    a.end(h)
    call = b.begin_later(g)
    call.done()
    a.reconnect(h)
    a.disconnect(h)


def removal_and_insertion_inside(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    s.remove()
    s.insert()
    a.end(h)
    b.reconnect(g)
    b.begin(g)
    a.reconnect_later(h).waits()
    b.end(g)


def removal_while_another_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.begin_later(g)
    call.waits()
    s.remove()
    call.done()


def two_handles_of_one_context(s: Stage) -> None:
    """One client cannot end its transaction while it waits for it, unless from another thread."""
    a = s.actor("A")
    s.insert()
    h, g = a.connect(), a.connect()
    a.begin(h)
    call = a.begin_later(g)
    call.waits()
    a.thread("2").end(h)
    call.done()
    a.end(g)


def two_threads_of_one_handle(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.begin(h)
    a.thread("2").begin(h)
    a.thread("2").transmit(h)
    a.end(h)
    a.thread("2").end(h)
    a.end(h)


def two_contexts_of_one_process(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.establish()
    g = a.connect()
    a.begin(h)
    call = a.thread("2").begin_later(g)
    call.waits()
    a.end(h)
    call.done()


def each_reader_has_its_own(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert("T0T1", 0)
    s.insert("T0T1", 1)
    h, g = a.connect(), b.connect(reader=R1)
    a.begin(h)
    b.begin(g)
    a.end(h)
    b.end(g)


def three_in_line(s: Stage) -> None:
    a, b, c = s.actors("A B C")
    s.insert()
    h, g, i = a.connect(), b.connect(), c.connect()
    a.begin(h)
    second = b.begin_later(g)
    second.waits()
    a.end(h)
    second.done()
    third = c.begin_later(i)
    third.waits()
    b.disconnect(g)
    third.done()
    c.end(i)


def connect_inside_ones_own(s: Stage) -> None:
    """A second connection from the context that holds the card."""
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.begin(h)
    call = a.thread("2").connect_later(SHARED, ANY)
    call.waits()
    call2 = a.end_later(h)
    call2.waits()
