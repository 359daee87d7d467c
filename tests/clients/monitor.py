"""Print what pyscard's card monitor and reader monitor report, one line each, until standard input ends.

Lines: ``reader + NAME``, ``reader - NAME``, ``card + NAME ATR``, ``card - NAME ATR``.
"""

import sys
from typing import Any

from smartcard.CardMonitoring import CardMonitor, CardObserver
from smartcard.ReaderMonitoring import ReaderMonitor, ReaderObserver


def say(line: str) -> None:
    """Print in one write: the monitors run in threads of their own."""
    print(line + "\n", end="", flush=True)


class Cards(CardObserver):
    def update(self, observable: Any, handlers: Any) -> None:
        for sign, cards in zip("+-", handlers, strict=True):
            for card in cards:
                say(f"card {sign} {card.reader} {bytes(card.atr).hex().upper()}")


class Readers(ReaderObserver):
    def update(self, observable: Any, handlers: Any) -> None:
        for sign, readers in zip("+-", handlers, strict=True):
            for reader in readers:
                say(f"reader {sign} {reader}")


def main() -> None:
    reader_monitor, card_monitor = ReaderMonitor(), CardMonitor()
    observers = Readers(), Cards()
    reader_monitor.addObserver(observers[0])
    card_monitor.addObserver(observers[1])
    sys.stdin.read()
    card_monitor.deleteObserver(observers[1])
    reader_monitor.deleteObserver(observers[0])


if __name__ == "__main__":
    main()
