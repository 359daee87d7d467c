"""Choosing how card and reader talk: rate, PPS, parameter structures and time-outs. No input or output.

Sources: ISO 7816-3:2006, sections 8.3 (interface bytes), 9 (PPS), 10.2 and 11.4.3 (waiting times);
CCID specification 1.1, section 6.1.7 (parameter structures).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pypcscd.atr import Atr
from pypcscd.driver import DriverError, Reason
from pypcscd.scard import Protocol
from pypcscd_ccid.descriptor import Descriptor, Feature, Level

#: Fi/Di that every card and reader speak: 372 clock cycles per bit
DEFAULT_FI_DI = 0x11
#: milliseconds, for cards or readers whose figures cannot be used
_FALLBACK_TIMEOUT = 60_000
#: milliseconds: no reader is given less
_LEAST_TIMEOUT = 3_000
#: milliseconds of grace, so that a reader can report the card's time-out before ours is over
_GRACE = 1_000

_F = (372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048, 0, 0)
_D = (0, 1, 2, 4, 8, 16, 32, 64, 12, 20, 0, 0, 0, 0, 0, 0)
#: indices of D, fastest first, without the values that few cards know
_POWERS_OF_TWO = (7, 6, 5, 4, 3, 2, 1)

_DEFAULT_WI = 10
_DEFAULT_BWI_CWI = 0x4D
DEFAULT_IFSC = 32
_MAX_IFSC = 254
#: bits of TA2
_SPECIFIC_IMPLICIT = 0x10
_UNABLE_TO_CHANGE = 0x80
_INVERSE = 0x3F
#: the first OpenPGP cards: they take 10 s to make a key, and say less in their ATR
_SLOW_OPENPGP = bytes.fromhex("3BFA1300FF813180450031C173C00100009000B1")
_BWI_CWI_OF_SLOW = 0x75


@dataclass(frozen=True)
class CardParameters:
    """What an ATR says that matters here, with the defaults of ISO 7816-3 filled in."""

    is_inverse: bool
    #: what it speaks without being asked
    default_protocol: Protocol
    #: None: not sent
    ta1: int | None
    #: TC1
    guard_time: int
    #: TC2
    waiting_integer: int
    #: TBi of T=1: BWI in the high nibble, CWI in the low one
    bwi_cwi: int
    #: TAi of T=1, 1 to 254 bytes
    ifsc: int
    #: TCi of T=1
    uses_crc: bool
    #: TA2 is there: the card talks in its own way from the first byte on
    is_specific: bool
    #: … with parameters that the ATR does not tell
    is_implicit: bool


def read_atr(card: Atr) -> CardParameters:
    """The parameters in the interface bytes."""
    groups = card.interface
    first = groups[0] if groups else None
    second = groups[1] if len(groups) > 1 else None
    ta: int | None = None
    tb: int | None = None
    tc: int | None = None
    for before, group in itertools.pairwise(groups[1:]):
        if before.td is not None and before.td & 0x0F == 1:
            ta = group.ta if ta is None else ta
            tb = group.tb if tb is None else tb
            tc = group.tc if tc is None else tc
    ta2 = second.ta if second else None
    return CardParameters(
        is_inverse=card.raw[0] == _INVERSE,
        default_protocol=card.default_protocol,
        ta1=first.ta if first else None,
        guard_time=(first.tc or 0) if first else 0,
        waiting_integer=_DEFAULT_WI if second is None or second.tc is None else second.tc,
        bwi_cwi=_BWI_CWI_OF_SLOW if card.raw == _SLOW_OPENPGP else _DEFAULT_BWI_CWI if tb is None else tb,
        ifsc=min(ta or DEFAULT_IFSC, _MAX_IFSC),
        uses_crc=tc == 1,
        is_specific=ta2 is not None,
        is_implicit=ta2 is not None and bool(ta2 & _SPECIFIC_IMPLICIT),
    )


@dataclass(frozen=True)
class Selection:
    """How to bring card and reader to a protocol."""

    protocol: Protocol
    card: CardParameters
    #: the rate to be used
    fi_di: int
    #: the PPS request to be sent to the card, empty: none
    pps: bytes
    #: SetParameters is to be sent
    sets_parameters: bool
    #: S(IFS request) is to be sent with this value, 0: not
    ifsd: int

    def structure(self, fi_di: int) -> bytes:
        """The protocol data structure for SetParameters: 5 bytes for T=0, 7 for T=1."""
        card = self.card
        convention = 0x02 if card.is_inverse else 0x00
        if self.protocol is Protocol.T0:
            return bytes((fi_di, convention, card.guard_time, card.waiting_integer, 0))
        checksum = 0x10 | convention | card.uses_crc
        return bytes((fi_di, checksum, card.guard_time, card.bwi_cwi, 0, card.ifsc, 0))

    def timeout(self, clock: int, fi_di: int) -> float:
        """Seconds that one exchange may take; ``clock`` in kHz.

        A reader that negotiates by itself may also use what the card offers, so the slower counts.
        """
        rates = {fi_di, DEFAULT_FI_DI if self.card.ta1 is None else self.card.ta1}
        return max(_LEAST_TIMEOUT, *(self._milliseconds(clock, rate) for rate in rates)) / 1000

    def _milliseconds(self, clock: int, fi_di: int) -> int:
        f, d = _F[fi_di >> 4], _D[fi_di & 0x0F]
        if self.protocol is Protocol.T0:
            return timeout_t0(f, d, self.card.guard_time, self.card.waiting_integer, clock)
        return timeout_t1(f, d, self.card.guard_time, self.card.bwi_cwi, clock)


def timeout_t0(f: int, d: int, guard_time: int, waiting_integer: int, clock: int) -> int:
    """Milliseconds for 5 + 256 bytes each way under T=0; ``clock`` in kHz.

    The work waiting time 960 · WI · F/f may pass before each byte of the card.
    """
    if not (f and d and clock):
        return _FALLBACK_TIMEOUT
    etu = f / d / clock
    character = (12 + guard_time) * etu
    waiting = 960 * waiting_integer * f / clock
    return int(max(_LEAST_TIMEOUT, 261 * character + 6 * waiting, 5 * character + 260 * waiting))


def timeout_t1(f: int, d: int, guard_time: int, bwi_cwi: int, clock: int) -> int:
    """Milliseconds for a block of 260 bytes each way under T=1, with the block waiting time between."""
    if not (f and d and clock):
        return _FALLBACK_TIMEOUT
    etu = f / d / clock
    character = (12 + guard_time) * etu
    block_waiting = 11 * etu + (2 ** (bwi_cwi >> 4)) * 960 * 372 // clock
    character_waiting = (11 + 2 ** (bwi_cwi & 0x0F)) * etu
    return int(260 * character + block_waiting + 260 * character_waiting) + _GRACE


def select(card: Atr, protocol: Protocol, reader: Descriptor, rates: Sequence[int]) -> Selection:
    """Choose rate and procedure. ``rates``: what the reader listed, bits per second; empty: any.

    Raises DriverError: PROTOCOL_UNSUPPORTED if the reader does not speak the protocol,
    PROTOCOL_REFUSED if the card does not, or not in a way that the reader can follow.
    """
    bit = {Protocol.T0: 1, Protocol.T1: 2}.get(protocol, 0)
    if not reader.protocols & bit:
        raise DriverError(Reason.PROTOCOL_UNSUPPORTED, f"the reader does not speak {protocol.name}")
    if not card.protocols & protocol:
        raise DriverError(Reason.PROTOCOL_REFUSED, f"the card does not speak {protocol.name}")
    parameters = read_atr(card)
    negotiates_ifs = (
        protocol is Protocol.T1 and reader.level is Level.TPDU and Feature.AUTO_IFSD not in reader.features
    )
    ifsd = reader.ifsd if negotiates_ifs else 0
    if Feature.AUTO_NEGOTIATION in reader.features:
        return Selection(protocol, parameters, DEFAULT_FI_DI, b"", False, ifsd)
    if parameters.is_implicit:
        raise DriverError(
            Reason.PROTOCOL_REFUSED, "the card uses parameters that its ATR does not tell (TA2)"
        )
    fi_di = _choose_rate(parameters, reader, rates)
    pps = b""
    is_changed = fi_di != DEFAULT_FI_DI or protocol is not card.default_protocol
    if is_changed and not parameters.is_specific and Feature.AUTO_PPS not in reader.features:
        pps = pps_request(protocol, fi_di)
    return Selection(protocol, parameters, fi_di, pps, True, ifsd)


def may_offer_other(card: Atr) -> bool:
    """A card in specific mode may be in another mode after a warm reset, unless TA2 rules that out."""
    ta2 = card.interface[1].ta if len(card.interface) > 1 else None
    return ta2 is not None and not ta2 & _UNABLE_TO_CHANGE


def _choose_rate(card: CardParameters, reader: Descriptor, rates: Sequence[int]) -> int:
    """The fastest Fi/Di that both can do, or the one that the card insists on."""
    if card.ta1 is None:
        return DEFAULT_FI_DI
    slowest = _rate(DEFAULT_FI_DI, reader.default_clock)
    for fi_di in _offered(card):
        rate = _rate(fi_di, reader.default_clock)
        if rate == slowest or (rate < slowest and not card.is_specific):
            break
        # A reader rounds its figures in its own way.
        is_listed = not rates or any(abs(listed - rate) <= 1 for listed in rates)
        if rate <= reader.maximum_rate + 1 and is_listed:
            return fi_di
        if card.is_specific:
            raise DriverError(
                Reason.PROTOCOL_REFUSED, f"the card insists on {rate} bit/s, which the reader cannot do"
            )
    return DEFAULT_FI_DI


def _offered(card: CardParameters) -> Iterator[int]:
    """TA1, and slower rates with the same Fi, which a card must accept too (ISO 7816-3, section 9.2)."""
    assert card.ta1 is not None
    yield card.ta1
    fastest = _D[card.ta1 & 0x0F]
    for index in _POWERS_OF_TWO:
        if _D[index] < fastest:
            yield (card.ta1 & 0xF0) | index


def _rate(fi_di: int, clock: int) -> int:
    """Bits per second; what is reserved for future use counts as the default."""
    f, d = _F[fi_di >> 4], _D[fi_di & 0x0F]
    if not (f and d):
        f, d = _F[1], _D[1]
    return 1000 * clock * d // f


# --- PPS ---------------------------------------------------------------------------------------


def pps_request(protocol: Protocol, fi_di: int) -> bytes:
    """PPSS, PPS0, PPS1 unless it is the default, and the check byte."""
    number = 1 if protocol is Protocol.T1 else 0
    content = (number,) if fi_di == DEFAULT_FI_DI else (0x10 | number, fi_di)
    request = bytes((0xFF, *content))
    return request + bytes((_xor(request),))


def check_pps(request: bytes, answer: bytes) -> int:
    """The Fi/Di that is in force after the card's answer. Raises DriverError(PROTOCOL_REFUSED).

    A card that leaves PPS1 out of its answer keeps to the default rate.
    """
    if answer == request:
        return request[2] if request[1] & 0x10 else DEFAULT_FI_DI
    is_shorter = 3 <= len(answer) < len(request)
    if is_shorter and answer[0] == 0xFF and answer[1] == request[1] & 0x0F and not _xor(answer):
        return DEFAULT_FI_DI
    raise DriverError(
        Reason.PROTOCOL_REFUSED,
        f"the card answered {answer.hex(' ').upper() or 'nothing'} to the PPS {request.hex(' ').upper()}",
    )


def _xor(data: bytes) -> int:
    result = 0
    for byte in data:
        result ^= byte
    return result
