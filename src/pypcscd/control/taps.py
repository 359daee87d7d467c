"""Watching sessions: one tap for each watched session, which passes on to all who watch it.

While nobody watches there are no taps. What is passed on is redacted, message by message, unless a
watcher asked for the secrets too.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from pypcscd.control.sessions import ListenerLike, SessionLike
from pypcscd.control.stream import Closed, Data, Opened, Record
from pypcscd.protocol.observer import NotUnderstood, Observer, Seen, SeenRequest
from pypcscd.redact import MessageSecrets

_GONE = "the client went away, or the daemon hung up"


class Watch:
    """Somebody who watches: which sessions, and where the records go."""

    def __init__(
        self,
        emit: Callable[[Record], None],
        *,
        pid: int | None = None,
        uid: int | None = None,
        shows_secrets: bool = False,
    ) -> None:
        self.emit = emit
        self.shows_secrets = shows_secrets
        #: it has been added to the taps
        self.is_active = False
        self._pid = pid
        self._uid = uid

    def wants(self, session: SessionLike) -> bool:
        return self._pid in (None, session.peer.pid) and self._uid in (None, session.peer.uid)


class _Tap:
    """Passes on what one session says."""

    def __init__(self, number: int, session: SessionLike, watches: list[Watch], *, is_joined: bool) -> None:
        self._number = number
        self._session = session
        self._watches = watches
        self._observer = Observer(
            dialect=session.connection.dialect,
            byte_order=session.connection.byte_order,
            table_size=session.connection.table_size,
            is_joined=is_joined,
        )
        self._secrets = MessageSecrets()
        #: what comes next from the client is the beginning of a request
        self._is_in_step = not is_joined

    def replace(self, watches: list[Watch]) -> None:
        self._watches = watches

    def received(self, data: bytes) -> None:
        if not self._is_in_step:
            if self._session.connection.buffered:
                return  # the rest of what was not seen from its beginning
            self._is_in_step = True
        self._pass_on(data, from_client=True)

    def sent(self, data: bytes) -> None:
        if self._is_in_step:
            self._pass_on(data, from_client=False)

    def closed(self) -> None:
        now = time.time()
        for seen in self._observer.end():
            self._emit_message(seen, now)
        for watch in list(self._watches):
            watch.emit(Closed(self._number, now, _GONE))

    def _pass_on(self, data: bytes, *, from_client: bool) -> None:
        now = time.time()
        raw: Data | None = None
        needs_messages = False
        for watch in list(self._watches):
            if watch.shows_secrets:
                raw = raw or Data(self._number, now, from_client, data)
                watch.emit(raw)
            else:
                needs_messages = True
        sent = self._observer.client_sent if from_client else self._observer.daemon_sent
        for seen in sent(data):
            if needs_messages:
                self._emit_message(seen, now)
            else:
                self._secrets.parts(seen)  # what it learns counts for a watcher who comes later

    def _emit_message(self, seen: Seen, now: float) -> None:
        from_client = seen.from_client if isinstance(seen, NotUnderstood) else isinstance(seen, SeenRequest)
        shown = self._secrets.hide(seen, self._secrets.parts(seen))
        record = Data(self._number, now, from_client, shown)
        for watch in list(self._watches):
            if not watch.shows_secrets:
                watch.emit(record)


class _CountingTap:
    """Counts the requests of a session, roughly: the pieces in which they come."""

    def __init__(self) -> None:
        self.requests = 0

    def received(self, data: bytes) -> None:
        self.requests += 1

    def sent(self, data: bytes) -> None:
        return

    def closed(self) -> None:
        return


class Taps:
    """All watchers, and the taps that they need."""

    def __init__(self, listeners: Sequence[ListenerLike]) -> None:
        self._listeners = listeners
        self._watches: list[Watch] = []

    def sessions(self) -> list[SessionLike]:
        """All open connections, the oldest first; one that is just being made is told of by ``opened``."""
        found = [
            session for listener in self._listeners for session in listener.sessions if session.peer.uid >= 0
        ]
        return sorted(found, key=lambda session: session.client.number)

    def add(self, watch: Watch) -> None:
        self._watches.append(watch)
        for listener in self._listeners:
            listener.door.opened = self._opened
        for session in self.sessions():
            self._tap(session, (watch,), is_joined=True)

    def remove(self, watch: Watch) -> None:
        if watch not in self._watches:
            return
        self._watches.remove(watch)
        if not self._watches:
            for listener in self._listeners:
                listener.door.opened = None
        for session in self.sessions():
            self._retap(session)

    def count(self) -> dict[SessionLike, Callable[[], int]]:
        """Begin to count the requests of those sessions that nobody watches."""
        counts: dict[SessionLike, Callable[[], int]] = {}
        for session in self.sessions():
            if session.tap is None:
                tap = _CountingTap()
                session.tap = tap
                counts[session] = lambda tap=tap: tap.requests  # type: ignore[misc]
        return counts

    def stop_counting(self, sessions: Iterable[SessionLike]) -> None:
        for session in sessions:
            if isinstance(session.tap, _CountingTap):
                session.tap = None

    def _opened(self, session: SessionLike) -> None:
        self._tap(session, self._watches, is_joined=False)

    def _tap(self, session: SessionLike, new: Sequence[Watch], *, is_joined: bool) -> None:
        """Tap a session for those who want it, and tell the new watchers of it."""
        wanted = [watch for watch in self._watches if watch.wants(session)]
        if not wanted:
            return
        opened = self._introduce(session, is_joined=is_joined)
        for watch in new:
            if watch in wanted:
                watch.emit(opened)
        # A watcher who comes later shares the tap that is there: its decoder is in step already.
        if isinstance(session.tap, _Tap):
            session.tap.replace(wanted)
        else:
            session.tap = _Tap(session.client.number, session, wanted, is_joined=is_joined)

    def _retap(self, session: SessionLike) -> None:
        wanted = [watch for watch in self._watches if watch.wants(session)]
        if not isinstance(session.tap, _Tap):
            return
        if wanted:
            session.tap.replace(wanted)
        else:
            session.tap = None

    def _introduce(self, session: SessionLike, *, is_joined: bool) -> Opened:
        peer, client = session.peer, session.client
        return Opened(
            session.client.number,
            time.time(),
            peer.pid,
            peer.uid,
            peer.executable(),
            session.connection.dialect.version if is_joined else None,
            session.connection.byte_order if is_joined else "",
            session.connection.table_size,
            is_joined,
            client.context,
            {number: handle.reader.name for number, handle in client.handles.items()},
        )
