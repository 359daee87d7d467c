"""Log lines with fields for systemd's journal, in its native protocol.

Source: systemd's "Native Journal Protocol". One datagram is one entry, of lines ``FIELD=value``; a value
of several lines is its length, as 64 bits little-endian, and the value.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pypcscd.scard import ReturnCode
from pypcscd.server.access import Peer

SOCKET = Path("/run/systemd/journal/socket")

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
#: what surely fits into one datagram, bytes; a longer line is cut
_LONGEST = 48 * 1024


def syslog_priority(level: int) -> int:
    """The severity of syslog(3) for one of logging."""
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG)


def fields(record: logging.LogRecord, is_reader: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """What a line speaks of: PCSC_CLIENT (number), PCSC_CLIENT_PID, PCSC_CLIENT_UID, PCSC_READER, PCSC_RV."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    for argument in arguments:
        if isinstance(argument, Peer):
            yield "PCSC_CLIENT", str(argument.number)
            yield "PCSC_CLIENT_PID", str(argument.pid)
            yield "PCSC_CLIENT_UID", str(argument.uid)
        elif isinstance(argument, ReturnCode):
            yield "PCSC_RV", f"0x{argument:08X}"
        elif isinstance(argument, str) and is_reader(argument):
            yield "PCSC_READER", argument


class JournalHandler(logging.Handler):
    """Sends each line as an entry. A journal that does not take it costs the line, never a client's time."""

    def __init__(self, is_reader: Callable[[str], bool], path: Path = SOCKET) -> None:
        super().__init__()
        self._is_reader = is_reader
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._socket.sendto(self._encode(record), self._path)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _encode(self, record: logging.LogRecord) -> bytes:
        entries = [
            ("MESSAGE", self.format(record)),
            ("PRIORITY", str(syslog_priority(record.levelno))),
            ("SYSLOG_IDENTIFIER", "pypcscd"),
            ("PCSC_LOGGER", record.name),
            *fields(record, self._is_reader),
        ]
        return b"".join(_encode_field(name, value) for name, value in entries)


def _encode_field(name: str, value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")[:_LONGEST]
    if b"\n" not in raw:
        return name.encode() + b"=" + raw + b"\n"
    return name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
