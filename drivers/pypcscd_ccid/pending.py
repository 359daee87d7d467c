"""A command that waits for its answer, and the figures that tell how often one did so in vain."""

from dataclasses import dataclass

from pypcscd.driver import Answer
from pypcscd_ccid import messages
from pypcscd_ccid.messages import SLOT

#: seconds before a command is repeated that a busy slot refused, doubled with each refusal
FIRST_PAUSE = 0.005


@dataclass
class Counters:
    """What went wrong on the interface, for those who look for the cause."""

    #: replies that nobody waited for: late ones, and those with a wrong slot or sequence number
    dropped: int = 0
    broken: int = 0
    timeouts: int = 0
    aborts: int = 0
    busy: int = 0
    transfer_failures: int = 0


class Pending:
    """A command that waits, or is under way."""

    __slots__ = ("answer", "deadline", "frame", "is_abort", "is_late", "pause", "reply", "seconds", "slot")

    def __init__(self, frame: bytearray, seconds: float, reply: Answer[bytes]) -> None:
        self.frame = frame
        self.slot = frame[SLOT]
        self.answer = messages.ANSWERS[frame[0]]
        #: that it may take, before and after each request for more time
        self.seconds = seconds
        #: gets the reply, failed or not, or a DriverError
        self.reply = reply
        self.deadline = 0.0
        self.pause = FIRST_PAUSE
        self.is_abort = False
        #: the deadline has passed, and the bulk-IN pipe is asked for what it has
        self.is_late = False
