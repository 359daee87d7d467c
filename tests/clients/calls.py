"""PC/SC calls with pyscard, of which ``pcsc-spy`` survives all. Argument: a part of a reader's name."""

import sys

from smartcard.scard import (
    SCARD_LEAVE_CARD,
    SCARD_PROTOCOL_T0,
    SCARD_PROTOCOL_T1,
    SCARD_SCOPE_USER,
    SCARD_SHARE_SHARED,
    SCARD_STATE_UNAWARE,
    SCARD_UNPOWER_CARD,
    SCardBeginTransaction,
    SCardConnect,
    SCardDisconnect,
    SCardEndTransaction,
    SCardEstablishContext,
    SCardGetStatusChange,
    SCardListReaders,
    SCardReconnect,
    SCardReleaseContext,
    SCardStatus,
)

ANY = SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1


def ok(result: list[object] | int) -> list[object]:
    rv, *values = result if isinstance(result, list) else [result]
    if rv != 0:
        raise SystemExit(f"failed with {rv}")
    return values


(context,) = ok(SCardEstablishContext(SCARD_SCOPE_USER))
(readers,) = ok(SCardListReaders(context, []))
reader = next(name for name in readers if sys.argv[1] in name)
ok(SCardGetStatusChange(context, 0, [(reader, SCARD_STATE_UNAWARE)]))
card, _ = ok(SCardConnect(context, reader, SCARD_SHARE_SHARED, ANY))
ok(SCardStatus(card))
ok(SCardBeginTransaction(card))
ok(SCardEndTransaction(card, SCARD_LEAVE_CARD))
ok(SCardReconnect(card, SCARD_SHARE_SHARED, ANY, SCARD_LEAVE_CARD))
ok(SCardDisconnect(card, SCARD_UNPOWER_CARD))
ok(SCardReleaseContext(context))
print("done")
