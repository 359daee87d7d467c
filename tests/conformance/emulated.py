"""The emulated cards: what they say on reset, and what they answer."""

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path

from emulator import Emulator, Power

#: answers to reset, by what they offer
ATRS = {
    "T0": bytes.fromhex("3B021450"),
    "T1": bytes.fromhex("3B800181"),
    "T0T1": bytes.fromhex("3B80800101"),
    "T1T0": bytes.fromhex("3B80810001"),
    "TA2-T0": bytes.fromhex("3B8090000111"),
    "TA2-T1": bytes.fromhex("3B8090010110"),
    "TA2-T15": bytes.fromhex("3B80900F011E"),
    "T15": bytes.fromhex("3B800F8F"),
    "T0T15": bytes.fromhex("3B80801F031C"),
    "T2": bytes.fromhex("3B800282"),
    "inverse": bytes.fromhex("3F00"),
    "longest": bytes.fromhex("3B0F") + bytes(range(31)),
    "cut": bytes.fromhex("3B80"),
    "garbage": bytes.fromhex("1234567890"),
    "short": bytes.fromhex("3B"),
    "mute": b"",
}


class Card:
    """Answers with its own command: see ``__call__``. ``hold`` keeps it thinking."""

    def __init__(self, atr: bytes) -> None:
        self.atr = atr
        self.selected = False
        self._go = threading.Event()
        self._go.set()

    def hold(self) -> None:
        """Answer no APDU until ``go``."""
        self._go.clear()

    def go(self) -> None:
        self._go.set()

    def __call__(self, apdu: bytes) -> bytes:
        """00 A4: select; 00 10: is it selected?; 00 C0 P1 P2: that many bytes; else the APDU itself."""
        self._go.wait()
        if apdu[:2] == b"\x00\xa4":
            self.selected = True
            return b"\x90\x00"
        if apdu[:2] == b"\x00\x10":
            return bytes((self.selected,)) + b"\x90\x00"
        if apdu[:2] == b"\x00\xc0" and len(apdu) >= 4:
            length = int.from_bytes(apdu[2:4], "big")
            return (bytes(range(256)) * 256)[:length] + b"\x90\x00"
        if apdu[:2] == b"\x00\x5c":
            # what is left of an answer without a status word
            return apdu[2:]
        return apdu[:65000] + b"\x90\x00"


class Socketed(Emulator):
    """A card on its way into a reader, and out of it."""

    def __init__(self, port: int, card: Card) -> None:
        super().__init__(port, card)  # type: ignore[arg-type]
        self.conformance_card = card
        self._is_idle = False
        self._has_ended = False

    def unplug(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        # a thinking card must not keep its thread, now that nobody hears its answer
        self.conformance_card.go()
        super().unplug()

    def _serve(self, connection: socket.socket) -> None:
        """As in the base class, but an empty answer is sent too."""
        self._has_ended = False
        with suppress(OSError, EOFError):
            while True:
                self._is_idle = True
                start = self._read(connection, 1)
                self._is_idle = False
                length = int.from_bytes(start + self._read(connection, 1), "big")
                frame = self._read(connection, length)
                self.frames.append(frame)
                if len(frame) == 1 and frame[0] in list(Power):
                    if frame[0] != Power.ATR:
                        self.conformance_card.selected = False
                        continue
                    answer = self.conformance_card.atr
                else:
                    answer = self.conformance_card(frame)
                connection.sendall(len(answer).to_bytes(2, "big") + answer)
        self._has_ended = True

    def has_caught_up(self) -> bool:
        """Everything that the daemon has sent so far is in ``frames``."""
        if self._socket is None or self._has_ended:
            return True
        if not self._is_idle:
            return False
        readable, _, _ = select.select([self._socket], [], [], 0)
        return not readable and self._is_idle

    def apdus(self) -> list[bytes]:
        return [frame for frame in self.frames if len(frame) != 1]


class Scripted:
    """A card of the scripted driver: a file."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._folder = folder
        self._slot = slot

    def plug(self) -> None:
        (self._folder / f"card{self._slot}").touch()

    def unplug(self) -> None:
        (self._folder / f"card{self._slot}").unlink()

    @property
    def powers(self) -> list[Power]:
        """The power commands that the driver was given for this slot."""
        actions = {"1f4": Power.ON, "1f5": Power.OFF, "1f6": Power.RESET}
        calls = [line.split() for line in (self._folder / "calls").read_text().splitlines()]
        return [actions[call[2]] for call in calls if call[:2] == ["PowerICC", str(self._slot)]]

    def has_caught_up(self) -> bool:
        return True

    def apdus(self) -> list[bytes]:
        return []
