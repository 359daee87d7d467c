"""What the daemon knows of its readers, clients and helpers, as one JSON object (docs/admin-protocol.md)."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pypcscd import __version__, atr
from pypcscd.control.sessions import ListenerLike, SessionLike
from pypcscd.driver import Slot
from pypcscd.manager.handles import Client
from pypcscd.manager.manager import Manager
from pypcscd.manager.reader import Reader
from pypcscd.scard import Protocol, ReaderState, describe

Rates = Mapping[SessionLike, float]
#: the processes that work for drivers, by id: what runs in each
Helpers = Callable[[], Mapping[int, str]]


class StatusReport:
    """Makes the object; its numbers of clients are those of the log and of the spy stream."""

    def __init__(
        self, manager: Manager, listeners: Sequence[ListenerLike], helpers: Helpers, started: float
    ) -> None:
        """``started``: when the daemon did, by the monotonic clock."""
        self._manager = manager
        self._listeners = listeners
        self._helpers = helpers
        self._started = started

    def make(self, sessions: Sequence[SessionLike], rates: Rates) -> dict[str, Any]:
        """``sessions``: all that are open. ``rates``: requests per second, where they were counted."""
        now = time.monotonic()
        owners = {session.client: session for session in sessions}
        paths = {session: one.door.config.path for one in self._listeners for session in one.sessions}
        return {
            "daemon": {"version": __version__, "pid": os.getpid(), "uptime": round(now - self._started, 3)},
            "sockets": [self._socket(listener) for listener in self._listeners],
            "readers": [self._reader(reader, owners, now) for reader in self._manager.roster],
            "clients": [self._client(session, paths.get(session, ""), rates) for session in sessions],
            "helpers": [{"pid": pid, "library": _text(what)} for pid, what in self._helpers().items()],
        }

    def _socket(self, listener: ListenerLike) -> dict[str, Any]:
        config = listener.door.config
        return {
            "path": str(config.path),
            "readers": list(config.readers),
            "clients": len(list(listener.sessions)),
        }

    def _reader(self, reader: Reader, owners: Mapping[Client, SessionLike], now: float) -> dict[str, Any]:
        lock = reader.lock
        holder = lock.holder
        return {
            "name": _text(reader.name),
            "driver": driver_name(reader.slot),
            "counters": {_text(name): count for name, count in reader.slot.counters().items() if count},
            "state": [flag.name for flag in ReaderState if flag in reader.state],
            "card": reader.has_card,
            "powered": reader.is_powered,
            "atr": reader.atr.hex().upper(),
            "atr_phrase": atr_phrase(reader.atr),
            "protocol": protocol_name(reader.protocol),
            "events": reader.event_counter,
            "users": len(reader.handles),
            "exclusive": reader.is_exclusive,
            "holder": holder and self._waiter(holder, owners, now - lock.held_since),
            "waiting": [self._waiter(waiter, owners, now - since) for waiter, since in lock.queue],
        }

    def _waiter(self, who: object, owners: Mapping[Client, SessionLike], seconds: float) -> dict[str, Any]:
        """Who holds or waits: a handle or a client."""
        client = getattr(who, "owner", who)
        session = owners.get(client) if isinstance(client, Client) else None
        known: dict[str, Any] = {"client": None, "pid": None, "executable": None}
        if session is not None:
            known = {
                "client": session.client.number,
                "pid": session.peer.pid,
                "executable": _text(session.peer.executable()),
            }
        return known | {"seconds": round(seconds, 3)}

    def _client(self, session: SessionLike, path: Path | str, rates: Rates) -> dict[str, Any]:
        client, peer = session.client, session.peer
        return {
            "client": session.client.number,
            "pid": peer.pid,
            "uid": peer.uid,
            "executable": _text(peer.executable()),
            "socket": str(path),
            "dialect": str(session.connection.dialect),
            "byte_order": {"<": "little", ">": "big"}.get(session.connection.byte_order, ""),
            "context": client.context or None,
            "handles": [
                {
                    "handle": number,
                    "reader": _text(handle.reader.name),
                    "event": describe(handle.event) if handle.event is not None else None,
                }
                for number, handle in client.handles.items()
            ],
            "waits_for_change": self._manager.is_waiting(client),
            "busy": session.is_busy,
            "requests_per_second": round(rates[session], 1) if session in rates else None,
        }


def _text(name: str) -> str:
    """Names may hold bytes that are no UTF-8; JSON may not."""
    return name.encode("utf-8", "replace").decode()


def driver_name(slot: Slot) -> str:
    """The driver by its package, e.g. "virtual" or "virtual.vpcd"."""
    package, _, module = type(slot).__module__.partition(".")
    name = package.removeprefix("pypcscd_")
    return f"{name}.{module}" if module and module not in ("driver", "device", "slot") else name


def protocol_name(protocol: Protocol) -> str:
    names = {Protocol.T0: "T=0", Protocol.T1: "T=1", Protocol.RAW: "RAW", Protocol.UNDEFINED: ""}
    return names.get(protocol, str(protocol))


def atr_phrase(raw: bytes) -> str:
    """An ATR in a phrase: what the card speaks, and its historical bytes if they are letters."""
    if not raw:
        return ""
    try:
        card = atr.parse(raw)
    except ValueError as error:
        return f"not a valid ATR: {error}"
    offered = [name for bit, name in ((Protocol.T0, "T=0"), (Protocol.T1, "T=1")) if bit in card.protocols]
    phrase = " and ".join(offered) or "no known protocol"
    if card.specific_mode:
        phrase += " only (specific mode)"
    text = card.historical.strip(b"\0 ")
    if len(text) >= 3 and all(32 <= byte < 127 for byte in text):
        phrase += f', "{text.decode("ascii")}"'
    elif card.historical:
        phrase += f", {len(card.historical)} historical bytes"
    return phrase


def measure(counts: Mapping[SessionLike, Callable[[], int]], seconds: float) -> dict[SessionLike, float]:
    """Requests per second, after so many seconds."""
    return {session: count() / seconds for session, count in counts.items()}
