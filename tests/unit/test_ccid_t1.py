"""The T=1 engine against a card written by the standard, over lines that lose and damage blocks."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t1_card import T1Card

from pypcscd_ccid.t1 import T1, Step, T1Error, crc

#: more blocks than any exchange in here needs
LIMIT = 3000

Line = Callable[[bytes], bytes | None]


def run(engine: T1, step: Step, send: Line) -> bytes:
    for _ in range(LIMIT):
        if step.response is not None:
            return step.response
        step = engine.receive(send(step.block))
    raise AssertionError("the exchange does not end")


def echo(command: bytes) -> bytes:
    return command[::-1] + b"\x90\x00"


def exchange(engine: T1, card: T1Card, command: bytes) -> bytes:
    return run(engine, engine.start(command), card.receive)


def block(pcb: int, information: bytes = b"") -> bytes:
    return T1Card(echo).block(pcb, information)


# --- what goes well ---------------------------------------------------------------------------


@given(st.binary(max_size=700), st.integers(1, 254), st.integers(1, 254), st.booleans())
def test_commands_and_responses_of_any_length(command: bytes, ifsc: int, ifsd: int, uses_crc: bool) -> None:
    card = T1Card(echo, uses_crc=uses_crc, ifsc=ifsc)
    engine = T1(uses_crc=uses_crc, ifsc=ifsc)
    assert run(engine, engine.start_ifs(ifsd), card.receive) == b""
    assert card.ifsd == ifsd
    for _ in range(3):
        assert exchange(engine, card, command) == echo(command)
    assert card.runs == [command] * 3


@given(st.binary(max_size=700), st.integers(6, 259), st.integers(1, 254), st.booleans())
def test_no_block_is_longer_than_what_carries_it(
    command: bytes, longest: int, ifsc: int, uses_crc: bool
) -> None:
    card = T1Card(echo, uses_crc=uses_crc, ifsc=254)
    card.requests.append((0xC1, b"\xfe"))
    engine = T1(uses_crc=uses_crc, ifsc=ifsc, longest_block=longest)

    def carry(block: bytes) -> bytes:
        assert len(block) <= longest
        return card.receive(block)

    for _ in range(2):
        assert run(engine, engine.start(command), carry) == echo(command)


def test_the_blocks_of_a_short_exchange() -> None:
    engine = T1()
    assert engine.start(bytes.fromhex("00A40400")).block.hex() == "00000400a40400a4"
    assert engine.receive(block(0x00, b"\x90\x00")).response == b"\x90\x00"
    assert engine.start(b"\x01").block[:4].hex() == "00400101"


def test_chained_commands_wait_for_acknowledgements() -> None:
    engine = T1(ifsc=2)
    assert engine.start(b"abc").block[:5] == b"\x00\x20\x02ab"
    assert engine.receive(block(0x90)).block[:4] == b"\x00\x40\x01c"
    assert engine.receive(block(0x20, b"\x90")).block[1] == 0x90
    assert engine.receive(block(0x40, b"\x00")).response == b"\x90\x00"


def test_the_card_may_ask_for_time_and_for_shorter_blocks() -> None:
    card = T1Card(echo)
    card.requests = [(0xC3, b"\x05"), (0xC1, b"\x03")]
    engine = T1()
    step = engine.start(b"hello")
    step = engine.receive(card.receive(step.block))
    assert (step.block, step.wtx) == (block(0xE3, b"\x05"), 5)
    step = engine.receive(card.receive(step.block))
    assert (step.block, step.wtx) == (block(0xE1, b"\x03"), 1)
    card.ifsc = 3
    assert engine.receive(card.receive(step.block)).response == echo(b"hello")
    assert exchange(engine, card, b"now in pieces") == echo(b"now in pieces")


def test_bytes_after_a_block_are_passed_over() -> None:
    engine = T1()
    engine.start(b"a")
    assert engine.receive(block(0x00, b"\x90\x00") + b"\xff\xff").response == b"\x90\x00"


def test_crc_of_known_data() -> None:
    # the check value of CRC-16/MCRF4XX, which is this CRC
    assert crc(b"123456789") == 0x6F91


# --- what goes wrong --------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    st.lists(st.binary(max_size=120), min_size=1, max_size=3),
    st.sets(st.integers(0, 60)),
    st.sets(st.integers(0, 60)),
    st.booleans(),
)
def test_noise_never_makes_a_wrong_response_or_a_second_run(
    commands: list[bytes], bad_out: set[int], bad_in: set[int], uses_crc: bool
) -> None:
    """Whatever is damaged: the response is the right one or none, and no command is run twice."""
    card = T1Card(echo, uses_crc=uses_crc)
    engine = T1(uses_crc=uses_crc)
    sent = 0

    def noisy(out: bytes) -> bytes | None:
        nonlocal sent
        sent += 1
        if sent in bad_out:
            out = out[:-1] + bytes((out[-1] ^ 0x10,))
        answer = card.receive(out)
        if sent in bad_in:
            return None if sent % 2 else answer[:-1] + bytes((answer[-1] ^ 0x01,))
        return answer

    for number, command in enumerate(commands):
        marked = bytes((number,)) + command
        with suppress(T1Error):
            assert run(engine, engine.start(marked), noisy) == echo(marked)
        assert card.runs.count(marked) <= 1
    sent = 1000
    assert run(engine, engine.start(b"at last"), noisy) == echo(b"at last")


@pytest.mark.parametrize("uses_crc", [False, True])
@given(st.binary(max_size=200), st.integers(0, 40), st.booleans())
def test_single_damaged_blocks_are_made_good(
    uses_crc: bool, command: bytes, every: int, damages_card: bool
) -> None:
    """One block in at least four may be damaged without the client noticing."""
    card = T1Card(echo, uses_crc=uses_crc)
    engine = T1(uses_crc=uses_crc)
    sent = 0

    def noisy(out: bytes) -> bytes | None:
        nonlocal sent
        sent += 1
        is_bad = sent % (every + 4) == 0
        if is_bad and not damages_card:
            out = out[:-1] + bytes((out[-1] ^ 0x10,))
        answer = card.receive(out)
        return None if is_bad and damages_card else answer

    assert run(engine, engine.start(command), noisy) == echo(command)
    assert card.runs == [command]


@given(st.lists(st.one_of(st.none(), st.binary(max_size=12)), min_size=40, max_size=40))
def test_any_garbage_ends_in_an_error_or_a_response(garbage: list[bytes | None]) -> None:
    engine = T1()
    answers = iter(garbage)
    with pytest.raises(T1Error):
        run(engine, engine.start(b"\x00\xa4"), lambda _: next(answers))


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=3)), max_size=60))
def test_any_valid_blocks_end_in_an_error_or_a_response(blocks: list[tuple[int, bytes]]) -> None:
    engine = T1(ifsc=2)
    step = engine.start(b"command")
    try:
        for pcb, information in blocks:
            if step.response is not None:
                return
            step = engine.receive(block(pcb, information))
        while step.response is None:
            step = engine.receive(None)
    except T1Error:
        pass


def test_a_card_that_asks_to_resynchronise_for_ever_is_given_up() -> None:
    engine = T1()
    step = engine.start(b"a")
    asked = 0
    with pytest.raises(T1Error, match="resynchronise"):
        for _ in range(100):
            asked += step.block[1] == 0xC0
            step = engine.receive(block(0xC0))
    assert asked == 3


def test_a_silent_card_is_asked_three_times_then_resynchronised() -> None:
    engine = T1()
    step = engine.start(b"a")
    sent = [step.block[1]]
    with pytest.raises(T1Error, match="does not resynchronise"):
        while True:
            sent.append(engine.receive(None).block[1])
    assert sent == [0x00, 0x81, 0x81, 0xC0, 0xC0, 0xC0]
    # the next exchange begins with another attempt
    assert engine.start(b"b").block[1] == 0xC0
    assert engine.receive(block(0xE0)).block[:4] == b"\x00\x00\x01b"


def test_a_command_is_sent_again_only_if_the_card_cannot_have_run_it() -> None:
    engine = T1(ifsc=2)
    engine.start(b"abc")
    for _ in range(3):
        step = engine.receive(None)
    assert step.block[1] == 0xC0
    assert engine.receive(block(0xE0)).block[:5] == b"\x00\x20\x02ab"
    engine.receive(block(0x90))
    for _ in range(3):
        step = engine.receive(None)
    assert step.block[1] == 0xC0
    with pytest.raises(T1Error, match="not known if it ran"):
        engine.receive(block(0xE0))
    assert engine.start(b"d").block[1] == 0x00


def test_an_abandoned_exchange_is_made_up_for() -> None:
    card = T1Card(echo)
    engine = T1()
    card.receive(engine.start(b"given up").block)
    engine.abandon()
    assert exchange(engine, card, b"next") == echo(b"next")


def test_an_aborted_chain_is_an_error() -> None:
    engine = T1(ifsc=2)
    engine.start(b"abc")
    assert engine.receive(block(0xC2)).block[1] == 0xE2
    with pytest.raises(T1Error, match="aborted"):
        engine.receive(block(0x80))


def test_a_card_may_answer_a_chain_that_it_has_aborted() -> None:
    """It has the right to send then (ISO 7816-3, rule 9 of T=1), and says with it why."""
    engine = T1(ifsc=2)
    engine.start(b"abc")
    assert engine.receive(block(0xC2)).block[1] == 0xE2
    assert engine.receive(block(0x00, b"\x67\x00")).response == b"\x67\x00"
    assert engine.start(b"d").block[1] == 0xC0


def test_a_response_without_end_is_given_up() -> None:
    engine = T1()
    engine.start(b"a")
    with pytest.raises(T1Error, match="longer than"):
        for number in range(1000):
            engine.receive(block(0x20 | (number & 1) << 6, bytes(254)))


@pytest.mark.parametrize("value", [b"\x00", b"\xff", b"", b"\x20\x20"])
def test_bad_ifs_requests_are_not_taken(value: bytes) -> None:
    engine = T1()
    engine.start(b"a")
    assert engine.receive(block(0xC1, value)).block[1] == 0x82


def test_a_refused_ifs_is_an_error() -> None:
    engine = T1()
    engine.start_ifs(254)
    assert engine.receive(block(0xE1, b"\x20")).block[1] == 0xC1
    assert engine.receive(None).block[1] == 0xC1
    with pytest.raises(T1Error, match="IFS"):
        engine.receive(None)
