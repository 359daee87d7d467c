"""What an administrator may change in the manager."""

import fnmatch
from dataclasses import dataclass, fields
from typing import NamedTuple


class ReaderRule(NamedTuple):
    """What holds for readers whose name matches a glob pattern."""

    pattern: str
    #: seconds, None for never
    power_down_delay: float | None


@dataclass
class Settings:
    """Limits and delays; delays in seconds. The manager and its readers look at one and the same object."""

    #: card handles that may be open on one reader
    handles_per_reader: int = 200
    #: card handles that one client may have
    handles_per_client: int = 200
    #: an unused card is powered down after this long; None: never
    power_down_delay: float | None = 5.0
    #: exceptions to it; the first that matches counts
    reader_rules: tuple[ReaderRule, ...] = ()
    #: how often a card is powered up before it is taken for mute: contacts bounce
    power_up_attempts: int = 2
    #: the pause between two attempts
    power_up_pause: float = 0.1
    #: how long SCardBeginTransaction waits for another's transaction before the client asks again
    transaction_bound: float = 0.5
    #: the same for SCardTransmit, SCardStatus and SCardReconnect
    busy_bound: float = 0.1
    #: for how long a client that was told to ask again keeps its place in the queue
    retry_window: float = 0.3
    #: how long a new reader may take to power its card before it is announced without it
    announce_bound: float = 2.0
    #: how long a card may take to power off when its reader is given up
    retire_bound: float = 2.0

    def adopt(self, others: "Settings") -> None:
        """Become like the others; what has begun under the old values ends under them."""
        for field in fields(self):
            setattr(self, field.name, getattr(others, field.name))

    def power_down_delay_of(self, reader: str) -> float | None:
        """The delay for the reader of that name."""
        for rule in self.reader_rules:
            if fnmatch.fnmatchcase(reader, rule.pattern):
                return rule.power_down_delay
        return self.power_down_delay
