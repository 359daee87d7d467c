"""Command APDUs for virtual cards: the seven cases of ISO/IEC 7816-3:2006, section 12.1.3."""

from dataclasses import dataclass

#: most bytes of data in one response (Ne of an extended Le field of 00 00)
MAX_RESPONSE_DATA = 65536
_HEADER = 4


@dataclass(frozen=True, slots=True)
class Command:
    """A decoded command APDU."""

    cla: int
    ins: int
    p1: int
    p2: int
    #: the command data field, empty in cases 1 and 2
    data: bytes
    #: the most response bytes expected (1 to 65,536), 0 where there is no Le field
    ne: int
    #: the length fields have the extended form (cases 2E, 3E and 4E)
    extended: bool


def parse(apdu: bytes) -> Command:
    """Decode a command APDU of 4 to 65,544 bytes.

    Raises ValueError with a sentence if its length fields do not agree with its length; the
    sentence never quotes the data field.
    """
    if len(apdu) < _HEADER:
        raise ValueError(f"a command APDU has at least {_HEADER} bytes, not {len(apdu)}")
    body = apdu[_HEADER:]
    if not body:
        data, ne, extended = b"", 0, False
    elif len(body) == 1:
        data, ne, extended = b"", body[0] or 256, False
    elif body[0]:
        data, ne, extended = *_split(body, lc_size=1, le_size=1), False
    elif len(body) == 3:
        data, ne, extended = b"", int.from_bytes(body[1:], "big") or 65536, True
    else:
        data, ne, extended = *_split(body, lc_size=3, le_size=2), True
    cla, ins, p1, p2 = apdu[:_HEADER]
    return Command(cla, ins, p1, p2, data, ne, extended)


def _split(body: bytes, *, lc_size: int, le_size: int) -> tuple[bytes, int]:
    """The data field and Ne of a body that begins with an Lc field (cases 3 and 4)."""
    nc = int.from_bytes(body[:lc_size], "big")
    end = lc_size + nc
    if len(body) == end:
        return body[lc_size:], 0
    # a zero Lc would be an Le field of one byte too many
    if nc and len(body) == end + le_size:
        return body[lc_size:end], int.from_bytes(body[end:], "big") or 256**le_size
    raise ValueError(f"Lc announces {nc} bytes, but {len(body)} bytes follow the header")
