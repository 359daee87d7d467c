"""Reads ``pypcscd.toml``. Whatever is wrong in it is named by file, line and reason."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pypcscd.config import Config
from pypcscd.manager.settings import ReaderRule

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
        self._check_keys("", 0, content, ("limits", "power", "reader"))
        limits = self._table("limits", content)
        self._check_keys("limits", 0, limits, ("clients", "handles_per_client", "handles_per_reader"))
        counts = {key: self._value("limits", 0, key, limits, _count) for key in limits}
        max_clients = counts.pop("clients", config.max_clients)
        power = self._table("power", content)
        self._check_keys("power", 0, power, ("down_delay",))
        delays = {f"power_{key}": self._value("power", 0, key, power, _delay) for key in power}
        rules = self._reader_rules(content)
        settings = replace(config.settings, reader_rules=rules, **counts, **delays)
        return replace(config, settings=settings, max_clients=max_clients)

    def _reader_rules(self, content: Mapping[str, Any]) -> tuple[ReaderRule, ...]:
        tables = content.get("reader", [])
        if not isinstance(tables, list):
            raise self._error("reader", 0, None, "write [[reader]], with two brackets")
        rules = []
        for number, table in enumerate(tables):
            self._check_keys("reader", number, table, ("name", "power_down_delay"))
            for key in ("name", "power_down_delay"):
                if key not in table:
                    raise self._error("reader", number, None, f"{key} is missing")
            rules.append(
                ReaderRule(
                    self._value("reader", number, "name", table, _text),
                    self._value("reader", number, "power_down_delay", table, _delay),
                )
            )
        return tuple(rules)

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
