"""Wait for a change, which may be the end of the daemon, and say what each call returns then.

    outlive.py [READER]

Connects to READER first, if it is named. Prints ``waiting``, and then a line ``call XXXXXXXX`` for
each call; after that once more for each line of standard input, with a new context.
"""

import sys

from smartcard import scard

FOREVER = 0xFFFFFFFF


def say(call: str, rv: int) -> None:
    print(f"{call} {rv & 0xFFFFFFFF:08X}", flush=True)


def states(context: int, names: list[str]) -> list[tuple[str, int]]:
    unaware = [(name, scard.SCARD_STATE_UNAWARE) for name in names]
    return [(name, state) for name, state, _ in scard.SCardGetStatusChange(context, 0, unaware)[1]]


def main() -> None:
    _, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    _, names = scard.SCardListReaders(context, [])
    card = None
    if len(sys.argv) > 1:
        name = next(name for name in names if sys.argv[1] in name)
        rv, card, _ = scard.SCardConnect(context, name, scard.SCARD_SHARE_DIRECT, 0)
        say("connect", rv)
    known = states(context, names)
    print("waiting", flush=True)
    say("wait", scard.SCardGetStatusChange(context, FOREVER, known)[0])
    if card is not None:
        say("status", scard.SCardStatus(card)[0])
        say("disconnect", scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD))
    say("list", scard.SCardListReaders(context, [])[0])
    say("release", scard.SCardReleaseContext(context))
    print("again", flush=True)
    for _ in sys.stdin:
        rv, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
        say("establish", rv)
        if rv == scard.SCARD_S_SUCCESS:
            rv, names = scard.SCardListReaders(context, [])
            say("list", rv)
            print(*names, sep="\n", flush=True)
            scard.SCardReleaseContext(context)
        print("again", flush=True)


if __name__ == "__main__":
    main()
