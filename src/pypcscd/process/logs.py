"""Where log lines go and what they look like: a terminal or a file, the journal, or syslog."""

import io
import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

from pypcscd.process.journal import SOCKET, JournalHandler, syslog_priority
from pypcscd.process.later import Later
from pypcscd.process.repeats import Repeats

#: what ``configure`` may be told about colours: yes, no, or as the terminal can
Colours = bool | None

#: severity -> SGR parameters; the colours of pcscd
_COLOURS = ((logging.CRITICAL, "1;31"), (logging.ERROR, "35"), (logging.INFO, "34"), (logging.DEBUG, "0"))
_TIME_COLOUR = "36"
#: terminals that pcscd takes to have colours
_COLOUR_TERMINALS = frozenset(
    {"linux", "xterm", "xterm-color", "xterm-256color", "Eterm", "rxvt", "rxvt-unicode"}
)
_APDU_LOGGER = "pypcscd.apdu"
_SYSLOG = "/dev/log"


def configure(
    level: int,
    *,
    stream: TextIO | None = None,
    colours: Colours = False,
    in_background: bool = False,
    is_reader: Callable[[str], bool] = lambda _: False,
) -> None:
    """Send lines of ``level`` and above to ``stream``, standard error by default.

    If that is the journal, or the daemon is ``in_background``, they go to the journal with fields, of
    which one is the reader if a line speaks of something that ``is_reader``; without a journal to syslog.
    Unless ``level`` is debug, of warnings that repeat themselves only some are sent (``repeats.py``), and
    lesser lines not in the middle of things (``later.py``).
    """
    handlers: list[logging.Handler] = []
    stream = stream or sys.stderr
    if SOCKET.exists() and (in_background or _is_journal(stream)):
        handlers.append(JournalHandler(is_reader))
    elif in_background:
        handlers.append(_syslog())
    else:
        handlers.append(_readable(stream, colours=colours))
    if in_background:
        # Until the daemon serves, somebody may be looking; then standard error leads nowhere.
        early = _readable(sys.stderr, colours=False)
        early.setLevel(logging.WARNING)
        handlers.append(early)
    root = logging.getLogger()
    # Whoever looks for a cause wants every line; an administrator wants to see the others, too.
    root.handlers[:] = handlers if level <= logging.DEBUG else [Repeats([Later(handlers)])]
    root.setLevel(level)
    # asyncio's own debug lines say nothing to an administrator
    logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))
    # who asks for APDUs gets them at every level
    logging.getLogger(_APDU_LOGGER).setLevel(logging.INFO)


class _Stream(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Nobody reads any more: ``pypcscd -f | head``. That is no reason to complain, nor to stop."""


class _ColouredFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        colour = next((code for level, code in _COLOURS if record.levelno >= level), "0")
        time = f"{record.asctime}.{record.msecs:03.0f}"
        return f"\x1b[{_TIME_COLOUR}m{time}\x1b[0m \x1b[{colour}m{record.levelname} {record.message}\x1b[0m"

    def usesTime(self) -> bool:  # noqa: N802 - logging's name
        return True


class _PriorityFormatter(logging.Formatter):
    """Lines for a journal that cannot be spoken to directly: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{syslog_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def _readable(stream: TextIO, *, colours: Colours) -> logging.Handler:
    if isinstance(stream, io.TextIOWrapper):
        # The name of a reader may have letters that the stream has not, or be no text at all.
        stream.reconfigure(errors="backslashreplace")
    handler = _Stream(stream)
    if colours is None:
        colours = stream.isatty() and os.environ.get("TERM") in _COLOUR_TERMINALS
    if _is_journal(stream):
        handler.setFormatter(_PriorityFormatter("%(message)s"))
    elif colours:
        handler.setFormatter(_ColouredFormatter(datefmt="%H:%M:%S"))
    else:
        layout = "%(asctime)s.%(msecs)03d %(levelname)s %(message)s"
        handler.setFormatter(logging.Formatter(layout, "%H:%M:%S"))
    return handler


def _is_journal(stream: TextIO) -> bool:
    """The stream is the one that systemd has connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _syslog() -> logging.Handler:
    # Not needed where there is a journal.
    from logging.handlers import SysLogHandler

    class Syslog(SysLogHandler):
        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
            """There is no syslog, or not at the moment; nobody is there to be told."""

    handler = Syslog(_SYSLOG, facility=SysLogHandler.LOG_DAEMON)
    handler.ident = f"pypcscd[{os.getpid()}]: "
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler
