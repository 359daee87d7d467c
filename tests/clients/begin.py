"""Connect; begin a transaction at the first line of standard input, end it at its end.

begin.py READER
"""

import sys

from smartcard.scard import (
    SCARD_LEAVE_CARD,
    SCARD_PROTOCOL_T0,
    SCARD_PROTOCOL_T1,
    SCARD_SCOPE_SYSTEM,
    SCARD_SHARE_SHARED,
    SCardBeginTransaction,
    SCardConnect,
    SCardDisconnect,
    SCardEndTransaction,
    SCardEstablishContext,
    SCardReleaseContext,
)


def main() -> None:
    _, context = SCardEstablishContext(SCARD_SCOPE_SYSTEM)
    _, card, _ = SCardConnect(context, sys.argv[1], SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1)
    print("connected", flush=True)
    sys.stdin.readline()
    if SCardBeginTransaction(card) != 0:
        sys.exit("no transaction")
    print("begun", flush=True)
    sys.stdin.read()
    SCardEndTransaction(card, SCARD_LEAVE_CARD)
    SCardDisconnect(card, SCARD_LEAVE_CARD)
    SCardReleaseContext(context)


if __name__ == "__main__":
    main()
