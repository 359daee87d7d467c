"""The simulated readers themselves, without a kernel: codec, descriptors, reader, cards, device."""

import struct

import pytest

from usbsim.cards import Apdu, Card, atr, offered
from usbsim.ccid import Ccid, Fault
from usbsim.descriptors import MODELS, OCTSIM, SHORT_APDU, Device, Functional, Interface
from usbsim.device import SimulatedDevice
from usbsim.shell import changed
from usbsim.t1 import T1Card, crc, lrc
from usbsim.usbip import HEADER, URB_SHORT_NOT_OK, Decoder, ProtocolError, Submit, Unlink

READ = bytes.fromhex("00B0000004")
ANSWER = bytes.fromhex("000102039000")


def submit(seqnum: int, endpoint: int, length: int = 0, data: bytes = b"", setup: bytes = bytes(8)) -> bytes:
    direction, number = endpoint >> 7, endpoint & 0x7F
    length = length or len(data)
    return struct.pack(">IIIIIIiiii8s", 1, seqnum, 1, direction, number, 0, length, 0, 0, 0, setup) + data


def command(kind: int, data: bytes = b"", slot: int = 0, seq: int = 0, specific: bytes = bytes(3)) -> bytes:
    return struct.pack("<BIBB3s", kind, len(data), slot, seq, specific) + data


class Reader:
    """A reader under test, with a clock of its own."""

    def __init__(self, model: str = "short", **changes: object) -> None:
        (interface,) = changed(MODELS[model], dict(changes)).interfaces
        self.ccid = Ccid(interface)
        self.now = 0.0

    def do(
        self, kind: int, data: bytes = b"", slot: int = 0, seq: int = 0, specific: bytes = bytes(3)
    ) -> None:
        self.ccid.command(command(kind, data, slot, seq, specific), self.now)

    def replies(self, seconds: float = 0.0) -> list[bytes]:
        self.now += seconds
        return self.ccid.due(self.now)

    def ask(self, kind: int, data: bytes = b"", slot: int = 0, specific: bytes = bytes(3)) -> bytes:
        self.do(kind, data, slot, 7, specific)
        (reply,) = self.replies()
        assert (reply[5], reply[6]) == (slot, 7)
        assert int.from_bytes(reply[1:5], "little") == len(reply) - 10
        return reply

    def with_card(self, slot: int = 0, **values: object) -> Card:
        card = Card.from_json({"protocol": 1, **values})
        self.ccid.insert(slot, card)
        assert self.ask(0x62, slot=slot)[10:] == card.atr
        return card


class TestUsbIp:
    def test_messages_come_in_any_pieces(self) -> None:
        stream = (
            submit(1, 0x01, data=b"abc") + submit(2, 0x81, 64) + struct.pack(">IIIIII24x", 2, 3, 1, 0, 0, 2)
        )
        decoder, found = Decoder(), []
        for byte in stream:
            found += decoder.feed(bytes([byte]))
        assert found == Decoder().feed(stream)
        assert [type(each) for each in found] == [Submit, Submit, Unlink]
        assert isinstance(found[0], Submit) and found[0].data == b"abc"
        assert isinstance(found[1], Submit) and (found[1].endpoint, found[1].length) == (0x81, 64)
        assert isinstance(found[2], Unlink) and found[2].target == 2

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ProtocolError):
            Decoder().feed(b"\0\0\0\x09" + bytes(HEADER))


class TestDescriptors:
    def test_functional_descriptor_survives_the_round_trip(self) -> None:
        assert Functional.decode(OCTSIM.encode()) == OCTSIM
        assert (len(OCTSIM.encode()), OCTSIM.slots, OCTSIM.max_busy_slots) == (54, 8, 8)

    @pytest.mark.parametrize("model", MODELS)
    def test_configuration_is_consistent(self, model: str) -> None:
        device = MODELS[model]
        data = device.configuration_descriptor()
        assert int.from_bytes(data[2:4], "little") == len(data)
        addresses, position = [], 0
        while position < len(data):
            if data[position + 1] == 5:
                addresses.append(data[position + 2])
            position += data[position]
        assert position == len(data)
        assert len(addresses) == len(set(addresses))
        for index in range(len(device.strings()) + 1):
            text = device.string_descriptor(index)
            assert text is not None and len(text) == text[0]

    def test_changes_reach_their_fields(self) -> None:
        device = changed(MODELS["short"], {"max_busy_slots": 3, "interrupt": False, "serial": "42"})
        (interface,) = device.interfaces
        assert (interface.functional.max_busy_slots, interface.interrupt, device.serial) == (3, False, "42")


