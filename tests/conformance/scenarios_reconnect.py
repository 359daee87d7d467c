"""SCardReconnect: share modes, protocols and initialisations."""

from stage import Stage
from vocabulary import ANY, ANY_OLD, DIRECT, EJECT, EXCLUSIVE, LEAVE, RAW, RESET, SHARED, T0, T1, UNPOWER


def leave(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit(h, "00A40000")
    a.reconnect(h)
    a.transmit(h, "00100000")
    s.powers()


def reset(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.reconnect(h, initialization=RESET)
    a.status(h)
    a.transmit(h)
    s.powers()


def unpower(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.reconnect(h, initialization=UNPOWER)
    a.status(h)
    a.transmit(h)
    s.powers()


def eject_is_no_initialisation(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.reconnect(h, initialization=EJECT)
    a.reconnect(h, initialization=4)
    a.status(h)


def wrong_arguments_in_their_order(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.reconnect(h, 0, 0, 9)
    a.reconnect(h, 0, 0)
    a.reconnect(h, SHARED, 0)
    a.reconnect(h, EXCLUSIVE, 8)
    a.reconnect(h, DIRECT, 0)
    a.status(h)


def unknown_handles(s: Stage) -> None:
    a = s.actor("A")
    a.reconnect(0)
    a.reconnect(0x7FFFFFFF)


def other_protocol_without_reset(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T0)
    a.reconnect(h, SHARED, T1)
    a.status(h)
    a.reconnect(h, SHARED, ANY)
    a.status(h)


def other_protocol_with_reset(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T0)
    a.reconnect(h, SHARED, T1, RESET)
    a.status(h)
    a.reconnect(h, SHARED, T0, UNPOWER)
    a.status(h)


def to_raw_and_back(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.reconnect(h, SHARED, RAW)
    a.status(h)
    a.reconnect(h, SHARED, ANY)
    a.reconnect(h, SHARED, ANY, RESET)
    a.status(h)


def old_any(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T0)
    a.reconnect(h, SHARED, ANY_OLD)
    a.reconnect(h, SHARED, ANY_OLD, RESET)
    a.status(h)


def shared_to_exclusive_alone(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    a.reconnect(h, EXCLUSIVE)
    a.state()
    b.connect()
    a.disconnect(h)
    b.connect()


def shared_to_exclusive_with_another(s: Stage) -> None:
    """The library asks again for as long as the other is there."""
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    call = a.reconnect_later(h, EXCLUSIVE)
    call.waits()
    b.disconnect(g)
    call.done()
    b.connect()


def exclusive_to_exclusive(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    a.reconnect(h, EXCLUSIVE)
    a.reconnect(h, EXCLUSIVE, ANY, RESET)
    b.connect()
    a.state()


def exclusive_to_shared(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    a.reconnect(h, SHARED)
    a.state()
    call = b.connect_later()
    call.waits()
    a.end(h)
    call.done()


def exclusive_to_shared_and_away(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    a.reconnect(h, SHARED)
    a.disconnect(h)
    b.connect()


def exclusive_to_direct(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    a.reconnect(h, DIRECT, 0)
    a.state()
    call = b.connect_later(DIRECT, 0)
    call.waits()
    a.disconnect(h)
    call.done()


def exclusive_with_a_transaction_to_shared(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    a.begin(h)
    a.reconnect(h, SHARED)
    call = b.connect_later()
    call.waits()
    a.end(h)
    call.waits()
    a.end(h)
    call.done()


def direct_to_shared(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(DIRECT, 0)
    a.reconnect(h, SHARED, T0)
    a.status(h)
    a.transmit(h, protocol=T0)


def direct_to_shared_with_reset(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(DIRECT, 0)
    a.reconnect(h, SHARED, T0, RESET)
    a.status(h)
    a.transmit(h, protocol=T0)
    s.powers()


def direct_to_shared_of_an_unpowered_card(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(DIRECT, 0)
    s.await_unpowered()
    a.reconnect(h, SHARED, T0)
    a.status(h)
    a.transmit(h, protocol=T0)
    s.powers()


def direct_to_exclusive(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(DIRECT, 0)
    a.reconnect(h, EXCLUSIVE)
    b.connect()
    a.status(h)


def shared_to_direct(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T1)
    a.reconnect(h, DIRECT, 0)
    a.status(h)
    a.transmit(h)
    a.reconnect(h, DIRECT, 0, RESET)
    a.status(h)
    a.transmit(h)


def inside_ones_transaction(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    a.reconnect(h, initialization=RESET)
    b.status_later(g).waits()
    a.end(h)


def waits_for_anothers_transaction(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    call = b.reconnect_later(g, initialization=RESET)
    call.waits()
    a.end(h)
    call.done()
    a.status(h)


def without_card(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.reconnect(h, SHARED)
    a.reconnect(h, DIRECT, 0)
    a.reconnect(h, SHARED, ANY, RESET)
    a.reconnect(h, DIRECT, 0, RESET)
    a.reconnect(h, SHARED, ANY, UNPOWER)
    a.status(h)
    a.state()


def after_removal(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    s.remove()
    a.reconnect(h)
    a.reconnect(h, initialization=RESET)
    a.status(h)
    a.reconnect(h, DIRECT, 0)
    a.status(h)


def after_removal_and_insertion(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0")
    h = a.connect()
    s.remove()
    s.insert("T1")
    a.status(h)
    a.transmit(h)
    a.reconnect(h)
    a.status(h)
    a.transmit(h)


def after_removal_with_reset_of_the_new_card(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0")
    h = a.connect()
    s.remove()
    s.insert("T1")
    a.reconnect(h, initialization=RESET)
    a.status(h)
    s.powers()


def after_unpower_by_another(s: Stage) -> None:
    """Connecting, by reconnection, to a card that a third one has unpowered."""
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.disconnect(h, UNPOWER)
    b.reconnect(g)
    b.status(g)
    b.transmit(g)
    a.connect()
    s.powers()


def leave_repeatedly(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for _ in range(3):
        a.reconnect(h, initialization=LEAVE)
    a.state()
