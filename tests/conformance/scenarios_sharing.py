"""Sharing: who may connect beside whom, what the others see, and the numbers of users."""

from show import StateFlag
from stage import Stage
from vocabulary import ANY, DIRECT, EXCLUSIVE, R0, RESET, SHARED, T0, T1, UNPOWER

SEEN = int(StateFlag.PRESENT | StateFlag.INUSE) | 1 << 16


def exclusive_refuses_all_others(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    b.connect(SHARED)
    b.connect(EXCLUSIVE)
    b.connect(DIRECT, 0)
    a.disconnect(h)
    b.connect(SHARED)


def exclusive_refuses_its_own_context(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    a.connect(EXCLUSIVE)
    a.connect(SHARED)
    a.connect(EXCLUSIVE)


def shared_refuses_exclusive(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(SHARED)
    b.connect(EXCLUSIVE)
    a.disconnect(h)
    b.connect(EXCLUSIVE)


def direct_refuses_exclusive(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(DIRECT, 0)
    b.connect(EXCLUSIVE)
    b.connect(SHARED)
    b.connect(DIRECT, 0)


def exclusive_refused_has_powered_the_card(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(DIRECT, 0)
    s.await_unpowered()
    b.connect(EXCLUSIVE)
    s.powers()
    b.connect(SHARED)
    s.powers()


def refused_protocol_has_powered_the_card(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0")
    s.await_unpowered()
    s.powers()
    a.connect(SHARED, T1)
    s.powers()
    a.connect(SHARED, T0)
    s.powers()


def exclusive_shown_in_states(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    b.state()
    h = a.connect(EXCLUSIVE)
    b.state()
    a.reconnect(h, SHARED)
    b.state()
    a.disconnect(h)
    b.state()


def users_shown_in_states(s: Stage) -> None:
    a, b, c = s.actors("A B C")
    s.insert()
    h = a.connect()
    c.state()
    g = b.connect(DIRECT, 0)
    c.state()
    a.disconnect(h)
    c.state()
    b.disconnect(g)
    c.state()


def wait_for_exclusive_to_end(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    with s.signalled():
        h = a.connect(EXCLUSIVE)
    call = b.changes_later([(R0, b.state())], 10000)
    call.waits()
    a.disconnect(h)
    call.done()


def wait_for_inuse_to_end(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    with s.signalled():
        h = a.connect()
    call = b.changes_later([(R0, b.state())], 10000)
    call.waits()
    a.disconnect(h)
    call.done()


def wait_for_exclusive_to_begin(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    call = b.changes_later([(R0, b.state())], 10000)
    call.waits()
    a.connect(EXCLUSIVE)
    call.done()


def inuse_to_begin_is_no_change(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    call = b.changes_later([(R0, b.state())], 1000)
    a.connect()
    call.done()


def from_shared_to_exclusive_is_a_change(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    call = b.changes_later([(R0, b.state())], 10000)
    call.waits()
    a.reconnect(h, EXCLUSIVE)
    call.done()


def two_users_become_one_is_no_change(s: Stage) -> None:
    a, b, c = s.actors("A B C")
    s.insert()
    h = a.connect()
    b.connect()
    call = c.changes_later([(R0, c.state())], 900)
    a.disconnect(h)
    call.done()


def reset_is_told_once_until_reconnect(s: Stage) -> None:
    """Each of B's calls says so, until B reconnects; from then on none does."""
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.reconnect(h, initialization=RESET)
    a.transmit(h)
    b.transmit(g)
    b.status(g)
    b.begin(g)
    b.get_attrib(g, 0x7FFF0003)
    b.set_attrib(g, 0x7FFF0003)
    b.end(g)
    b.control(g, 0x42000001)
    b.reconnect(g)
    b.transmit(g)
    b.status(g)
    b.begin(g)
    b.end(g)


def reset_of_another_handle_of_the_same_context(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h, g = a.connect(), a.connect()
    a.reconnect(h, initialization=RESET)
    a.status(h)
    a.status(g)
    a.reconnect(g)
    a.status(g)


def reset_is_forgotten_by_disconnecting(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.reconnect(h, initialization=RESET)
    b.disconnect(g)
    g = b.connect()
    b.status(g)


def reset_of_a_newcomer_is_not_told(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    a.reconnect(h, initialization=RESET)
    g = b.connect()
    b.status(g)
    b.transmit(g)


def two_resets_are_told_as_one(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.reconnect(h, initialization=RESET)
    a.reconnect(h, initialization=UNPOWER)
    b.status(g)
    b.reconnect(g)
    b.status(g)
    a.status(h)


def mutual_resets(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.reconnect(h, initialization=RESET)
    b.reconnect(g, initialization=RESET)
    a.status(h)
    b.status(g)
    a.reconnect(h)
    a.status(h)


def reset_leaves_the_protocol_open(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(SHARED, T0), b.connect(SHARED, T0)
    a.disconnect(h, RESET)
    b.reconnect(g, SHARED, T1)
    b.status(g)


def protocol_after_anothers_reset(s: Stage) -> None:
    """After a reset another may have chosen another protocol."""
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(SHARED, T0), b.connect(SHARED, T0)
    a.reconnect(h, SHARED, T1, RESET)
    b.reconnect(g, SHARED, T0)
    b.reconnect(g, SHARED, ANY)
    b.status(g)


def reset_by_a_direct_handle(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(DIRECT, 0), b.connect()
    a.reconnect(h, DIRECT, 0, RESET)
    b.transmit(g)
    a.status(h)
    b.reconnect(g)
    b.transmit(g)


def reset_counts_no_event(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    b.state()
    a.reconnect(h, initialization=RESET)
    b.state()
    a.reconnect(h, initialization=UNPOWER)
    b.state()


def removal_is_told_until_reconnect(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    s.remove()
    a.transmit(h)
    a.status(h)
    a.begin(h)
    a.end(h)
    a.get_attrib(h, 0x7FFF0003)
    a.control(h, 0x42000001)
    a.reconnect(h)
    a.status(h)


def removal_is_told_with_a_new_card_in(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    s.remove()
    s.insert()
    a.transmit(h)
    a.status(h)
    g = a.connect()
    a.transmit(g)
    a.transmit(h)
    a.reconnect(h)
    a.transmit(h)


def removal_is_told_to_direct_handles(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(DIRECT, 0)
    s.remove()
    a.status(h)
    s.insert()
    a.status(h)
    a.reconnect(h, DIRECT, 0)
    a.status(h)


def removal_under_an_exclusive_holder(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(EXCLUSIVE)
    s.remove()
    b.connect()
    a.state()
    s.insert()
    b.connect()
    a.reconnect(h, EXCLUSIVE)
    a.transmit(h)
    a.disconnect(h)
    b.connect()


def reset_over_removal(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    s.remove()
    a.reconnect(h, DIRECT, 0, RESET)
    b.status(g)
    a.status(h)
    s.insert()
    b.status(g)
    b.reconnect(g)
    b.transmit(g)


def removal_over_reset(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.reconnect(h, initialization=RESET)
    s.remove()
    b.status(g)
    a.status(h)


def a_swap_is_a_removal(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0")
    h = a.connect()
    s.swap("T1")
    a.status(h)
    a.state()
    a.reconnect(h)
    a.status(h)


def a_swap_of_an_unused_card(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0")
    s.await_unpowered()
    s.swap("T1")
    a.state()
    h = a.connect()
    a.status(h)


def seen_by_a_waiting_client(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    call = b.changes_later([(R0, SEEN)], 10000)
    call.waits()
    s.remove()
    call.done()
    a.status(h)
