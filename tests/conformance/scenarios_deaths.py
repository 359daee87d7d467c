"""Clients that are killed, in whatever they were doing; and the limits."""

from show import StateFlag
from stage import Stage
from vocabulary import DIRECT, EXCLUSIVE, R0, R1, RESET, SHARED

EMPTY = int(StateFlag.EMPTY)


def idle(s: Stage) -> None:
    a, b = s.actors("A B")
    s.kill(a)
    b.list_readers()


def with_a_shared_handle(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    g = b.connect()
    a.connect()
    s.kill(a)
    b.status(g)
    b.state()
    s.powers()


def the_only_user(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect()
    s.kill(a)
    b.state()
    s.await_unpowered()


def with_an_exclusive_handle(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(EXCLUSIVE)
    s.powers()
    s.kill(a)
    b.connect(EXCLUSIVE)
    s.powers()


def with_a_direct_handle(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(DIRECT, 0)
    s.kill(a)
    b.state()
    b.connect(EXCLUSIVE)


def in_a_transaction(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    s.powers()
    s.kill(a)
    b.transmit(g)
    b.reconnect(g)
    b.begin(g)
    s.powers()


def in_a_nested_transaction(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    a.begin(h)
    s.kill(a)
    b.reconnect(g)
    b.begin(g)


def in_a_transaction_with_others_waiting(s: Stage) -> None:
    a, b, c, d = s.actors("A B C D")
    s.insert()
    h, g, i = a.connect(), b.connect(), c.connect()
    a.begin(h)
    begin, transmit, connect = b.begin_later(g), c.transmit_later(i), d.connect_later()
    for call in (begin, transmit, connect):
        call.waits()
    s.kill(a)
    for call in (begin, transmit, connect):
        call.done()


def in_a_transaction_after_a_reset_event(s: Stage) -> None:
    """Its handle has been told of a removal: nothing is left to reset."""
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    b.connect()
    a.begin(h)
    s.remove()
    s.insert()
    s.powers()
    s.kill(a)
    b.connect()
    s.powers()
    b.state()


def while_waiting_for_a_transaction(s: Stage) -> None:
    a, b, c = s.actors("A B C")
    s.insert()
    h, g, i = a.connect(), b.connect(), c.connect()
    a.begin(h)
    waiting = b.begin_later(g)
    waiting.waits()
    s.kill(b)
    call = c.begin_later(i)
    call.waits()
    a.end(h)
    call.done()
    c.state()


def while_waiting_to_connect(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    a.begin(h)
    b.connect_later().waits()
    s.kill(b, noticed=False)
    a.end(h)
    a.disconnect(h)
    s.await_clients(1)
    a.state()


def while_waiting_to_disconnect(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    b.disconnect_later(g, RESET).waits()
    s.kill(b, noticed=False)
    s.await_users(1)
    a.end(h)
    s.await_clients(1)
    a.status(h)


def while_waiting_for_a_change(s: Stage) -> None:
    a, b = s.actors("A B")
    a.changes_later([(R0, EMPTY)], 10000).waits()
    call = b.changes_later([(R0, EMPTY)], 10000)
    s.kill(a)
    call.waits()
    s.insert()
    call.done()


def in_mid_transmit(s: Stage) -> None:
    a, b = s.actors("A B")
    card = s.insert()
    h = a.connect()
    card.hold()
    a.transmit_later(h)
    s.await_frame("80CA0000")
    s.kill(a, noticed=False)
    card.go()
    s.await_clients(1)
    b.state()
    g = b.connect(EXCLUSIVE)
    b.transmit(g)


def exclusive_in_mid_transmit(s: Stage) -> None:
    """The card thinks on; is it free for others at once?"""
    a, b = s.actors("A B")
    card = s.insert()
    h = a.connect(EXCLUSIVE)
    card.hold()
    a.transmit_later(h)
    s.await_frame("80CA0000")
    s.kill(a, noticed=False)
    s.await_users(0)
    card.go()
    s.await_clients(1)
    g = b.connect()
    b.transmit(g, "80CA0001")


def exclusive_in_mid_transmit_of_a_transaction(s: Stage) -> None:
    a, b = s.actors("A B")
    card = s.insert()
    h = a.connect(EXCLUSIVE)
    a.begin(h)
    card.hold()
    a.transmit_later(h)
    s.await_frame("80CA0000")
    s.kill(a, noticed=False)
    card.go()
    s.await_clients(1)
    g = b.connect(EXCLUSIVE)
    b.transmit(g)


def with_handles_on_both_readers(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    s.insert(slot=1)
    a.connect(EXCLUSIVE)
    a.connect(EXCLUSIVE, reader=R1)
    s.kill(a)
    b.connect()
    b.connect(reader=R1)


def with_several_contexts(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    a.establish()
    g = a.connect()
    a.begin(g)
    s.kill(a)
    b.connect(EXCLUSIVE)
    b.state()
    assert h != g


def with_the_card_gone(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(EXCLUSIVE)
    s.remove()
    s.kill(a)
    b.state()
    s.insert()
    b.connect(EXCLUSIVE)


def while_removal_and_insertion(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    s.remove()
    s.insert()
    a.reconnect(h, EXCLUSIVE)
    s.powers()
    s.kill(a)
    b.connect()
    s.powers()


def handles_per_client(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    s.insert(slot=1)
    a.connect_many(150)
    a.connect_many(60, reader=R1)
    b.state()
    b.state(R1)
    b.connect(reader=R1)


def handles_per_reader(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect_many(150)
    b.connect_many(60)
    a.state()


def contexts(s: Stage) -> None:
    a = s.actor("A", establish=False)
    a.establish_many(250)


def exclusive_after_two_hundred(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect_many(200)
    b.connect(EXCLUSIVE)
    b.connect(SHARED)
    s.kill(a)
    b.connect(EXCLUSIVE)
