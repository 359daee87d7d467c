"""What waits while somebody else has a transaction, and what is refused at once."""

from stage import Stage
from vocabulary import DIRECT, EJECT, EXCLUSIVE, LEAVE, R1, RESET, SHARED, T0, UNPOWER


def another_begin_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.begin_later(g)
    call.waits()
    a.end(h)
    call.done()
    b.end(g)


def another_transmit_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.transmit_later(g)
    call.waits()
    a.transmit(h)
    a.end(h)
    call.done()


def another_status_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.status_later(g)
    call.waits()
    a.end(h)
    call.done()


def another_connect_waits(s: Stage) -> None:
    a, b, c = s.actors("A B C")
    s.insert()
    h = a.connect()
    a.begin(h)
    calls = [b.connect_later(), c.connect_later(DIRECT, 0)]
    for call in calls:
        call.waits()
    a.end(h)
    for call in calls:
        call.done()


def another_exclusive_connect_waits_and_is_refused(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    a.begin(h)
    call = b.connect_later(EXCLUSIVE)
    call.waits()
    a.end(h)
    call.done()


def another_connect_is_checked_before_it_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    a.begin(h)
    b.connect(SHARED, 0)
    b.connect(9)
    b.connect(reader=R1)


def another_connect_waits_with_a_wrong_protocol(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(SHARED, T0)
    a.begin(h)
    call = b.connect_later(SHARED, 2)
    call.waits()
    a.end(h)
    call.done()


def others_are_refused_at_once(s: Stage) -> None:
    """The calls that the library does not repeat."""
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    b.control(g, 0x42000001)
    b.get_attrib(g, 0x00090303)
    b.set_attrib(g, 0x00090303)
    b.end(g)
    b.disconnect(g)
    a.end(h)


def disconnect_leave_does_not_wait(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    b.disconnect(g, LEAVE)
    a.transmit(h)
    a.end(h)


def disconnect_reset_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.disconnect_later(g, RESET)
    call.waits()
    a.transmit(h)
    a.end(h)
    call.done()
    a.status(h)


def disconnect_unpower_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.disconnect_later(g, UNPOWER)
    call.waits()
    a.end(h)
    call.done()
    a.status(h)
    a.state()


def disconnect_eject_waits(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.disconnect_later(g, EJECT)
    call.waits()
    a.end(h)
    call.done()
    a.status(h)
