"""Connect to a card, say so, and hold the connection until standard input ends.

hold.py READER
"""

import sys

from smartcard.System import readers


def main() -> None:
    connection = next(reader for reader in readers() if sys.argv[1] in reader.name).createConnection()
    connection.connect()
    print("connected", flush=True)
    sys.stdin.read()
    connection.disconnect()
    connection.release()


if __name__ == "__main__":
    main()
