"""Bulk messages as bytes, and transfers made into messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pypcscd.driver import Reason
from pypcscd_ccid import messages
from pypcscd_ccid.frames import Assembler, Broken
from pypcscd_ccid.messages import Answer, Command


def test_a_command_is_a_header_and_its_data() -> None:
    message = messages.COMMAND_HEADER.pack(Command.XFR_BLOCK, 4, 3, 0xFE, 2, 0x0110) + b"\x00\xa4\x04\x00"
    assert message == bytes.fromhex("6F 04000000 03 FE 02 1001 00A40400")
    assert messages.renumbered(message, 0xFF) == bytes.fromhex("6F 04000000 03 FF 02 1001 00A40400")


def test_every_command_has_its_answer() -> None:
    assert messages.ANSWERS[Command.SET_PARAMETERS] == Answer.PARAMETERS
    assert messages.ANSWERS[Command.ABORT] == Answer.SLOT_STATUS
    assert all(messages.ANSWERS[command] for command in Command)


@pytest.mark.parametrize(
    ("status", "error", "reason", "text"),
    [
        (0x42, 0xFE, Reason.NO_CARD, "no card"),
        (0x41, 0xFE, Reason.COMMUNICATION, "does not answer"),
        (0x40, 0xE0, Reason.COMMUNICATION, "busy"),
        (0x40, 0x07, Reason.COMMUNICATION, "byte 7"),
        (0x40, 0xC1, Reason.COMMUNICATION, "error 0xC1"),
    ],
)
def test_failures_have_reasons_and_words(status: int, error: int, reason: Reason, text: str) -> None:
    reply = bytes([0x80, 0, 0, 0, 0, 0, 0, status, error, 0])
    assert messages.has_failed(reply)
    failed = messages.failure(reply, "XfrBlock")
    assert failed.reason is reason
    assert text in failed.detail


def message(data: bytes) -> bytes:
    return bytes([0x80, *len(data).to_bytes(4, "little"), 0, 7, 0, 0, 0]) + data


def transfers(stream: bytes, size: int, packet: int, *, ends: bool) -> list[bytes]:
    """A message as transfers into buffers of ``size``; ``ends``: with an empty packet where it is due."""
    parts = [stream[i : i + size] for i in range(0, len(stream), size)]
    if ends and len(stream) % packet == 0 and len(parts[-1]) == size:
        parts.append(b"")
    return parts


@given(st.lists(st.binary(max_size=600), max_size=6), st.booleans())
def test_messages_come_out_as_they_went_in(contents: list[bytes], ends: bool) -> None:
    assembler = Assembler(320, 64)
    found = []
    for content in contents:
        for part in transfers(message(content), 320, 64, ends=ends):
            found += assembler.feed(part)
    assert found == [message(content) for content in contents]


def test_two_messages_in_one_transfer_are_told_apart_at_the_edge_of_a_packet() -> None:
    first, second = message(bytes(54)), message(b"\x90\x00")
    assert Assembler(320, 64).feed(first + second) == [first, second]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (message(bytes(20))[:-3], "ends after 17 bytes"),
        (message(bytes(20)) + b"\0", "1 more"),
        (b"\x80\x01", "ends after 0 bytes"),
        (b"\x80\xff\xff\xff\x7f\0\0\0\0\0", "claims 2147483647"),
    ],
)
def test_a_broken_message_costs_itself_only(stream: bytes, why: str) -> None:
    assembler = Assembler(320, 64)
    (broken,) = assembler.feed(stream)
    assert isinstance(broken, Broken)
    assert why in broken.why
    assert broken.start == stream[:10]
    assert assembler.feed(message(b"ok")) == [message(b"ok")]


def test_the_rest_of_an_oversized_message_is_passed_over() -> None:
    assembler = Assembler(64, 64)
    start = b"\x80\x00\x00\x10\x00\0\0\0\0\0" + bytes(54)
    (broken,) = assembler.feed(start)
    assert isinstance(broken, Broken)
    assert assembler.feed(bytes(64)) == []
    assert assembler.feed(bytes(10)) == []
    assert assembler.feed(message(b"ok")) == [message(b"ok")]


@given(st.lists(st.binary(max_size=64)))
def test_any_bytes_give_messages_or_broken_ones(parts: list[bytes]) -> None:
    assembler = Assembler(64, 64)
    for part in parts:
        for found in assembler.feed(part):
            assert isinstance(found, Broken) or len(found) == 10 + int.from_bytes(found[1:5], "little")


def test_a_failed_transfer_ends_a_message() -> None:
    assembler = Assembler(64, 64)
    assert assembler.feed(message(bytes(100))[:64]) == []
    assembler.clear()
    assert assembler.feed(message(b"ok")) == [message(b"ok")]
