"""A command that waits for its answer, and the figures that tell how often one did so in vain."""

from asyncio import AbstractEventLoop
from dataclasses import dataclass
from time import monotonic

from pypcscd.driver import Answer, DriverError
from pypcscd_ccid import messages

#: seconds before a command is repeated that a busy slot refused, doubled with each refusal
FIRST_PAUSE = 0.005
#: seconds that an exchange with a card may take, whatever card and reader ask for
LONGEST_EXCHANGE = 600.0


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


class Pending(Answer[bytes]):
    """A command that waits, or is under way.

    Whoever awaits it gets the reply, failed or not, or a DriverError.
    """

    __slots__ = (
        "deadline",
        "end",
        "expected",
        "frame",
        "is_abort",
        "is_late",
        "pause",
        "refusals",
        "seconds",
        "sequence",
        "slot",
    )

    def __init__(
        self, loop: AbstractEventLoop, command: int, slot: int, sequence: int, frame: bytes, seconds: float
    ) -> None:
        Answer.__init__(self, loop)
        self.frame = frame
        self.slot = slot
        #: in the frame, and in the reply
        self.sequence = sequence
        #: the type of the reply
        self.expected = messages.ANSWERS[command]
        #: that it may take, before and after each request for more time
        self.seconds = seconds
        #: by time.monotonic
        self.deadline = 0.0
        #: when no more time is given, 0: none was asked for
        self.end = 0.0
        self.pause = FIRST_PAUSE
        self.is_abort = False
        #: the deadline has passed, and the bulk-IN pipe is asked for what it has
        self.is_late = False
        #: by bulk-OUT
        self.refusals = 0

    def fail(self, error: DriverError) -> None:
        """Unless somebody has given it up already."""
        if not self.done():
            self.set_exception(error)

    def extend(self, factor: int) -> bool:
        """Give it more time, up to the end of what any exchange may take. False: that has come."""
        now = monotonic()
        self.end = self.end or self.deadline - self.seconds + LONGEST_EXCHANGE
        if now >= self.end:
            return False
        self.deadline = min(now + self.seconds * factor, self.end)
        self.is_late = False
        return True

    def renumber(self, sequence: int) -> None:
        """Send it with another number from now on."""
        self.sequence = sequence
        self.frame = messages.renumbered(self.frame, sequence)
