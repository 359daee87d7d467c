"""Mute cards and drivers that fail: the scripted driver on both sides. Its cards have T=0."""

from show import StateFlag
from stage import Stage, with_scripted_driver
from vocabulary import ANY, DIRECT, EXCLUSIVE, R0, RAW, RESET, SHARED, T0, UNPOWER

EMPTY, PRESENT, MUTE = int(StateFlag.EMPTY), int(StateFlag.PRESENT), int(StateFlag.MUTE)
UNAVAILABLE, UNKNOWN = int(StateFlag.UNAVAILABLE), int(StateFlag.UNKNOWN)


def _order(code: int) -> bytes:
    """An APDU for which the driver returns ``code``."""
    return b"\xf0\x05" + code.to_bytes(2, "big")


@with_scripted_driver
def mute(s: Stage) -> None:
    a = s.actor("A")
    s.script("mute")
    s.insert()
    a.state()
    a.connect(SHARED)
    a.connect(EXCLUSIVE)
    a.connect(SHARED, RAW)
    a.connect(SHARED, 2)
    a.state()


@with_scripted_driver
def mute_with_a_direct_handle(s: Stage) -> None:
    a = s.actor("A")
    s.script("mute")
    s.insert()
    h = a.connect(DIRECT, 0)
    a.status(h)
    a.transmit(h, protocol=T0)
    a.transmit(h, protocol=0)
    a.transmit(h, protocol=RAW)
    a.reconnect(h, DIRECT, 0)
    a.reconnect(h, SHARED)
    a.reconnect(h, SHARED, ANY, RESET)
    a.status(h)
    a.disconnect(h)
    a.state()


@with_scripted_driver
def mute_until_reset(s: Stage) -> None:
    a = s.actor("A")
    s.script("mute")
    s.insert()
    h = a.connect(DIRECT, 0)
    s.unscript("mute")
    a.reconnect(h, SHARED, ANY, RESET)
    a.status(h)
    a.transmit(h, protocol=T0)
    a.state()


@with_scripted_driver
def mute_until_the_next_connection(s: Stage) -> None:
    a = s.actor("A")
    s.script("mute")
    s.insert()
    a.connect()
    s.unscript("mute")
    h = a.connect()
    a.state()
    a.status(h)


