"""SCardGetStatusChange and SCardCancel: what is a change, what is waited for, who is woken."""

from show import INFINITE, StateFlag
from stage import Stage
from vocabulary import EXCLUSIVE, R0, R1, UNPOWER

PNP = "\\\\?PnP?\\Notification"
EMPTY, PRESENT, IGNORE = int(StateFlag.EMPTY), int(StateFlag.PRESENT), int(StateFlag.IGNORE)
INUSE, MUTE, EXCL = int(StateFlag.INUSE), int(StateFlag.MUTE), int(StateFlag.EXCLUSIVE)
UNKNOWN, UNAVAILABLE = int(StateFlag.UNKNOWN), int(StateFlag.UNAVAILABLE)
CHANGED, ATRMATCH, UNPOWERED = int(StateFlag.CHANGED), int(StateFlag.ATRMATCH), int(StateFlag.UNPOWERED)


def unaware(s: Stage) -> None:
    a = s.actor("A")
    a.changes([(R0, 0)])
    a.changes([(R0, 0), (R1, 0)])
    s.insert(slot=1)
    a.changes([(R0, 0), (R1, 0)])
    a.changes([(R1, 0), (R0, 0)], 10000)


def no_change(s: Stage) -> None:
    a = s.actor("A")
    a.changes([(R0, EMPTY)], 0)
    a.changes([(R0, EMPTY)], 50)
    s.insert()
    a.changes([(R0, PRESENT)], 0)
    a.changes([(R0, PRESENT)], 50)


def each_flag_against_an_empty_reader(s: Stage) -> None:
    a = s.actor("A")
    for flag in (
        IGNORE,
        CHANGED,
        UNKNOWN,
        UNAVAILABLE,
        EMPTY,
        PRESENT,
        ATRMATCH,
        EXCL,
        INUSE,
        MUTE,
        UNPOWERED,
    ):
        a.changes([(R0, flag)], 0)


