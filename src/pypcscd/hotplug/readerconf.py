"""Reads reader.conf files: the readers that cannot announce themselves (serial and virtual ones).

Source: reader.conf(5) of pcsc-lite. What is deliberately different:

- a file with an error costs the entry with the error, not the file, nor the daemon's start;
- an entry ends where one of its keys comes again, or with the file, so that a CHANNELID after the
  other keys belongs to its own reader (pcscd keeps it for the next one);
- an entry without DEVICENAME and CHANNELID is an error (pcscd ignores it silently);
- quotes are taken off every value, not of FRIENDLYNAME only;
- a CHANNELID that is not a number is an error (pcscd takes it for 0).
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pypcscd.driver import DeviceConfig

logger = logging.getLogger("pypcscd.readerconf")

_KEYS = ("FRIENDLYNAME", "DEVICENAME", "LIBPATH", "CHANNELID")
_MAX_CHANNEL = 2**64 - 1
_TOKEN = re.compile(
    r"""
    \s+ | (?P<comment>\#.*)
    | "(?P<quoted>[^"]*)"
    | (?P<word>[A-Za-z0-9=/._@:-]+)
    | (?P<open_quote>")
    | (?P<other>.)
    """,
    re.VERBOSE,
)
_NUMBER = re.compile(r"(?P<hexadecimal>0[xX][0-9A-Fa-f]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*)")
_BASES = {"hexadecimal": 16, "octal": 8, "decimal": 10}


@dataclass(frozen=True)
class ReaderConfError:
    """A mistake in a reader.conf file; it costs the entry that it is in."""

    origin: str
    #: counted from 1; 0: the file or directory as a whole
    line: int
    #: what is wrong and what to do
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}:{self.line}: {self.reason}" if self.line else f"{self.origin}: {self.reason}"


class _LineError(Exception):
    """A line that cannot be read; ``key`` is known if the line got that far."""

    def __init__(self, reason: str, key: str = "") -> None:
        super().__init__(reason)
        self.key = key


@dataclass
class _Entry:
    """One reader as written: for each key its value and line number."""

    line: int
    values: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: an error in it was reported already
    spoilt: bool = False

    def value(self, key: str) -> str:
        return self.values.get(key, ("", 0))[0]


def _tokens(line: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(line):
        if match.lastgroup == "comment":
            return
        if match.lastgroup is not None:
            yield match.lastgroup, match[match.lastgroup]


def _key_and_value(line: str) -> tuple[str, str] | None:
    """Split a line; None for one without content. Raises _LineError."""
    tokens = list(_tokens(line))
    if not tokens:
        return None
    kind, key = tokens.pop(0)
    if kind != "word" or key not in _KEYS:
        raise _LineError(f'expected one of {", ".join(_KEYS)}, found "{key}"; correct the line or remove it')
    for kind, text in tokens:
        if kind == "open_quote":
            raise _LineError(f"the value of {key} begins with a quote but does not end with one; add it", key)
        if kind == "other":
            raise _LineError(f'the character "{text}" may not stand in {key}; put the value in quotes', key)
    if len(tokens) != 1:
        reason = "has several values; put quotes around" if tokens else "has no value on its line; add one"
        raise _LineError(f"{key} {reason}", key)
    if not tokens[0][1]:
        raise _LineError(f"{key} is empty; give it a value", key)
    return key, tokens[0][1]


def _channel(text: str) -> int:
    """A number as in C: 0x… hexadecimal, 0… octal, else decimal. Raises ValueError."""
    match = _NUMBER.fullmatch(text)
    if match is None or match.lastgroup is None or int(text, _BASES[match.lastgroup]) > _MAX_CHANNEL:
        raise ValueError(text)
    return int(text, _BASES[match.lastgroup])


def _is_missing(path: str) -> bool:
    try:
        return not Path(path).exists()
    except OSError:
        return False  # not ours to see; opening the reader will tell


class _Parser:
    """Collects the entries of one file and the errors in them."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.configs: list[DeviceConfig] = []
        self.errors: list[ReaderConfError] = []
        self._entry: _Entry | None = None

    def parse(self, text: str) -> None:
        # Not splitlines(): that also splits at characters which are no line ends in these files.
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                found = _key_and_value(line)
            except _LineError as error:
                self._add(number, error.key, "")
                self._spoil(number, str(error))
            else:
                if found is not None:
                    self._add(number, *found)
        self._finish()

    def _add(self, line: int, key: str, value: str) -> None:
        if self._entry is not None and key in self._entry.values:
            self._finish()
        if self._entry is None:
            self._entry = _Entry(line)
        if key:
            self._entry.values[key] = (value, line)

    def _spoil(self, line: int, reason: str) -> None:
        if self._entry is not None:
            self._entry.spoilt = True
        self.errors.append(ReaderConfError(self.origin, line, reason))

    def _finish(self) -> None:
        entry = self._entry
        if entry is not None and not entry.spoilt:
            self._check(entry)
            if not entry.spoilt:
                self._emit(entry)
        self._entry = None

    def _check(self, entry: _Entry) -> None:
        for key in ("FRIENDLYNAME", "LIBPATH"):
            if key not in entry.values:
                self._spoil(entry.line, f"this reader has no {key}; add one")
        if "DEVICENAME" not in entry.values and "CHANNELID" not in entry.values:
            self._spoil(entry.line, "this reader has neither DEVICENAME nor CHANNELID; add one")
        if "CHANNELID" in entry.values:
            text, line = entry.values["CHANNELID"]
            try:
                _channel(text)
            except ValueError:
                self._spoil(line, f'CHANNELID "{text}" is not a number; write it as 35963 or 0x8C7B')
        if "LIBPATH" in entry.values:
            self._check_library(*entry.values["LIBPATH"])
        device, line = entry.values.get("DEVICENAME", ("", 0))
        if device and ":" not in device and _is_missing(device):
            self._spoil(line, f"DEVICENAME {device} does not exist; connect the reader or correct the path")

    def _check_library(self, library: str, line: int) -> None:
        if _is_missing(library):
            self._spoil(line, f"LIBPATH {library} does not exist; install the driver or correct the path")
        if ".bundle" in library:
            logger.warning(
                "%s:%d: LIBPATH %s belongs to a driver of USB readers, which need no entry here; remove it"
                " unless the reader is not found without",
                self.origin,
                line,
                library,
            )

    def _emit(self, entry: _Entry) -> None:
        library = entry.value("LIBPATH")
        channel = _channel(entry.value("CHANNELID") or "0")
        self.configs.append(
            DeviceConfig(
                driver="ifdhandler",
                name=entry.value("FRIENDLYNAME"),
                numbering=library,
                options={"library": library, "device": entry.value("DEVICENAME"), "channel": str(channel)},
                origin=f"{self.origin}:{entry.line}",
            )
        )


def parse(text: str, origin: str) -> tuple[list[DeviceConfig], list[ReaderConfError]]:
    """Parse the text of one reader.conf file. ``origin`` names it in messages.

    Looks at the file system: LIBPATH must exist, and DEVICENAME unless it contains a colon.
    """
    parser = _Parser(origin)
    parser.parse(text)
    return parser.configs, parser.errors


def _files(path: Path) -> list[Path]:
    """The file itself, or the regular, non-hidden files of a directory by name. Raises OSError."""
    if not path.is_dir():
        return [path]
    entries = sorted(path.iterdir(), key=lambda entry: entry.name)
    return [e for e in entries if e.is_file() and not e.is_symlink() and not e.name.startswith(".")]


def load(path: Path) -> tuple[list[DeviceConfig], list[ReaderConfError]]:
    """Read a reader.conf file, or all files of a directory in the order of their names.

    Hidden files and symbolic links in a directory are skipped. A reader that has the same name,
    device and channel as an earlier one is an error. Reads files: not for the event loop. Never
    raises for what is in the file system; a path that does not exist is one of the errors.
    """
    configs: list[DeviceConfig] = []
    errors: list[ReaderConfError] = []
    seen: dict[tuple[str, str, str], str] = {}
    try:
        files = _files(path)
    except OSError as error:
        return [], [ReaderConfError(str(path), 0, f"cannot be read: {error.strerror}; check its permissions")]
    for file in files:
        try:
            text = file.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            reason = f"cannot be read: {error.strerror}; check the path and its permissions"
            errors.append(ReaderConfError(str(file), 0, reason))
            continue
        found, mistakes = parse(text, str(file))
        errors += mistakes
        for config in found:
            identity = (config.name, config.options["device"], config.options["channel"])
            if (first := seen.setdefault(identity, config.origin)) != config.origin:
                line = int(config.origin.rpartition(":")[2])
                reason = f'the reader "{config.name}" is configured already at {first}; remove one of the two'
                errors.append(ReaderConfError(str(file), line, reason))
            else:
                configs.append(config)
    return configs, errors
