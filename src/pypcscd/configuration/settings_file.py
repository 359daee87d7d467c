"""Reads ``pypcscd.toml``. Whatever is wrong in it is named by file, line and reason."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pypcscd.configuration import values
from pypcscd.configuration.config import Config, DaemonError
from pypcscd.hotplug.settings import CCID, UsbRule, UsbSettings
from pypcscd.manager.settings import ReaderRule
from pypcscd.server.instance import pid_path_of, resolved
from pypcscd.server.rules import AccessRule, ClientRule, SocketConfig

if TYPE_CHECKING:
    from pypcscd.configuration.toml_lines import Place

_Table = Mapping[str, Any]
_Converters = Mapping[str, Callable[[Any], Any]]


class SettingsError(DaemonError):
    """The file cannot be used; the message names file, line and reason."""


class _TableOf:
    """Converts each value of a table within a table."""

    def __init__(self, known: _Converters, form: str) -> None:
        """``form``: what such a table looks like in the file."""
        self.known = known
        self.form = form

    def __call__(self, value: Any) -> _Table:
        if not isinstance(value, dict):
            raise ValueError(f"write {self.form}")
        return value


class _ListOf:
    """Converts each item of a list, so that a wrong one can be named by its own line."""

    def __init__(self, convert: Callable[[Any], Any], *, may_be_empty: bool) -> None:
        self.convert = convert
        self.may_be_empty = may_be_empty

    def __call__(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            if isinstance(self.convert, _TableOf):
                raise ValueError(f"write {self.convert.form}")
            raise ValueError(f"{values.shown(value)} is not a list; write [{values.shown(value)}]")
        if not value and not self.may_be_empty:
            raise ValueError("the list is empty")
        return value


_TABLES = ("clients", "limits", "power", "reader", "client", "socket", "usb", "access")
_ACCESS: _Converters = {
    "polkit": values.truth,
    "users": _ListOf(values.user, may_be_empty=True),
    "groups": _ListOf(values.group, may_be_empty=True),
}
_LIMITS: _Converters = dict.fromkeys(("clients", "handles_per_client", "handles_per_reader"), values.count)
_POWER: _Converters = {"down_delay": values.delay}
_CLIENTS: _Converters = {"table_size": values.table_size}
_READER: _Converters = {"name": values.glob, "power_down_delay": values.delay}
_CLIENT: _Converters = {
    "executable": values.glob,
    "user": values.user,
    "elsewhere": values.truth,
    "table_size": values.table_size,
    "short_names": values.truth,
}
_SOCKET: _Converters = {
    "path": values.socket_path,
    "readers": _ListOf(values.glob, may_be_empty=False),
    "table_size": values.table_size,
    "short_names": values.truth,
    "users": _ListOf(values.user, may_be_empty=True),
    "groups": _ListOf(values.group, may_be_empty=True),
    "mode": values.mode,
    "owner": values.user,
    "group": values.group,
}


_USB_READER: _Converters = {
    "vendor": values.usb_identifier,
    "product": values.usb_identifier,
    "serial": values.text,
    "port": values.usb_port,
    "interface": values.byte,
    "name": values.glob,
    "driver": values.usb_driver,
    "rename": values.reader_base,
    "index": values.byte,
    "options": _TableOf({"escape": values.truth}, "{ escape = true }"),
}
_USB: _Converters = {
    "driver_directories": _ListOf(values.directory, may_be_empty=True),
    "serial_in_names": values.truth,
    "interface_in_names": values.truth,
    "ignore_names": _ListOf(values.text, may_be_empty=True),
    "name_extension": values.reader_extension,
    "reader": _ListOf(
        _TableOf(_USB_READER, "[[usb.reader]], with two brackets, and its settings below"), may_be_empty=True
    ),
}
#: what a [[usb.reader]] can do
_USB_ACTIONS = ("driver", "rename", "index", "options")


def load(path: Path, config: Config) -> Config:
    """``config`` with what the file says. Raises SettingsError."""
    # Not needed by a daemon that has no such file.
    import tomllib

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    try:
        text = raw.decode()
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: byte {raw[error.start]:02X} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(_syntax_error(path, text, str(error))) from None
    return _Reader(path, text).read(content, config)


def _syntax_error(path: Path, text: str, said: str) -> str:
    """``tomllib`` says where at the end; we say it at the beginning, as everywhere."""
    reason, line = said.rstrip(")"), len(text.splitlines())
    if found := re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", said, re.DOTALL):
        reason, line = f"{found[1]} (column {found[3]}", int(found[2])
    return f"{path}:{line}: {reason})"


class _Reader:
    """Turns the parsed file into settings, and knows on which line everything stands."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text
        self._lines: dict[Place, int] | None = None

    def read(self, content: _Table, config: Config) -> Config:
        self._check_keys((), content, _TABLES)
        limits = self._table("limits", content, _LIMITS)
        max_clients = limits.pop("clients", config.max_clients)
        power = {f"power_{key}": value for key, value in self._table("power", content, _POWER).items()}
        clients = self._table("clients", content, _CLIENTS)
        own, *others = config.sockets
        own = replace(own, table_size=clients.get("table_size", own.table_size))
        rules = [
            ReaderRule(table["name"], table["power_down_delay"])
            for table in self._array("reader", content, _READER, required=("name", "power_down_delay"))
        ]
        access = self._table("access", content, _ACCESS)
        return replace(
            config,
            polkit=config.polkit and access.get("polkit", True),
            polkit_is_required=access.get("polkit", False),
            trusted=_access_rule(access),
            settings=replace(config.settings, reader_rules=tuple(rules), **limits, **power),
            max_clients=max_clients,
            client_rules=tuple(_client_rule(table) for table in self._array("client", content, _CLIENT)),
            sockets=self._sockets(content, (own, *others)),
            usb_settings=self._usb(content, config.usb_settings),
        )

    def _usb(self, content: _Table, known: UsbSettings) -> UsbSettings:
        changed = self._table("usb", content, _USB)
        rules = [
            self._usb_rule(("usb", "reader", number), table)
            for number, table in enumerate(changed.pop("reader", []))
        ]
        lists = {name: tuple(value) for name, value in changed.items() if isinstance(value, list)}
        return replace(known, **(changed | lists), rules=tuple(rules))

    def _usb_rule(self, place: "Place", table: dict[str, Any]) -> UsbRule:
        if not any(key in table for key in _USB_ACTIONS):
            self._fail(place, f"it changes nothing; add one of {', '.join(_USB_ACTIONS)}")
        if "product" in table and "vendor" not in table:
            self._fail((*place, "product"), "add the vendor, by whom the products are numbered")
        if "options" in table and table.get("driver", CCID) != CCID:
            self._fail((*place, "options"), f'they are for the driver "{CCID}" only')
        options = {key: "yes" if value else "no" for key, value in table.pop("options", {}).items()}
        return UsbRule(**table, options=options, origin=f"{self._path}:{self._line(place)}")

    def _sockets(self, content: _Table, given: tuple[SocketConfig, ...]) -> tuple[SocketConfig, ...]:
        """Those given, changed by the entries with their paths, and then the others of the file."""
        sockets = {resolved(config.path): config for config in given}
        own = given[0]
        pid_files = {pid_path_of(path): path for path in sockets}
        named: dict[Path, str] = {}
        for number, table in enumerate(self._array("socket", content, _SOCKET, required=("path",))):
            place = ("socket", number)
            path = resolved(table["path"])
            origin = f"{self._path}:{self._line(place)}"
            if path in named:
                self._fail((*place, "path"), f"{table['path']} is there already, at {named[path]}")
            named[path] = origin
            known = sockets.get(path, SocketConfig(table["path"], own.readers, own.table_size))
            if (other := pid_files.setdefault(pid_path_of(path), path)) != path:
                reason = f"the sockets {path} and {other} would have the same pid file, {pid_path_of(path)}"
                self._fail((*place, "path"), reason)
            sockets[path] = _socket(table, known, origin)
        return tuple(sockets.values())

    def _table(self, name: str, content: _Table, known: _Converters) -> dict[str, Any]:
        """The table [name], with its values converted."""
        table = content.get(name, {})
        if not isinstance(table, dict):
            self._fail((name,), f"write [{name}] and its settings below")
        return self._converted((name,), table, known)

    def _array(
        self, name: str, content: _Table, known: _Converters, required: tuple[str, ...] = ()
    ) -> list[dict[str, Any]]:
        """The tables [[name]], with their values converted."""
        tables = content.get(name, [])
        if not isinstance(tables, list):
            self._fail((name,), f"write [[{name}]], with two brackets, and its settings below")
        converted = []
        for number, table in enumerate(tables):
            place = (name, number)
            if not isinstance(table, dict):
                self._fail(place, f"write [[{name}]] and its settings below")
            converted.append(self._converted(place, table, known))
            for key in required:
                if key not in table:
                    self._fail(place, f"this [[{name}]] has no {key}")
        return converted

    def _converted(self, place: "Place", table: _Table, known: _Converters) -> dict[str, Any]:
        self._check_keys(place, table, tuple(known))
        return {key: self._value((*place, key), value, known[key]) for key, value in table.items()}

    def _check_keys(self, place: "Place", table: _Table, known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                self._fail((*place, key), f"unknown; there are {', '.join(known)}")

    def _value(self, place: "Place", value: Any, convert: Callable[[Any], Any]) -> Any:
        try:
            converted = convert(value)
        except ValueError as error:
            self._fail(place, str(error))
        if isinstance(convert, _TableOf):
            return self._converted(place, converted, convert.known)
        if isinstance(convert, _ListOf):
            items = enumerate(converted)
            return [self._value((*place, number), item, convert.convert) for number, item in items]
        return converted

    def _fail(self, place: "Place", reason: str) -> NoReturn:
        keys = [part for part in place if isinstance(part, str)]
        # the name of an array of tables says nothing that the line does not show
        subject = f"{keys[-1]}: " if len(keys) > 1 or len(place) == 1 else ""
        raise SettingsError(f"{self._path}:{self._line(place)}: {subject}{reason}")

    def _line(self, place: "Place") -> int:
        if self._lines is None:
            # Most files are right and never need it.
            from pypcscd.configuration.toml_lines import find_lines

            self._lines = find_lines(self._text)
        return self._lines[place]


def _client_rule(table: _Table) -> ClientRule:
    return ClientRule(
        table_size=table.get("table_size"),
        has_short_names=table.get("short_names"),
        executable=table.get("executable"),
        uid=table.get("user"),
        is_elsewhere=table.get("elsewhere"),
    )


def _access_rule(table: _Table) -> AccessRule:
    users, groups = (frozenset(table[key]) if key in table else None for key in ("users", "groups"))
    return AccessRule(users, groups)


def _socket(table: _Table, known: SocketConfig, origin: str) -> SocketConfig:
    """``known`` with what a [[socket]] says."""
    return replace(
        known,
        readers=tuple(table.get("readers", known.readers)),
        table_size=table.get("table_size", known.table_size),
        has_short_names=table.get("short_names", known.has_short_names),
        access=_access_rule(table),
        mode=table.get("mode", known.mode),
        owner=table.get("owner", known.owner),
        group=table.get("group", known.group),
        origin=origin,
    )
