"""A card for a virtual reader that shows what reached it; a daemon is told ``mirror_card:Mirror``."""

from pypcscd_virtual.card import Card

CODE = 0x42000001
ATTRIBUTE = 0x7A123


class Mirror(Card):
    """Answers commands and control codes backwards, and has an attribute of the greatest length."""

    def transmit(self, apdu: bytes) -> bytes:
        return apdu[::-1][:65536] + b"\x90\x00"

    def control(self, code: int, data: bytes) -> bytes | None:
        return data[::-1] if code == CODE else None

    def attribute(self, attribute: int) -> bytes | None:
        return bytes(range(256)) + b"\xff" * 8 if attribute == ATTRIBUTE else None
