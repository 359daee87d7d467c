"""A card that speaks T=1 (ISO 7816-3, section 11), written against the standard and not our engine."""

from collections.abc import Callable

from pypcscd_ccid.t1 import crc


def lrc(data: bytes) -> bytes:
    value = 0
    for byte in data:
        value ^= byte
    return bytes((value,))


class T1Card:
    """Answers blocks; ``runs`` are the commands that it has executed."""

    def __init__(self, respond: Callable[[bytes], bytes], *, uses_crc: bool = False, ifsc: int = 32) -> None:
        self._respond = respond
        self._uses_crc = uses_crc
        self.ifsc = ifsc
        self.ifsd = 32
        self.runs: list[bytes] = []
        #: requests to be made before the next response, e.g. (0xC3, b"\x02")
        self.requests: list[tuple[int, bytes]] = []
        self._restart()

    def _restart(self) -> None:
        self._ns = self._nr = 0
        self._command = bytearray()
        self._rest: bytes | None = None
        self._last = b""
        self._i_block = b""
        self._awaited: int | None = None

    def edc(self, data: bytes) -> bytes:
        return crc(data).to_bytes(2, "big") if self._uses_crc else lrc(data)

    def block(self, pcb: int, information: bytes = b"") -> bytes:
        head = bytes((0, pcb, len(information))) + information
        return head + self.edc(head)

    def _say(self, pcb: int, information: bytes = b"") -> bytes:
        self._last = self.block(pcb, information)
        return self._last

    def receive(self, block: bytes) -> bytes:
        size = 2 if self._uses_crc else 1
        head = block[:-size]
        if len(head) < 3 or self.edc(head) != block[-size:] or len(head) != 3 + block[2]:
            return self._complain(0x01)
        pcb, information = block[1], head[3:]
        if pcb & 0xC0 == 0xC0:
            return self._receive_s(pcb, information)
        if self._awaited is not None:
            return self._last
        if pcb & 0x80:
            return self._receive_r(pcb)
        return self._receive_i(pcb, information)

    def _complain(self, error: int) -> bytes:
        if self._awaited is not None or (self._last and self._last[1] & 0xC0 == 0x80):
            return self._last
        return self._say(0x80 | self._nr << 4 | error)

    def _receive_i(self, pcb: int, information: bytes) -> bytes:
        if (pcb >> 6) & 1 != self._nr or len(information) > self.ifsc:
            return self._complain(0x02)
        if self._rest is not None:
            if self._rest:
                return self._complain(0x02)
            # A new command acknowledges the last block of the response.
            self._ns ^= 1
            self._rest = None
        self._nr ^= 1
        self._command += information
        if pcb & 0x20:
            return self._say(0x80 | self._nr << 4)
        return self._next()

    def _next(self) -> bytes:
        if self.requests:
            code, information = self.requests.pop(0)
            self._awaited = code | 0x20
            return self._say(code, information)
        command = bytes(self._command)
        self._command.clear()
        self.runs.append(command)
        self._rest = self._respond(command)
        return self._chunk()

    def _chunk(self) -> bytes:
        assert self._rest is not None
        chunk, self._rest = self._rest[: self.ifsd], self._rest[self.ifsd :]
        self._i_block = self._say(self._ns << 6 | (0x20 if self._rest else 0), chunk)
        return self._i_block

    def _receive_r(self, pcb: int) -> bytes:
        if self._rest is not None:
            if (pcb >> 4) & 1 == self._ns:
                return self._i_again()
            if self._rest:
                self._ns ^= 1
                return self._chunk()
            return self._complain(0x02)
        # It did not understand our acknowledgement, or a block of its own got lost.
        if self._last and self._last[1] & 0xC0 == 0x80:
            return self._last
        return self._say(0x80 | self._nr << 4)

    def _i_again(self) -> bytes:
        self._last = self._i_block
        return self._last

    def _receive_s(self, pcb: int, information: bytes) -> bytes:
        if pcb == 0xC0:
            self._restart()
            return self._say(0xE0)
        if pcb == 0xC1:
            self.ifsd = information[0]
            return self._say(0xE1, information)
        if pcb == self._awaited:
            self._awaited = None
            return self._next()
        return self._complain(0x02)
