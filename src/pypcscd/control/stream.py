"""A stream of what connections say: the records of a live spy and of a recording, as lines of JSON.

The first line of a recording is ``{"stream": "pypcscd-spy", "version": 1}``. docs/spy.md describes
the records. Unknown keys and unknown kinds of records are to be passed over.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

VERSION = 1
HEADER = {"stream": "pypcscd-spy", "version": VERSION}


class StreamError(Exception):
    """The line is no record; the message says why."""


class Opened(NamedTuple):
    """A connection was made, or is joined now."""

    number: int
    time: float
    pid: int = 0
    uid: int = -1
    executable: str = ""
    #: for a connection that is joined later: its dialect, e.g. (4, 4), and byte order
    version: tuple[int, int] | None = None
    byte_order: str = ""
    #: records in its reader table, where that is fixed; 0: not known
    table_size: int = 0
    #: it was open before, and something may have been asked that is not answered yet
    is_joined: bool = False
    context: int = 0
    #: the readers of its card handles
    handles: Mapping[int, str] = MappingProxyType({})


class Data(NamedTuple):
    """Bytes went from one end to the other, whole messages if the stream is redacted."""

    number: int
    time: float
    from_client: bool
    data: bytes


class Closed(NamedTuple):
    """A connection is over. ``why``: a sentence without its full stop."""

    number: int
    time: float
    why: str


class Lost(NamedTuple):
    """What the watcher did not see because it was too slow."""

    time: float
    why: str


Record = Opened | Data | Closed | Lost


def encode(record: Record) -> str:
    """A record as one line, without its end."""
    time = round(record.time, 6)
    if isinstance(record, Opened):
        known: dict[str, Any] = {"open": record.number, "time": time}
        if record.pid:
            known["pid"] = record.pid
        if record.uid >= 0:
            known["uid"] = record.uid
        if record.executable:
            known["executable"] = record.executable.encode("utf-8", "replace").decode()
        if record.version is not None:
            known["version"] = list(record.version)
        if record.byte_order:
            known["byte_order"] = record.byte_order
        if record.table_size:
            known["table_size"] = record.table_size
        if record.is_joined:
            known["joined"] = True
        if record.context:
            known["context"] = record.context
        if record.handles:
            known["handles"] = {str(card): name for card, name in record.handles.items()}
        return json.dumps(known)
    if isinstance(record, Data):
        # the stream's most frequent line, so it is made without the encoder
        text = base64.b64encode(record.data).decode("ascii")
        side = "client" if record.from_client else "daemon"
        return f'{{"data": {record.number}, "time": {time:.6f}, "from": "{side}", "bytes": "{text}"}}'
    if isinstance(record, Closed):
        return json.dumps({"close": record.number, "time": time, "why": record.why})
    return json.dumps({"lost": record.why, "time": time})


def decode(line: str) -> Record | None:
    """The record of a line; None for one of a kind not known here. Raises StreamError."""
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            raise StreamError("a line is no JSON object")
        return _record(fields)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, binascii.Error) as error:
        raise StreamError(f"a line is no record of a spy stream: {error}") from error


def _record(fields: dict[str, Any]) -> Record | None:
    if "stream" in fields:
        if fields["stream"] != HEADER["stream"] or fields.get("version") != VERSION:
            raise StreamError(f"a stream of version {fields.get('version')}; version {VERSION} is known here")
        return None
    if "open" in fields:
        version = fields.get("version")
        order = fields.get("byte_order", "")
        return Opened(
            int(fields["open"]),
            float(fields["time"]),
            int(fields.get("pid", 0)),
            int(fields.get("uid", -1)),
            str(fields.get("executable", "")),
            (int(version[0]), int(version[1])) if version else None,
            order if order in ("<", ">") else "",
            int(fields.get("table_size", 0)),
            bool(fields.get("joined", False)),
            int(fields.get("context", 0)),
            {int(card): str(name) for card, name in fields.get("handles", {}).items()},
        )
    if "data" in fields:
        data = base64.b64decode(fields["bytes"], validate=True)
        return Data(int(fields["data"]), float(fields["time"]), fields["from"] == "client", data)
    if "close" in fields:
        return Closed(int(fields["close"]), float(fields["time"]), str(fields.get("why", "")))
    if "lost" in fields:
        return Lost(float(fields["time"]), str(fields["lost"]))
    return None