class TestCards:
    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            ("00100000", Apdu(0x10, 0, b"", 0)),
            ("00B0010200", Apdu(0xB0, 0x102, b"", 256)),
            ("00D6000002AABB", Apdu(0xD6, 0, b"\xaa\xbb", 0)),
            ("00A4000002AABB05", Apdu(0xA4, 0, b"\xaa\xbb", 5)),
            ("00B00000000000", Apdu(0xB0, 0, b"", 65536)),
            ("00A40000000002AABB0000", Apdu(0xA4, 0, b"\xaa\xbb", 65536)),
        ],
    )
    def test_commands_of_all_cases(self, raw: str, expected: Apdu) -> None:
        assert Apdu.parse(bytes.fromhex(raw)) == expected

    def test_answer_to_reset_says_what_was_asked_for(self) -> None:
        assert offered(atr(0)) == ([0], 32, False)
        assert offered(atr(1, ta1=0x95, ifsc=100)) == ([1, 1], 100, False)
        assert lrc(atr(1)[1:]) == b"\0"

    def test_t0_data_is_fetched(self) -> None:
        card = Card()
        assert card.tpdu(bytes.fromhex("0088000003010203")) == b"\x61\x03"
        assert card.tpdu(bytes.fromhex("00C0000004")) == b"\x6c\x03"
        assert card.tpdu(bytes.fromhex("00C0000003")) == bytes.fromhex("0302019000")
        assert card.tpdu(bytes.fromhex("00B2000004")) == b"\x6c\x10"

    def test_t0_by_characters(self) -> None:
        card = Card(nulls=1)
        card.characters(bytes.fromhex("00D6000003"))
        assert card.stream == b"\x60\xd6"
        card.stream.clear()
        card.characters(bytes.fromhex("010203"))
        assert card.stream == b"\x90\x00"

    def test_parameters_are_accepted_only_after_a_reset(self) -> None:
        card = Card(atr(1))
        assert card.tpdu(b"\xff\x11\x95\x7b") == b"\xff\x11\x95\x7b"
        assert card.tpdu(b"\xff\x11\x95\x7b") != b"\xff\x11\x95\x7b"


class TestT1:
    @staticmethod
    def block(pcb: int, data: bytes = b"", edc: object = lrc) -> bytes:
        body = bytes([0, pcb, len(data)]) + data
        return body + edc(body)  # type: ignore[operator]

    def test_checksums(self) -> None:
        assert lrc(b"\x01\x02\x04") == b"\x07"
        assert crc(b"123456789") == b"\x6f\x91"

    def test_chains_in_both_directions(self) -> None:
        card = T1Card(lambda data: data + b"\x90\x00", ifsc=4)
        assert card.block(self.block(0x20, b"abcd")) == self.block(0x90)
        card.ifsd = 5
        assert card.block(self.block(0x40, b"ef")) == self.block(0x20, b"abcde")
        assert card.block(self.block(0x90)) == self.block(0x40, b"f\x90\x00")

    def test_errors_are_answered(self) -> None:
        card = T1Card(lambda data: data)
        assert card.block(self.block(0, b"abc")[:-1] + b"\0") == self.block(0x81)
        assert card.block(self.block(0x40, b"abc")) == self.block(0x82)
        assert card.block(self.block(0xC0)) == self.block(0xE0)

    def test_requests_come_before_the_answer(self) -> None:
        card = T1Card(lambda data: data)
        card.words = ["wtx:3"]
        assert card.block(self.block(0, b"a")) == self.block(0xC3, b"\x03")
        assert card.block(self.block(0xE3, b"\x03")) == self.block(0, b"a")

    def test_a_lost_block_is_repeated(self) -> None:
        card = T1Card(lambda data: data)
        card.words = ["edc"]
        assert card.block(self.block(0, b"a")) == self.block(0, b"a")[:-1] + bytes([0 ^ 1 ^ ord("a") ^ 0xFF])
        assert card.block(self.block(0x81)) == self.block(0, b"a")