@with_scripted_driver
def mute_after_reset(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    s.script("mute")
    a.reconnect(h, initialization=RESET)
    a.status(h)
    b.status(g)
    b.reconnect(g)
    a.state()
    s.unscript("mute")
    a.reconnect(h, initialization=RESET)
    a.status(h)
    b.reconnect(g)
    b.status(g)


@with_scripted_driver
def mute_after_end_transaction(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.begin(h)
    s.script("mute")
    a.end(h, RESET)
    a.status(h)
    a.state()
    a.begin(h)


@with_scripted_driver
def mute_after_end_transaction_unpower(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.begin(h)
    s.script("mute")
    a.end(h, UNPOWER)
    a.state()


@with_scripted_driver
def mute_after_disconnect(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    s.script("mute")
    a.disconnect(h, RESET)
    a.state()
    s.unscript("mute")
    a.connect()
    a.state()


@with_scripted_driver
def mute_when_unpowered_by_disconnect(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    s.script("mute")
    a.disconnect(h, UNPOWER)
    a.state()
    s.unscript("mute")
    a.connect()
    a.state()


@with_scripted_driver
def mute_and_unpowered_by_disconnect(s: Stage) -> None:
    a = s.actor("A")
    s.script("mute")
    s.insert()
    h = a.connect(DIRECT, 0)
    s.unscript("mute")
    a.disconnect(h, UNPOWER)
    a.state()
    a.connect()
    a.state()


@with_scripted_driver
def mute_when_powered_again(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    s.await_unpowered()
    s.script("mute")
    a.state()
    a.connect()
    a.state()
    s.unscript("mute")
    a.connect()
    a.state()


@with_scripted_driver
def mute_after_reset_by_a_dying_client(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    a.connect(EXCLUSIVE)
    s.script("mute")
    s.kill(a)
    b.connect()
    b.state()


@with_scripted_driver
def mute_card_removed(s: Stage) -> None:
    a = s.actor("A")
    s.script("mute")
    s.insert()
    h = a.connect(DIRECT, 0)
    s.remove()
    a.status(h)
    a.state()
    s.unscript("mute")
    s.insert()
    a.state()


@with_scripted_driver
def mute_is_noticed(s: Stage) -> None:
    a = s.actor("A")
    call = a.changes_later([(R0, EMPTY)], 10000)
    call.waits()
    s.script("mute")
    s.insert()
    call.done()
    for flag in (0, PRESENT, PRESENT | MUTE, MUTE, EMPTY):
        a.changes([(R0, flag)], 0)
    call = a.changes_later([(R0, PRESENT | MUTE)], 10000)
    s.remove()
    call.done()


@with_scripted_driver
def atr_too_long(s: Stage) -> None:
    a = s.actor("A")
    s.script("long-atr")
    s.insert()
    a.state()


@with_scripted_driver
def transmit_failures(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for code in (600, 605, 606, 607, 608, 612, 613, 614, 615, 618, 999):
        a.transmit(h, _order(code), T0)
    a.status(h)


@with_scripted_driver
def transmit_finds_no_card(s: Stage) -> None:
    """The driver knows before it has been asked for the card's presence."""
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit(h, _order(616), T0)
    a.status(h)
    a.transmit(h, protocol=T0)
    a.connect()


@with_scripted_driver
def transmit_of_each_protocol(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for protocol in (T0, RAW, 0x1000, 2, 8):
        a.received_protocol(h, protocol)


@with_scripted_driver
def control(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.control(h, 2, b"\x01\x02\x03")
    a.control(h, 2, b"")
    a.control(h, 2, b"\x01\x02\x03", 2)
    a.control(h, 2, b"\x01\x02\x03", 0)
    a.control(h, 99, b"\x01")
    a.control(h, 2, bytes(60000), 65548)


@with_scripted_driver
def control_is_not_concerned_by_events(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.reconnect(h, initialization=RESET)
    b.control(g, 2, b"\x01\x02\x03")
    s.remove()
    b.control(g, 2, b"\x01\x02\x03")


@with_scripted_driver
def attributes(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for attribute in (0x100, 0xFAE, 0xFAC, 0x7FFF0003, 0x7FFF0004, 0x90303):
        a.get_attrib(h, attribute)
    a.get_attrib(h, 0x7FFF0003, None)
    a.get_attrib_allocated(h, 0x7FFF0003)
    for room in (0, 17, 18):
        a.get_attrib(h, 0x7FFF0003, room)
    a.set_attrib(h, 0x200, b"\x01\x02")
    a.set_attrib(h, 0x200, b"\x02")
    a.set_attrib(h, 0x201, b"\x01\x02")


@with_scripted_driver
def reader_out_of_order(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h = a.connect()
    call = b.changes_later([(R0, b.state())], 10000)
    call.waits()
    s.script("trouble")
    call.done()
    b.state()
    a.status(h)
    a.transmit(h, protocol=T0)
    a.begin(h)
    a.control(h, 2, b"\x01")
    a.get_attrib(h, 0x100)
    a.set_attrib(h, 0x200, b"\x01\x02")
    a.reconnect(h)
    b.connect()
    b.connect(DIRECT, 0)
    b.list_readers()
    a.disconnect(h)
    b.state()


@with_scripted_driver
def reader_in_order_again(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    state = a.state()
    s.script("trouble")
    call = a.changes_later([(R0, state)], 10000)
    call.done()
    before = a.state()
    call = a.changes_later([(R0, before)], 10000)
    s.unscript("trouble")
    call.done()
    a.status(h)
    a.transmit(h, protocol=T0)
    a.reconnect(h)
    a.transmit(h, protocol=T0)


@with_scripted_driver
def reader_out_of_order_without_card(s: Stage) -> None:
    a = s.actor("A")
    state = a.state()
    s.script("trouble")
    call = a.changes_later([(R0, state)], 10000)
    call.done()
    a.connect(DIRECT, 0)
    state = a.state()
    s.unscript("trouble")
    call = a.changes_later([(R0, state)], 10000)
    call.done()
    a.connect(DIRECT, 0)


@with_scripted_driver
def reader_out_of_order_in_a_transaction(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    a.begin(h)
    state = a.state()
    s.script("trouble")
    call = a.changes_later([(R0, state)], 10000)
    call.done()
    a.end(h)
    b.begin(g)
    a.disconnect(h, RESET)
    b.disconnect(g)
