"""Calls as JSON objects, one line each."""

import json
from collections.abc import Iterable
from typing import Any

from pypcscd import redact
from pypcscd.tools.spy import names
from pypcscd.tools.spy.model import Note, Parameter, Shown


class JsonRenderer:
    """One object for each call; see docs/spy.md for the keys."""

    def __init__(self, *, shows_secrets: bool = False) -> None:
        self._shows_secrets = shows_secrets

    def render(self, shown: Shown) -> list[str]:
        return [json.dumps(self._object(shown), ensure_ascii=True)]

    def summary(self) -> list[str]:
        return []

    def _object(self, shown: Shown) -> dict[str, Any]:
        connection = shown.connection
        head = {
            "connection": connection.number,
            "pid": connection.pid or None,
            "uid": connection.uid if connection.uid >= 0 else None,
            "executable": connection.executable or None,
        }
        if isinstance(shown, Note):
            return {"note": shown.text, **head, "time": round(shown.time, 6)}
        return {
            "call": shown.name,
            **head,
            "reader": shown.reader or None,
            "start": round(shown.started, 6),
            "duration": round(shown.duration, 6),
            "in": self._parameters(shown.inputs),
            "out": self._parameters(shown.outputs),
            "rv": shown.rv,
            "result": names.result(shown.rv)[1] if shown.rv is not None else None,
            "inferred": shown.is_inferred,
            "attempts": shown.attempts,
            "remarks": shown.remarks,
        }

    def _parameters(self, parameters: Iterable[Parameter]) -> list[dict[str, Any]]:
        return [self._parameter(parameter) for parameter in parameters]

    def _parameter(self, parameter: Parameter) -> dict[str, Any]:
        value = parameter.value
        if isinstance(value, bytes):
            secret = () if self._shows_secrets else parameter.secret
            text = "".join(redact.to_hex(value, secret))
            return {"name": parameter.name, "hex": text, **({"hidden": True} if secret else {})}
        found: dict[str, Any] = {"name": parameter.name, "value": _clean(value)}
        if parameter.text:
            found["text"] = parameter.text
        return found


def _clean(value: int | str) -> int | str:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value
