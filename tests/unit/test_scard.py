"""The vocabulary against the headers of pcsc-lite, as they are on this machine."""

import enum
import re
from pathlib import Path

import pytest

from pypcscd import scard
from pypcscd.scard import (
    Attribute,
    Disposition,
    PcscError,
    Protocol,
    ReaderState,
    ReturnCode,
    Scope,
    ShareMode,
    describe,
)

HEADERS = Path("/usr/include/PCSC")
#: of Debian's libpcsclite-dev
NAMES = ("pcsclite.h", "winscard.h", "reader.h")

_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(.+?)[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CAST = re.compile(r"\(\s*(?:LONG|ULONG|DWORD)\s*\)")
_ATTRIBUTE = re.compile(r"SCARD_ATTR_VALUE\((\w+),\s*(\w+)\)")
_NAME = re.compile(r"\b[A-Za-z_]\w*")
_SUM = re.compile(r"[0-9a-fA-Fx()+|< ]+")


def defined() -> dict[str, int]:
    """Every macro of the headers that is a number, by name."""
    texts: dict[str, str] = {}
    for name in NAMES:
        text = _COMMENT.sub(" ", (HEADERS / name).read_text())
        for macro, value in _DEFINE.findall(text):
            # the last definition counts: the first may be meant for UNICODE
            texts[macro] = _ATTRIBUTE.sub(r"((\1 << 16) | \2)", _CAST.sub("", value))

    def number(macro: str) -> int | None:
        text = _NAME.sub(lambda name: str(number(name[0]) if name[0] in texts else name[0]), texts[macro])
        if not _SUM.fullmatch(text):
            return None
        value: int = eval(text, {"__builtins__": {}})
        return value

    return {macro: value for macro in texts if (value := number(macro)) is not None}


@pytest.fixture(scope="module")
def headers() -> dict[str, int]:
    if not (HEADERS / "pcsclite.h").exists():
        pytest.skip("libpcsclite-dev is not installed; `make setup` does it")
    return defined()


#: The C name of each member of an enumeration.
PREFIXES: dict[type[enum.IntEnum] | type[enum.IntFlag], str] = {
    ReaderState: "SCARD_{}",
    Protocol: "SCARD_PROTOCOL_{}",
    Scope: "SCARD_SCOPE_{}",
    ShareMode: "SCARD_SHARE_{}",
    Disposition: "SCARD_{}_CARD",
    Attribute: "SCARD_ATTR_{}",
}

#: Members whose number only old headers have.
WITHOUT_HEADER = {Protocol.ANY_OLD}

MEMBERS = [
    pytest.param(prefix.format(name), member, id=prefix.format(name))
    for kind, prefix in PREFIXES.items()
    for name, member in kind.__members__.items()
    if member not in WITHOUT_HEADER
]


def test_headers_are_understood(headers: dict[str, int]) -> None:
    """Guards the parser: one macro of each shape."""
    assert headers["SCARD_E_TIMEOUT"] == 0x8010000A
    assert headers["SCARD_ATTR_ATR_STRING"] == 0x00090303
    assert headers["SCARD_PROTOCOL_ANY"] == 3
    assert headers["SCARD_LEAVE_CARD"] == 0
    assert len([name for name in headers if name.startswith("SCARD_")]) > 100


@pytest.mark.parametrize("code", ReturnCode, ids=lambda code: code.symbol)
def test_return_code(code: ReturnCode, headers: dict[str, int]) -> None:
    assert code == headers[code.symbol]


@pytest.mark.parametrize(("name", "member"), MEMBERS)
def test_member(name: str, member: int, headers: dict[str, int]) -> None:
    assert member == headers[name]


@pytest.mark.parametrize("name", ["MAX_ATR_SIZE", "MAX_READERNAME", "MAX_BUFFER_SIZE_EXTENDED"])
def test_limit(name: str, headers: dict[str, int]) -> None:
    assert getattr(scard, name) == headers[name]


def test_attribute_limit_is_the_short_buffer(headers: dict[str, int]) -> None:
    assert headers["MAX_BUFFER_SIZE"] == scard.MAX_ATTRIBUTE_SIZE


def test_every_number_of_the_vocabulary_is_compared() -> None:
    kinds = {
        value
        for value in vars(scard).values()
        if isinstance(value, type) and issubclass(value, enum.IntEnum | enum.IntFlag)
    }
    assert kinds == {ReturnCode, *PREFIXES}
    limits = {name for name, value in vars(scard).items() if name.isupper() and isinstance(value, int)}
    # the last two are not in the headers: what is left of MAX_READERNAME without the two numbers and the
    # NUL, and a mark in the reader table; see the tests of names and of the protocol
    assert limits == {
        "MAX_ATR_SIZE",
        "MAX_READERNAME",
        "MAX_BUFFER_SIZE_EXTENDED",
        "MAX_ATTRIBUTE_SIZE",
        "MAX_BASE_NAME",
        "ATR_NOT_INITIALISED",
    }


def test_unsupported_feature_has_the_number_of_pcsc_lite() -> None:
    """Microsoft's is 0x80100022."""
    assert ReturnCode(0x8010001F) is ReturnCode.E_UNSUPPORTED_FEATURE


def test_no_two_return_codes_share_a_number() -> None:
    assert len(ReturnCode) == len(ReturnCode.__members__)


def test_texts_are_sentences_for_people() -> None:
    for code in ReturnCode:
        assert code.text, code
        assert code.text == code.text.strip(" .")
    assert len({code.text for code in ReturnCode}) == len(ReturnCode)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (ReturnCode.E_TIMEOUT, "SCARD_E_TIMEOUT (0x8010000A): the time-out has expired"),
        (0x8010000A, "SCARD_E_TIMEOUT (0x8010000A): the time-out has expired"),
        (0, "SCARD_S_SUCCESS (0x00000000): the call succeeded"),
        (0x80101234, "0x80101234"),
        (5, "0x00000005"),
    ],
)
def test_describe(code: int, text: str) -> None:
    assert describe(code) == text


def test_error_carries_its_code_and_says_it() -> None:
    error = PcscError(ReturnCode.E_NO_SMARTCARD)
    assert error.code is ReturnCode.E_NO_SMARTCARD
    assert str(error) == "SCARD_E_NO_SMARTCARD (0x8010000C): there is no card in the reader"


def test_state_words_take_any_bits() -> None:
    """Enumerations must survive what a peer makes up."""
    assert ReaderState(0x8034) & ReaderState.PRESENT
    assert Protocol(0x10001) & Protocol.T0
