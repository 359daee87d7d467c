"""Contexts: establishing, releasing, listing readers, and what a context's end does to its handles."""

from stage import Stage
from vocabulary import EXCLUSIVE, R1


def each_scope(s: Stage) -> None:
    for scope in (0, 1, 2, 3):
        a = s.actor("A", establish=False)
        a.establish(scope)
        a.list_readers()
        a.release()


def scope_out_of_range(s: Stage) -> None:
    a = s.actor("A", establish=False)
    a.establish(4)
    a.establish(0xFFFFFFFF)
    a.establish(2)


def two_contexts_of_one_process(s: Stage) -> None:
    a = s.actor("A")
    first = a.context
    second = a.establish()
    s.insert()
    h = a.connect(context=first)
    g = a.connect(context=second)
    a.release(first)
    a.status(h)
    a.status(g)
    a.is_valid(first)
    a.is_valid(second)


def release_twice(s: Stage) -> None:
    a = s.actor("A")
    a.release()
    a.release()
    a.is_valid()


def release_of_unknown_context(s: Stage) -> None:
    a = s.actor("A")
    a.release(0)
    a.release(0x7FFFFFFF)
    a.is_valid(0x7FFFFFFF)


def calls_on_a_released_context(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    a.release()
    a.list_readers()
    a.connect()
    a.changes([("Virtual PCD 00 00", 0)])
    a.cancel()


def release_closes_handles(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    a.release()
    a.status(h)
    a.disconnect(h)
    b.state()
    b.connect(EXCLUSIVE)


def release_with_a_shared_handle_leaves_the_card(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = b.connect()
    a.connect()
    s.powers()
    a.release()
    b.status(h)
    s.powers()


def release_inside_a_transaction_resets_the_card(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    g = b.connect()
    h = a.connect()
    a.begin(h)
    s.powers()
    a.release()
    b.status(g)
    s.powers()
    b.reconnect(g)
    b.begin(g)


def release_of_an_exclusive_holder_resets_the_card(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(EXCLUSIVE)
    s.powers()
    a.release()
    s.powers()
    b.connect()
    b.state()


def lists_readers_and_groups(s: Stage) -> None:
    a = s.actor("A")
    a.list_readers()
    a.list_readers(None)
    a.list_groups()
    a.list_groups(None)


def list_buffer_too_short(s: Stage) -> None:
    a = s.actor("A")
    for room in (0, 1, 36, 37, 38):
        a.list_readers(room)


def list_without_context(s: Stage) -> None:
    a = s.actor("A", establish=False)
    a.list_readers()
    a.list_groups()


def list_is_the_same_with_cards(s: Stage) -> None:
    a = s.actor("A")
    s.insert(slot=1)
    a.list_readers()
    a.connect(EXCLUSIVE, reader=R1)
    a.list_readers()


def a_context_after_the_death_of_another(s: Stage) -> None:
    a, b = s.actors("A B")
    s.kill(a)
    b.list_readers()
    b.establish()
    b.list_readers()
