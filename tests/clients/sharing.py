"""Share a card with other processes, as ``sharing.c`` does, through pyscard's low-level interface.

    sharing.py READER MARK ROUNDS

It begins when standard input ends, and says how far it is after every hundred rounds.
"""

import sys

from smartcard import scard

SELECT = [0xFF, 0xA4, 0x00, 0x00, 0x01, 0x06]
PRESENT_CODE = [0xFF, 0x20, 0x00, 0x00, 0x03, 0xFF, 0xFF, 0xFF]
READ_BACK = [0xFF, 0xB0, 0x00, 0x40, 0x02]


def check(call: str, rv: int) -> None:
    if rv != scard.SCARD_S_SUCCESS:
        sys.exit(f"{call}: {scard.SCardGetErrorMessage(rv)}")


def main() -> None:
    wanted, mark, rounds = sys.argv[1], int(sys.argv[2], 16), int(sys.argv[3])
    rv, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    check("SCardEstablishContext", rv)
    rv, names = scard.SCardListReaders(context, [])
    check("SCardListReaders", rv)
    reader = next(name for name in names if wanted in name)
    protocols = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
    rv, card, protocol = scard.SCardConnect(context, reader, scard.SCARD_SHARE_SHARED, protocols)
    check("SCardConnect", rv)
    pci = scard.SCARD_PCI_T1 if protocol == scard.SCARD_PROTOCOL_T1 else scard.SCARD_PCI_T0

    def transmit(command: list[int]) -> list[int]:
        rv, answer = scard.SCardTransmit(card, pci, command)
        check("SCardTransmit", rv)
        if answer[-2:-1] != [0x90]:
            sys.exit(f"{bytes(command).hex()} -> {bytes(answer).hex()}")
        return list(answer[:-2])

    sys.stdin.read()
    for number in range(rounds):
        value = [mark, number % 256]
        check("SCardBeginTransaction", scard.SCardBeginTransaction(card))
        for command in (SELECT, PRESENT_CODE, [0xFF, 0xD0, 0x00, 0x40, 0x02, *value]):
            transmit(command)
        data = transmit(READ_BACK)
        if data != value:
            sys.exit(f"round {number}: somebody else wrote {bytes(data).hex()}")
        check("SCardEndTransaction", scard.SCardEndTransaction(card, scard.SCARD_LEAVE_CARD))
        if number % 100 == 99:
            print(f"{number + 1} so far", flush=True)
    print(f"{rounds} rounds")
    check("SCardDisconnect", scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD))
    check("SCardReleaseContext", scard.SCardReleaseContext(context))


if __name__ == "__main__":
    main()
