"""The body of each command of the pcsc-lite client protocol, as one layout table.

A request and its reply are the same structure: the client fills the in-fields, the daemon sends it
back with the out-fields and ``rv`` filled. Every integer has 32 bits in the byte order of the
client. ``winscard_msg.h`` of pcsc-lite is the source of the layouts.
"""

import enum
from typing import NamedTuple

from pypcscd.scard import MAX_ATTRIBUTE_SIZE


class Command(enum.IntEnum):
    """The number of a command in the request's header."""

    ESTABLISH_CONTEXT = 0x01
    RELEASE_CONTEXT = 0x02
    CONNECT = 0x04
    RECONNECT = 0x05
    DISCONNECT = 0x06
    BEGIN_TRANSACTION = 0x07
    END_TRANSACTION = 0x08
    TRANSMIT = 0x09
    CONTROL = 0x0A
    STATUS = 0x0B
    CANCEL = 0x0D
    CANCEL_TRANSACTION = 0x0E
    GET_ATTRIB = 0x0F
    SET_ATTRIB = 0x10
    VERSION = 0x11
    GET_READERS_STATE = 0x12
    WAIT_READER_STATE_CHANGE = 0x13
    STOP_WAITING_READER_STATE_CHANGE = 0x14
    GET_READER_EVENTS = 0x15
    READERS_STATE_SIZE = 0x16
    READERS_STATE_ARRAY = 0x17


#: commands whose answer is, or can be, the reader table
TABLE_COMMANDS = (
    Command.GET_READERS_STATE,
    Command.READERS_STATE_ARRAY,
    Command.WAIT_READER_STATE_CHANGE,
)


class EstablishContext(NamedTuple):
    scope: int
    context: int = 0
    rv: int = 0


class ReleaseContext(NamedTuple):
    context: int
    rv: int = 0


class Connect(NamedTuple):
    context: int
    #: NUL-padded; see ``reader_name``
    reader: bytes
    share_mode: int
    preferred_protocols: int
    card: int = 0
    active_protocol: int = 0
    rv: int = 0

    @property
    def reader_name(self) -> str:
        """The name up to its first NUL; the field's last byte never counts."""
        return self.reader[:-1].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


class Reconnect(NamedTuple):
    card: int
    share_mode: int
    preferred_protocols: int
    initialization: int
    active_protocol: int = 0
    rv: int = 0


class Disconnect(NamedTuple):
    card: int
    disposition: int
    rv: int = 0


class BeginTransaction(NamedTuple):
    card: int
    rv: int = 0


class EndTransaction(NamedTuple):
    card: int
    disposition: int
    rv: int = 0


class Transmit(NamedTuple):
    """Followed by ``send_length`` bytes; its reply by ``receive_length`` bytes if rv is 0."""

    card: int
    send_protocol: int
    send_pci_length: int
    send_length: int
    receive_protocol: int
    receive_pci_length: int
    receive_length: int
    rv: int = 0


class Control(NamedTuple):
    """Followed by ``send_length`` bytes; its reply by ``returned`` bytes if rv is 0."""

    card: int
    code: int
    send_length: int
    receive_length: int
    returned: int = 0
    rv: int = 0


class Status(NamedTuple):
    card: int
    rv: int = 0


class LongStatus(NamedTuple):
    """STATUS up to 4.1. Clients look at ``rv`` only; the rest comes from the reader table."""

    card: int
    reader: bytes
    reader_length: int
    state: int
    protocol: int
    atr: bytes
    atr_length: int
    rv: int = 0


class CancelTransaction(NamedTuple):
    """Up to 4.1."""

    card: int
    rv: int = 0


class Cancel(NamedTuple):
    context: int
    rv: int = 0


class Attribute(NamedTuple):
    """The body of GET_ATTRIB and SET_ATTRIB."""

    card: int
    identifier: int
    #: NUL-padded; ``length`` bytes of it count
    value: bytes
    length: int
    rv: int = 0


class Version(NamedTuple):
    major: int
    minor: int
    rv: int = 0


class Waiting(NamedTuple):
    """The body of WAIT and STOP up to 4.3, and in every version the answer to STOP."""

    #: milliseconds; not used by any daemon
    timeout: int = 0
    rv: int = 0


class ReaderEvents(NamedTuple):
    """The answer to GET_READER_EVENTS: how often readers came and went."""

    events: int
    rv: int = 0


class StatesSize(NamedTuple):
    """The answer to READERS_STATE_SIZE: how many records READERS_STATE_ARRAY will send."""

    readers: int


Message = (
    EstablishContext
    | ReleaseContext
    | Connect
    | Reconnect
    | Disconnect
    | BeginTransaction
    | EndTransaction
    | Transmit
    | Control
    | Status
    | LongStatus
    | CancelTransaction
    | Cancel
    | Attribute
    | Version
    | Waiting
    | ReaderEvents
    | StatesSize
)


def answer_length(reply: Message) -> int:
    """How many bytes of data follow this reply."""
    if isinstance(reply, Transmit) and reply.rv == 0:
        return reply.receive_length
    if isinstance(reply, Control) and reply.rv == 0:
        return reply.returned
    return 0


class Body(NamedTuple):
    """How a body is laid out: the message class and a ``struct`` format without byte order.

    ``{name}`` stands for the size of a reader name in the dialect.
    """

    message: type[Message]
    format: str


#: The bodies of requests in the newest dialect; their replies have the same layout. Commands that are
#: not listed have none.
REQUEST_BODIES: dict[Command, Body] = {
    Command.ESTABLISH_CONTEXT: Body(EstablishContext, "III"),
    Command.RELEASE_CONTEXT: Body(ReleaseContext, "II"),
    Command.CONNECT: Body(Connect, "I{name}sIIiII"),
    Command.RECONNECT: Body(Reconnect, "iIIIII"),
    Command.DISCONNECT: Body(Disconnect, "iII"),
    Command.BEGIN_TRANSACTION: Body(BeginTransaction, "iI"),
    Command.END_TRANSACTION: Body(EndTransaction, "iII"),
    Command.TRANSMIT: Body(Transmit, "iIIIIIII"),
    Command.CONTROL: Body(Control, "iIIIII"),
    Command.STATUS: Body(Status, "iI"),
    Command.CANCEL: Body(Cancel, "II"),
    Command.GET_ATTRIB: Body(Attribute, f"iI{MAX_ATTRIBUTE_SIZE}sII"),
    Command.SET_ATTRIB: Body(Attribute, f"iI{MAX_ATTRIBUTE_SIZE}sII"),
    Command.VERSION: Body(Version, "iiI"),
}

#: What the bodies of requests were up to 4.1.
OLDEST_BODIES: dict[Command, Body] = {
    Command.STATUS: Body(LongStatus, "i{name}sIII33s3xII"),
    Command.CANCEL_TRANSACTION: Body(CancelTransaction, "iI"),
}

#: What the bodies of requests were up to 4.3.
WAITING_BODIES: dict[Command, Body] = {
    Command.WAIT_READER_STATE_CHANGE: Body(Waiting, "II"),
    Command.STOP_WAITING_READER_STATE_CHANGE: Body(Waiting, "II"),
}

#: The bodies of replies to requests that have none in the newest dialect.
REPLY_BODIES: dict[Command, Body] = {
    Command.STOP_WAITING_READER_STATE_CHANGE: Body(Waiting, "II"),
    Command.GET_READER_EVENTS: Body(ReaderEvents, "II"),
    Command.READERS_STATE_SIZE: Body(StatesSize, "i"),
}
