"""The host's side of the block protocol T=1 (ISO 7816-3:2006, section 11). No input or output here.

``start`` an exchange, send each block it gives, and give it what came back, until there is a response:

    step = engine.start(apdu)
    while step.response is None:
        step = engine.receive(await send(step.block, step.wtx))

After three attempts the card is asked to resynchronise. A command that the card may have run already
is not sent again after that: a PIN could be counted twice.
"""

import enum
from typing import NamedTuple

_PROLOGUE = 3
#: longest information field; the LEN 255 is reserved
MAX_IFS = 254
DEFAULT_IFS = 32
#: prologue, information field and CRC, bytes
LONGEST_BLOCK = _PROLOGUE + MAX_IFS + 2
#: longest response: 64 KiB of data, a status word, and what a secured answer may add
_MAX_RESPONSE = 65_792
#: a block may go wrong this often in a row before the card is asked to resynchronise
_MAX_ERRORS = 2
#: S(RESYNCH request) blocks in one exchange
_MAX_RESYNCS = 3

_MORE = 0x20
_R = 0x80
_S = 0xC0
_S_RESPONSE = 0x20
_BAD_EDC = 0x01
_BAD_OTHER = 0x02


class _S_Kind(enum.IntEnum):  # noqa: N801 - S-blocks are written so
    RESYNCH = 0
    IFS = 1
    ABORT = 2
    WTX = 3


class T1Error(Exception):
    """The exchange failed; the message says why. The engine can be used for the next one."""


class Step(NamedTuple):
    """What to do next: send ``block``, or be done with ``response``."""

    block: bytes
    #: the multiplier of the block waiting time that the card asked for
    wtx: int = 1
    response: bytes | None = None


