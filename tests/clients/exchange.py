"""Exchange APDUs through pyscard. See README.md for the command line."""

import sys

from smartcard.System import readers
from smartcard.util import toBytes


def main() -> None:
    wanted, *apdus = sys.argv[1:]
    found = readers()
    for reader in found:
        print(f"reader {reader.name}")
    connection = next(reader for reader in found if wanted in reader.name).createConnection()
    connection.connect()
    print("atr", bytes(connection.getATR()).hex().upper())
    for apdu in apdus:
        data, sw1, sw2 = connection.transmit(toBytes(apdu))
        print("answer", bytes([*data, sw1, sw2]).hex().upper())
    connection.disconnect()
    connection.release()


if __name__ == "__main__":
    main()
