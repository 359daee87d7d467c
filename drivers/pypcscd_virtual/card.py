"""The base class of cards written in Python.

A card with one command is this much::

    from pypcscd_virtual.card import Card

    class Answer(Card):
        def transmit(self, apdu: bytes) -> bytes:
            return bytes.fromhex("2A 90 00") if apdu[1] == 0x42 else bytes.fromhex("6D 00")
"""

from collections.abc import Awaitable

#: Offers T=0 (default) and T=1; the historical bytes say "pypcscd" (ISO/IEC 7816-3, section 8.2).
DEFAULT_ATR = bytes.fromhex("3B 87 80 01 70 79 70 63 73 63 64 68")


class Card:
    """A card for a virtual reader; subclass it and override what your card does differently.

    Every method may be a plain function or ``async def``. A plain one runs on the daemon's event
    loop and must be quick: well under a millisecond, no files, no sockets, no sleeping. Whatever
    takes longer is ``async def`` and awaits. A coroutine is cancelled when the card is removed or
    the daemon gives up waiting; it must let ``asyncio.CancelledError`` pass.

    At most one method of a card runs at a time. An exception that leaves a method is logged with
    its traceback, and the client sees a failed exchange; the daemon and the other readers go on. To
    play a broken reader or card on purpose, raise ``pypcscd.driver.DriverError``: it reaches the
    client as it is, and is not logged.

    The object stands for the plastic: its attributes survive power cycles and removals, so state
    that a real card keeps in RAM belongs to ``power_on``.
    """

    #: the answer to reset, 2 to 33 bytes; read after each ``power_on`` and ``reset``
    atr: bytes = DEFAULT_ATR

    def power_on(self) -> Awaitable[None] | None:
        """Power comes up: forget what a card keeps in RAM (selected file, verified PIN)."""
        return None

    def power_off(self) -> Awaitable[None] | None:
        """Power goes down. Not called when the card is pulled out: real cards get no notice either."""
        return None

    def reset(self) -> Awaitable[None] | None:
        """A warm reset. As the RAM is lost all the same, this does what ``power_on`` does."""
        return self.power_on()

    def transmit(self, apdu: bytes) -> bytes | Awaitable[bytes]:
        """Answer a command APDU (0 to 65,548 bytes) with 0 to 65,536 data bytes and SW1 SW2.

        ``pypcscd_virtual.apdu.parse`` takes a command apart. The default knows no instruction: 6D 00
        (ISO/IEC 7816-4, section 5.6).
        """
        return b"\x6d\x00"

    def control(self, code: int, data: bytes) -> bytes | Awaitable[bytes | None] | None:
        """Answer SCardControl with up to 65,548 bytes, or None for a code that is not the card's."""
        return None

    def attribute(self, attribute: int) -> bytes | Awaitable[bytes | None] | None:
        """Answer SCardGetAttrib with up to 264 bytes, or None for an attribute to be left to the reader."""
        return None
