"""A client that speaks the protocol itself, to say what the library would not."""

import socket
import struct
from typing import Self

import show
from daemons import SOCKET
from stage import Stage
from vocabulary import R0

ESTABLISH, RELEASE, CONNECT, STATUS, CANCEL, VERSION = 0x01, 0x02, 0x04, 0x0B, 0x0D, 0x11


class RawClient:
    """One connection; its lines in the transcript begin with "raw"."""

    def __init__(self, stage: Stage, timeout: float = 1.0) -> None:
        self._stage = stage
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        self._socket.settimeout(self._timeout)
        self._socket.connect(str(SOCKET))
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _call(self, command: int, body: bytes) -> bytes | str:
        """The answer, as long as the request; or what happened instead."""
        try:
            self._socket.sendall(struct.pack("=II", len(body), command) + body)
            answer = b""
            while len(answer) < len(body) or not body:
                chunk = self._socket.recv(4096)
                if not chunk:
                    return "closed"
                answer += chunk
        except TimeoutError:
            return f"no answer within {self._timeout} s"
        except OSError:
            return "closed"
        return answer

    def _ask(self, label: str, command: int, layout: str, *values: object) -> tuple[int, ...]:
        """The last field of the answer is the return code, which is recorded."""
        answer = self._call(command, struct.pack(layout, *values))
        if isinstance(answer, str):
            self._stage.record(f"raw.{label}", answer)
            return ()
        fields = struct.unpack(layout, answer)
        self._stage.record(f"raw.{label}", show.rv(fields[-1]))
        return fields

    def version(self, major: int, minor: int) -> None:
        self._ask(f"version({major}, {minor})", VERSION, "=iiI", major, minor, 0)

    def establish(self) -> int:
        fields = self._ask("establish()", ESTABLISH, "=III", 2, 0, 0)
        return fields[1] if fields else 0

    def release(self, context: int) -> None:
        self._ask("release()", RELEASE, "=II", context, 0)

    def cancel(self, context: int) -> None:
        self._ask("cancel()", CANCEL, "=II", context, 0)

    def status(self, card: int) -> None:
        self._ask("status()", STATUS, "=iI", card, 0)

    def connect(self, context: int, share: int) -> None:
        layout = "=I128sIIiII"
        self._ask("connect()", CONNECT, layout, context, R0.encode(), share, 3, 0, 0, 0)

    def send(self, command: int, body: bytes) -> None:
        """Send any message and record what comes of it."""
        answer = self._call(command, body)
        outcome = answer if isinstance(answer, str) else f"{len(answer)} bytes"
        self._stage.record(f"raw.send(0x{command:X}, {len(body)} bytes)", outcome)

    def send_part(self, command: int, size: int, part: bytes) -> None:
        self._socket.sendall(struct.pack("=II", size, command) + part)
        self._stage.record(f"raw.send_part(0x{command:X}, {len(part)} of {size} bytes)", "")
