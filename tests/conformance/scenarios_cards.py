"""Answers to reset, mute cards, and power."""

from emulated import ATRS
from stage import Stage, with_default_settings, with_native_driver
from vocabulary import ANY, ANY_OLD, DIRECT, RAW, RESET, SHARED, T0, T1


def _offers(s: Stage, atr: str) -> None:
    a = s.actor("A")
    for protocols in (ANY, T0, T1, RAW, ANY_OLD):
        s.insert(atr)
        a.state()
        a.probe(protocols)
        s.remove()


def atr_t0(s: Stage) -> None:
    _offers(s, "T0")


def atr_t1(s: Stage) -> None:
    _offers(s, "T1")


def atr_t0_then_t1(s: Stage) -> None:
    _offers(s, "T0T1")


def atr_t1_then_t0(s: Stage) -> None:
    _offers(s, "T1T0")


def atr_specific_t0(s: Stage) -> None:
    _offers(s, "TA2-T0")


def atr_specific_t1(s: Stage) -> None:
    _offers(s, "TA2-T1")


def atr_specific_t15(s: Stage) -> None:
    _offers(s, "TA2-T15")


def atr_t15_only(s: Stage) -> None:
    _offers(s, "T15")


def atr_t0_then_t15(s: Stage) -> None:
    _offers(s, "T0T15")


def atr_t2(s: Stage) -> None:
    _offers(s, "T2")


def atr_inverse(s: Stage) -> None:
    _offers(s, "inverse")


def atr_longest(s: Stage) -> None:
    _offers(s, "longest")


def atr_cut(s: Stage) -> None:
    _offers(s, "cut")


def atr_garbage(s: Stage) -> None:
    _offers(s, "garbage")


@with_native_driver
def atr_short(s: Stage) -> None:
    _offers(s, "short")


def another_atr_after_reset(s: Stage) -> None:
    a, b = s.actors("A B")
    card = s.insert("T0")
    h = a.connect()
    b.state()
    card.atr = ATRS["T1"]
    a.reconnect(h, initialization=RESET)
    a.status(h)
    b.state()


def another_atr_after_power_down(s: Stage) -> None:
    a = s.actor("A")
    card = s.insert("T0")
    s.await_unpowered()
    card.atr = ATRS["T1"]
    a.state()
    h = a.connect()
    a.status(h)


def power_of_an_unused_card(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    s.await_unpowered()
    a.state()
    h = a.connect()
    a.status(h)
    a.disconnect(h)
    s.await_unpowered()
    a.state()
    s.powers()


def power_stays_while_used(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.disconnect(h)
    s.await_unpowered(timeout=1.2)
    b.transmit(g)
    s.powers()


def power_of_a_card_with_a_direct_user(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(DIRECT, 0)
    s.await_unpowered()
    a.status(h)
    s.powers()


def power_after_a_shared_user_beside_a_direct_one(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(DIRECT, 0)
    h = b.connect()
    b.disconnect(h)
    s.await_unpowered(timeout=1.2)


def power_after_a_reset_by_the_last_user(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.disconnect(h, RESET)
    s.await_unpowered()
    s.powers()


def power_of_the_new_card_after_removal(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    s.remove()
    s.insert()
    s.await_unpowered()
    a.status(h)
    a.reconnect(h)
    a.transmit(h)
    s.powers()


def power_after_a_refused_connection(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T0)
    a.disconnect(h)
    a.connect(SHARED, T1)
    s.await_unpowered(timeout=1.5)
    a.connect(SHARED, T1)


def power_after_a_reset_by_a_direct_user(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(DIRECT, 0)
    s.await_unpowered()
    a.reconnect(h, DIRECT, 0, RESET)
    s.await_unpowered(timeout=1.5)
    a.status(h)


def power_and_the_raw_protocol(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    s.await_unpowered()
    h = a.connect(DIRECT, RAW)
    b.connect(SHARED, ANY)
    a.status(h)


def power_in_both_readers(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    a.connect()
    s.insert(slot=1)
    s.await_unpowered(1)
    s.powers()
    s.powers(1)


@with_default_settings
def power_is_kept_a_while(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, T0)
    a.disconnect(h)
    s.await_unpowered(timeout=1.5)
    a.connect(SHARED, T1)
    s.powers()
