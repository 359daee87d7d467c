"""The APDUs of all clients as log lines (option --apdu), with PINs hidden as everywhere."""

import logging

from pypcscd.control.stream import Closed, Data, Opened, Record
from pypcscd.control.taps import Taps, Watch
from pypcscd.protocol.messages import Command, Transmit
from pypcscd.protocol.observer import Observer, Seen, SeenReply, SeenRequest
from pypcscd.redact import MessageSecrets, to_hex

#: lines of this logger are shown at every level
log = logging.getLogger("pypcscd.apdu")


class _Connection:
    """What one client and the daemon say to each other."""

    def __init__(self, opened: Opened) -> None:
        self._name = f"client {opened.number} (pid {opened.pid})"
        self._observer = Observer(table_size=opened.table_size)
        self._secrets = MessageSecrets()

    def log(self, data: Data) -> None:
        said = self._observer.client_sent if data.from_client else self._observer.daemon_sent
        for seen in said(data.data):
            self._log(seen)

    def _log(self, seen: Seen) -> None:
        parts = self._secrets.parts(seen)
        if isinstance(seen, SeenRequest) and isinstance(seen.body, Transmit):
            log.info("%s: APDU: %s", self._name, " ".join(to_hex(seen.data, parts)))
        elif isinstance(seen, SeenReply) and seen.command is Command.TRANSMIT and seen.data:
            log.info("%s: SW: %s", self._name, " ".join(to_hex(seen.data)))


class ApduLog:
    """Watches all connections, from the daemon's start on."""

    def __init__(self, taps: Taps) -> None:
        self._connections: dict[int, _Connection] = {}
        taps.add(Watch(self._take, shows_secrets=True))

    def _take(self, record: Record) -> None:
        if isinstance(record, Opened):
            self._connections[record.number] = _Connection(record)
        elif isinstance(record, Closed):
            self._connections.pop(record.number, None)
        elif isinstance(record, Data) and record.number in self._connections:
            self._connections[record.number].log(record)