class TestReader:
    def test_presence(self) -> None:
        reader = Reader()
        assert reader.ask(0x65)[7] == 2
        reader.ccid.insert(0, Card())
        assert reader.ccid.notification() == b"\x50\x03"
        assert reader.ccid.notification() is None
        assert reader.ask(0x65)[7] == 1
        reader.ask(0x62)
        assert reader.ask(0x65)[7] == 0
        reader.ccid.remove(0)
        assert reader.ccid.notification() == b"\x50\x02"
        assert reader.ask(0x62)[7:9] == b"\x42\xfe"

    def test_notifications_have_two_bits_for_each_slot(self) -> None:
        reader = Reader("octsim")
        reader.ccid.insert(5, Card())
        assert reader.ccid.notification() == b"\x50" + (3 << 10).to_bytes(2, "little")

    def test_voltage_must_suit_the_card(self) -> None:
        reader = Reader()
        reader.ccid.insert(0, Card(voltages=4))
        assert reader.ask(0x62, specific=b"\x01\0\0")[7:9] == b"\x41\xfe"
        assert reader.ask(0x62, specific=b"\x03\0\0")[7] == 0

    def test_slots_work_at_the_same_time(self) -> None:
        reader = Reader("octsim")
        for slot in range(8):
            reader.with_card(slot, protocol=0, latency_ms=10)
        for slot in range(8):
            reader.do(0x6F, READ, slot, slot)
        assert reader.replies(0.009) == []
        assert sorted(reply[5] for reply in reader.replies(0.002)) == list(range(8))
        assert reader.ccid.counters["most busy"] == 8

    def test_busy_slots_refuse(self) -> None:
        reader = Reader("short", max_slot_index=2, max_busy_slots=2)
        for slot in range(3):
            reader.with_card(slot, latency_ms=10)
        for slot in (0, 1, 2, 0):
            reader.do(0x6F, READ, slot, slot)
        refused = reader.replies()
        assert [(reply[5], reply[7], reply[8]) for reply in refused] == [(2, 0x40, 0xE0), (0, 0x40, 0xE0)]
        assert [reply[10:] for reply in reader.replies(0.011)] == [ANSWER, ANSWER]

    def test_unknown_commands_and_slots(self) -> None:
        reader = Reader()
        assert reader.ask(0x71)[7:9] == b"\x42\x00"
        reader.do(0x65, slot=3)
        assert reader.replies()[0][7:9] == b"\x42\x05"

    def test_long_apdus_travel_in_pieces(self) -> None:
        reader = Reader("extended-small")
        reader.with_card()
        data = bytes(range(200)) * 2
        apdu = b"\x00\xa4\x00\x00\x00" + len(data).to_bytes(2, "big") + data + b"\0\0"
        first = reader.ask(0x6F, apdu[:261], specific=b"\0\x01\0")
        assert (first[9], first[10:]) == (0x10, b"")
        begin = reader.ask(0x6F, apdu[261:], specific=b"\0\x02\0")
        end = reader.ask(0x6F, specific=b"\0\x10\0")
        assert (begin[9], end[9]) == (1, 2)
        assert begin[10:] + end[10:] == data + b"\x90\x00"

    def test_time_extensions_come_while_the_card_works(self) -> None:
        reader = Reader()
        reader.with_card(latency_ms=100, extension_ms=40)
        reader.do(0x6F, READ)
        assert [reply[7] for reply in reader.replies(0.09)] == [0x80, 0x80]
        assert [reply[10:] for reply in reader.replies(0.02)] == [ANSWER]

    @pytest.mark.parametrize("control_first", [True, False])
    def test_abort_needs_both_messages(self, control_first: bool) -> None:
        reader = Reader()
        reader.with_card(latency_ms=1000)
        reader.do(0x6F, READ, seq=4)
        steps = [lambda: reader.ccid.abort_control(0, 9, reader.now), lambda: reader.do(0x72, seq=9)]
        for step in steps if control_first else reversed(steps):
            assert reader.replies() == []
            step()
        (reply,) = reader.replies()
        assert (reply[0], reply[6], reply[7]) == (0x81, 9, 0)
        assert reader.replies(2) == []
        reader.ccid.slots[0].card.latency_ms = 0  # type: ignore[union-attr]
        assert reader.ask(0x6F, READ)[10:] == ANSWER

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("silent", []),
            ("short", ["8006000000"]),
            ("wrong_slot", ["8006000000 01 07 000000 000102039000"]),
            ("wrong_seq", ["8006000000 00 6b 000000 000102039000"]),
            ("wrong_type", ["8206000000 00 07 000000 000102039000"]),
            ("oversized", ["80ffffff7f 00 07 000000 000102039000"]),
            ("undersized", ["8000000000 00 07 000000 000102039000"]),
            ("duplicate", ["8006000000 00 07 000000 000102039000"] * 2),
        ],
    )
    def test_faults(self, kind: str, expected: list[str]) -> None:
        reader = Reader("short", max_slot_index=1, max_busy_slots=2)
        reader.with_card()
        reader.with_card(1)
        reader.ccid.faults.append(Fault(kind, slot=0))
        assert reader.ask(0x6F, READ, slot=1)[10:] == ANSWER
        reader.do(0x6F, READ, seq=7)
        assert reader.replies() == [bytes.fromhex(text) for text in expected]
        assert reader.ask(0x6F, READ)[10:] == ANSWER

    def test_time_extensions_without_end(self) -> None:
        reader = Reader()
        reader.with_card()
        reader.ccid.faults.append(Fault("extensions", ms=10))
        reader.do(0x6F, READ)
        assert all([reply[7] for reply in reader.replies(0.011)] == [0x80] for _ in range(20))
        reader.ccid.abort_control(0, 1, reader.now)
        reader.do(0x72, seq=1)
        reader.replies()
        assert reader.replies(1) == []


