"""A blocking client of the daemon's admin socket (docs/admin-protocol.md)."""

import json
import socket
from pathlib import Path
from typing import Any

from pypcscd.paths import excess

VERSION = 1


class AdminError(Exception):
    """The admin socket cannot be used; the message says what to do."""


class AdminClient:
    """One connection to the admin socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self._searched = 0
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise AdminError(self._why_not(error)) from error
        greeting = self._next_object()
        if "error" in greeting:
            raise AdminError(f"{path}: {greeting['error']}; become root or that user")
        if greeting.get("version") != VERSION:
            raise AdminError(
                f"the daemon on {path} speaks version {greeting.get('version')} of the admin protocol; "
                f"this tool speaks {VERSION}: use the tool that came with the daemon"
            )

    def _why_not(self, error: OSError) -> str:
        if too_long := excess(self._path):
            return f"{self._path}: {too_long}"
        if isinstance(error, PermissionError):
            return (
                f"{self._path} is for root and the daemon's own user and group; "
                "become one of them, e.g. with sudo"
            )
        comm = self._path.with_suffix(".comm")
        if comm.is_socket():
            return (
                f"nobody answers on {self._path}: the daemon on {comm} is not pypcscd, or has another socket "
                "before this one: name its first with --socket; "
                "pypcscd spy -- COMMAND and pypcscd spy --proxy work with any daemon"
            )
        return (
            f"no daemon answers on {self._path}: {error.strerror or error}; start one, "
            "or name its client socket with --socket or PCSCLITE_CSOCK_NAME"
        )

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, request: str, **parameters: Any) -> Any:
        """Send a request and wait for its answer; events that come before it are passed over."""
        try:
            self._socket.sendall(json.dumps({"id": 1, "request": request, **parameters}).encode() + b"\n")
        except ConnectionError as error:
            raise self._closed() from error
        while True:
            answer = self._next_object()
            if "error" in answer:
                raise AdminError(f"the daemon refuses {request}: {answer['error']}")
            if "result" in answer:
                return answer["result"]

    def set_timeout(self, seconds: float | None) -> None:
        """For the next wait; TimeoutError is raised after it."""
        self._socket.settimeout(seconds)

    def next_object(self) -> dict[str, Any]:
        """The next event. Raises TimeoutError and AdminError."""
        return self._next_object()

    def _next_object(self) -> dict[str, Any]:
        line = self.next_line()
        if line is None:
            raise self._closed()
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise AdminError(f"{self._path} does not speak the admin protocol")
        return content

    def _closed(self) -> AdminError:
        return AdminError(f"the daemon closed the connection to {self._path}; its log says why")

    def has_line(self) -> bool:
        """A whole line has been received already."""
        return b"\n" in self._buffer

    def next_line(self) -> str | None:
        """Whatever comes next; None at the end of the connection. Raises TimeoutError."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            try:
                data = self._socket.recv(256 * 1024)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._buffer += data
        line = self._buffer[:end].decode("utf-8", "replace")
        del self._buffer[: end + 1]
        self._searched = 0
        return line
