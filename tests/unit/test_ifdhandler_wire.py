"""Messages between daemon and driver helper, and the explanations of unusable libraries."""

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pypcscd.driver import Presence, Reason
from pypcscd_ifdhandler import api, elf, errors, wire

kinds = st.sampled_from(wire.Kind)
sequences = st.integers(0, 2**32 - 1)
arguments = st.integers(-(2**63), 2**63 - 1)


@given(kinds, sequences, arguments, st.binary())
def test_messages_round_trip(kind: wire.Kind, sequence: int, argument: int, payload: bytes) -> None:
    message = wire.pack(kind, sequence, argument, payload)
    assert wire.unpack(message) == (kind, sequence, argument, payload)
    assert wire.unpack(memoryview(message)) == (kind, sequence, argument, payload)


def test_longest_command_fits() -> None:
    message = wire.pack(wire.Kind.TRANSMIT, 1, 0, bytes(65548))
    assert len(message) == wire.MAX_MESSAGE
    assert len(wire.unpack(message)[3]) == 65548
    with pytest.raises(wire.WireError, match="65549"):
        wire.pack(wire.Kind.TRANSMIT, 1, 0, bytes(65549))


@pytest.mark.parametrize("size", [0, wire.HEADER.size - 1, wire.MAX_MESSAGE + 1])
def test_messages_of_impossible_size(size: int) -> None:
    with pytest.raises(wire.WireError, match=str(size)):
        wire.unpack(bytes(size))


@given(st.integers(0, 2**64 - 1), st.binary())
def test_open_round_trips(channel: int, device: bytes) -> None:
    assert wire.unpack_open(wire.pack_open(channel, device)) == (channel, device)


@given(st.integers(0, 255), st.lists(arguments))
def test_opened_round_trips(access: int, presences: list[int]) -> None:
    assert wire.unpack_opened(wire.pack_opened(access, presences)) == (access, presences)


@given(st.binary(max_size=40))
def test_any_payload_is_understood_or_refused(payload: bytes) -> None:
    for unpack in (wire.unpack, wire.unpack_open, wire.unpack_opened):
        try:
            unpack(payload)
        except wire.WireError:
            continue


def elf_header(bits: int = 64, order: str = sys.byteorder, kind: int = 3, machine: int = 62) -> bytes:
    identification = b"\x7fELF" + bytes([bits // 32, 1 if order == "little" else 2, 1]) + bytes(9)
    return identification + struct.pack("<HH" if order == "little" else ">HH", kind, machine)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "no ELF header"),
        (b"#!/bin/sh\nexec something\n", "no ELF header"),
        (b"\x7fELF" + bytes(16), "damaged"),
        (elf_header(bits=32, machine=3), "is a 32-bit library (i386); this daemon is 64-bit (x86_64)"),
        (elf_header(machine=183), "is a 64-bit library (aarch64); this daemon is 64-bit (x86_64)"),
        (elf_header(machine=999), "machine type 999"),
        (elf_header(order="big", machine=22), "is a 64-bit library (s390)"),
        (elf_header(kind=1), "not a shared library"),
    ],
)
def test_objections_to_elf_headers(header: bytes, words: str) -> None:
    objection = elf.objection(header, elf_header(order="little" if sys.byteorder == "little" else "big"))
    assert objection is not None
    assert words in objection


def test_no_objection_to_a_library_of_ones_own_kind() -> None:
    own = elf.own_header()
    library = own[:16] + struct.pack("=H", 3) + own[18:]
    assert elf.objection(library, own) is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (600, Reason.UNKNOWN_ATTRIBUTE),
        (601, Reason.COMMUNICATION),
        (605, Reason.PROTOCOL_REFUSED),
        (606, Reason.NOT_SUPPORTED),
        (607, Reason.PROTOCOL_UNSUPPORTED),
        (608, Reason.POWER),
        (612, Reason.COMMUNICATION),
        (613, Reason.TIMEOUT),
        (614, Reason.NOT_SUPPORTED),
        (616, Reason.NO_CARD),
        (617, Reason.NO_DEVICE),
        (618, Reason.INSUFFICIENT_BUFFER),
        (-1, Reason.COMMUNICATION),
        (12345, Reason.COMMUNICATION),
    ],
)
def test_response_codes_have_reasons(code: int, reason: Reason) -> None:
    error = errors.driver_error(code)
    assert error.reason is reason
    assert str(code) in error.detail


def test_presence_codes() -> None:
    assert errors.presence(615) is Presence.PRESENT
    assert errors.presence(616) is Presence.ABSENT
    assert errors.presence(612) is Presence.UNKNOWN
    assert errors.presence(0) is Presence.UNKNOWN


def test_response_codes_are_described_by_name() -> None:
    assert api.describe(612) == "IFD_COMMUNICATION_ERROR (612)"
    assert api.describe(7) == "response code 7"
