"""The messages themselves as text, for ``--wire``."""

from pypcscd import redact
from pypcscd.protocol.messages import Control, Transmit
from pypcscd.protocol.observer import NotUnderstood, Seen, SeenEvent, SeenReply, SeenRequest
from pypcscd.scard import ReaderStatus
from pypcscd.text import safe_text
from pypcscd.tools.spy import names
from pypcscd.tools.spy.model import Connection
from pypcscd.tools.spy.render import dump, printable


class WireRenderer:
    """Lines for each message: its direction, command and fields."""

    def __init__(self, *, shows_secrets: bool = False) -> None:
        self._shows_secrets = shows_secrets
        self._introduced: set[int] = set()

    def render(self, connection: Connection, seen: Seen, secret: redact.Parts, now: float) -> list[str]:
        """``secret``: the parts of the message's data (of all its bytes, if it is not understood)."""
        hidden = () if self._shows_secrets else secret
        introduction = []
        if connection.number not in self._introduced:
            self._introduced.add(connection.number)
            introduction.append(f"({connection.number}) is {safe_text(str(connection))}")
        lines: list[str] = []
        if isinstance(seen, SeenRequest):
            lines.append(f"> {seen.command.name} [{seen.dialect}] {len(seen.raw)} bytes")
            lines += _fields(seen)
            lines += (f"    {line}" for line in dump(seen.data, hidden))
        elif isinstance(seen, SeenReply):
            lines.append(f"< {seen.command.name} {len(seen.raw)} bytes")
            lines += _fields(seen)
            lines += (_record(reader) for reader in seen.readers)
            lines += (f"    {line}" for line in dump(seen.data))
        elif isinstance(seen, SeenEvent):
            lines.append(f"< event, rv 0x{seen.rv:08X}")
        else:
            lines += _strange(seen, hidden)
        return introduction + [f"({connection.number}) {now:.6f} {line}" for line in lines]


def _record(reader: ReaderStatus) -> str:
    return (
        f"  {safe_text(reader.name)}: {names.reader_state(reader.state)}, counter {reader.event_counter}, "
        f"sharing {reader.sharing}, ATR {reader.atr.hex(' ').upper()}, protocol {reader.protocol}"
    )


def _fields(seen: SeenRequest | SeenReply) -> list[str]:
    body = seen.body
    if body is None:
        return []
    found = []
    for name, value in body._asdict().items():
        if isinstance(value, bytes):
            found.append(f"  {name}: {printable(value.rstrip(bytes(1)))}")
        else:
            found.append(f"  {name}: 0x{value & 0xFFFFFFFF:08X}")
    if isinstance(body, Transmit | Control) and not seen.data:
        found.append("  no data")
    return found


def _strange(seen: NotUnderstood, hidden: redact.Parts) -> list[str]:
    mark = ">" if seen.from_client else "<"
    return [
        f"{mark} {len(seen.raw)} bytes, passed on as they are: {seen.why}",
        *(f"    {line}" for line in dump(seen.raw, hidden)),
    ]
