"""Reads ``pypcscd.toml``. Whatever is wrong in it is named by file, line and reason."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pypcscd.configuration.config import Config, DaemonError
from pypcscd.configuration.tables import FILE, USB_ACTIONS, Converter, ListOf, TableOf
from pypcscd.hotplug.settings import CCID, UsbRule, UsbSettings
from pypcscd.manager.settings import ReaderRule, Settings
from pypcscd.paths import pid_path_of, resolved
from pypcscd.server.rules import AccessRule, ClientRule, SocketConfig

if TYPE_CHECKING:
    from pypcscd.configuration.toml_lines import Place

#: with its values converted
_Table = Mapping[str, Any]


class SettingsError(DaemonError):
    """The file cannot be used; the message names file, line and reason."""


def load(path: Path, config: Config) -> Config:
    """``config`` with what the file says. Raises SettingsError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the settings {path}: {error.strerror}") from error
    try:
        text = raw.decode()
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: byte {raw[error.start]:02X} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(_syntax_error(path, text, str(error))) from None
    return _configured(config, _File(path, text, content))


def _syntax_error(path: Path, text: str, said: str) -> str:
    """``tomllib`` says where at the end; we say it at the beginning, as everywhere."""
    reason, line = said.rstrip(")"), len(text.splitlines())
    if found := re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", said, re.DOTALL):
        reason, line = f"{found[1]} (column {found[3]}", int(found[2])
    return f"{path}:{line}: {reason})"


class _File:
    """What the file says, and on which line: its tables with their values converted."""

    def __init__(self, path: Path, text: str, content: Mapping[str, Any]) -> None:
        """``content``: the text as ``tomllib`` reads it. Raises SettingsError."""
        self._path = path
        self._text = text
        self._lines: dict[Place, int] | None = None
        self._tables = self._convert_all((), content, FILE)

    def table(self, name: str) -> _Table:
        """The table [name]; one that is not there is as good as empty."""
        table: _Table = self._tables.get(name, {})
        return table

    def tables(self, name: str) -> Sequence[_Table]:
        """All the tables [[name]]."""
        tables: Sequence[_Table] = self._tables.get(name, ())
        return tables

    def origin(self, place: "Place") -> str:
        """For messages to come: the file, and the line on which it stands."""
        if self._lines is None:
            # Many files are right, and nobody ever asks.
            from pypcscd.configuration.toml_lines import find_lines

            self._lines = find_lines(self._text)
        return f"{self._path}:{self._lines[place]}"

    def fail(self, place: "Place", reason: str) -> NoReturn:
        """Raise the SettingsError that says what is wrong there."""
        keys = [part for part in place if isinstance(part, str)]
        # the name of an array of tables says nothing that the line does not show
        subject = f"{keys[-1]}: " if len(keys) > 1 or len(place) == 1 else ""
        raise SettingsError(f"{self.origin(place)}: {subject}{reason}")

    def _convert(self, place: "Place", value: Any, convert: Converter) -> Any:
        try:
            converted = convert(value)
        except ValueError as error:
            self.fail(place, str(error))
        match convert:
            case TableOf():
                return self._convert_all(place, converted, convert.known, convert.required)
            case ListOf():
                items = enumerate(converted)
                return [self._convert((*place, number), item, convert.convert) for number, item in items]
        return converted

    def _convert_all(
        self,
        place: "Place",
        table: Mapping[str, Any],
        known: Mapping[str, Converter],
        required: Sequence[str] = (),
    ) -> dict[str, Any]:
        for key in table:
            if key not in known:
                self.fail((*place, key), f"unknown; there are {', '.join(known)}")
        converted = {key: self._convert((*place, key), value, known[key]) for key, value in table.items()}
        for key in required:
            if key not in table:
                name = ".".join(part for part in place if isinstance(part, str))
                self.fail(place, f"this [[{name}]] has no {key}")
        return converted


# --- what is made of it -----------------------------------------------------------------------


