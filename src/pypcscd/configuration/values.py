"""The values in a settings file: each function makes of one what the daemon needs, or raises ValueError.

They take whatever ``tomllib`` may yield. The message of the ValueError says what was found and what is
expected, in the file's own notation.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pypcscd.hotplug.settings import CCID, IGNORE, LIBCCID
from pypcscd.paths import excess
from pypcscd.scard import MAX_BASE_NAME

_LARGEST_BYTE = 0xFF
_LONGEST_START = 60
#: of users and groups; the number after it means "none" to the kernel
_LAST_IDENTIFIER = 0xFFFFFFFE


def shown(value: Any) -> str:
    """The value as one would write it in the file."""
    if isinstance(value, bool | int | str | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def count(value: Any) -> int:
    if not _is_integer(value) or value < 1:
        raise ValueError(f"{shown(value)} is not a number from 1 on")
    return int(value)


def byte(value: Any) -> int:
    if not _is_integer(value) or not 0 <= value <= _LARGEST_BYTE:
        raise ValueError(f"{shown(value)} is not a number from 0 to {_LARGEST_BYTE}")
    return int(value)


def _is_integer(value: Any) -> bool:
    """``true`` is one to Python, but not to whoever writes it."""
    return isinstance(value, int) and not isinstance(value, bool)


def delay(value: Any) -> float | None:
    """Seconds; None: never."""
    if value == "never":
        return None
    if not (_is_integer(value) or isinstance(value, float)) or not 0 <= value < float("inf"):
        raise ValueError(f'{shown(value)} is neither a number of seconds nor "never"')
    return float(value)


def start_wait(value: Any) -> float:
    """Seconds; not as many as systemd gives a service to start, 90."""
    if not (_is_integer(value) or isinstance(value, float)) or not 0 <= value <= _LONGEST_START:
        raise ValueError(f"{shown(value)} is not a number of seconds from 0 to {_LONGEST_START}")
    return float(value)


def truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{shown(value)} is not a text in quotes")
    return value


def glob(value: Any) -> str:
    """A pattern for ``fnmatch`` in which only * and ? are special: many reader names have brackets."""
    return text(value).replace("[", "[[]")


def table_size(value: Any) -> int:
    """One of those that pcsc-lite was ever built with: its own, and Fedora's."""
    if value not in (16, 48):
        raise ValueError(f"{shown(value)} is neither 16 nor 48")
    return int(value)


def directory(value: Any) -> Path:
    path = Path(text(value))
    if not path.is_absolute():
        raise ValueError(f"{shown(value)} does not begin with /")
    _check_printable(value)
    return path


def socket_path(value: Any) -> Path:
    path = Path(os.path.normpath(directory(value)))
    if too_long := excess(path):
        raise ValueError(too_long)
    return path


def mode(value: Any) -> int:
    """Not a TOML number: 660 without quotes would be decimal, which nobody means."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f'{shown(value)} is not a file mode in quotes, like "0660"')
    return int(value, 8)


def usb_identifier(value: Any) -> int:
    """idVendor or idProduct; in quotes for the same reason as a mode."""
    if not isinstance(value, str) or not re.fullmatch(r"(?:0[xX])?[0-9A-Fa-f]{1,4}", value):
        raise ValueError(f'{shown(value)} is not a number as lsusb shows it, in quotes, like "076B"')
    return int(value, 16)


def usb_port(value: Any) -> str:
    """Bus and the ports on the way from it, as in the names below /sys/bus/usb/devices."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]+-[0-9]+(?:\.[0-9]+)*", value):
        raise ValueError(f'{shown(value)} is not a port as the kernel names it, in quotes, like "1-2.3"')
    return value


def usb_driver(value: Any) -> str:
    """A word of ``UsbRule.driver``, or the path of a native driver."""
    if value not in (CCID, LIBCCID, IGNORE) and not (isinstance(value, str) and value.startswith("/")):
        raise ValueError(
            f'{shown(value)} is neither "{CCID}", "{LIBCCID}" or "{IGNORE}" nor the path of a native driver'
        )
    _check_printable(value)
    return str(value)


def reader_base(value: Any) -> str:
    """A reader's name without its two numbers."""
    return _name(value, MAX_BASE_NAME)


def reader_extension(value: Any) -> str:
    """What is added to all names; half of the room, so that the names can still be told apart."""
    return _name(value, MAX_BASE_NAME // 2)


def _name(value: Any, room: int) -> str:
    """``room`` is in bytes."""
    name = text(value)
    _check_printable(name)
    length = len(name.encode())
    if length > room:
        raise ValueError(f"there is room for {room} bytes; this has {length}")
    return name


def _check_printable(name: str) -> None:
    if not name.isprintable():
        raise ValueError(f"{shown(name)} has characters that cannot be seen")


def user(value: Any) -> int:
    """The number of a user who is named, or numbered."""
    import pwd

    return _identifier(value, "user", lambda name: pwd.getpwnam(name).pw_uid)


def group(value: Any) -> int:
    """As for ``user``."""
    import grp

    return _identifier(value, "group", lambda name: grp.getgrnam(name).gr_gid)


def _identifier(value: Any, kind: str, look_up: Callable[[str], int]) -> int:
    if _is_integer(value):
        if not 0 <= value <= _LAST_IDENTIFIER:
            raise ValueError(f"{value} is not the number of a {kind}")
        return int(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{shown(value)} is neither the name nor the number of a {kind}")
    try:
        return look_up(value)
    except (KeyError, ValueError):
        raise ValueError(f"there is no {kind} {shown(value)} on this machine") from None
