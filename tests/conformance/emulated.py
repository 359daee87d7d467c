"""The emulated cards: what they say on reset, and what they answer."""

import threading
from collections.abc import Sequence

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
        self._told = 0

    def unplug(self) -> None:
        self.conformance_card.go()
        super().unplug()

    def new_powers(self) -> Sequence[Power]:
        """The power commands since the last question."""
        powers = self.powers
        new, self._told = powers[self._told :], len(powers)
        return new

    def apdus(self) -> list[bytes]:
        return [frame for frame in self.frames if len(frame) != 1]
