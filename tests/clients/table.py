"""List the readers as a 4.4 client whose library was built for a table of so many records.

table.py SOCKET RECORDS [UID]
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))

from player import Player

from pypcscd.protocol import DIALECTS


def main(path: str, records: str, uid: str = "") -> None:
    if uid:
        os.setresuid(int(uid), int(uid), int(uid))
    with Player(Path(path), DIALECTS[4, 4], table_size=int(records)) as client:
        client.establish()
        names = [reader.name for reader in client.readers()]
        client.check_step()
        print("\n".join(names))


main(*sys.argv[1:])