def each_flag_against_a_card(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    for flag in (
        IGNORE,
        CHANGED,
        UNKNOWN,
        UNAVAILABLE,
        EMPTY,
        PRESENT,
        ATRMATCH,
        EXCL,
        INUSE,
        MUTE,
        UNPOWERED,
    ):
        a.changes([(R0, flag)], 0)
        a.changes([(R0, flag | PRESENT)], 0)


def each_flag_against_a_card_in_use(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for flag in (INUSE, EXCL, MUTE, INUSE | EXCL):
        a.changes([(R0, flag | PRESENT)], 0)
    a.reconnect(h, EXCLUSIVE)
    for flag in (0, INUSE, EXCL, MUTE, INUSE | EXCL):
        a.changes([(R0, flag | PRESENT)], 0)


def each_flag_against_an_unpowered_card(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.disconnect(h, UNPOWER)
    for flag in (0, PRESENT, UNPOWERED, PRESENT | UNPOWERED, INUSE | PRESENT):
        a.changes([(R0, flag)], 0)


def counter_is_compared(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    for counter in (0, 1, 2, 0xFFFF):
        a.changes([(R0, PRESENT | counter << 16)], 0)
    s.remove()
    for counter in (0, 1, 2):
        a.changes([(R0, EMPTY | counter << 16)], 0)


def missed_events_are_seen_by_the_counter(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    state = a.state()
    s.remove()
    s.insert()
    a.changes([(R0, state)], 10000)
    a.changes([(R0, state & 0xFFFF)], 0)


def unknown_reader(s: Stage) -> None:
    a = s.actor("A")
    a.changes([("nowhere", 0)], 0)
    a.changes([("nowhere", UNKNOWN)], 0)
    a.changes([("nowhere", IGNORE)], 0)
    a.changes([(R0, 0), ("nowhere", 0)], 0)
    a.changes([("", 0)], 0)


def ignored_reader(s: Stage) -> None:
    a = s.actor("A")
    a.changes([(R0, IGNORE)], 0)
    a.changes([(R0, IGNORE), (R1, 0)], 0)
    a.changes([(R0, IGNORE), (R1, EMPTY)], 50)
    call = a.changes_later([(R0, IGNORE), (R1, EMPTY)], 10000)
    s.insert()
    call.waits()
    s.insert(slot=1)
    call.done()


def no_readers(s: Stage) -> None:
    a = s.actor("A")
    a.changes([], 0)
    a.changes([], 50)


def sixteen_and_more_states(s: Stage) -> None:
    a = s.actor("A")
    a.changes([(R0, EMPTY)] * 15 + [(R1, EMPTY)], 0)
    a.changes([(R0, EMPTY)] * 16 + [(R1, EMPTY)], 0)


def the_same_reader_twice(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    a.changes([(R0, PRESENT), (R0, EMPTY)], 0)
    a.changes([(R0, 0), (R0, PRESENT)], 0)


def plug_and_play_pseudo_reader(s: Stage) -> None:
    a = s.actor("A")
    a.changes([(PNP, 0)], 0)
    a.changes([(PNP, 0)], 50)
    a.changes([(PNP, 0), (R0, 0)], 0)
    a.changes([(PNP, 2 << 16)], 50)
    a.changes([(PNP.lower(), 0)], 0)
    call = a.changes_later([(PNP, 0)], 10000)
    s.insert()
    call.waits()
    a.thread("2").cancel()
    call.done()


def wait_for_insertion(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], 10000)
    call.waits()
    s.insert()
    call.done()


def wait_for_removal(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    call = a.changes_later([(R0, a.state())], 10000)
    call.waits()
    s.remove()
    call.done()


def wait_for_ever(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], INFINITE)
    call.waits()
    s.insert()
    call.done()


def wait_for_either_of_two(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY), (R1, EMPTY)], 10000)
    call.waits()
    s.insert(slot=1)
    call.done()


def another_reader_wakes_nobody(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], 10000)
    s.insert(slot=1)
    call.waits()
    s.remove(slot=1)
    call.waits()
    s.insert()
    call.done()


def time_out_after_an_irrelevant_change(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], 1000)
    s.insert(slot=1)
    call.done()


def insertions_in_a_row(s: Stage) -> None:
    a = s.actor("A")
    state = a.state()
    for _ in range(2):
        call = a.changes_later([(R0, state)], 10000)
        s.insert()
        (entry,) = call.done()
        assert isinstance(entry, tuple)
        state = entry[0] & ~CHANGED
        call = a.changes_later([(R0, state)], 10000)
        s.remove()
        (entry,) = call.done()
        assert isinstance(entry, tuple)
        state = entry[0] & ~CHANGED


def a_swap_is_noticed(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0")
    state = a.state()
    s.swap("T1")
    a.changes([(R0, state)], 0)


def all_waiting_clients_are_woken(s: Stage) -> None:
    actors = s.actors("A B C D")
    calls = [actor.changes_later([(R0, EMPTY)], 10000) for actor in actors]
    for call in calls:
        call.waits()
    s.insert()
    for call in calls:
        call.done()


def sixty_four_contexts_see_one_insertion(s: Stage) -> None:
    """Eight processes, each with eight contexts that wait in threads of their own."""
    calls = []
    for name in "ABCDEFGH":
        actor = s.actor(name, establish=False)
        for number in range(8):
            actor.establish()
            thread = actor.thread(str(number))
            calls.append(thread.changes_later([(R0, EMPTY)], 20000, context=actor.context))
    calls[0].waits()
    calls[63].waits()
    s.insert()
    for call in calls:
        call.done()


def cancel_wakes(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], 10000)
    call.waits()
    a.thread("2").cancel()
    call.done()
    a.changes([(R0, 0)])


def cancel_of_an_infinite_wait(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], INFINITE)
    call.waits()
    a.thread("2").cancel()
    call.done()
    a.connect()


def cancel_wakes_only_its_own_context(s: Stage) -> None:
    a, b = s.actors("A B")
    first = a.context
    call = a.changes_later([(R0, EMPTY)], 10000)
    a.establish()
    same_process = a.thread("2").changes_later([(R0, EMPTY)], 10000)
    other_process = b.changes_later([(R0, EMPTY)], 10000)
    for waiting in (call, same_process, other_process):
        waiting.waits()
    a.thread("3").cancel(first)
    call.done()
    same_process.waits()
    other_process.waits()
    s.insert()
    same_process.done()
    other_process.done()


def cancel_without_a_wait(s: Stage) -> None:
    a = s.actor("A")
    a.cancel()
    a.changes([(R0, 0)])
    call = a.changes_later([(R0, EMPTY)], 10000)
    call.waits()
    s.insert()
    call.done()


def cancel_of_unknown_contexts(s: Stage) -> None:
    a, b = s.actors("A B")
    a.cancel(0)
    a.cancel(0x7FFFFFFF)
    a.cancel(b.context)
    b.changes([(R0, EMPTY)], 0)


def cancel_after_the_wait_is_over(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], 10000)
    s.insert()
    call.done()
    a.cancel()
    a.changes([(R0, PRESENT)], 50)


def cancel_twice(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], 10000)
    call.waits()
    a.thread("2").cancel()
    call.done()
    a.thread("2").cancel()
    a.changes([(R0, EMPTY)], 50)


def release_from_another_thread_while_waiting(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], 700)
    call.waits()
    a.thread("2").release()
    call.done()


def a_short_use_wakes_who_saw_it(s: Stage) -> None:
    """Connected and disconnected between two looks of pcscd at the reader."""
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    call = b.changes_later([(R0, b.state())], 10000)
    call.waits(0.1)
    a.disconnect(h)
    call.waits(0.8)
    s.remove()
    call.done()
