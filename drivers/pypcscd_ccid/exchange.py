"""Exchanges with a card that take more than one block: one class for each level that the host must help.

Each has ``transmit(apdu)``, a coroutine that raises DriverError.
"""

from collections.abc import Awaitable
from typing import Protocol

from pypcscd.driver import DriverError, Reason
from pypcscd_ccid import messages
from pypcscd_ccid.character import CharacterError, CharacterT0
from pypcscd_ccid.messages import ERROR, HEADER_SIZE, SPECIFIC, SlotError
from pypcscd_ccid.t1 import T1, Step, T1Error

#: longest response: 64 KiB, a status word, and what secure messaging may add
_MAX_RESPONSE = 65_792
_T1_PROLOGUE = 3
#: of the second byte of a T=1 block
_MORE = 0x20
_R_BLOCK = 0x80
_S_BLOCK = 0xC0


class Link(Protocol):
    """What an exchange needs of its slot."""

    title: str
    #: bytes of data in the longest message to the reader
    max_data: int

    def transfer(self, data: bytes, level: int = 0, wtx: int = 0) -> Awaitable[bytes]:
        """One XfrBlock; the reply, which may have failed. Raises DriverError."""

    def secure(self, payload: bytes, seconds: float) -> Awaitable[bytes]:
        """One Secure command; the reply, which may have failed. Raises DriverError."""


def response_of(reply: bytes, title: str) -> bytes:
    """The data of a DataBlock. Raises DriverError if the command failed.

    A PIN entry that the user ended is an answer of the card, as part 10 wants it.
    """
    if not messages.has_failed(reply):
        return reply[HEADER_SIZE:]
    if reply[ERROR] == SlotError.PIN_CANCELLED:
        return b"\x64\x01"
    if reply[ERROR] == SlotError.PIN_TIMEOUT:
        return b"\x64\x00"
    raise messages.failure(reply, title)


class ChainedApdu:
    """An APDU in pieces, for readers of the extended APDU level (CCID 1.1, section 6.1.4)."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def transmit(self, apdu: bytes) -> bytes:
        link, size = self._link, self._link.max_data
        last = (len(apdu) - 1) // size
        for number in range(last):
            start = number * size
            level = messages.FIRST if number == 0 else messages.MIDDLE
            reply = await link.transfer(apdu[start : start + size], level)
            if response_of(reply, link.title):
                raise DriverError(
                    Reason.COMMUNICATION, f"{link.title}: the reader answered before it had the whole command"
                )
        reply = await link.transfer(apdu[last * size :], messages.LAST if last > 0 else messages.WHOLE)
        return await self.collect(reply)

    async def collect(self, reply: bytes) -> bytes:
        """The response that begins with this reply."""
        link = self._link
        response = bytearray()
        while True:
            response += response_of(reply, link.title)
            if len(response) > _MAX_RESPONSE:
                raise DriverError(Reason.COMMUNICATION, f"{link.title}: the response has no end")
            # 1: first, 3: middle, 10: the reader wants an empty block; all else is the end
            if messages.has_failed(reply) or reply[SPECIFIC] not in (1, 3, 0x10):
                return bytes(response)
            reply = await link.transfer(b"", messages.CONTINUE)


class BlockT1:
    """T=1 by the host, for readers of the TPDU level, or of the character level."""

    def __init__(self, link: Link, engine: T1, *, is_by_character: bool) -> None:
        self._link = link
        self._engine = engine
        self._is_by_character = is_by_character

    async def transmit(self, apdu: bytes) -> bytes:
        return await self._run(self._engine.start(apdu))

    async def tell_ifsd(self, ifsd: int) -> None:
        """Let the card send longer blocks."""
        await self._run(self._engine.start_ifs(ifsd))

    async def secure(self, payload: bytes, prologue: int, apdu: bytes, seconds: float) -> bytes:
        """A PIN command: the reader puts the PIN in and makes the block; ours are its first bytes."""
        step = self._engine.start(apdu)
        try:
            while step.block[1] & _S_BLOCK == _S_BLOCK:
                # An exchange before was broken off: the card is resynchronised first.
                step = self._receive(await self._send(step))
            if step.block[1] & _MORE:
                raise DriverError(
                    Reason.COMMUNICATION, f"{self._link.title}: the PIN command needs several blocks"
                )
            head = step.block[:_T1_PROLOGUE]
            frame = payload[:prologue] + head + payload[prologue + len(head) :]
            reply = await self._link.secure(frame, seconds)
            data = response_of(reply, self._link.title)
            if messages.has_failed(reply) or len(data) == 2:
                # The card has seen nothing, or the reader has stripped the block already.
                return data
            step = self._receive(data)
        except BaseException:
            self._engine.abandon()
            raise
        return await self._run(step, is_pin=True)

    async def _run(self, step: Step, *, is_pin: bool = False) -> bytes:
        is_done = False
        try:
            while step.response is None:
                if is_pin and step.block[1] < _R_BLOCK:
                    # It would go out as it is here: without the PIN.
                    raise DriverError(
                        Reason.COMMUNICATION, f"{self._link.title}: the card did not get the PIN command"
                    )
                step = self._receive(await self._send(step))
            is_done = True
            return step.response
        finally:
            if not is_done:
                self._engine.abandon()

    def _receive(self, block: bytes | None) -> Step:
        try:
            return self._engine.receive(block)
        except T1Error as error:
            raise DriverError(Reason.COMMUNICATION, f"{self._link.title}: T=1: {error}") from error

    async def _send(self, step: Step) -> bytes | None:
        """The card's block, or None if it was damaged or did not come."""
        wtx = step.wtx if step.wtx > 1 else 0
        if not self._is_by_character:
            return self._block(await self._link.transfer(step.block, 0, wtx))
        head = self._block(await self._link.transfer(step.block, _T1_PROLOGUE, wtx))
        if head is None or len(head) < _T1_PROLOGUE:
            return head
        rest = head[2] + (2 if self._engine.uses_crc else 1)
        tail = self._block(await self._link.transfer(b"", rest))
        return None if tail is None else head + tail

    def _block(self, reply: bytes) -> bytes | None:
        if messages.has_failed(reply):
            error = messages.failure(reply, self._link.title)
            if error.reason is Reason.NO_CARD or reply[ERROR] not in (SlotError.PARITY, SlotError.ICC_MUTE):
                raise error
            return None
        return reply[HEADER_SIZE:]


class ByteT0:
    """T=0 byte by byte, for readers of the character level."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def transmit(self, apdu: bytes) -> bytes:
        link = self._link
        try:
            exchange = CharacterT0(apdu, link.max_data)
            step = exchange.start()
            while step.response is None:
                reply = await link.transfer(step.data, step.expected)
                step = exchange.receive(response_of(reply, link.title))
            return step.response
        except CharacterError as error:
            raise DriverError(Reason.COMMUNICATION, f"{link.title}: T=0: {error}") from error
