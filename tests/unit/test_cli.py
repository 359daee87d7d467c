"""The command ``pypcscd``, as far as it does not start anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pypcscd import __version__, cli


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("-h", "-v"):
        with pytest.raises(SystemExit) as caught:
            cli.main([flag])
        assert caught.value.code == 0
    text = capsys.readouterr().out
    assert __version__ in text
    assert "Enabled features:" in text
    assert "MAX_READERNAME: 128" in text
    for tool in ("run", "scan", "apdu"):
        assert f"\n  {tool} " in text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-f", "--vpcd", "many"], "'many' is not a number of slots"),
        (["-f", "--vpcd-port", "65536"], "'65536' is not a TCP port (1 to 65535)"),
        (["-f", "-c", "/no/such/place"], "/no/such/place does not exist"),
        (["-f", "surplus"], "unrecognized arguments: surplus"),
        (["-f", "--bogus"], "unrecognized arguments: --bogus"),
        (["-f", "--auto-exit=0"], "'0' is not a number of seconds above 0"),
        (["-t", "-1"], "'-1' is not a number from 0 on"),
        (["-t", "x"], "'x' is not a number from 0 on"),
        (["--socket", "/" + 107 * "x"], "a socket's path has 107 bytes at most; this one has 108"),
    ],
)
def test_what_is_wrong_is_said_as_by_pcscd(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert why in said
    assert said.startswith("usage: ")


def test_tools_have_the_usual_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["apdu", "0G"])
    assert caught.value.code == 2
    assert "'0G' is not a row of hexadecimal bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["apdu", "00A4", ""], "'' is not a row of hexadecimal bytes"),
        (["run"], "say which COMMAND to run"),
    ],
)
def test_what_a_tool_lacks(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


def test_a_tool_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scna"]) == 1
    assert capsys.readouterr().err.startswith("pypcscd: there is no tool 'scna'; there are run, scan, ")


#: runs a tool that prints a few lines and needs nothing
TOOL = [
    sys.executable,
    "-c",
    "import sys; from pypcscd import cli; sys.exit(cli.main())",
    "install",
    "--check",
]


def test_nobody_reads_what_a_tool_prints(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*TOOL, "--prefix", str(tmp_path)]
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_installation_that_nobody_watches_is_complete(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    where = ["--prefix", str(tmp_path), "--program", "/opt/pypcscd/bin/pypcscd"]
    with os.fdopen(writing, "wb") as out:
        subprocess.run([*TOOL[:-1], *where], stdout=out, stderr=out, timeout=60, check=False)
    done = subprocess.run([*TOOL, *where], capture_output=True, text=True, timeout=60, check=True)
    assert "everything is in place" in done.stdout


def test_what_a_tool_prints_cannot_be_written(tmp_path: Path) -> None:
    command = [*TOOL, "--prefix", str(tmp_path)]
    with Path("/dev/full").open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "pypcscd install: writing: No space left on device\n")


def test_closed_streams_are_not_left_to_sockets() -> None:
    script = (
        "import os; from pypcscd import cli; cli.main(['nothing']);"
        "os.write(3, os.fsencode(os.readlink('/proc/self/fd/1')))"
    )
    closing = ["sh", "-c", 'exec "$0" "$@" 3>&1 >&- <&-', sys.executable, "-c"]
    done = subprocess.run([*closing, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "/dev/null"


def test_a_wrong_settings_file_ends_it_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[limits]\nclients = 0\n")
    # not in the foreground: it must not have gone to the background when it finds out
    assert cli.main(["--settings", str(path)]) == 1
    assert capsys.readouterr().err == f"pypcscd: {path}:2: clients: 0 is not a number from 1 on\n"


def test_the_help_is_quick() -> None:
    """Neither parsing nor refusing loads what only the daemon needs."""
    script = "import sys; from pypcscd import cli; cli.main(['-h'])"
    command = [sys.executable, "-X", "importtime", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert "pypcscd.configuration.options" in done.stderr
    assert "asyncio" not in done.stderr
    assert "tomllib" not in done.stderr
