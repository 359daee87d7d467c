"""Connect; at the first line of standard input begin a transaction, and hold it until the input ends.

    transaction.py READER

Lines: ``connected``; ``waiting``; ``reset`` if the card was reset meanwhile; ``begun``; and ``ended
XXXXXXXX`` with the return code of SCardEndTransaction.
"""

import sys

from smartcard import scard


def main() -> None:
    _, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    _, names = scard.SCardListReaders(context, [])
    reader = next(name for name in names if sys.argv[1] in name)
    protocols = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
    rv, card, _ = scard.SCardConnect(context, reader, scard.SCARD_SHARE_SHARED, protocols)
    if rv != scard.SCARD_S_SUCCESS:
        sys.exit(f"SCardConnect: {scard.SCardGetErrorMessage(rv)}")
    print("connected", flush=True)
    sys.stdin.readline()
    print("waiting", flush=True)
    rv = scard.SCardBeginTransaction(card)
    if rv == scard.SCARD_W_RESET_CARD:
        print("reset", flush=True)
        scard.SCardReconnect(card, scard.SCARD_SHARE_SHARED, protocols, scard.SCARD_LEAVE_CARD)
        rv = scard.SCardBeginTransaction(card)
    if rv != scard.SCARD_S_SUCCESS:
        sys.exit(f"SCardBeginTransaction: {scard.SCardGetErrorMessage(rv)}")
    print("begun", flush=True)
    sys.stdin.read()
    rv = scard.SCardEndTransaction(card, scard.SCARD_LEAVE_CARD)
    print(f"ended {rv & 0xFFFFFFFF:08X}")


if __name__ == "__main__":
    main()
