"""SCardConnect and SCardDisconnect: share modes, protocols, dispositions, wrong arguments."""

from stage import Stage
from vocabulary import ANY, ANY_OLD, DIRECT, EJECT, EXCLUSIVE, LEAVE, R1, RAW, RESET, SHARED, T0, T1, UNPOWER


def shared_any(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.status(h)
    a.disconnect(h)


def shared_each_protocol(s: Stage) -> None:
    a = s.actor("A")
    for protocols in (T0, T1, RAW, ANY_OLD, ANY | RAW, ANY | ANY_OLD, T0 | 8):
        s.insert()
        h = a.connect(SHARED, protocols)
        a.status(h)
        a.disconnect(h)
        s.remove()


def exclusive_each_protocol(s: Stage) -> None:
    a = s.actor("A")
    for protocols in (ANY, T0, T1, RAW):
        s.insert()
        h = a.connect(EXCLUSIVE, protocols)
        a.status(h)
        a.disconnect(h)
        s.remove()


def direct_each_protocol(s: Stage) -> None:
    a = s.actor("A")
    for protocols in (0, ANY, T0, T1, RAW):
        s.insert()
        h = a.connect(DIRECT, protocols)
        a.status(h)
        a.disconnect(h)
        s.remove()


def no_protocol(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    a.connect(SHARED, 0)
    a.connect(EXCLUSIVE, 0)
    a.connect(SHARED, 8)
    a.connect(SHARED, 0x40)


def share_mode_out_of_range(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    for mode in (0, 4, 0x7FFFFFFF):
        a.connect(mode)
    a.connect(0, 0)


def unknown_reader(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    a.connect(reader="No such reader 00 00")
    a.connect(reader="Virtual PCD 00 0")
    a.connect(reader="virtual pcd 00 00")
    a.connect(reader="Virtual PCD 00 02")
    a.connect(reader="x" * 127)


def empty_reader_name(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    a.connect(reader="")


def reader_name_too_long(s: Stage) -> None:
    a = s.actor("A")
    a.connect(reader="x" * 128)
    a.connect(reader="x" * 300)
    a.list_readers()


def wrong_arguments_in_their_order(s: Stage) -> None:
    a = s.actor("A")
    a.connect(4, 0, "nowhere")
    a.connect(4, ANY, "nowhere")
    a.connect(SHARED, 0, "nowhere")
    a.connect(SHARED, ANY, "nowhere")
    a.connect(DIRECT, 0, "nowhere")


def no_card(s: Stage) -> None:
    a = s.actor("A")
    a.connect(SHARED)
    a.connect(EXCLUSIVE)
    h = a.connect(DIRECT, 0)
    a.status(h)
    a.state()
    a.disconnect(h)
    a.state()


def context_of_another_process(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(context=b.context)
    b.connect()


def disconnect_twice(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.disconnect(h)
    a.disconnect(h)
    a.status(h)
    a.list_readers()


def disconnect_unknown_handles(s: Stage) -> None:
    a = s.actor("A")
    a.disconnect(0)
    a.disconnect(0x7FFFFFFF)
    a.list_readers()


def handle_of_another_process(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    b.status(h)
    b.disconnect(h)
    a.status(h)


def handle_through_another_context(s: Stage) -> None:
    """A handle belongs to its context; the library finds that by itself."""
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.establish()
    a.status(h)
    a.disconnect(h)


def disposition_out_of_range(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.disconnect(h, 4)
    a.disconnect(h, 0x7FFFFFFF)
    a.status(h)
    a.disconnect(h)


def disconnect_leave(s: Stage) -> None:
    a = s.actor("A")
    card = s.insert()
    h = a.connect()
    a.transmit(h, "00A40000")
    a.disconnect(h, LEAVE)
    h = a.connect()
    a.transmit(h, "00100000")
    s.powers()
    a.status(h)
    assert card.atr


def disconnect_reset(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T0)
    a.disconnect(h, RESET)
    a.state()
    s.powers()
    h = a.connect(SHARED, T1)
    a.status(h)
    s.powers()


def disconnect_unpower(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T0)
    a.disconnect(h, UNPOWER)
    a.state()
    s.powers()
    h = a.connect(SHARED, T1)
    a.status(h)
    s.powers()


def disconnect_eject(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.disconnect(h, EJECT)
    a.state()
    s.powers()
    h = a.connect()
    a.status(h)


def disconnect_reset_seen_by_others(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.disconnect(h, RESET)
    b.transmit(g)
    b.status(g)
    b.reconnect(g)
    b.transmit(g)


def disconnect_unpower_seen_by_others(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.disconnect(h, UNPOWER)
    b.transmit(g)
    b.status(g)
    b.changes([("Virtual PCD 00 00", 0)])


def disconnect_eject_seen_by_others(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.disconnect(h, EJECT)
    b.transmit(g)
    b.status(g)


def disconnect_dispositions_of_direct_handles(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    keep = a.connect()
    for disposition in (LEAVE, RESET, UNPOWER, EJECT):
        h = a.connect(DIRECT, 0)
        a.disconnect(h, disposition)
        a.reconnect(keep)
        a.status(keep)
        s.powers()


def disconnect_reset_without_card(s: Stage) -> None:
    a = s.actor("A")
    for disposition in (RESET, UNPOWER, EJECT):
        h = a.connect(DIRECT, 0)
        a.disconnect(h, disposition)
        a.state()


def disconnect_after_removal(s: Stage) -> None:
    a = s.actor("A")
    for disposition in (LEAVE, RESET, UNPOWER, EJECT):
        s.insert()
        h = a.connect()
        s.remove()
        a.disconnect(h, disposition)
        a.state()


def protocol_must_match_the_first_users(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(SHARED, T0)
    b.connect(SHARED, T1)
    g = b.connect(SHARED, ANY)
    b.status(g)
    a.disconnect(h)
    b.disconnect(g)
    b.connect(SHARED, T1)


def protocol_is_free_again_without_power(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T0)
    a.disconnect(h)
    s.await_unpowered()
    h = a.connect(SHARED, T1)
    a.status(h)


def raw_then_others(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(SHARED, RAW)
    b.connect(SHARED, ANY)
    b.connect(SHARED, ANY | RAW)
    a.status(h)


def others_then_raw(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect(SHARED, T1)
    b.connect(SHARED, RAW)
    a.status(h)
    a.transmit(h)
    b.connect(SHARED, T1)


def raw_or_t1_then_t1(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T1 | RAW)
    a.status(h)
    a.disconnect(h)
    a.connect(SHARED, T1)


def direct_raw_sets_the_protocol(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(DIRECT, RAW)
    b.connect(SHARED, ANY)


def old_any_with_a_protocol_set(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(SHARED, T1)
    b.connect(SHARED, ANY_OLD)
    b.connect(SHARED, ANY_OLD | T1)


def two_handles_of_one_context(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h, g = a.connect(), a.connect()
    a.state()
    a.status(h)
    a.status(g)
    a.disconnect(h)
    a.status(g)
    a.state()


def both_readers(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0", 0)
    s.insert("T1", 1)
    h, g = a.connect(), a.connect(EXCLUSIVE, reader=R1)
    a.status(h)
    a.status(g)
    a.transmit(h, protocol=T0)
    a.transmit(g, protocol=T1)


def all_at_once_after_insertion(s: Stage) -> None:
    actors = s.actors("A B C D")
    s.insert()
    calls = [actor.connect_later() for actor in actors]
    for call in calls:
        call.done()
    actors[0].state()


def power_on_for_connect(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    s.await_unpowered()
    s.powers()
    h = a.connect(DIRECT, 0)
    s.powers()
    g = a.connect()
    s.powers()
    a.disconnect(g)
    a.disconnect(h)
    s.await_unpowered()
    s.powers()
