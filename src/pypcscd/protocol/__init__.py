"""The client protocol of pcsc-lite without any I/O: bytes in, messages out, and the other way round.

Start at ``ServerConnection`` or ``ClientConnection``; ``messages`` has the bodies and ``dialects``
what differs between protocol versions.
"""

from pypcscd.protocol.connection import (
    ClientConnection,
    LocalProtocolError,
    ReaderEvent,
    RemoteProtocolError,
    Reply,
    Request,
    ServerConnection,
)
from pypcscd.protocol.dialects import DIALECTS, SHORT_4_2, Dialect
from pypcscd.protocol.messages import Command

__all__ = [
    "DIALECTS",
    "SHORT_4_2",
    "ClientConnection",
    "Command",
    "Dialect",
    "LocalProtocolError",
    "ReaderEvent",
    "RemoteProtocolError",
    "Reply",
    "Request",
    "ServerConnection",
]
