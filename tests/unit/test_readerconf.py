"""reader.conf files: what they say, and what a mistake in one costs."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pypcscd.hotplug.readerconf import load, parse


@pytest.fixture
def library(tmp_path: Path) -> str:
    path = tmp_path / "libdriver.so"
    path.touch()
    return str(path)


def test_entry_in_the_order_of_the_vpcd_package(library: str) -> None:
    text = f'FRIENDLYNAME "Virtual PCD"\nDEVICENAME   /dev/null:0x8C7B\nLIBPATH {library}\nCHANNELID 0x8C7B\n'
    (config,), errors = parse(text, "vpcd")
    assert not errors
    assert config.driver == "ifdhandler"
    assert config.name == "Virtual PCD"
    assert config.numbering == library
    assert config.options == {"library": library, "device": "/dev/null:0x8C7B", "channel": "35963"}
    assert config.origin == "vpcd:1"


def test_channel_after_the_other_keys_belongs_to_its_own_reader(library: str) -> None:
    text = "".join(
        f"FRIENDLYNAME reader{n}\nDEVICENAME a:{n}\nLIBPATH {library}\nCHANNELID {n}\n" for n in (1, 2)
    )
    configs, errors = parse(text, "f")
    assert not errors
    assert [(c.name, c.options["channel"]) for c in configs] == [("reader1", "1"), ("reader2", "2")]


def test_device_before_name_starts_the_next_entry(library: str) -> None:
    text = "".join(f"DEVICENAME a:{n}\nFRIENDLYNAME reader{n}\nLIBPATH {library}\n" for n in (1, 2))
    configs, errors = parse(text, "f")
    assert not errors
    assert [(c.name, c.options["device"], c.origin) for c in configs] == [
        ("reader1", "a:1", "f:1"),
        ("reader2", "a:2", "f:4"),
    ]


@pytest.mark.parametrize(
    ("written", "channel"),
    [("0x103F8", "66552"), ("0", "0"), ("010", "8"), ("12", "12"), ("0XfF", "255"), ('"7"', "7")],
)
def test_channel_numbers_are_those_of_c(library: str, written: str, channel: str) -> None:
    (config,), errors = parse(f"FRIENDLYNAME r\nLIBPATH {library}\nCHANNELID {written}", "f")
    assert not errors
    assert config.options["channel"] == channel
    assert config.options["device"] == ""


def test_comments_blank_lines_and_carriage_returns(library: str) -> None:
    text = f'# a "comment\r\n\r\n FRIENDLYNAME "a # b" # note\r\nLIBPATH {library}#\r\nCHANNELID 1\r\n'
    (config,), errors = parse(text, "f")
    assert not errors
    assert config.name == "a # b"


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (["FRIENDLYNAME bad", "CHANNELID 1"], 1, "no LIBPATH"),
        (["LIBPATH {library}", "CHANNELID 1"], 1, "no FRIENDLYNAME"),
        (["FRIENDLYNAME bad", "LIBPATH {library}"], 1, "neither DEVICENAME nor CHANNELID"),
        (["FRIENDLYNAME bad", "LIBPATH {library}", "CHANNELID x1"], 3, 'CHANNELID "x1" is not a number'),
        (["FRIENDLYNAME bad", "LIBPATH {library}", "CHANNELID 0x1ffffffffffffffff"], 3, "not a number"),
        (["FRIENDLYNAME bad", "LIBPATH /nonexistent.so", "CHANNELID 1"], 2, "/nonexistent.so does not exist"),
        (["FRIENDLYNAME bad", "DEVICENAME /dev/nonexistent", "LIBPATH {library}"], 2, "connect the reader"),
        (['FRIENDLYNAME "bad', "LIBPATH {library}", "CHANNELID 1"], 1, "begins with a quote"),
        (["FRIENDLYNAME two words", "LIBPATH {library}", "CHANNELID 1"], 1, "several values"),
        (["FRIENDLYNAME", "LIBPATH {library}", "CHANNELID 1"], 1, "no value"),
        (['FRIENDLYNAME ""', "LIBPATH {library}", "CHANNELID 1"], 1, "is empty"),
        (["FRIENDLYNAME bad", "LIBPATH {library}", "CHANNELID 1", "BAUD 9600"], 4, 'found "BAUD"'),
        (["FRIENDLYNAME bäd", "LIBPATH {library}", "CHANNELID 1"], 1, '"ä" may not stand'),
    ],
)
def test_error_costs_its_own_entry_only(library: str, lines: list[str], line: int, words: str) -> None:
    def good(name: str) -> str:
        return f"FRIENDLYNAME {name}\nLIBPATH {library}\nDEVICENAME a:1\n"

    bad = "".join(text.format(library=library) + "\n" for text in lines)
    configs, errors = parse(bad, "f")
    assert not configs
    (error,) = errors
    assert (error.origin, error.line) == ("f", line)
    assert words in error.reason
    assert str(error).startswith(f"f:{line}: ")
    if lines[0].startswith("FRIENDLYNAME"):
        configs, errors = parse(good("before") + bad + good("after"), "f")
        assert [config.name for config in configs] == ["before", "after"]
        assert [error.line for error in errors] == [line + 3]


def test_library_of_a_usb_bundle_is_only_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.bundle"
    path.touch()
    with caplog.at_level(logging.WARNING, "pypcscd.readerconf"):
        configs, errors = parse(f"FRIENDLYNAME r\nLIBPATH {path}\nCHANNELID 1", "f")
    assert len(configs) == 1
    assert not errors
    assert "f:2" in caplog.text


def test_directory_in_the_order_of_names_without_hidden_files_and_links(tmp_path: Path, library: str) -> None:
    folder = tmp_path / "reader.conf.d"
    folder.mkdir()
    for name in ("b", "a", ".hidden"):
        (folder / name).write_text(f"FRIENDLYNAME {name}\nLIBPATH {library}\nCHANNELID 1\n")
    (folder / "link").symlink_to(folder / "a")
    (folder / "folder").mkdir()
    configs, errors = load(folder)
    assert not errors
    assert [(c.name, c.origin) for c in configs] == [("a", f"{folder}/a:1"), ("b", f"{folder}/b:1")]
    assert [config.name for config in load(folder / "link")[0]] == ["a"]


def test_bad_file_does_not_hurt_the_others(tmp_path: Path, library: str) -> None:
    folder = tmp_path / "reader.conf.d"
    folder.mkdir()
    (folder / "a").write_bytes(b"\xff\x00\xfe\n")
    (folder / "b").write_text(f"FRIENDLYNAME b\nLIBPATH {library}\nCHANNELID 1\n")
    configs, errors = load(folder)
    assert [config.name for config in configs] == ["b"]
    assert [error.origin for error in errors] == [f"{folder}/a"]


def test_same_reader_twice_is_an_error(tmp_path: Path, library: str) -> None:
    folder = tmp_path / "reader.conf.d"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(f"FRIENDLYNAME r\nLIBPATH {library}\nCHANNELID 1\n")
    configs, (error,) = load(folder)
    assert len(configs) == 1
    assert error.origin == f"{folder}/b"
    assert error.line == 1
    assert f"{folder}/a:1" in error.reason


def test_missing_path_is_an_error_without_a_line(tmp_path: Path) -> None:
    configs, (error,) = load(tmp_path / "nowhere")
    assert not configs
    assert error.line == 0
    assert str(error).startswith(f"{tmp_path}/nowhere: cannot be read")


def test_system_files_of_the_vpcd_package() -> None:
    path = Path("/etc/reader.conf.d/vpcd")
    if not path.exists():
        pytest.skip("vsmartcard-vpcd is not installed")
    (config,), errors = load(path)
    assert not errors
    assert config.options["device"] == "/dev/null:0x8C7B"


@given(st.text())
def test_any_text_gives_entries_or_errors(text: str) -> None:
    configs, errors = parse(text, "f")
    assert not configs  # no library exists under such a name
    assert all(error.line >= 1 for error in errors)
