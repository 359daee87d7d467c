"""Bulk-IN transfers made into whole messages. No input or output here.

A message ends with its transfer, that is with a packet that is not full; but a message that fills
its last packet may come without the empty packet that should follow, and a long one takes several
buffers. So the length is taken from the message itself, and checked against what came.
"""

from dataclasses import dataclass

from pypcscd_ccid.messages import HEADER_SIZE, MAX_DATA, SLOT, STATUS


@dataclass(frozen=True)
class Broken:
    """A message that cannot be used: what there is of it, and why."""

    start: bytes
    why: str


class Assembler:
    """Feed it what each transfer brought; it gives messages (bytes) and ``Broken`` ones, in order."""

    def __init__(self, buffer_size: int, packet_size: int) -> None:
        """``buffer_size``: of a transfer, a multiple of ``packet_size``, bytes."""
        self._buffer_size = buffer_size
        self._packet_size = packet_size
        self._pending = bytearray()
        #: the rest of a broken message is to be passed over up to its end
        self._is_skipping = False
        #: nothing of a message is kept, so a transfer that is a whole message need not be fed
        self.is_between = True

    def feed(self, data: bytes, *, is_cut: bool = False) -> "list[bytes | Broken]":
        """What one transfer brought, 0 to ``buffer_size`` bytes.

        ``is_cut``: we have ended it; unless the reader has, too, the rest of a message comes with the next.
        """
        is_last = len(data) < self._buffer_size and not (is_cut and len(data) % self._packet_size == 0)
        if self._is_skipping:
            self._is_skipping = not is_last
            found: list[bytes | Broken] = []
        else:
            self._pending += data
            found = self._cut(is_last)
        self.is_between = not self._pending and not self._is_skipping
        return found

    def _cut(self, is_last: bool) -> "list[bytes | Broken]":
        found: list[bytes | Broken] = []
        pending = self._pending
        while len(pending) >= HEADER_SIZE:
            length = int.from_bytes(pending[1:5], "little")
            if length > MAX_DATA:
                found.append(Broken(bytes(pending[:HEADER_SIZE]), f"it claims {length} bytes of data"))
                self._is_skipping = not is_last
                pending.clear()
                return found
            total = HEADER_SIZE + length
            if len(pending) < total:
                break
            rest = len(pending) - total
            if rest and total % self._packet_size:
                # A second message can only follow at the edge of a packet.
                found.append(
                    Broken(
                        bytes(pending[:HEADER_SIZE]), f"it claims {length} bytes of data, but has {rest} more"
                    )
                )
                self._is_skipping = not is_last
                pending.clear()
                return found
            found.append(bytes(pending[:total]))
            del pending[:total]
        if pending and is_last:
            has = max(len(pending) - HEADER_SIZE, 0)
            found.append(Broken(bytes(pending[:HEADER_SIZE]), f"it ends after {has} bytes of data"))
            pending.clear()
        return found

    def give_up(self, slot: int, sequence: int) -> None:
        """The rest of this message does not come any more, if there is a beginning."""
        if self._pending[SLOT:STATUS] == bytes((slot, sequence)):
            self.clear()

    def clear(self) -> None:
        """Forget what there is of a message: the transfer that should have brought the rest failed."""
        self._pending.clear()
        self._is_skipping = False
        self.is_between = True
