"""The command line, as far as it does not start anything."""

from pathlib import Path

import pytest

from pypcscd import __version__, cli, config


def refuse(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err


def parse(*words: str) -> config.Config:
    return cli._config(cli._parser().parse_args(["-f", *words]))


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("-h", "-v"):
        with pytest.raises(SystemExit) as caught:
            cli.main([flag])
        assert caught.value.code == 0
    text = capsys.readouterr().out
    assert __version__ in text
    for tool in ("run", "scan", "apdu"):
        assert f"\n  {tool} " in text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "add -f"),
        (["-f", "--vpcd", "many"], "'many' is not a number of slots"),
        (["-f", "--vpcd-port", "65536"], "'65536' is not a TCP port (1 to 65535)"),
        (["-f", "-c", "/no/such/place"], "/no/such/place does not exist"),
        (["-f", "surplus"], "unrecognized arguments: surplus"),
        (["apdu", "0G"], "'0G' is not a row of hexadecimal bytes"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert why in refuse(words, capsys)


def test_devices() -> None:
    chosen = parse("--virtual", "hello", "--virtual", "cards:Mine", "--vpcd", "2", "--vpcd-port", "20000")
    assert [device.name for device in chosen.devices] == ["Virtual hello", "Virtual Mine", "Virtual PCD"]
    assert chosen.devices[2].options == {"slots": "2", "port": "20000", "host": "127.0.0.1"}
    assert chosen.reader_conf is None, "virtual readers alone, unless -c says more"
    assert parse("--virtual", "hello", "-c", "/etc").reader_conf == Path("/etc")


def test_the_usual_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "DEFAULT_READER_CONF", tmp_path)
    assert parse() == config.Config(reader_conf=tmp_path)
    monkeypatch.setattr(cli, "DEFAULT_READER_CONF", tmp_path / "missing")
    assert parse().reader_conf is None
