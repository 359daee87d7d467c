"""Readers of every kind, one after the other: plugged in, listed, their cards used, pulled."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from bed import T0, T1, Bed, Card, main

CLIENTS = Path(__file__).parent.parent.parent / "clients"
PATTERN = bytes(range(256))


def echo(count: int, extended: bool = False) -> tuple[bytes, bytes]:
    """A command with so much data, which comes back."""
    data = (PATTERN * (count // 256 + 1))[:count]
    if extended:
        return b"\x00\xa4\x00\x00\x00" + count.to_bytes(2, "big") + data + b"\x00\x00", data + b"\x90\x00"
    return b"\x00\xa4\x00\x00" + bytes([count]) + data + b"\x00", data + b"\x90\x00"


def basics(card: Card) -> None:
    card.exchange(
        ("00B0000010", PATTERN[:16] + b"\x90\x00"),
        ("00D6000004AABBCCDD", "9000"),
        ("00FF0000", "6D00"),
        ("00B0000000", PATTERN + b"\x90\x00"),
        ("00B0000001", "009000"),
    )


def whole_commands(card: Card) -> None:
    """What travels unchanged where the reader or T=1 takes care of it."""
    basics(card)
    card.exchange(("008800000301020300", "0302019000"), ("00B2000005", "6C10"), echo(200))


def t0_commands(card: Card) -> None:
    """With T=0 the application does what the card asks for."""
    basics(card)
    card.exchange(
        ("0088000003010203", "6103"),
        ("00C0000003", "0302019000"),
        ("00B2000005", "6C10"),
        ("00B2000010", bytes(range(16)) + b"\x90\x00"),
    )


def case_short_t0(bed: Bed) -> None:
    with bed.reader("short", {"0": {"protocol": 0}}) as reader:
        card = reader.connect()
        assert card.protocol == T0
        whole_commands(card)


def case_short_t1(bed: Bed) -> None:
    with bed.reader("short", {"0": {"protocol": 1}}) as reader:
        card = reader.connect()
        assert card.protocol == T1
        whole_commands(card)


def case_extended_t1(bed: Bed) -> None:
    with bed.reader("extended", {"0": {"protocol": 1}}) as reader:
        card = reader.connect()
        whole_commands(card)
        card.exchange(echo(3000, extended=True), echo(20000, extended=True))


def case_extended_t0(bed: Bed) -> None:
    with bed.reader("extended", {"0": {"protocol": 0}}) as reader:
        whole_commands(reader.connect())


def case_extended_in_pieces(bed: Bed) -> None:
    """A message has room for 261 bytes: longer commands and answers are chained."""
    with bed.reader("extended-small", {"0": {"protocol": 1}}) as reader:
        card = reader.connect()
        card.exchange(echo(200), echo(1000, extended=True), echo(252, extended=True))
        basics(card)


def case_tpdu_t0(bed: Bed) -> None:
    with bed.reader("tpdu", {"0": {"protocol": 0}}) as reader:
        t0_commands(reader.connect())


def case_tpdu_t1(bed: Bed) -> None:
    with bed.reader("tpdu", {"0": {"protocol": 1, "ifsc": 64}}) as reader:
        card = reader.connect()
        whole_commands(card)
        card.exchange(echo(1000, extended=True))
        (seen,) = reader.state()["t1"]
        assert "edc errors" not in seen and "blocks above the size" not in seen, seen


def case_tpdu_t1_requests(bed: Bed) -> Any:
    """The card asks for time, for other sizes, for repetition, for a new start."""
    with bed.reader("tpdu", {"0": {"protocol": 1}}) as reader:
        card = reader.connect()
        for words in (
            ["wtx:3"],
            ["wtx:1", "wtx:2"],
            ["ifs:20"],
            ["refuse"],
            ["edc"],
            ["parity"],
            ["sequence"],
            ["resynch"],
        ):
            reader.order("card", t1_words=words)
            card.exchange(echo(40), ("00B0000010", PATTERN[:16] + b"\x90\x00"))
        return reader.state()["t1"]


def case_tpdu_t1_abort(bed: Bed) -> Any:
    """The card gives up a command of two blocks: that may fail, the next one must not."""
    with bed.reader("tpdu", {"0": {"protocol": 1}}) as reader:
        card = reader.connect()
        reader.order("card", t1_words=["abort"])
        code, _ = card.raw(echo(40)[0])
        if card.raw("00B0000004")[0]:
            assert card.reconnect() == 0
        basics(card)
        return hex(code)


def case_tpdu_pps(bed: Bed) -> Any:
    """A card that offers a faster rate gets it by a PPS exchange."""
    with bed.reader(
        "tpdu", {"0": {"protocol": 1, "ta1": 0x95}}, features=0x10032, max_data_rate=344086
    ) as reader:
        whole_commands(reader.connect())
        state = reader.state()
        assert state["pps"][0].startswith("ff1195"), state
        assert state["parameters"][0].startswith("95"), state


def case_character_t0(bed: Bed) -> None:
    with bed.reader("character", {"0": {"protocol": 0}}) as reader:
        t0_commands(reader.connect())


def case_character_t1(bed: Bed) -> None:
    with bed.reader("character", {"0": {"protocol": 1}}) as reader:
        whole_commands(reader.connect())


def case_polled(bed: Bed) -> None:
    with bed.reader("polled", {"0": {"protocol": 1}}) as reader:
        whole_commands(reader.connect())


def case_composite(bed: Bed) -> None:
    """Two CCID interfaces are two readers."""
    with bed.reader("composite", {"0:0": {"protocol": 0}, "1:0": {"protocol": 1}}) as reader:
        first, second = reader.connect(0), reader.connect(1)
        assert (first.protocol, second.protocol) == (T0, T1), reader.names
        whole_commands(first)
        whole_commands(second)
        second.exchange(echo(1000, extended=True))


def case_octsim(bed: Bed) -> None:
    """Eight slots are eight readers."""
    with bed.reader("octsim", {str(slot): {"protocol": 0} for slot in range(8)}) as reader:
        for number in range(8):
            t0_commands(reader.connect(number))


def case_programs(bed: Bed) -> None:
    """Programs that people use."""
    with bed.reader("short", {"0": {"protocol": 1}}) as reader:
        name = reader.names[0]
        reader.connect().disconnect()

        def output(*command: str) -> str:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert done.returncode == 0, done
            return done.stdout

        assert name in output("pcsc_scan", "-r")
        assert name in output("opensc-tool", "-l")
        shown = output("opensc-tool", "-r", "0", "-s", "00:B0:00:00:04")
        assert "SW1=0x90, SW2=0x00" in shown, shown
        shown = output(sys.executable, str(CLIENTS / "exchange.py"), name, "00B0000004")
        assert "answer 000102039000" in shown, shown


if __name__ == "__main__":
    main(globals())