def _configured(config: Config, file: _File) -> Config:
    access, limits = file.table("access"), file.table("limits")
    return replace(
        config,
        sockets=_sockets(config.sockets, file),
        client_rules=tuple(map(_client_rule, file.tables("client"))),
        max_clients=limits.get("clients", config.max_clients),
        settle_bound=limits.get("start_wait", config.settle_bound),
        usb_settings=_usb_settings(config.usb_settings, file),
        settings=_settings(config.settings, file),
        polkit=config.polkit and access.get("polkit", True),
        polkit_is_required=access.get("polkit", False),
        trusted=_access_rule(access),
    )


def _settings(known: Settings, file: _File) -> Settings:
    limits = file.table("limits")
    return replace(
        known,
        handles_per_client=limits.get("handles_per_client", known.handles_per_client),
        handles_per_reader=limits.get("handles_per_reader", known.handles_per_reader),
        power_down_delay=file.table("power").get("down_delay", known.power_down_delay),
        reader_rules=tuple(
            ReaderRule(table["name"], table["power_down_delay"]) for table in file.tables("reader")
        ),
    )


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


def _sockets(given: Sequence[SocketConfig], file: _File) -> tuple[SocketConfig, ...]:
    """Those given, changed by the entries with their paths, and then the others of the file."""
    own, *others = given
    own = own._replace(table_size=file.table("clients").get("table_size", own.table_size))
    sockets = {resolved(socket.path): socket for socket in (own, *others)}
    pid_files = {pid_path_of(path): path for path in sockets}
    named: dict[Path, str] = {}
    for number, table in enumerate(file.tables("socket")):
        place = ("socket", number)
        path = resolved(table["path"])
        origin = file.origin(place)
        if path in named:
            file.fail((*place, "path"), f"{table['path']} is there already, at {named[path]}")
        named[path] = origin
        if (other := pid_files.setdefault(pid_path_of(path), path)) != path:
            reason = f"the sockets {path} and {other} would have the same pid file, {pid_path_of(path)}"
            file.fail((*place, "path"), reason)
        known = sockets.get(path, SocketConfig(table["path"], own.readers, own.table_size))
        sockets[path] = _socket(known, table, origin)
    return tuple(sockets.values())


def _socket(known: SocketConfig, table: _Table, origin: str) -> SocketConfig:
    return known._replace(
        readers=tuple(table.get("readers", known.readers)),
        table_size=table.get("table_size", known.table_size),
        has_short_names=table.get("short_names", known.has_short_names),
        access=_access_rule(table),
        mode=table.get("mode", known.mode),
        owner=table.get("owner", known.owner),
        group=table.get("group", known.group),
        origin=origin,
    )


def _usb_settings(known: UsbSettings, file: _File) -> UsbSettings:
    usb = file.table("usb")
    return known._replace(
        driver_directories=tuple(usb.get("driver_directories", known.driver_directories)),
        serial_in_names=usb.get("serial_in_names", known.serial_in_names),
        interface_in_names=usb.get("interface_in_names", known.interface_in_names),
        ignore_names=tuple(usb.get("ignore_names", known.ignore_names)),
        name_extension=usb.get("name_extension", known.name_extension),
        rules=tuple(
            _usb_rule(table, file, ("usb", "reader", number))
            for number, table in enumerate(usb.get("reader", ()))
        ),
    )


def _usb_rule(table: _Table, file: _File, place: "Place") -> UsbRule:
    if USB_ACTIONS.keys().isdisjoint(table):
        file.fail(place, f"it changes nothing; add one of {', '.join(USB_ACTIONS)}")
    if "product" in table and "vendor" not in table:
        file.fail((*place, "product"), "add the vendor, by whom the products are numbered")
    if "options" in table and table.get("driver", CCID) != CCID:
        file.fail((*place, "options"), f'they are for the driver "{CCID}" only')
    # as text, like the options of any driver
    options = {key: "yes" if value else "no" for key, value in table.get("options", {}).items()}
    return UsbRule(**{**table, "options": options}, origin=file.origin(place))
