"""What of a command is secret: PINs, passwords and keys on their way to a card or a PIN pad.

Whoever shows, stores or logs commands asks here first. A *part* is a half-open range of positions
in a command; parts are never guessed away: what cannot be understood is secret from the point on
at which it could not be.

Left as they are: GENERAL AUTHENTICATE (challenges and cryptograms only), and what secure messaging
has encrypted already. Sources: ISO/IEC 7816-4:2013 and -8:2016 (commands), GlobalPlatform Card
Specification 2.3 (PUT KEY), PC/SC part 3 (LOAD KEYS) and part 10 (PIN pads).
"""

import struct
from collections.abc import Iterable

from pypcscd.protocol.messages import Control, Transmit
from pypcscd.protocol.observer import NotUnderstood, Seen, SeenReply, SeenRequest

Parts = tuple[tuple[int, int], ...]

#: stands in for a secret byte in text, and (as "*") where there must be a byte
HIDDEN_TEXT = "**"
HIDDEN_BYTE = 0x2A

#: Commands whose data field is secret, in whatever class: SIM cards have VERIFY in class A0,
#: storage cards in class FF.
_SECRET_INS = frozenset(
    {
        *(0x20, 0x21),  # VERIFY
        *(0x24, 0x25),  # CHANGE REFERENCE DATA
        *(0x26, 0x28),  # DISABLE, ENABLE VERIFICATION REQUIREMENT
        *(0x2C, 0x2D),  # RESET RETRY COUNTER; UNBLOCK CHV
        0x82,  # EXTERNAL AUTHENTICATE, MUTUAL AUTHENTICATE; LOAD KEYS in class FF
        0xD8,  # PUT KEY
    }
)
#: (CLA without channel and chaining, INS, P1, P2) of further commands that carry keys or codes.
_SECRET_HEADERS = frozenset(
    {
        (0xFF, 0xD2, 0x00, 0x01),  # SLE 4442: change the code
        (0x00, 0xDB, 0x3F, 0xFF),  # PUT DATA of private keys (OpenPGP), or of objects (PIV)
        *((0x00, 0xDA, 0x00, tag) for tag in (0xD1, 0xD2, 0xD3, 0xD5, 0xF4)),  # OpenPGP keys, reset code
        *((0x00, 0xFF, 0xFF, kind) for kind in (0xFE, 0xFF)),  # PIV: set management key
    }
)
_ENVELOPE = (0xC2, 0xC3)
_IMPORT_KEY = 0xFE  # PIV, class 00

#: Secure messaging data objects that hold plain values (ISO/IEC 7816-4:2013, table 49).
_PLAIN_OBJECTS = frozenset({0x80, 0x81, *range(0xB0, 0xB4)})
_SM_OBJECTS = frozenset({*range(0x80, 0x90), *range(0x94, 0x9C), *range(0xA0, 0xC0)})

CM_IOCTL_GET_FEATURE_REQUEST = 0x42000D48
#: PC/SC part 10: VERIFY_PIN and MODIFY_PIN (START, DIRECT, DIRECT_APP_ID), EXECUTE_PACE
_PIN_FEATURES = frozenset({0x01, 0x03, 0x06, 0x07, 0x0D, 0x0E, 0x20})
#: the control codes that libccid and its relatives give to features: this plus the feature's number
_FEATURE_CODES = 0x42330000
#: bytes before the APDU in the structures that tell a PIN pad to verify and to modify a PIN
_PIN_STRUCTURES = (19, 24)


def apdu_parts(apdu: bytes) -> Parts:
    """The secret parts of a command APDU, of any length and however broken."""
    if len(apdu) < 5:
        return ()
    cla, ins, p1, p2 = apdu[:4]
    is_envelope = ins in _ENVELOPE and cla < 0x80
    if not is_envelope and not _is_secret(cla, ins, p1, p2):
        return ()
    field = _data_field(apdu)
    if field is None:
        # Lengths that do not fit: there is no telling where the data field begins.
        return ((4, len(apdu)),) if len(apdu) > 5 else ()
    start, end = field
    if start == end:
        return ()
    if is_envelope:
        return _moved(_envelope_parts(apdu[start:end]), start)
    if _has_iso_secure_messaging(cla):
        return _moved(_sm_parts(apdu[start:end]), start)
    return ((start, end),)


class ControlCodes:
    """Which control codes take PINs: those of libccid, and those that this connection was told of."""

    def __init__(self) -> None:
        self._told: frozenset[int] = frozenset()

    def note_answer(self, code: int, answer: bytes) -> None:
        """See if an answer to SCardControl names the codes of PIN pad features (PC/SC part 10)."""
        if code != CM_IOCTL_GET_FEATURE_REQUEST:
            return
        for position in range(0, len(answer) - 5, 6):
            if answer[position + 1] != 4:
                break
            if answer[position] in _PIN_FEATURES:
                self._told |= {int.from_bytes(answer[position + 2 : position + 6], "big")}

    def parts(self, code: int, data: bytes) -> Parts:
        """The secret parts of what SCardControl sends."""
        for offset in _PIN_STRUCTURES:
            if len(data) <= offset:
                continue
            for order in "<>":
                (length,) = struct.unpack_from(order + "I", data, offset - 4)
                if length == len(data) - offset:
                    return _moved(_template_parts(data[offset:]), offset)
        if code in self._told or code - _FEATURE_CODES in _PIN_FEATURES:
            return ((0, len(data)),) if data else ()
        # A command for the reader itself may be written as an APDU of class FF.
        return apdu_parts(data) if data[:1] == b"\xff" else ()


