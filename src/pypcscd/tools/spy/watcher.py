"""From the records of a stream to what the user wanted to see of it."""

from collections.abc import Callable
from typing import Protocol as Interface

from pypcscd.control.stream import Closed, Data, Lost, Opened, Record
from pypcscd.protocol import DIALECTS
from pypcscd.protocol.dialects import UNTOLD
from pypcscd.protocol.messages import Command, Connect, Transmit
from pypcscd.protocol.observer import Observer, Seen, SeenReply, SeenRequest
from pypcscd.redact import MessageSecrets, Parts, hide
from pypcscd.tools.spy.calls import Folder
from pypcscd.tools.spy.model import Connection, Note, Shown
from pypcscd.tools.spy.pcapng import PcapngWriter
from pypcscd.tools.spy.wire import WireRenderer


class Renderer(Interface):
    """Text or JSON."""

    def render(self, shown: Shown) -> list[str]: ...

    def summary(self) -> list[str]: ...


class Filter:
    """Which connections and calls are wanted; None: all."""

    def __init__(self, *, pid: int | None = None, uid: int | None = None, reader: str | None = None) -> None:
        self.pid = pid
        self.uid = uid
        self.reader = reader

    def wants(self, connection: Connection) -> bool:
        return self.pid in (None, connection.pid) and self.uid in (None, connection.uid)

    def wants_call(self, shown: Shown) -> bool:
        """A call that concerns no reader in particular is wanted only if any reader is."""
        return self.reader is None or (not isinstance(shown, Note) and self.reader in shown.reader)


class _Watched:
    """One connection of the stream."""

    def __init__(self, connection: Connection, observer: Observer) -> None:
        self.connection = connection
        self.observer = observer
        self.folder = Folder(connection)
        self.secrets = MessageSecrets()
        #: reader names by card handle, for the packets
        self.readers: dict[int, str] = {}


class Watcher:
    """Decodes a stream and hands out lines; ``write`` takes them one by one."""

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        renderer: Renderer | None = None,
        wire: WireRenderer | None = None,
        packets: PcapngWriter | None = None,
        record: Callable[[Record], None] | None = None,
        shows_secrets: bool = False,
        table_size: int | None = None,
        chosen: Filter | None = None,
    ) -> None:
        """``record`` gets the stream again, redacted unless ``shows_secrets``."""
        self._write = write
        self._renderer = renderer
        self._wire = wire
        self._packets = packets
        self._record = record
        self._shows_secrets = shows_secrets
        self._table_size = table_size
        self._filter = chosen or Filter()
        self._watched: dict[int, _Watched] = {}
        #: the ATRs that there is a packet of, by reader
        self._atrs: dict[str, bytes] = {}

    def feed(self, record: Record) -> None:
        """Take the next record of the stream."""
        self.tick(record.time)
        if isinstance(record, Opened):
            self._open(record)
        elif isinstance(record, Data):
            watched = self._watched.get(record.number)
            if watched is not None:
                observer = watched.observer
                sent = observer.client_sent if record.from_client else observer.daemon_sent
                for seen in sent(record.data):
                    self._see(watched, seen, record)
        elif isinstance(record, Closed):
            self._close(record)
        else:
            self._lost(record)

    def tick(self, now: float) -> None:
        """Show calls that are complete because nothing more of them has come."""
        for watched in self._watched.values():
            self._show(watched.folder.tick(now))

    def finish(self, now: float, why: str) -> None:
        """The stream is over: show what is left, and the summary."""
        for number in list(self._watched):
            self._close(Closed(number, now, why))
        if self._renderer is not None:
            for line in self._renderer.summary():
                self._write(line)

    def _open(self, record: Opened) -> None:
        connection = Connection(record.number, record.pid, record.uid, record.executable)
        if not self._filter.wants(connection):
            return
        dialect = DIALECTS.get(record.version, UNTOLD) if record.version else UNTOLD
        observer = Observer(
            dialect=dialect,
            byte_order=record.byte_order,
            table_size=self._table_size or record.table_size or None,
            is_joined=record.is_joined,
        )
        watched = self._watched[record.number] = _Watched(connection, observer)
        watched.readers.update(record.handles)
        watched.folder.join(record.context, record.handles)
        if self._record is not None:
            self._record(record)

    def _close(self, record: Closed) -> None:
        watched = self._watched.pop(record.number, None)
        if watched is None:
            return
        for seen in watched.observer.end():
            self._see(watched, seen, record)
        self._show(watched.folder.end(record.time, record.why))
        if self._record is not None:
            self._record(record)

    def _lost(self, record: Lost) -> None:
        self._write(f"! {record.why}")
        if self._record is not None:
            self._record(record)

    def _see(self, watched: _Watched, seen: Seen, record: Data | Closed) -> None:
        secret = watched.secrets.parts(seen)
        if self._record is not None:
            from_client = isinstance(seen, SeenRequest) or getattr(seen, "from_client", False)
            raw = seen.raw if self._shows_secrets else watched.secrets.hide(seen, secret)
            self._record(Data(record.number, record.time, from_client, raw))
        if self._wire is not None:
            for line in self._wire.render(watched.connection, seen, secret, record.time):
                self._write(line)
        if self._packets is not None:
            self._pack(self._packets, watched, seen, secret, record.time)
        self._show(watched.folder.feed(seen, record.time, secret))

    def _show(self, shown: list[Shown]) -> None:
        if self._renderer is None:
            return
        for item in shown:
            if self._filter.wants_call(item):
                for line in self._renderer.render(item):
                    self._write(line)

    def _pack(self, packets: PcapngWriter, watched: _Watched, seen: Seen, secret: Parts, now: float) -> None:
        if isinstance(seen, SeenRequest):
            if isinstance(seen.body, Transmit) and self._wants_reader(watched, seen.body.card):
                apdu = seen.data if self._shows_secrets else hide(seen.data, secret)
                packets.command(apdu, now, self._comment(watched, seen.body.card))
        elif isinstance(seen, SeenReply):
            self._pack_reply(packets, watched, seen, now)

    def _pack_reply(self, packets: PcapngWriter, watched: _Watched, seen: SeenReply, now: float) -> None:
        body = seen.body
        if isinstance(body, Connect) and body.rv == 0:
            watched.readers[body.card] = body.reader_name
        elif isinstance(body, Transmit) and body.rv == 0 and self._wants_reader(watched, body.card):
            packets.response(seen.data, now, self._comment(watched, body.card))
        elif seen.command in (Command.GET_READERS_STATE, Command.READERS_STATE_ARRAY):
            for reader in seen.readers:
                is_new = self._atrs.get(reader.name) != reader.atr
                if reader.atr and is_new and (self._filter.reader or "") in reader.name:
                    packets.answer_to_reset(
                        reader.atr, now, f"({watched.connection.number}) {watched.connection}: {reader.name}"
                    )
                self._atrs[reader.name] = reader.atr

    def _wants_reader(self, watched: _Watched, card: int) -> bool:
        return self._filter.reader is None or self._filter.reader in watched.readers.get(card, "")

    def _comment(self, watched: _Watched, card: int) -> str:
        reader = watched.readers.get(card, f"card handle 0x{card & 0xFFFFFFFF:08X}")
        return f"({watched.connection.number}) {watched.connection}: {reader}"
