"""What a spy sees, as data: connections, calls with their parameters, and notes."""

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from pypcscd.redact import Parts


@dataclass(frozen=True)
class Connection:
    """Whose connection it is. ``pid`` 0 and ``uid`` -1: not known."""

    number: int
    pid: int = 0
    uid: int = -1
    executable: str = ""

    def __str__(self) -> str:
        program = self.executable or "unknown program"
        return f"{program}, pid {self.pid}, uid {self.uid}" if self.pid else program


class Form(enum.Enum):
    """How a parameter is written."""

    HANDLE = "0x0000002A"
    NUMBER = "0x0000002A (42)"
    NAMED = "NAME (0x0000002A)"
    MASK = "0x0000002A (names)"
    TEXT = "text"
    BYTES = "2A 2B"
    DUMP = "lines of bytes"


class Parameter(NamedTuple):
    name: str
    form: Form
    value: int | str | bytes
    #: names of a number
    text: str = ""
    #: what of ``value`` is secret
    secret: Parts = ()
    #: belongs to the one before: a reader's states
    is_detail: bool = False


@dataclass
class Call:
    """One call of the PC/SC interface. Times are in seconds, on one clock."""

    name: str
    connection: Connection
    started: float
    ended: float = 0.0
    inputs: list[Parameter] = field(default_factory=list)
    outputs: list[Parameter] = field(default_factory=list)
    #: None: it was never answered
    rv: int | None = None
    #: the result is not in any message; it is what the client library must have made of them
    is_inferred: bool = False
    #: requests that the library made of it because of another's transaction
    attempts: int = 1
    #: the reader, as far as it is known
    reader: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def duration(self) -> float:
        return max(0.0, self.ended - self.started)


@dataclass(frozen=True)
class Note:
    """Something about a connection that is no call."""

    connection: Connection
    time: float
    text: str


Shown = Call | Note
