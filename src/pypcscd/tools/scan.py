"""``pypcscd scan``: list the readers and cards, or watch them."""

import argparse
import sys
from collections.abc import Sequence

from pypcscd.scard import PcscError, ReaderState, ReaderStatus
from pypcscd.text import safe_text
from pypcscd.tools.client import Client, ClientError, add_socket_option


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="pypcscd scan", description="List the readers and cards.")
    add_socket_option(parser)
    parser.add_argument(
        "-w", "--watch", action="store_true", help="go on, and print each change; Ctrl-C ends it"
    )
    options = parser.parse_args(arguments)
    try:
        client = Client(options.socket)
        try:
            for readers in client.changes():
                print(_table(readers), flush=True)
                if not options.watch:
                    break
        finally:
            client.close()
    except (ClientError, PcscError) as error:
        print(safe_text(f"pypcscd scan: {error}"), file=sys.stderr)
        return 1
    return 0


def _table(readers: Sequence[ReaderStatus]) -> str:
    if not readers:
        return "no readers"
    return "\n".join(
        f"{number}: {safe_text(reader.name)}\n   {_phrase(reader)}" for number, reader in enumerate(readers)
    )


def _phrase(reader: ReaderStatus) -> str:
    state = ReaderState(reader.state)
    users = f", {reader.sharing} connected" if reader.sharing > 0 else ""
    if reader.sharing < 0:
        users = ", in exclusive use"
    if ReaderState.UNKNOWN in state:
        return "the reader does not answer"
    if ReaderState.ABSENT in state:
        return "no card" + users
    if ReaderState.SWALLOWED in state:
        return "a card that does not answer" + users
    return f"card, ATR {reader.atr.hex(' ').upper()}{users}"
