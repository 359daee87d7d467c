"""``pypcscd apdu``: send APDUs to a card and print the responses."""

import argparse
import sys
from collections.abc import Sequence

from pypcscd.scard import PcscError, ReaderState, ReaderStatus, ReturnCode
from pypcscd.text import safe_text
from pypcscd.tools.client import Client, ClientError, add_socket_option


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="pypcscd apdu",
        description="Send APDUs to a card, one after the other, and print the responses.",
        epilog='example: pypcscd apdu --reader 0 "00 A4 04 00 0A A0 00 00 00 62 03 01 0C 06 01" 00000000',
    )
    add_socket_option(parser)
    parser.add_argument(
        "-r",
        "--reader",
        metavar="NAME",
        help="number or beginning of the name of a reader (the first with a card)",
    )
    parser.add_argument("apdus", metavar="HEX", type=_apdu, nargs="+", help="a command APDU")
    options = parser.parse_args(arguments)
    try:
        client = Client(options.socket)
        try:
            _exchange(client, options.reader, options.apdus)
        finally:
            client.close()
    except (ClientError, PcscError) as error:
        print(safe_text(f"pypcscd apdu: {error}"), file=sys.stderr)
        return 1
    return 0


def _apdu(text: str) -> bytes:
    try:
        apdu = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        apdu = b""
    if not apdu:
        raise argparse.ArgumentTypeError(f"{text!r} is not a row of hexadecimal bytes, two digits for each")
    return apdu


def _exchange(client: Client, wanted: str | None, apdus: Sequence[bytes]) -> None:
    reader = _choose(client.readers(), wanted)
    try:
        with client.card(reader.name) as (card, protocol):
            print(f"{safe_text(reader.name)} ({protocol.name})")
            for apdu in apdus:
                response = client.transmit(card, protocol, apdu)
                print(f"> {apdu.hex(' ').upper()}\n< {_render(response)}", flush=True)
    except PcscError as error:
        is_taken = error.code == ReturnCode.E_SHARING_VIOLATION
        who = "; pypcscd status shows by whom" if is_taken else ""
        raise ClientError(f"{reader.name}: {error}{who}") from error


def _choose(readers: Sequence[ReaderStatus], wanted: str | None) -> ReaderStatus:
    if not readers:
        raise ClientError("there is no reader; the daemon's log says why, if there should be one")
    if not wanted:
        return next((reader for reader in readers if ReaderState.PRESENT & reader.state), readers[0])
    if wanted.isdecimal() and int(wanted) < len(readers):
        return readers[int(wanted)]
    for reader in readers:
        if reader.name.startswith(wanted):
            return reader
    names = ", ".join(reader.name for reader in readers)
    raise ClientError(f"there is no reader {wanted!r}; there are: {names}")


def _render(response: bytes) -> str:
    data, status = response[:-2], response[-2:].hex(" ").upper()
    if not data:
        return status
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    return f'{data.hex(" ").upper()} {status}  "{text}"'
