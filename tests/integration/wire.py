"""Just enough of the client protocol, version 4.4, to watch a daemon and to misbehave towards it.

Clients under test are real programs; this one is for the tests' own questions, and for what no real
program would send.
"""

import socket
import struct
from pathlib import Path
from typing import NamedTuple, Self

ESTABLISH, VERSION, READERS_STATE, WAIT = 0x01, 0x11, 0x12, 0x13
PRESENT = 0x04
ENTRY = struct.Struct("=128sIIi33s3xII")


class ReaderState(NamedTuple):
    name: str
    events: int
    state: int
    sharing: int
    atr: bytes

    @property
    def present(self) -> bool:
        return bool(self.state & PRESENT) and bool(self.atr)


class WireClient:
    """One connection to a daemon. Raises OSError or EOFError where the daemon does not play along."""

    def __init__(self, path: Path, timeout: float = 5.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            chunk = self.socket.recv(length - len(data))
            if not chunk:
                raise EOFError("the daemon closed the connection")
            data += chunk
        return data

    def call(self, command: int, body: bytes, reply: int) -> bytes:
        self.socket.sendall(struct.pack("=II", len(body), command) + body)
        return self.receive(reply)

    def establish(self) -> int:
        """Agree on the version and open a context; its handle."""
        *_, rv = struct.unpack("=iiI", self.call(VERSION, struct.pack("=iiI", 4, 4, 0), 12))
        assert rv == 0, f"the daemon refuses protocol 4.4: {rv:08X}"
        _, context, rv = struct.unpack("=III", self.call(ESTABLISH, struct.pack("=III", 2, 0, 0), 12))
        assert rv == 0, f"the daemon gives no context: {rv:08X}"
        return int(context)

    def readers(self) -> list[ReaderState]:
        table = self.call(READERS_STATE, b"", 16 * ENTRY.size)
        found = []
        for name, events, state, sharing, atr, length, _ in ENTRY.iter_unpack(table):
            text = name.split(b"\0", 1)[0].decode()
            if text:
                found.append(ReaderState(text, events, state, sharing, atr[:length] if length <= 33 else b""))
        return found

    def closed_by_daemon(self) -> bool:
        """Wait for the daemon to close this connection."""
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True