class T1:
    """One card after its reset. The state outlives exchanges; a reset needs a new engine."""

    def __init__(
        self, *, uses_crc: bool = False, ifsc: int = DEFAULT_IFS, longest_block: int = LONGEST_BLOCK
    ) -> None:
        """``ifsc``: longest information field that the card takes, 1 to 254 bytes. ``longest_block``:
        what can be carried to it, bytes."""
        self._uses_crc = uses_crc
        self._edc_size = 2 if uses_crc else 1
        #: longest information field that can be carried
        self._most = max(longest_block - _PROLOGUE - self._edc_size, 1)
        self._ifsc = min(ifsc, self._most)
        #: number of our next I-block, and the one that we expect of the card
        self._ns = 0
        self._nr = 0
        #: the numbers may not be what the card believes
        self._is_out_of_step = False
        self._reset_exchange(b"")

    def _reset_exchange(self, command: bytes) -> None:
        self._command = command
        self._position = 0
        #: bytes of the command in the I-block that was sent last
        self._sent = 0
        #: the last I-block of the command has been sent: the card may run it
        self._is_complete = False
        self._is_receiving = False
        self._is_aborted = False
        self._response = bytearray()
        self._errors = 0
        self._resyncs = 0
        #: the S-block of ours that the card has to answer
        self._request: bytes | None = None
        self._last = b""

    @property
    def uses_crc(self) -> bool:
        return self._uses_crc

    def start(self, command: bytes) -> Step:
        """Begin an exchange. Raises T1Error."""
        self._reset_exchange(command)
        if self._is_out_of_step:
            return self._resynchronise()
        return self._send_command()

    def start_ifs(self, ifsd: int) -> Step:
        """Tell the card how long its information fields may be; the response is empty then."""
        self._reset_exchange(b"")
        return self._ask(_S_Kind.IFS, bytes((ifsd,)))

    def abandon(self) -> None:
        """An exchange was broken off at any point: the next one begins with a resynchronisation."""
        self._is_out_of_step = True

    def receive(self, block: bytes | None) -> Step:
        """What came back: a block of the card, or None if it was damaged or did not come in time.

        Raises T1Error.
        """
        if block is None:
            return self._fail(_BAD_EDC)
        edc = self._edc_size
        if len(block) < _PROLOGUE + edc:
            return self._fail(_BAD_OTHER)
        end = _PROLOGUE + block[2]
        if block[0] or block[2] > MAX_IFS or len(block) < end + edc:
            return self._fail(_BAD_OTHER)
        if self._edc(block[:end]) != block[end : end + edc]:
            return self._fail(_BAD_EDC)
        pcb, information = block[1], block[_PROLOGUE:end]
        if pcb < _R:
            return self._receive_i(pcb, information)
        if pcb < _S:
            return self._receive_r(pcb, information)
        return self._receive_s(pcb, information)

    # --- blocks of the card -----------------------------------------------------------------

    def _receive_i(self, pcb: int, information: bytes) -> Step:
        # Who aborts a chain has the right to send then, which may be the reason.
        is_due = (self._is_complete or self._is_aborted) and self._request is None
        if not is_due or pcb & 0x1F or (pcb >> 6) & 1 != self._nr:
            return self._fail(_BAD_OTHER)
        if not self._is_receiving:
            self._is_receiving = True
            self._ns ^= 1
        self._nr ^= 1
        self._errors = 0
        # It is not told which number the card expects after a chain that has no end.
        self._is_out_of_step |= not self._is_complete
        self._response += information
        if len(self._response) > _MAX_RESPONSE:
            self._is_out_of_step = True
            raise T1Error(f"the response is longer than {_MAX_RESPONSE} bytes")
        if pcb & _MORE:
            return self._send(_R | self._nr << 4)
        return Step(b"", response=bytes(self._response))

    def _receive_r(self, pcb: int, information: bytes) -> Step:
        if self._request is not None or information or pcb & 0x2C:
            return self._fail(_BAD_OTHER)
        if self._is_aborted:
            self._is_out_of_step = True
            raise T1Error("the card aborted the chain of blocks")
        if self._is_receiving:
            # The card did not understand our R-block.
            return self._count_error() or self._send_again()
        if (pcb >> 4) & 1 == self._ns:
            return self._count_error() or self._send_command()
        if self._is_complete:
            # It has the command but no answer: only an I-block or S-block can follow.
            return self._fail(_BAD_OTHER)
        self._ns ^= 1
        self._position += self._sent
        self._errors = 0
        return self._send_command()

    def _receive_s(self, pcb: int, information: bytes) -> Step:
        kind = pcb & 0x1F
        if pcb & _S_RESPONSE:
            return self._receive_s_response(pcb, information)
        match kind, len(information):
            case _S_Kind.RESYNCH, 0:
                return self._resynchronise()
            case _S_Kind.IFS, 1 if 1 <= information[0] <= MAX_IFS:
                self._ifsc = min(information[0], self._most)
                return self._answer(kind, information)
            case _S_Kind.ABORT, 0:
                self._is_aborted = True
                self._response.clear()
                return self._answer(kind, information)
            case _S_Kind.WTX, 1:
                return self._answer(kind, information, max(information[0], 1))
        return self._fail(_BAD_OTHER)

    def _receive_s_response(self, pcb: int, information: bytes) -> Step:
        request = self._request
        end = -self._edc_size
        if request is None or pcb != request[1] | _S_RESPONSE or information != request[_PROLOGUE:end]:
            return self._fail(_BAD_OTHER)
        self._request = None
        self._errors = 0
        if pcb & 0x1F == _S_Kind.IFS:
            return Step(b"", response=b"")
        self._ns = self._nr = 0
        self._is_out_of_step = False
        if self._is_complete or self._is_receiving:
            raise T1Error("the card was resynchronised; it is not known if it ran the command")
        self._position = 0
        self._is_aborted = False
        return self._send_command()

    # --- blocks of ours ---------------------------------------------------------------------

    def _send_command(self) -> Step:
        """The I-block that is due, again if it was sent before."""
        information = self._command[self._position : self._position + self._ifsc]
        self._sent = len(information)
        self._is_complete = self._position + self._sent >= len(self._command)
        return self._send(self._ns << 6 | (0 if self._is_complete else _MORE), information)

    def _ask(self, kind: _S_Kind, information: bytes = b"") -> Step:
        step = self._send(_S | kind, information)
        self._request = step.block
        return step

    def _answer(self, kind: int, information: bytes, wtx: int = 1) -> Step:
        self._errors = 0
        return self._send(_S | _S_RESPONSE | kind, information, wtx)

    def _send(self, pcb: int, information: bytes = b"", wtx: int = 1) -> Step:
        block = bytes((0, pcb, len(information))) + information
        self._last = block + self._edc(block)
        return Step(self._last, wtx)

    def _send_again(self) -> Step:
        return Step(self._last)

    # --- when something went wrong ------------------------------------------------------------

    def _fail(self, error: int) -> Step:
        """What came cannot be used: ask again (rules 7.1 to 7.3)."""
        resynchronising = self._count_error()
        if resynchronising is not None:
            return resynchronising
        if self._request is not None:
            return Step(self._request)
        if self._last[1] & 0xC0 == _R:
            return self._send_again()
        return self._send(_R | self._nr << 4 | error)

    def _count_error(self) -> Step | None:
        """The S(RESYNCH request), if the attempts are used up."""
        self._errors += 1
        is_resynchronising = self._request is not None and self._request[1] == _S | _S_Kind.RESYNCH
        if self._errors > _MAX_ERRORS or is_resynchronising:
            return self._resynchronise()
        return None

    def _resynchronise(self) -> Step:
        self._is_out_of_step = True
        self._resyncs += 1
        if self._resyncs > _MAX_RESYNCS:
            raise T1Error("the card does not resynchronise")
        if self._request is not None and self._request[1] == _S | _S_Kind.IFS:
            raise T1Error("the card does not answer the request for longer blocks (S(IFS))")
        self._errors = 0
        return self._ask(_S_Kind.RESYNCH)

    def _edc(self, block: bytes) -> bytes:
        if self._uses_crc:
            return crc(block).to_bytes(2, "big")
        lrc = 0
        for byte in block:
            lrc ^= byte
        return bytes((lrc,))


def crc(data: bytes) -> int:
    """The 16-bit CRC of T=1: polynomial 0x8408 (reflected), start FFFF, not inverted at the end."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x8408 if value & 1 else 0)
    return value
