"""Real client programs list the readers and talk to the cards."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import CLIENTS, Backend, client_env, missing, need

Client = Callable[[pytest.FixtureRequest], list[str | Path]]


def spaced(text: str, separator: str = " ") -> str:
    """ABCDEF as "AB CD EF"."""
    return separator.join(text[i : i + 2] for i in range(0, len(text), 2))


def test_pcsc_scan_lists_readers(backend: Backend) -> None:
    need("pcsc_scan")
    result = backend.run(["pcsc_scan", "-r"])
    assert result.returncode == 0
    assert result.stdout.splitlines() == [f"{i}: {name}" for i, name in enumerate(backend.readers)]


def test_pcsc_scan_lists_cards(backend: Backend) -> None:
    need("pcsc_scan")
    result = backend.run(["pcsc_scan", "-c"])
    assert result.returncode == 0
    for number, state in enumerate(backend.states):
        block = result.stdout.partition(f" Reader {number}: {state.name}\n")[2].partition(" Reader ")[0]
        assert "Card inserted" in block
        assert f"ATR: {spaced(state.atr.hex().upper())}" in block


def test_opensc_tool_lists_readers(backend: Backend) -> None:
    need("opensc-tool")
    result = backend.run(["opensc-tool", "-l"])
    assert result.returncode == 0
    for number, name in enumerate(backend.readers):
        assert re.search(rf"^{number} +Yes .* {re.escape(name)}$", result.stdout, re.MULTILINE), result.stdout


def test_opensc_tool_shows_the_atr(backend: Backend) -> None:
    need("opensc-tool")
    for number, state in enumerate(backend.states):
        result = backend.run(["opensc-tool", "--reader", str(number), "-a"])
        assert result.returncode == 0
        assert result.stdout.strip() == spaced(state.atr.hex(), ":")


def test_opensc_tool_sends(backend: Backend) -> None:
    need("opensc-tool")
    sends = [part for command, _ in backend.exchange for part in ("-s", spaced(command, ":"))]
    result = backend.run(["opensc-tool", "--reader", "0", *sends])
    assert result.returncode == 0
    parts = result.stdout.split("Sending: ")[1:]
    assert len(parts) == len(backend.exchange)
    for part, (command, answer) in zip(parts, backend.exchange, strict=True):
        sent, status, *dump = part.splitlines()
        assert sent.strip() == spaced(command)
        sw1, sw2 = re.findall(r"SW\d=0x(..)", status)
        # the dump's lines are up to 16 bytes in hexadecimal and the same in ASCII
        data = "".join("".join(re.match(r"(?:[0-9A-F]{2} )*", line)[0].split()) for line in dump)  # type: ignore[index]
        assert re.fullmatch(answer, data + sw1 + sw2)


def test_scriptor(backend: Backend, tmp_path: Path) -> None:
    need("scriptor")
    script = tmp_path / "script"
    script.write_text("reset\n" + "".join(f"{spaced(command)}\n" for command, _ in backend.exchange))
    result = backend.run(["scriptor", "-r", backend.readers[0], script])
    assert result.returncode == 0
    assert f"< OK: {spaced(backend.atr)}" in result.stdout
    # an answer is wrapped after 16 bytes and ends with the meaning of its status word
    answers = re.findall(r"^< ([0-9A-F \n]+) : ", result.stdout, re.MULTILINE)
    assert len(answers) == len(backend.exchange)
    for got, (_, expected) in zip(answers, backend.exchange, strict=True):
        assert re.fullmatch(expected, "".join(got.split()))


def pyscard(_: pytest.FixtureRequest) -> list[str | Path]:
    return [sys.executable, CLIENTS / "exchange.py"]


def perl(_: pytest.FixtureRequest) -> list[str | Path]:
    need("perl")
    if subprocess.run(["perl", "-MChipcard::PCSC", "-e1"], capture_output=True, check=False).returncode:
        missing("libpcsc-perl is not installed")
    return ["perl", CLIENTS / "exchange.pl"]


def java(request: pytest.FixtureRequest) -> list[str | Path]:
    need("java")
    library = request.getfixturevalue("libpcsclite")
    return ["java", f"-Dsun.security.smartcardio.library={library}", CLIENTS / "Exchange.java"]


def node(_: pytest.FixtureRequest) -> list[str | Path]:
    need("node")
    if not (CLIENTS / "node" / "node_modules" / "@pokusew" / "pcsclite" / "build" / "Release").exists():
        missing("the Node binding is not built")
    return ["node", CLIENTS / "node" / "exchange.js"]


def c(request: pytest.FixtureRequest) -> list[str | Path]:
    return [request.getfixturevalue("compiled")("exchange.c")]


@pytest.mark.parametrize("client", [pyscard, perl, java, node, c])
def test_exchange(backend: Backend, client: Client, request: pytest.FixtureRequest) -> None:
    commands = [command for command, _ in backend.exchange]
    result = backend.run([*client(request), backend.readers[0], *commands])
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    # Node's binding reports readers and cards as they come, so the lines may be mixed
    assert [line[7:] for line in lines if line.startswith("reader ")] == backend.readers
    assert [line[4:] for line in lines if line.startswith("atr ")] == [backend.atr]
    answers = [line[7:] for line in lines if line.startswith("answer ")]
    assert len(answers) == len(commands)
    for got, (_, expected) in zip(answers, backend.exchange, strict=True):
        assert re.fullmatch(expected, got)


def test_c_program_reads_a_memory_card(backend: Backend, compiled: Callable[..., Path]) -> None:
    result = backend.run([compiled("sle4442.c"), backend.readers[1]])
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert [line[:3] for line in lines] == [f"{address:02X}:" for address in range(0, 256, 16)]
    memory = bytes.fromhex("".join(line[3:] for line in lines))
    assert len(memory) == 256
    if backend.emulator is not None:
        assert memory == bytes(backend.emulator.card.memory)  # type: ignore[union-attr]
    else:
        # the factory's header of the card, and not the same byte everywhere
        assert memory[:4].hex() == "a2131091"
        assert len(set(memory)) > 1


def test_client_without_a_daemon(tmp_path: Path) -> None:
    """What the tests above see is our socket: where there is none there is no service."""
    need("pcsc_scan")
    env = client_env(tmp_path / "none")
    result = subprocess.run(["pcsc_scan", "-r"], env=env, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "Service not available" in result.stdout + result.stderr
