"""pypcscd spy around real programs, on each daemon, beside what pcsc-spy prints of the same run."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import CLIENTS, PYPCSCD, Backend, missing, need
from spying import Block, parse

from pypcscd.tools.spy import waits

SPY_LIBRARY = "libpcscspy.so.0"
CHANGED = 0x0002
#: how often a program is run until the machine lets it do in time what time tells
ATTEMPTS = 5


@dataclass
class BothSpies:
    """Runs a program once, with pcsc-spy's library in it and our spy around it."""

    backend: Backend
    directory: Path
    library: Path

    def __call__(self, *program: str | Path) -> tuple[list[Block], list[Block], str]:
        """The calls by us, the calls by pcsc-spy, and our whole output."""
        theirs = self.directory / "pcsc-spy"
        theirs.write_bytes(b"")
        ours = self.directory / "ours.txt"
        environment = [f"LD_LIBRARY_PATH={self.library}", f"HOME={self.directory}"]
        command = [PYPCSCD, "spy", "--output", ours, "--", "env", *environment, *program]
        result = self.backend.run(command)
        assert result.returncode == 0, result.stderr
        # it may end with an error of its own, e.g. at an empty answer to SCardControl
        shown = subprocess.run(
            ["pcsc-spy", "-n", str(theirs)], capture_output=True, text=True, timeout=20, check=False
        )
        print(f"--- ours\n{ours.read_text()}\n--- pcsc-spy\n{shown.stdout}\n{shown.stderr[-500:]}")
        return parse(ours.read_text()), parse(shown.stdout), ours.read_text()


@pytest.fixture
def both(backend: Backend, tmp_path: Path, libpcsclite: Path) -> BothSpies:
    need("pcsc-spy")
    library = libpcsclite.with_name(SPY_LIBRARY)
    if not library.exists():
        missing(f"{SPY_LIBRARY} is not installed")
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "libpcsclite.so.1").symlink_to(library)
    (folder / "libpcsclite_nospy.so.1").symlink_to(libpcsclite)
    return BothSpies(backend, tmp_path, folder)


def compare_states(ours: Block, theirs: Block) -> int:
    """Ours has all readers of the table, theirs those that the program asked for."""
    known = dict(zip(ours.parameters["o szReader"], range(99), strict=False))
    compared = 0
    for index, name in enumerate(theirs.parameters["o szReader"]):
        if name not in known:
            assert "PnP" in name
            continue
        mine = known[name]
        state, their_state = ours.numbers("o dwEventState")[mine], theirs.numbers("o dwEventState")[index]
        assert state & ~CHANGED == their_state & ~CHANGED, (name, hex(state), hex(their_state))
        assert ours.parameters["o Atr"][mine] == theirs.parameters["o Atr"][index]
        compared += 2
    return compared


def compare(ours: Block, theirs: Block) -> int:
    """Every field that both have; returns how many these are."""
    assert (ours.name, ours.result) == (theirs.name, theirs.result)
    compared = 2
    assert ours.duration < theirs.duration + 0.3
    for key, values in theirs.parameters.items():
        if key not in ours.parameters or (ours.name == "SCardGetStatusChange" and key != "i hContext"):
            continue
        if key.endswith(" bytes") or key in ("o bAtr", "i szReader", "o mszReaderName"):
            assert ours.parameters[key] == values, key
        elif key == "o mszReaders":
            if values != ["NULL"]:
                assert ours.parameters[key] == [value for value in values if value]
        elif not (theirs.result.startswith("SCARD_E") and key.startswith("o ")):
            assert ours.numbers(key)[:1] == theirs.numbers(key)[:1], key
            assert set(theirs.constants(key)) <= set(ours.constants(key)), key
        compared += 1
    if ours.name == "SCardGetStatusChange" and theirs.result.startswith("SCARD_S"):
        compared += compare_states(ours, theirs)
    return compared


def compare_all(ours: list[Block], theirs: list[Block]) -> int:
    assert theirs
    assert [block.name for block in ours[: len(theirs)]] == [block.name for block in theirs]
    fields = sum(compare(mine, its) for mine, its in zip(ours, theirs, strict=False))
    print(f"{len(theirs)} calls, {fields} fields compared")
    return fields


def test_pcsc_scan(both: BothSpies) -> None:
    need("pcsc_scan")
    ours, theirs, _ = both("pcsc_scan", "-c")
    assert len(ours) == len(theirs)
    assert compare_all(ours, theirs) >= 18


def test_opensc_tool(both: BothSpies) -> None:
    need("opensc-tool")
    command, answer = both.backend.exchange[0]
    ours, theirs, output = both("opensc-tool", "-r", "0", "-s", command)
    assert compare_all(ours, theirs) >= 18
    # pcsc-spy ends at the first empty answer to SCardControl; the rest is ours alone
    assert " ".join(re.findall("..", command))[:40] in output
    assert re.search(r"o  0000 " + " ".join(re.findall(r"\[0-9A-F\]|..", answer[:4])), output)


def test_pyscard(both: BothSpies) -> None:
    """Without SCardTransmit, at which pcsc-spy's library takes pyscard down with it."""
    ours, theirs, _ = both(sys.executable, CLIENTS / "calls.py", both.backend.readers[0])
    assert len(ours) == len(theirs) == 10
    assert compare_all(ours, theirs) >= 45


def test_every_call(both: BothSpies, compiled: Callable[..., Path]) -> None:
    program = compiled("every_call.c")
    for _ in range(ATTEMPTS):
        ours, theirs, _ = both(program, both.backend.readers[0])
        *_, without_waiting = (block for block in theirs if block.name == "SCardGetStatusChange")
        if without_waiting.duration < waits._HALVES:
            break
        # The machine was busy just then: who sees only messages must take such a call for two.
    assert len(ours) == len(theirs)
    assert {block.name for block in ours} >= {
        "SCardTransmit",
        "SCardControl",
        "SCardGetAttrib",
        "SCardSetAttrib",
        "SCardGetStatusChange",
        "SCardReconnect",
    }
    assert compare_all(ours, theirs) >= 90


def test_a_pyscard_program_that_transmits(backend: Backend, tmp_path: Path) -> None:
    commands = [command for command, _ in backend.exchange]
    result = backend.run(
        [PYPCSCD, "spy", "--", sys.executable, CLIENTS / "exchange.py", backend.readers[0], *commands]
    )
    assert result.returncode == 0
    blocks = parse(result.stderr)
    sent = [block for block in blocks if block.name == "SCardTransmit"]
    answers = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("answer ")]
    assert len(sent) == len(commands)
    for block, command, answer in zip(sent, commands, answers, strict=True):
        for key, expected in (("i bSendBuffer bytes", command), ("o bRecvBuffer bytes", answer)):
            text = "".join(line[5:52] for line in block.parameters[key]).replace(" ", "")
            assert text == expected


def test_a_program_without_the_library(backend: Backend) -> None:
    """What pcsc-spy can never see: here a client of our own, elsewhere a static binary or a flatpak."""
    command, answer = backend.exchange[0]
    result = backend.run([PYPCSCD, "spy", "--", PYPCSCD, "apdu", "-r", backend.readers[0], command])
    assert result.returncode == 0
    names = [block.name for block in parse(result.stderr)]
    assert names == [
        "SCardEstablishContext",
        "SCardListReaders",
        "SCardConnect",
        "SCardTransmit",
        "SCardDisconnect",
    ]
    assert answer in result.stdout.replace(" ", "")
