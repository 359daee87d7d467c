"""SCardTransmit, SCardControl and the attributes."""

from stage import Stage, with_native_driver
from vocabulary import ANY, ANY_OLD, DIRECT, R1, RAW, SHARED, T0, T1

GET_FEATURES = 0x42000D48


def t0(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0")
    h = a.connect()
    a.transmit(h, protocol=T0)
    a.transmit(h, protocol=T1)
    a.transmit(h, protocol=RAW)
    a.transmit(h, protocol=ANY_OLD)


def t1(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T1")
    h = a.connect()
    a.transmit(h, protocol=T1)
    a.transmit(h, protocol=T0)
    a.transmit(h, protocol=RAW)
    a.transmit(h, protocol=ANY_OLD)


def raw(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(SHARED, RAW)
    a.transmit(h, protocol=RAW)
    a.transmit(h, protocol=T0)
    a.transmit(h, protocol=T1)


def odd_protocols(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for protocol in (0, ANY, 8, 16, 0xFFFFFFFF):
        a.transmit(h, protocol=protocol)


@with_native_driver
def received_protocol(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T0T1")
    h = a.connect(SHARED, T0)
    a.received_protocol(h, T0)
    a.received_protocol(h, RAW)
    a.disconnect(h)
    s.remove()
    s.insert("T0T1")
    h = a.connect(SHARED, T1)
    a.received_protocol(h, T1)


def lengths_of_commands(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for length in (2, 3, 4, 5, 6, 255, 260, 261, 264, 265, 4096, 65000):
        a.transmit(h, b"\x80\xca" + bytes(length - 2))


@with_native_driver
def lengths_of_answers(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for length in (0, 1, 254, 255, 256, 257, 262, 263, 4096, 65000, 65533):
        a.transmit(h, b"\x00\xc0" + length.to_bytes(2, "big"))


def empty_command(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit_later(h, b"").done(1)
    a.transmit(h)


@with_native_driver
def command_of_one_byte(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit(h, b"\x05")
    a.transmit(h, b"\xff")
    a.transmit(h)


def longest_command(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit(h, b"\x00\xa4" + bytes(65533))
    a.transmit(h)


def too_long_for_the_reader(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit(h, bytes(65536))
    a.transmit(h)


def too_long_for_the_library(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit(h, bytes(65549))
    a.transmit(h)
    a.transmit(h, bytes(100000))
    a.transmit(h)


def answer_buffer_too_short(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for room in (0, 1, 2, 5, 6, 7):
        a.transmit(h, room=room)
    a.transmit(h, "00C01000", room=4097)
    a.transmit(h, "00C01000", room=4098)


@with_native_driver
def answer_without_status_word(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit(h, "005C9000")
    a.transmit(h, "005C90")
    a.transmit(h)


@with_native_driver
def without_card(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.transmit(h, protocol=T0)
    a.transmit(h, protocol=0)
    a.transmit(h, protocol=RAW)
    a.transmit(h, protocol=ANY_OLD)


def direct_handle_without_protocol(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(DIRECT, 0)
    a.transmit(h, protocol=T0)
    a.transmit(h, protocol=T1)
    a.transmit(h, protocol=0)


def direct_handle_raw(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect(DIRECT, RAW)
    a.transmit(h, protocol=RAW)
    a.transmit(h, protocol=T0)


def direct_handle_beside_a_shared_one(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    b.connect(SHARED, T1)
    h = a.connect(DIRECT, 0)
    a.status(h)
    a.transmit(h, protocol=T1)


def unknown_handles(s: Stage) -> None:
    a = s.actor("A")
    a.transmit(0)
    a.transmit(0x7FFFFFFF)
    a.control(0, 1)
    a.get_attrib(0, 1)
    a.set_attrib(0, 1)
    a.status(0)
    a.control(0x7FFFFFFF, 1)


@with_native_driver
def removal_during_a_command(s: Stage) -> None:
    a = s.actor("A")
    card = s.insert()
    h = a.connect()
    card.hold()
    call = a.transmit_later(h)
    s.await_frame("80CA0000")
    s.remove()
    call.done()
    a.status(h)
    a.state()


def state_is_kept_between_commands(s: Stage) -> None:
    a, b = s.actors("A B")
    s.insert()
    h, g = a.connect(), b.connect()
    b.transmit(g, "00100000")
    a.transmit(h, "00A40000")
    b.transmit(g, "00100000")


def two_at_the_same_time(s: Stage) -> None:
    a, b = s.actors("A B")
    card = s.insert()
    h, g = a.connect(), b.connect()
    card.hold()
    first = a.transmit_later(h, "80010000")
    s.await_frame("80010000")
    second = b.transmit_later(g, "80020000")
    second.waits()
    card.go()
    first.done()
    second.done()


def both_readers_at_the_same_time(s: Stage) -> None:
    a, b = s.actors("A B")
    card = s.insert()
    s.insert(slot=1)
    h, g = a.connect(), b.connect(reader=R1)
    card.hold()
    first = a.transmit_later(h)
    first.waits()
    b.transmit(g)
    card.go()
    first.done()


@with_native_driver
def control_unknown(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.control(h, 0x42000001, b"\x01\x02")
    a.control(h, 0, b"")
    a.control(h, 0xFFFFFFFF, b"")


@with_native_driver
def control_features(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.control(h, GET_FEATURES)
    a.control(h, GET_FEATURES, b"", 0)


@with_native_driver
def control_without_card(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.control(h, 0x42000001)
    a.control(h, GET_FEATURES)


def control_too_long(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.control(h, 0x42000001, bytes(65548))
    a.control(h, 0x42000001, bytes(65549))
    a.control(h, 0x42000001)


@with_native_driver
def names_of_the_reader(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for attribute in (0x7FFF0003, 0x7FFF0004):
        a.get_attrib(h, attribute)
        a.get_attrib(h, attribute, None)
        a.get_attrib_allocated(h, attribute)
        for room in (0, 17, 18):
            a.get_attrib(h, attribute, room)


@with_native_driver
def attribute_atr(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.get_attrib(h, 0x00090303)
    a.get_attrib(h, 0x00090303, None)
    a.get_attrib(h, 0x00090303, 4)
    s.remove()
    a.reconnect(h, DIRECT, 0)
    g = a.connect(DIRECT, 0)
    a.get_attrib(g, 0x00090303)


@with_native_driver
def attributes_of_the_vendor(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for attribute in (0x00010100, 0x00010101, 0x00010102, 0x00010103):
        a.get_attrib(h, attribute)


@with_native_driver
def attributes_of_the_interface(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for attribute in (0x00090300, 0x00090301, 0x0007A007, 0x00020110, 0x00030120):
        a.get_attrib(h, attribute)


@with_native_driver
def attributes_unknown(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for attribute in (0, 1, 0x7FFF0001, 0x7FFF0005, 0xFFFFFFFF):
        a.get_attrib(h, attribute)


@with_native_driver
def set_attributes(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.set_attrib(h, 0x00090303, b"\x3b\x00")
    a.set_attrib(h, 0x7FFF0003, b"x\0")
    a.set_attrib(h, 1)
    a.set_attrib(h, 1, bytes(264))
    a.set_attrib(h, 1, bytes(265))
    a.status(h)


@with_native_driver
def attributes_without_card(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.get_attrib(h, 0x7FFF0003)
    a.get_attrib(h, 0x00090300)
    a.get_attrib(h, 1)
    a.set_attrib(h, 1)


def status_buffers(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.status(h, 0, 33)
    a.status(h, 17, 33)
    a.status(h, 18, 33)
    a.status(h, 128, 0)
    a.status(h, 128, 4)
    a.status(h, 128, 5)


def status_of_removed_and_direct(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.status(h)
    s.insert()
    a.status(h)
    s.remove()
    a.status(h)


def vpcd_attributes(s: Stage) -> None:
    """What our own reader for emulators has to tell, and pcscd's driver has not."""
    a = s.actor("A")
    s.insert()
    h = a.connect()
    for attribute in (0x00010100, 0x00090300, 0x00090301, 0x00090303, 0x0007A007, 0x7FFF0003, 0x7FFF0004):
        a.get_attrib(h, attribute)
    a.get_attrib(h, 0x7FFF0003, None)
    a.get_attrib_allocated(h, 0x7FFF0003)
    a.get_attrib(h, 0x7FFF0003, 17)
    a.set_attrib(h, 0x00090303, b"\x3b\x00")
    a.control(h, GET_FEATURES)


def vpcd_received_protocol(s: Stage) -> None:
    a = s.actor("A")
    s.insert("T1")
    h = a.connect()
    a.received_protocol(h, T1)
    a.received_protocol(h, RAW)


def vpcd_answer_without_status_word(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    a.transmit(h, "005C9000")
    a.transmit(h, "005C90")
    a.transmit(h)


def vpcd_removal_during_a_command(s: Stage) -> None:
    a = s.actor("A")
    card = s.insert()
    h = a.connect()
    card.hold()
    call = a.transmit_later(h)
    s.await_frame("80CA0000")
    s.remove()
    call.done()
    a.status(h)


def vpcd_raw_without_card(s: Stage) -> None:
    a = s.actor("A")
    h = a.connect(DIRECT, 0)
    a.transmit(h, protocol=RAW)
