"""Answer-to-reset parsing (ISO 7816-3:2006, section 8.2)."""

from typing import NamedTuple

from pypcscd.scard import MAX_ATR_SIZE, Protocol

_CONVENTIONS = {0x3B: "direct", 0x3F: "inverse"}
_PROTOCOLS = {0: Protocol.T0, 1: Protocol.T1, 15: Protocol.T15}


class InterfaceBytes(NamedTuple):
    """TAi, TBi, TCi and TDi of one group; None where the byte is not sent."""

    ta: int | None
    tb: int | None
    tc: int | None
    td: int | None


class Atr(NamedTuple):
    """A decoded answer to reset."""

    raw: bytes
    #: "direct" or "inverse", by the initial character TS
    convention: str
    #: the groups i = 1, 2, … in order
    interface: tuple[InterfaceBytes, ...]
    historical: bytes
    #: the check character, None where it is not sent
    tck: int | None
    #: the protocols that may be selected
    protocols: Protocol
    #: the protocol that is in force without PPS
    default_protocol: Protocol
    #: TA2 is there: the card speaks its default protocol only
    specific_mode: bool


def parse(raw: bytes) -> Atr:
    """Decode an ATR of 2 to 33 bytes. Raises ValueError with a sentence that says what is wrong.

    As in pcsc-lite, an unknown first protocol is an error, a later one is passed over, and neither
    historical bytes nor the check character are required to be complete: real cards send less.
    """
    if not 2 <= len(raw) <= MAX_ATR_SIZE:
        raise ValueError(f"an ATR has 2 to {MAX_ATR_SIZE} bytes, not {len(raw)}")
    if raw[0] not in _CONVENTIONS:
        raise ValueError(f"an ATR begins with 3B or 3F, not {raw[0]:02X}")

    groups: list[InterfaceBytes] = []
    position = 2
    flags = raw[1] >> 4
    while flags:
        wanted = [bool(flags & bit) for bit in (1, 2, 4, 8)]
        if position + sum(wanted) > len(raw):
            raise ValueError(f"the ATR ends within its interface bytes (group {len(groups) + 1})")
        values: list[int | None] = []
        for is_sent in wanted:
            values.append(raw[position] if is_sent else None)
            position += is_sent
        groups.append(InterfaceBytes(*values))
        flags = (values[3] or 0) >> 4

    protocols, default, specific_mode = _choose_protocols(groups)
    historical_end = position + (raw[1] & 0x0F)
    return Atr(
        raw=bytes(raw),
        convention=_CONVENTIONS[raw[0]],
        interface=tuple(groups),
        historical=bytes(raw[position:historical_end]),
        tck=raw[historical_end] if len(raw) > historical_end else None,
        protocols=protocols,
        default_protocol=default,
        specific_mode=specific_mode,
    )


def _choose_protocols(groups: list[InterfaceBytes]) -> tuple[Protocol, Protocol, bool]:
    numbers = [group.td & 0x0F for group in groups if group.td is not None]
    if len(groups) > 1 and groups[1].ta is not None:
        specific = groups[1].ta & 0x0F
        if specific not in (0, 1):
            raise ValueError(f"the card insists on the unknown protocol T={specific} (TA2)")
        return _PROTOCOLS[specific], _PROTOCOLS[specific], True
    if not numbers:
        return Protocol.T0, Protocol.T0, False
    if numbers[0] not in (0, 1):
        raise ValueError(f"the card's first protocol T={numbers[0]} is not known")
    offered = Protocol.UNDEFINED
    for number in numbers:
        offered |= _PROTOCOLS.get(number, Protocol.UNDEFINED)
    return offered, _PROTOCOLS[numbers[0]], False