class MessageSecrets:
    """What is secret of the messages of one connection, which are to be given in their order."""

    def __init__(self) -> None:
        self._codes = ControlCodes()

    def parts(self, seen: Seen) -> Parts:
        """The secret parts of the message's data; of ``raw``, if the message is not understood."""
        if isinstance(seen, NotUnderstood):
            return ((0, len(seen.raw)),)
        if isinstance(seen, SeenReply):
            if isinstance(seen.body, Control) and seen.body.rv == 0:
                self._codes.note_answer(seen.body.code, seen.data)
        elif isinstance(seen, SeenRequest):
            if isinstance(seen.body, Transmit):
                return apdu_parts(seen.data)
            if isinstance(seen.body, Control):
                return self._codes.parts(seen.body.code, seen.data)
        return ()

    def hide(self, seen: Seen, parts: Parts) -> bytes:
        """All bytes of the message, with ``parts`` of its data hidden."""
        if not parts or isinstance(seen, NotUnderstood):
            return hide(seen.raw, parts)
        return hide(seen.raw, _moved(parts, len(seen.raw) - len(_data_of(seen))))


def hide(data: bytes, parts: Parts) -> bytes:
    """The bytes with an asterisk for each secret one."""
    hidden = bytearray(data)
    for start, end in parts:
        hidden[start:end] = bytes([HIDDEN_BYTE]) * (end - start)
    return bytes(hidden)


def to_hex(data: bytes, parts: Parts = ()) -> list[str]:
    """The bytes as two letters each, ``**`` for a secret one."""
    text = [f"{byte:02X}" for byte in data]
    for start, end in parts:
        text[start:end] = [HIDDEN_TEXT] * (end - start)
    return text


def _data_of(seen: Seen) -> bytes:
    return seen.data if isinstance(seen, SeenRequest | SeenReply) else b""


def _is_secret(cla: int, ins: int, p1: int, p2: int) -> bool:
    if ins in _SECRET_INS:
        return True
    base = cla if cla >= 0x80 else 0
    return (base, ins, p1, p2) in _SECRET_HEADERS or (base == 0 and ins == _IMPORT_KEY)


def _data_field(apdu: bytes) -> tuple[int, int] | None:
    """Where the data field is (ISO/IEC 7816-3:2006, section 12.1); None if the lengths do not fit."""
    rest = len(apdu) - 5
    if rest == 0:
        return 5, 5  # Le only
    short = apdu[4]
    if short:
        return (5, 5 + short) if rest in (short, short + 1) else None
    if rest < 2:
        return None
    length = int.from_bytes(apdu[5:7], "big")
    if rest == 2:
        return 7, 7  # extended Le only
    return (7, 7 + length) if rest - 2 in (length, length + 2) else None


def _has_iso_secure_messaging(cla: int) -> bool:
    if 0x40 <= cla < 0x80:
        return bool(cla & 0x20)
    return cla != 0xFF and bool(cla & 0x08)


def _sm_parts(field: bytes) -> Parts:
    """Of a data field under secure messaging only plain values are secret; all, if it is none."""
    parts = []
    position = 0
    while position < len(field):
        header = _object_header(field, position)
        if header is None or field[position] not in _SM_OBJECTS:
            return ((0, len(field)),)
        start, end = header
        if field[position] in _PLAIN_OBJECTS:
            parts.append((start, end))
        position = end
    return tuple(parts)


def _object_header(field: bytes, position: int) -> tuple[int, int] | None:
    """Where the value of the BER-TLV object with a one-byte tag is; None if it does not fit."""
    lengths = field[position + 1 : position + 4]
    if not lengths:
        return None
    size = lengths[0] - 0x80 if lengths[0] in (0x81, 0x82) else 0
    if len(lengths) < 1 + size or (lengths[0] >= 0x80 and not size):
        return None
    length = int.from_bytes(lengths[1 : 1 + size], "big") if size else lengths[0]
    start = position + 2 + size
    end = start + length
    return (start, end) if end <= len(field) else None


def _envelope_parts(field: bytes) -> Parts:
    """An ENVELOPE with one whole command is what that command is; a piece of one is secret.

    So is one within another: there are none, but what somebody makes could be nested thousands deep.
    """
    is_nested = len(field) >= 4 and field[0] < 0x80 and field[1] in _ENVELOPE
    if not is_nested and len(field) >= 4 and (len(field) == 4 or _data_field(field) is not None):
        return apdu_parts(field)
    return ((0, len(field)),)


def _template_parts(template: bytes) -> Parts:
    """The APDU into which a PIN pad puts the PIN; it may hold a part of it, or the old one."""
    if len(template) <= 5:
        return ()
    return apdu_parts(template) or ((5, len(template)),)


def _moved(parts: Iterable[tuple[int, int]], offset: int) -> Parts:
    return tuple((start + offset, end + offset) for start, end in parts)
