"""How often a helper looks for cards where the driver does not tell of them."""

import os
import socket
import struct
from typing import Any

import pytest

slot_worker = pytest.importorskip("pypcscd_ifdhandler.slot_worker", reason="installed without a C compiler")

from pypcscd_ifdhandler.api import ResponseCode  # noqa: E402

#: one millisecond, as SO_RCVTIMEO has it
SOON = struct.pack("ll", 0, 1000)


class Library:
    """The driver and its calls, with an empty slot; every pause is over soon."""

    def __init__(self) -> None:
        self.pauses: list[int] = []
        self.worker: Any = None

    def ifd_receive_timeout(self, descriptor: int, milliseconds: int) -> None:
        self.pauses.append(milliseconds)
        with socket.socket(fileno=os.dup(descriptor)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, SOON)

    def ifd_icc_presence(self, library: object, lun: int) -> int:
        self.looks_left -= 1
        if not self.looks_left:
            self.worker.stop()
        return ResponseCode.ICC_NOT_PRESENT

    def serve(self, looks: int) -> None:
        self.looks_left = looks
        self.worker.serve()


def test_the_first_pauses_are_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(slot_worker, "lib", library)
    worker = library.worker = slot_worker.SlotWorker(None, 0, slot_worker.threading.Lock())
    library.serve(looks=7)
    assert library.pauses == [50, 100, 200, 400], "milliseconds; the last one stays"
    worker.forget()
