"""A card emulator that speaks the vpcd network protocol, for tests that must see every frame.

A frame is a two-byte big-endian length and that many bytes. One-byte frames from the reader are
commands (power off, power on, reset, ask for the ATR; only the last has an answer), longer ones APDUs.
"""

import enum
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

Card = Callable[[bytes], bytes]

SELECT_HELLO = bytes.fromhex("00A404000AA00000006203010C0601")
NOT_SUPPORTED = b"\x6d\x00"


class Power(enum.IntEnum):
    OFF = 0
    ON = 1
    RESET = 2
    ATR = 4


class HelloCard:
    """Greets whoever selected it."""

    atr = bytes.fromhex("3B8180015554")

    def __call__(self, apdu: bytes) -> bytes:
        if apdu.startswith(SELECT_HELLO):
            return b"\x90\x00"
        if apdu[:4] == bytes(4):
            return b"Hello world!\x90\x00"
        return NOT_SUPPORTED


class MemoryCard:
    """An SLE4442 as an ACR38 shows it: pseudo-APDUs, writable once the security code was presented."""

    atr = bytes.fromhex("3B04A2131091")

    def __init__(self) -> None:
        self.memory = bytearray((7 * i + 3) % 256 for i in range(256))
        self.unlocked = False

    def __call__(self, apdu: bytes) -> bytes:
        head, address = apdu[:2], apdu[3] if len(apdu) > 3 else 0
        if apdu == bytes.fromhex("FFA400000106"):
            self.unlocked = False
            return b"\x90\x00"
        if head == b"\xff\xb0" and len(apdu) == 5:
            return bytes(self.memory[address : address + apdu[4]]) + b"\x90\x00"
        if head == b"\xff\x20":
            self.unlocked = apdu[5:] == b"\xff\xff\xff"
            return b"\x90\x07" if self.unlocked else b"\x90\x03"
        if head == b"\xff\xd0" and self.unlocked:
            self.memory[address : address + apdu[4]] = apdu[5:]
            return b"\x90\x00"
        return NOT_SUPPORTED


class Emulator:
    """A card that can be plugged into and pulled out of the reader that listens on ``port``."""

    def __init__(self, port: int, card: HelloCard | MemoryCard) -> None:
        self.port = port
        self.card = card
        #: every frame from the reader, in order
        self.frames: list[bytes] = []
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def powers(self) -> list[Power]:
        """The power commands seen, without the questions for the ATR."""
        return [Power(frame[0]) for frame in self.frames if len(frame) == 1 and frame[0] != Power.ATR]

    def plug(self, timeout: float = 10.0) -> None:
        """Connect to the reader, trying again while nobody listens there."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=1)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._serve, args=(self._socket,), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Pull the card out. Harmless when it is not in."""
        if self._socket is not None and self._thread is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(5)
            self._socket.close()
            self._socket = self._thread = None

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, EOFError):
            while True:
                (length,) = struct.unpack("!H", self._read(connection, 2))
                frame = self._read(connection, length)
                self.frames.append(frame)
                if length == 1:
                    answer = self.card.atr if frame[0] == Power.ATR else b""
                else:
                    answer = self.card(frame)
                if answer:
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    @staticmethod
    def _read(connection: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            # libifdvpcd sends length and body apart with Nagle on: without this, 40 ms per frame
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            chunk = connection.recv(length - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data
