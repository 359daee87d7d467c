"""What may stand in ``pypcscd.toml``: which tables, with which keys, and what is made of their values."""

from collections.abc import Callable, Mapping
from typing import Any

from pypcscd.configuration import values

#: takes what ``tomllib`` yields; raises ValueError
Converter = Callable[[Any], Any]


class TableOf:
    """A table with these keys. Their values are for the caller, who knows where they stand."""

    def __init__(self, known: Mapping[str, Converter], form: str, required: tuple[str, ...] = ()) -> None:
        """``form``: what such a table looks like in the file."""
        self.known = known
        self.required = required
        self._form = form

    def __call__(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"write {self._form}")
        return value


class ListOf:
    """A list. Its items are for the caller, so that a wrong one can be named by its own line."""

    def __init__(self, convert: Converter, *, form: str = "", may_be_empty: bool = True) -> None:
        """``form``: what such a list looks like in the file, if it has no brackets around it."""
        self.convert = convert
        self._form = form
        self._may_be_empty = may_be_empty

    def __call__(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            if self._form:
                raise ValueError(f"write {self._form}")
            shown = values.shown(value)
            raise ValueError(f"{shown} is not a list; write [{shown}]")
        if not value and not self._may_be_empty:
            raise ValueError("the list is empty")
        return value


def _table(name: str, known: Mapping[str, Converter]) -> TableOf:
    """The table [name]."""
    return TableOf(known, f"[{name}] and its settings below")


def _tables(name: str, known: Mapping[str, Converter], required: tuple[str, ...] = ()) -> ListOf:
    """All the tables [[name]]."""
    each = TableOf(known, f"[[{name}]] and its settings below", required)
    return ListOf(each, form=f"[[{name}]], with two brackets, and its settings below")


_USERS = ListOf(values.user)
_GROUPS = ListOf(values.group)

#: what a [[usb.reader]] can do; its other keys say for which readers
USB_ACTIONS: Mapping[str, Converter] = {
    "driver": values.usb_driver,
    "rename": values.reader_base,
    "index": values.byte,
    "options": TableOf({"escape": values.truth}, "{ escape = true }"),
}

_USB_READER: Mapping[str, Converter] = {
    "vendor": values.usb_identifier,
    "product": values.usb_identifier,
    "serial": values.text,
    "port": values.usb_port,
    "interface": values.byte,
    "name": values.glob,
    **USB_ACTIONS,
}

#: the whole file
FILE: Mapping[str, Converter] = {
    "clients": _table("clients", {"table_size": values.table_size}),
    "limits": _table(
        "limits",
        {
            "clients": values.count,
            "handles_per_client": values.count,
            "handles_per_reader": values.count,
            "start_wait": values.start_wait,
        },
    ),
    "power": _table("power", {"down_delay": values.delay}),
    "reader": _tables(
        "reader",
        {
            "name": values.glob,
            "power_down_delay": values.delay,
        },
        required=("name", "power_down_delay"),
    ),
    "client": _tables(
        "client",
        {
            "executable": values.glob,
            "user": values.user,
            "elsewhere": values.truth,
            "table_size": values.table_size,
            "short_names": values.truth,
        },
    ),
    "socket": _tables(
        "socket",
        {
            "path": values.socket_path,
            "readers": ListOf(values.glob, may_be_empty=False),
            "table_size": values.table_size,
            "short_names": values.truth,
            "users": _USERS,
            "groups": _GROUPS,
            "mode": values.mode,
            "owner": values.user,
            "group": values.group,
        },
        required=("path",),
    ),
    "usb": _table(
        "usb",
        {
            "driver_directories": ListOf(values.directory),
            "serial_in_names": values.truth,
            "interface_in_names": values.truth,
            "ignore_names": ListOf(values.text),
            "name_extension": values.reader_extension,
            "reader": _tables("usb.reader", _USB_READER),
        },
    ),
    "access": _table(
        "access",
        {
            "polkit": values.truth,
            "users": _USERS,
            "groups": _GROUPS,
        },
    ),
}