class TestDevice:
    @staticmethod
    def device(**changes: object) -> SimulatedDevice:
        device = SimulatedDevice(changed(MODELS["short"], dict(changes)))
        device.ccids[0].insert(0, Card(atr(1)))
        TestDevice.host(device, submit(1, 0, setup=bytes([0, 9, 1, 0, 0, 0, 0, 0])))
        return device

    @staticmethod
    def host(device: SimulatedDevice, *messages: bytes) -> list[tuple[int, int, bytes]]:
        """Sequence number, status and data of the transfers that end."""
        for message in Decoder().feed(b"".join(messages)):
            device.feed(message, 0.0)
        stream, found = device.advance(0.0), []
        while stream:
            kind, seqnum, status, actual = struct.unpack_from(">II12xii", stream)
            has_data = kind == 3 and len(stream) >= HEADER + actual and seqnum >= 100
            found.append((seqnum, status, stream[HEADER : HEADER + actual] if has_data else b""))
            stream = stream[HEADER + (actual if has_data else 0) :]
        return found

    def test_command_and_answer(self) -> None:
        device = self.device()
        assert self.host(device, submit(2, 1, data=command(0x62))) == [(2, 0, b"")]
        ((seqnum, status, data),) = self.host(device, submit(100, 0x81, 512))
        assert (seqnum, status, data[10:]) == (100, 0, atr(1))

    def test_replies_are_cut_into_packets(self) -> None:
        device = self.device()
        self.host(device, submit(2, 1, data=command(0x62)), submit(100, 0x81, 512))
        # ten bytes of header and the status words: 64 bytes in all, so that an empty packet ends it
        self.host(device, submit(3, 1, data=command(0x6F, bytes.fromhex("00B0000034"))))
        assert [len(data) for _, _, data in self.host(device, submit(101, 0x81, 512))] == [64]
        self.host(device, submit(4, 1, data=command(0x6F, bytes.fromhex("00B0000064"))))
        parts = self.host(device, submit(102, 0x81, 64), submit(103, 0x81, 64))
        assert [len(data) for _, _, data in parts] == [64, 48]

    def test_too_little_room_is_an_overflow(self) -> None:
        device = self.device()
        self.host(device, submit(2, 1, data=command(0x62)))
        assert [status for _, status, _ in self.host(device, submit(100, 0x81, 12))] == [-75]

    def test_short_transfers_can_be_errors(self) -> None:
        device = self.device()
        self.host(device, submit(2, 1, data=command(0x65)))
        message = bytearray(submit(100, 0x81, 512))
        message[23] = URB_SHORT_NOT_OK
        assert [status for _, status, _ in self.host(device, bytes(message))] == [-121]

    def test_transfers_can_be_taken_back(self) -> None:
        device = self.device()
        unlink = struct.pack(">IIIIII24x", 2, 3, 1, 0, 0, 100)
        assert self.host(device, submit(100, 0x81, 512), unlink) == [(3, -104, b"")]
        assert self.host(device, unlink) == [(3, 0, b"")]

    def test_stall_lasts_until_it_is_cleared(self) -> None:
        device = self.device()
        device.ccids[0].faults.append(Fault("stall", command=0x65))
        assert self.host(device, submit(100, 0x81, 64), submit(2, 1, data=command(0x65))) == [
            (2, 0, b""),
            (100, -32, b""),
        ]
        assert self.host(device, submit(101, 0x81, 64)) == [(101, -32, b"")]
        assert self.host(device, submit(3, 0, setup=bytes([2, 1, 0, 0, 0x81, 0, 0, 0]))) == [(3, 0, b"")]
        ((_, status, data),) = self.host(device, submit(4, 1, data=command(0x65)), submit(102, 0x81, 64))[1:]
        assert (status, data[0]) == (0, 0x81)

    def test_the_deaf_answer_no_request(self) -> None:
        device = self.device()
        device.ccids[0].faults.append(Fault("deaf", command=0x65))
        self.host(device, submit(2, 1, data=command(0x65)))
        assert self.host(device, submit(101, 0x81, 64)) == [(101, -32, b"")]
        request = submit(3, 0, setup=bytes([2, 1, 0, 0, 0x81, 0, 0, 0]))
        assert self.host(device, request) == []
        unlink = struct.pack(">IIIIII24x", 2, 4, 1, 0, 0, 3)
        assert self.host(device, unlink) == [(4, -104, b"")]

    def test_commands_may_come_in_pieces(self) -> None:
        device = self.device()
        frame = command(0x62)
        self.host(device, submit(2, 1, data=frame[:6]), submit(3, 1, data=frame[6:]))
        assert self.host(device, submit(100, 0x81, 512))[0][1] == 0

    def test_card_movement_is_told_once(self) -> None:
        device = self.device()
        assert [data for _, _, data in self.host(device, submit(100, 0x82, 8))] == [b"\x50\x03"]
        assert self.host(device, submit(101, 0x82, 8)) == []
        device.ccids[0].remove(0)
        assert [data for _, _, data in self.host(device)] == [b"\x50\x02"]

    def test_class_requests(self) -> None:
        device = self.device(data_rates=[9600, 19200])
        rates = self.host(device, submit(100, 0x80, 64, setup=bytes([0xA1, 3, 0, 0, 0, 0, 64, 0])))
        assert rates == [(100, 0, struct.pack("<II", 9600, 19200))]
        clocks = self.host(device, submit(101, 0x80, 64, setup=bytes([0xA1, 2, 0, 0, 0, 0, 64, 0])))
        assert [status for _, status, _ in clocks] == [-32]

    def test_interfaces_are_apart(self) -> None:
        short = Functional(features=SHORT_APDU)
        device = SimulatedDevice(Device(1, 2, interfaces=(Interface(short), Interface(short))))
        device.ccids[1].insert(0, Card(atr(1)))
        self.host(device, submit(2, 3, data=command(0x62)))
        assert self.host(device, submit(100, 0x81, 512)) == []
        ((_, _, data),) = self.host(device, submit(101, 0x83, 512))
        assert data[10:] == atr(1)
