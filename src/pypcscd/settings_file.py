"""Reads ``pypcscd.toml``. Whatever is wrong in it is named by file, line and reason."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pypcscd.config import Config
from pypcscd.manager.settings import ReaderRule
from pypcscd.server.rules import AccessRule, ClientRule, SocketConfig

DEFAULT_PATH = Path("/etc/pypcscd.toml")


class SettingsError(Exception):
    """The file cannot be used; the message names file, line and reason."""


def load(path: Path, config: Config) -> Config:
    """``config`` with what the file says. Raises SettingsError."""
    # Not needed by a daemon that has no such file.
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    return _Reader(path, text).read(content, config)


class _Reader:
    """Turns the parsed file into settings, and knows on which line a key stands."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def read(self, content: Mapping[str, Any], config: Config) -> Config:
        self._check_keys("", 0, content, ("clients", "limits", "power", "reader", "client", "socket"))
        limits = self._table("limits", content)
        self._check_keys("limits", 0, limits, ("clients", "handles_per_client", "handles_per_reader"))
        counts = {key: self._value("limits", 0, key, limits, _count) for key in limits}
        max_clients = counts.pop("clients", config.max_clients)
        power = self._table("power", content)
        self._check_keys("power", 0, power, ("down_delay",))
        delays = {f"power_{key}": self._value("power", 0, key, power, _delay) for key in power}
        rules = self._reader_rules(content)
        settings = replace(config.settings, reader_rules=rules, **counts, **delays)
        clients = self._table("clients", content)
        self._check_keys("clients", 0, clients, ("table_size",))
        own, *others = config.sockets
        if "table_size" in clients:
            own = replace(own, table_size=self._value("clients", 0, "table_size", clients, _table_size))
        return replace(
            config,
            settings=settings,
            max_clients=max_clients,
            client_rules=self._client_rules(content),
            sockets=(own, *others, *self._sockets(content, own)),
        )

    def _reader_rules(self, content: Mapping[str, Any]) -> tuple[ReaderRule, ...]:
        known = {"name": _text, "power_down_delay": _delay}
        tables = self._array("reader", content, known, required=("name", "power_down_delay"))
        return tuple(ReaderRule(table["name"], table["power_down_delay"]) for table in tables)

    def _client_rules(self, content: Mapping[str, Any]) -> tuple[ClientRule, ...]:
        known = {
            "executable": _text,
            "user": _user,
            "elsewhere": _truth,
            "table_size": _table_size,
            "short_names": _truth,
        }
        return tuple(
            ClientRule(
                table_size=table.get("table_size"),
                has_short_names=table.get("short_names", False),
                executable=table.get("executable"),
                uid=table.get("user"),
                is_elsewhere=table.get("elsewhere"),
            )
            for table in self._array("client", content, known)
        )

    def _sockets(self, content: Mapping[str, Any], own: SocketConfig) -> tuple[SocketConfig, ...]:
        known = {
            "path": _path,
            "readers": _texts,
            "table_size": _table_size,
            "users": _users,
            "groups": _groups,
            "mode": _mode,
            "owner": _user,
            "group": _group,
        }
        sockets = tuple(
            SocketConfig(
                path=table["path"],
                readers=table.get("readers", own.readers),
                table_size=table.get("table_size", own.table_size),
                access=AccessRule(table.get("users"), table.get("groups")),
                mode=table.get("mode", own.mode),
                owner=table.get("owner"),
                group=table.get("group"),
            )
            for table in self._array("socket", content, known, required=("path",))
        )
        taken = {own.path}
        for number, socket in enumerate(sockets):
            if socket.path in taken:
                raise self._error("socket", number, "path", f"{socket.path} is there twice")
            taken.add(socket.path)
        return sockets

    def _array(
        self,
        name: str,
        content: Mapping[str, Any],
        known: Mapping[str, Callable[[Any], Any]],
        required: tuple[str, ...] = (),
    ) -> list[dict[str, Any]]:
        """The tables [[name]], with their values converted."""
        tables = content.get(name, [])
        if not isinstance(tables, list):
            raise self._error(name, 0, None, f"write [[{name}]], with two brackets")
        converted = []
        for number, table in enumerate(tables):
            self._check_keys(name, number, table, tuple(known))
            for key in required:
                if key not in table:
                    raise self._error(name, number, None, f"{key} is missing")
            converted.append({key: self._value(name, number, key, table, known[key]) for key in table})
        return converted

    def _table(self, name: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise self._error("", 0, name, f"write [{name}] and its settings below")
        return table

    def _check_keys(
        self, table: str, number: int, content: Mapping[str, Any], known: tuple[str, ...]
    ) -> None:
        for key in content:
            if key not in known:
                raise self._error(table, number, key, f"unknown; there are {', '.join(known)}")

    def _value(
        self, table: str, number: int, key: str, content: Mapping[str, Any], convert: Callable[[Any], Any]
    ) -> Any:
        try:
            return convert(content[key])
        except ValueError as error:
            raise self._error(table, number, key, str(error)) from None

    def _error(self, table: str, number: int, key: str | None, reason: str) -> SettingsError:
        line = self._line(table, number, key)
        subject = f"{key}: " if key else ""
        return SettingsError(f"{self._path}:{line}: {subject}{reason}")

    def _line(self, table: str, number: int, key: str | None) -> int:
        """Where a key stands: the first such line at or after the ``number``-th header of its table."""
        start = 0
        if table:
            header = re.compile(rf"\s*\[+\s*{re.escape(table)}\s*\]+")
            headers = [index for index, line in enumerate(self._lines) if header.match(line)]
            start = headers[number] if number < len(headers) else 0
        if key is None:
            return start + 1
        pattern = re.compile(
            rf"\s*(\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*[]=.]|.*[{{,]\s*{re.escape(key)}\s*="
        )
        found = (index for index in range(start, len(self._lines)) if pattern.match(self._lines[index]))
        return next(found, start) + 1


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is not a number from 1 on")
    return value


def _delay(value: Any) -> float | None:
    if value == "never":
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ValueError(f'{value!r} is neither a number of seconds nor "never"')
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(_text(item) for item in value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _table_size(value: Any) -> int:
    # those that pcsc-lite was ever built with: its own, and Fedora's
    if value not in (16, 48) or isinstance(value, bool):
        raise ValueError(f"{value!r} is neither 16 nor 48")
    return int(value)


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError(f"{value!r} does not begin with /")
    return path


def _mode(value: Any) -> int:
    text = _text(value)
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f'{value!r} is not a file mode like "0660"')
    return int(text, 8)


def _identifier(value: Any, kind: str, look_up: Callable[[str], int]) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    try:
        return look_up(_text(value))
    except KeyError:
        raise ValueError(f"there is no {kind} {value!r}") from None


def _user(value: Any) -> int:
    import pwd

    return _identifier(value, "user", lambda name: pwd.getpwnam(name).pw_uid)


def _group(value: Any) -> int:
    import grp

    return _identifier(value, "group", lambda name: grp.getgrnam(name).gr_gid)


def _users(value: Any) -> frozenset[int]:
    return frozenset(_user(item) for item in _list(value))


def _groups(value: Any) -> frozenset[int]:
    return frozenset(_group(item) for item in _list(value))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    return value
