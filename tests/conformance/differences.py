"""The differences between pcscd and pypcscd that are meant: all of them, and the only place.

For each scenario the lines of the transcript that differ, with the number of the entry in
docs/differences.md that says why. What both daemons say is written out, so that a listed line is pinned
no less than the others.
"""

from typing import NamedTuple


class Difference(NamedTuple):
    """A line of a transcript on which the daemons differ."""

    entry: int
    label: str
    pcscd: str
    ours: str


DIFFERENCES: dict[str, list[Difference]] = {
    "cards.atr_cut": [
        Difference(
            12, "A.probe(r0, T0|T1)", "SUCCESS T0, PRESENT|POWERED|NEGOTIABLE+1 3B80", "E_PROTO_MISMATCH 0"
        ),
        Difference(
            12, "A.probe(r0, T0)", "SUCCESS T0, PRESENT|POWERED|NEGOTIABLE+3 3B80", "E_PROTO_MISMATCH 0"
        ),
        Difference(
            12, "A.probe(r0, ANY_OLD)", "SUCCESS T0, PRESENT|POWERED|NEGOTIABLE+9 3B80", "E_PROTO_MISMATCH 0"
        ),
    ],
    "cards.atr_short": [
        Difference(
            12,
            "A.changes([r0:0+0], 0 ms)",
            "SUCCESS [CHANGED|PRESENT+1 3B]",
            "SUCCESS [CHANGED|PRESENT|MUTE+1 -]",
        ),
        Difference(12, "A.probe(r0, T0|T1)", "E_PROTO_MISMATCH 0", "W_UNPOWERED_CARD 0"),
        Difference(
            12,
            "A.changes([r0:0+0], 0 ms) #2",
            "SUCCESS [CHANGED|PRESENT+3 3B]",
            "SUCCESS [CHANGED|PRESENT|MUTE+3 -]",
        ),
        Difference(12, "A.probe(r0, T0)", "E_PROTO_MISMATCH 0", "W_UNPOWERED_CARD 0"),
        Difference(
            12,
            "A.changes([r0:0+0], 0 ms) #3",
            "SUCCESS [CHANGED|PRESENT+5 3B]",
            "SUCCESS [CHANGED|PRESENT|MUTE+5 -]",
        ),
        Difference(12, "A.probe(r0, T1)", "E_PROTO_MISMATCH 0", "W_UNPOWERED_CARD 0"),
        Difference(
            12,
            "A.changes([r0:0+0], 0 ms) #4",
            "SUCCESS [CHANGED|PRESENT+7 3B]",
            "SUCCESS [CHANGED|PRESENT|MUTE+7 -]",
        ),
        Difference(
            12, "A.probe(r0, RAW)", "SUCCESS RAW, PRESENT|POWERED|NEGOTIABLE+7 3B", "W_UNPOWERED_CARD 0"
        ),
        Difference(
            12,
            "A.changes([r0:0+0], 0 ms) #5",
            "SUCCESS [CHANGED|PRESENT+9 3B]",
            "SUCCESS [CHANGED|PRESENT|MUTE+9 -]",
        ),
        Difference(12, "A.probe(r0, ANY_OLD)", "E_PROTO_MISMATCH 0", "W_UNPOWERED_CARD 0"),
    ],
    "cards.atr_specific_t15": [
        Difference(
            12,
            "A.probe(r0, T0|T1)",
            "SUCCESS T1, PRESENT|POWERED|NEGOTIABLE+1 3B80900F011E",
            "E_PROTO_MISMATCH 0",
        ),
        Difference(
            12,
            "A.probe(r0, T0)",
            "SUCCESS T0, PRESENT|POWERED|NEGOTIABLE+3 3B80900F011E",
            "E_PROTO_MISMATCH 0",
        ),
        Difference(
            12,
            "A.probe(r0, T1)",
            "SUCCESS T1, PRESENT|POWERED|NEGOTIABLE+5 3B80900F011E",
            "E_PROTO_MISMATCH 0",
        ),
        Difference(
            12,
            "A.probe(r0, ANY_OLD)",
            "SUCCESS T1, PRESENT|POWERED|NEGOTIABLE+9 3B80900F011E",
            "E_PROTO_MISMATCH 0",
        ),
    ],
    "cards.power_after_a_refused_connection": [
        Difference(7, "power-off in r0", "no", "yes"),
        Difference(7, "A.connect(r0, SHARED, T1) #2", "E_PROTO_MISMATCH h=0 0", "SUCCESS h2 T1"),
    ],
    "cards.power_after_a_reset_by_a_direct_user": [Difference(7, "power-off in r0 #2", "no", "yes")],
    "cards.power_and_the_raw_protocol": [
        Difference(8, "B.connect(r0, SHARED, T0|T1)", "E_PROTO_MISMATCH h=0 0", "SUCCESS h2 T1"),
        Difference(
            8,
            "A.status(h1)",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT|POWERED|NEGOTIABLE+1 RAW 3B80800101/5",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT|POWERED|NEGOTIABLE+1 T1 3B80800101/5",
        ),
    ],
    "cards.power_is_kept_a_while": [
        Difference(6, "power-off in r0", "yes", "no"),
        Difference(6, "A.connect(r0, SHARED, T1)", "SUCCESS h2 T1", "E_PROTO_MISMATCH h=0 0"),
        Difference(6, "power of r0", "ON OFF ON", "ON"),
    ],
    "cards.power_of_the_new_card_after_removal": [
        Difference(5, "power of r0", "ON OFF", "ON OFF ON"),
    ],
    "changes.a_short_use_wakes_who_saw_it": [
        Difference(4, "B.changes([r0:PRESENT|INUSE+1], 10000 ms) at first #2", "waits", "returns"),
        Difference(
            4,
            "B.changes([r0:PRESENT|INUSE+1], 10000 ms)",
            "SUCCESS [CHANGED|EMPTY+2 -]",
            "SUCCESS [CHANGED|PRESENT+1 3B80800101]",
        ),
    ],
    "changes.a_swap_is_noticed": [
        Difference(11, "two events in r0", "no", "yes"),
        Difference(
            11,
            "A.changes([r0:PRESENT+1], 0 ms)",
            "E_TIMEOUT [PRESENT+1 3B021450]",
            "SUCCESS [CHANGED|PRESENT+3 3B800181]",
        ),
    ],
    "connect.disconnect_dispositions_of_direct_handles": [
        Difference(
            5,
            "A.status(h1) #3",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT+1 T1 3B80800101/5",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT|POWERED|NEGOTIABLE+1 T1 3B80800101/5",
        ),
        Difference(5, "power of r0 #3", "OFF", "OFF ON"),
        Difference(
            5,
            "A.status(h1) #4",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT+1 T1 3B80800101/5",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT|POWERED|NEGOTIABLE+1 T1 3B80800101/5",
        ),
    ],
    "deaths.contexts": [
        Difference(18, "A.establish_many(250)", "after 200", "after 250"),
    ],
    "deaths.exclusive_after_two_hundred": [
        Difference(
            14, "B.connect(r0, EXCLUSIVE, T0|T1)", "E_SHARING_VIOLATION h=0 T1", "E_SHARING_VIOLATION h=0 0"
        ),
        Difference(14, "B.connect(r0, SHARED, T0|T1)", "F_INTERNAL_ERROR h=0 T1", "F_INTERNAL_ERROR h=0 0"),
    ],
    "deaths.exclusive_in_mid_transmit": [
        Difference(3, "0 users of r0", "no", "yes"),
    ],
    "deaths.while_removal_and_insertion": [
        Difference(22, "power of r0 #2", "", "RESET"),
    ],
    "deaths.while_waiting_to_disconnect": [
        Difference(3, "1 users of r0", "no", "yes"),
        Difference(
            3,
            "A.status(h1)",
            "W_RESET_CARD ''/0 0+0 0 -/0",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT|POWERED|NEGOTIABLE+1 T1 3B80800101/5",
        ),
    ],
    "drivers.atr_too_long": [
        Difference(
            12,
            "A.changes([r0:0+0], 0 ms)",
            "SUCCESS [CHANGED|PRESENT+1 000000000000000000000000000000000000000000000000000000000000000000]",
            "SUCCESS [CHANGED|PRESENT|MUTE+1 -]",
        ),
    ],
    "drivers.mute_after_disconnect": [
        Difference(9, "A.connect(r0, SHARED, T0|T1) #2", "W_UNPOWERED_CARD h=0 0", "SUCCESS h2 T0"),
        Difference(
            9,
            "A.changes([r0:0+0], 0 ms) #2",
            "SUCCESS [CHANGED|PRESENT|MUTE+1 -]",
            "SUCCESS [CHANGED|PRESENT|INUSE+1 3B021450]",
        ),
    ],
    "drivers.mute_when_powered_again": [
        Difference(9, "A.connect(r0, SHARED, T0|T1)", "E_PROTO_MISMATCH h=0 0", "W_UNPOWERED_CARD h=0 0"),
        Difference(
            9,
            "A.changes([r0:0+0], 0 ms) #2",
            "SUCCESS [CHANGED|PRESENT+1 -]",
            "SUCCESS [CHANGED|PRESENT|MUTE+1 -]",
        ),
        Difference(9, "A.connect(r0, SHARED, T0|T1) #2", "E_PROTO_MISMATCH h=0 0", "SUCCESS h1 T0"),
        Difference(
            9,
            "A.changes([r0:0+0], 0 ms) #3",
            "SUCCESS [CHANGED|PRESENT+1 -]",
            "SUCCESS [CHANGED|PRESENT|INUSE+1 3B021450]",
        ),
    ],
    "drivers.mute_when_unpowered_by_disconnect": [
        Difference(
            10,
            "A.changes([r0:0+0], 0 ms)",
            "SUCCESS [CHANGED|PRESENT|MUTE+1 3B021450]",
            "SUCCESS [CHANGED|PRESENT|MUTE+1 -]",
        ),
    ],
    "drivers.transmit_of_each_protocol": [
        Difference(
            13,
            "A.transmit(h1, T0 received by)",
            "SUCCESS 6 80CA00009000 by 0",
            "SUCCESS 6 80CA00009000 by T0",
        ),
        Difference(
            13,
            "A.transmit(h1, ANY_OLD received by)",
            "SUCCESS 6 80CA00009000 by 0",
            "SUCCESS 6 80CA00009000 by T0",
        ),
    ],
    "reconnect.after_unpower_by_another": [
        Difference(
            5,
            "B.status(h2)",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT+1 T1 3B80800101/5",
            "SUCCESS 'Virtual PCD 00 00'/18 PRESENT|POWERED|NEGOTIABLE+1 T1 3B80800101/5",
        ),
        Difference(5, "A.connect(r0, SHARED, T0|T1) #2", "W_UNPOWERED_CARD h=0 0", "SUCCESS h3 T1"),
        Difference(5, "power of r0", "ON OFF", "ON OFF ON"),
    ],
    "reconnect.direct_to_shared_of_an_unpowered_card": [
        Difference(5, "power of r0", "ON OFF", "ON OFF ON"),
    ],
    "reconnect.exclusive_to_direct": [
        Difference(1, "B.connect(r0, DIRECT, 0) at first", "waits", "returns"),
    ],
    "reconnect.exclusive_to_shared": [
        Difference(1, "B.connect(r0, SHARED, T0|T1) at first", "waits", "returns"),
        Difference(1, "A.end(h1, LEAVE)", "SUCCESS", "E_NOT_TRANSACTED"),
    ],
    "sharing.direct_refuses_exclusive": [
        Difference(
            14, "B.connect(r0, EXCLUSIVE, T0|T1)", "E_SHARING_VIOLATION h=0 T1", "E_SHARING_VIOLATION h=0 0"
        ),
    ],
    "sharing.exclusive_refused_has_powered_the_card": [
        Difference(
            14, "B.connect(r0, EXCLUSIVE, T0|T1)", "E_SHARING_VIOLATION h=0 T1", "E_SHARING_VIOLATION h=0 0"
        ),
    ],
    "sharing.shared_refuses_exclusive": [
        Difference(
            14, "B.connect(r0, EXCLUSIVE, T0|T1)", "E_SHARING_VIOLATION h=0 T1", "E_SHARING_VIOLATION h=0 0"
        ),
    ],
    "threads.disconnect_against_ones_own_other_handle": [
        Difference(2, "A/2.disconnect(h2, RESET) at first", "waits", "returns"),
        Difference(2, "A.end(h1, LEAVE) at first", "waits", "returns"),
    ],
    "waiting.another_exclusive_connect_waits_and_is_refused": [
        Difference(
            14, "B.connect(r0, EXCLUSIVE, T0|T1)", "E_SHARING_VIOLATION h=0 T1", "E_SHARING_VIOLATION h=0 0"
        ),
    ],
    "transactions.connect_inside_ones_own": [
        Difference(2, "A/2.connect(r0, SHARED, T0|T1) at first", "waits", "returns"),
        Difference(2, "A.end(h1, LEAVE) at first", "waits", "returns"),
    ],
    "transmit.attributes_without_card": [
        Difference(
            15,
            "A.get_attrib(h1, 0x7FFF0003, 264)",
            "E_INSUFFICIENT_BUFFER 264 -",
            "SUCCESS 18 5669727475616C2050434420303020303000",
        ),
    ],
    "transmit.empty_command": [
        Difference(17, "A.transmit(h1, T1, -)", "does not return", "E_NOT_TRANSACTED 0 -"),
        Difference(17, "the end / A.transmit(h1, T1, 80CA0000)", "", "SUCCESS 6 80CA00009000"),
    ],
    "transmit.names_of_the_reader": [
        Difference(
            15,
            "A.get_attrib(h1, 0x7FFF0003, 264)",
            "E_INSUFFICIENT_BUFFER 264 -",
            "SUCCESS 18 5669727475616C2050434420303020303000",
        ),
        Difference(15, "A.get_attrib(h1, 0x7FFF0003, None)", "E_INSUFFICIENT_BUFFER 264 -", "SUCCESS 18 -"),
        Difference(
            15, "A.get_attrib(h1, 0x7FFF0003, 0)", "E_INSUFFICIENT_BUFFER 0 -", "E_INSUFFICIENT_BUFFER 18 -"
        ),
        Difference(
            15, "A.get_attrib(h1, 0x7FFF0003, 17)", "E_INSUFFICIENT_BUFFER 17 -", "E_INSUFFICIENT_BUFFER 18 -"
        ),
        Difference(
            15,
            "A.get_attrib(h1, 0x7FFF0003, 18)",
            "E_INSUFFICIENT_BUFFER 18 -",
            "SUCCESS 18 5669727475616C2050434420303020303000",
        ),
        Difference(
            15,
            "A.get_attrib(h1, 0x7FFF0004, 264)",
            "E_INSUFFICIENT_BUFFER 264 -",
            "SUCCESS 18 5669727475616C2050434420303020303000",
        ),
        Difference(15, "A.get_attrib(h1, 0x7FFF0004, None)", "E_INSUFFICIENT_BUFFER 264 -", "SUCCESS 18 -"),
        Difference(
            15, "A.get_attrib(h1, 0x7FFF0004, 0)", "E_INSUFFICIENT_BUFFER 0 -", "E_INSUFFICIENT_BUFFER 18 -"
        ),
        Difference(
            15, "A.get_attrib(h1, 0x7FFF0004, 17)", "E_INSUFFICIENT_BUFFER 17 -", "E_INSUFFICIENT_BUFFER 18 -"
        ),
        Difference(
            15,
            "A.get_attrib(h1, 0x7FFF0004, 18)",
            "E_INSUFFICIENT_BUFFER 18 -",
            "SUCCESS 18 5669727475616C2050434420303020303000",
        ),
    ],
    "transmit.received_protocol": [
        Difference(
            13,
            "A.transmit(h1, RAW received by)",
            "SUCCESS 6 80CA00009000 by T0",
            "SUCCESS 6 80CA00009000 by RAW",
        ),
        Difference(
            13,
            "A.transmit(h2, T1 received by)",
            "SUCCESS 6 80CA00009000 by T0",
            "SUCCESS 6 80CA00009000 by T1",
        ),
    ],
    "transmit.too_long_for_the_reader": [
        Difference(17, "A.transmit(h1, T1, 80CA0000)", "E_NOT_TRANSACTED 0 -", "SUCCESS 6 80CA00009000"),
    ],
    "transmit.vpcd_answer_without_status_word": [
        Difference(17, "A.transmit(h1, T1, 005C90)", "SUCCESS 1 90", "E_NOT_TRANSACTED 0 -"),
    ],
    "transmit.vpcd_attributes": [
        Difference(
            17,
            "A.get_attrib(h1, 0x00010100, 264)",
            "E_UNSUPPORTED_FEATURE 264 -",
            "SUCCESS 8 7079706373636400",
        ),
        Difference(17, "A.get_attrib(h1, 0x00090300, 264)", "E_UNSUPPORTED_FEATURE 264 -", "SUCCESS 1 02"),
        Difference(17, "A.get_attrib(h1, 0x00090301, 264)", "E_UNSUPPORTED_FEATURE 264 -", "SUCCESS 1 01"),
        Difference(
            17, "A.get_attrib(h1, 0x00090303, 264)", "E_UNSUPPORTED_FEATURE 264 -", "SUCCESS 5 3B80800101"
        ),
        Difference(
            17, "A.get_attrib(h1, 0x0007A007, 264)", "E_UNSUPPORTED_FEATURE 264 -", "SUCCESS 4 FFFF0000"
        ),
        Difference(
            15,
            "A.get_attrib(h1, 0x7FFF0003, 264)",
            "E_INSUFFICIENT_BUFFER 264 -",
            "SUCCESS 18 5669727475616C2050434420303020303000",
        ),
        Difference(
            15,
            "A.get_attrib(h1, 0x7FFF0004, 264)",
            "E_INSUFFICIENT_BUFFER 264 -",
            "SUCCESS 18 5669727475616C2050434420303020303000",
        ),
        Difference(15, "A.get_attrib(h1, 0x7FFF0003, None)", "E_INSUFFICIENT_BUFFER 264 -", "SUCCESS 18 -"),
        Difference(
            15, "A.get_attrib(h1, 0x7FFF0003, 17)", "E_INSUFFICIENT_BUFFER 17 -", "E_INSUFFICIENT_BUFFER 18 -"
        ),
        Difference(17, "A.set_attrib(h1, 0x00090303, 3B00)", "E_NOT_TRANSACTED", "E_UNSUPPORTED_FEATURE"),
        Difference(17, "A.control(h1, 0x42000D48, -, 264)", "E_UNSUPPORTED_FEATURE 0 -", "SUCCESS 0 -"),
    ],
    "transmit.vpcd_raw_without_card": [
        Difference(17, "A.transmit(h1, RAW, 80CA0000)", "E_NOT_TRANSACTED 0 -", "E_NO_SMARTCARD 0 -"),
    ],
    "transmit.vpcd_received_protocol": [
        Difference(
            13,
            "A.transmit(h1, T1 received by)",
            "SUCCESS 6 80CA00009000 by T0",
            "SUCCESS 6 80CA00009000 by T1",
        ),
        Difference(
            13,
            "A.transmit(h1, RAW received by)",
            "SUCCESS 6 80CA00009000 by T0",
            "SUCCESS 6 80CA00009000 by RAW",
        ),
    ],
    "transmit.vpcd_removal_during_a_command": [
        Difference(17, "A.transmit(h1, T1, 80CA0000)", "SUCCESS 0 -", "E_NO_SMARTCARD 0 -"),
    ],
    "wire.cancel_of_an_idle_context": [
        Difference(16, "raw.cancel()", "E_INVALID_HANDLE", "SUCCESS"),
    ],
    "wire.foreign_handle": [
        Difference(20, "raw.status()", "no answer within 1.0 s", "closed"),
    ],
    "wire.terminated_with_a_card_in_use": [
        Difference(21, "power of r0 #2", "", "OFF"),
    ],
    "wire.versions": [
        Difference(19, "raw.version(4, 0)", "E_SERVICE_STOPPED", "SUCCESS"),
        Difference(19, "raw.version(4, 2)", "E_SERVICE_STOPPED", "SUCCESS"),
        Difference(19, "raw.version(4, 3)", "E_SERVICE_STOPPED", "SUCCESS"),
        Difference(19, "raw.version(4, 5)", "E_SERVICE_STOPPED", "SUCCESS"),
        Difference(19, "raw.version(4, 6)", "E_SERVICE_STOPPED", "SUCCESS"),
    ],
}
