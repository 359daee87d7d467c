"""The vpcd codec: the same frames, however the stream was cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pypcscd_virtual import vpcd_protocol as wire

payloads = st.lists(st.binary(max_size=300), max_size=12)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(payloads, st.lists(st.integers(min_value=0), max_size=20))
def test_frames_do_not_depend_on_the_delivery(sent: list[bytes], places: list[int]) -> None:
    stream = b"".join(map(wire.encode, sent))
    decoder = wire.Decoder()
    got = []
    # one buffer for all deliveries, as the event loop has it
    room = memoryview(bytearray(len(stream)))
    for piece in cut(stream, places):
        room[: len(piece)] = piece
        got += decoder.feed(room[: len(piece)])
        room[:] = b"\xee" * len(room)
    assert got == sent
    assert decoder.pending == 0


@given(payloads)
def test_frames_byte_by_byte(sent: list[bytes]) -> None:
    decoder = wire.Decoder()
    stream = b"".join(map(wire.encode, sent))
    assert [payload for byte in stream for payload in decoder.feed(bytes((byte,)))] == sent


@given(st.binary(max_size=3000), st.lists(st.integers(min_value=0), max_size=20))
def test_any_stream_gives_the_same_frames_however_cut(stream: bytes, places: list[int]) -> None:
    whole, pieces = wire.Decoder(), wire.Decoder()
    expected = whole.feed(stream)
    assert [payload for piece in cut(stream, places) for payload in pieces.feed(piece)] == expected
    # nothing is lost and nothing is invented: frames and rest are the stream
    assert pieces.pending == whole.pending
    rest = stream[len(stream) - whole.pending :] if whole.pending else b""
    assert b"".join(map(wire.encode, expected)) + rest == stream


@given(st.binary(min_size=2, max_size=2000))
def test_apdus_are_one_frame(apdu: bytes) -> None:
    frame = wire.encode_apdu(apdu)
    assert frame == len(apdu).to_bytes(2, "big") + apdu
    assert wire.Decoder().feed(frame) == [apdu]


def test_longest_frame() -> None:
    payload = bytes(range(256)) * 255 + bytes(255)
    assert len(payload) == wire.MAX_PAYLOAD == 65535
    frame = wire.encode_apdu(payload)
    assert frame[:2] == b"\xff\xff"
    decoder = wire.Decoder()
    assert decoder.feed(frame[:40000]) == []
    assert decoder.pending == 40000
    assert decoder.feed(frame[40000:] + b"\0\1\7\0") == [payload, b"\7"]
    assert decoder.pending == 1


def test_a_payload_that_looks_like_a_frame() -> None:
    decoder = wire.Decoder()
    assert decoder.feed(b"\0\3") == []
    assert decoder.feed(b"\0\1A") == [b"\0\1A"]


@pytest.mark.parametrize(
    ("control", "frame"),
    [
        (wire.Control.POWER_OFF, "00 01 00"),
        (wire.Control.POWER_ON, "00 01 01"),
        (wire.Control.RESET, "00 01 02"),
        (wire.Control.ATR, "00 01 04"),
    ],
)
def test_control_frames(control: wire.Control, frame: str) -> None:
    assert wire.encode_control(control) == bytes.fromhex(frame)


@pytest.mark.parametrize(
    ("apdu", "words"),
    [
        (b"", "empty"),
        (b"\0", "POWER_OFF"),
        (b"\1", "POWER_ON"),
        (b"\2", "RESET"),
        (b"\4", "ATR"),
        (bytes(65536), "65535"),
    ],
)
def test_apdus_that_cannot_be_sent(apdu: bytes, words: str) -> None:
    with pytest.raises(wire.LocalProtocolError, match=words):
        wire.encode_apdu(apdu)


def test_other_single_bytes_are_apdus() -> None:
    for byte in set(range(256)) - {0, 1, 2, 4}:
        assert wire.encode_apdu(bytes((byte,))) == bytes((0, 1, byte))
