"""All clients of a running pypcscd, as its admin socket tells of them."""

import argparse
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pypcscd.control import stream
from pypcscd.paths import admin_path_of
from pypcscd.tools.admin import AdminClient
from pypcscd.tools.spy.watcher import Watcher

#: seconds between two looks for calls that are complete
_TICK = 0.1


def spy_live(options: argparse.Namespace, watcher: Watcher) -> int:
    """Until SIGINT or SIGTERM, or the daemon ends. Raises AdminError."""
    client = AdminClient(admin_path_of(options.socket))
    try:
        with _ends_on_signal():
            wanted = {"pid": options.pid, "uid": options.uid, "secrets": options.show_secrets}
            client.ask("spy", **wanted)
            print(f"watching the clients of {options.socket}; Ctrl-C ends", file=sys.stderr)
            why = "the daemon ended"
            try:
                _follow(client, watcher)
            except KeyboardInterrupt:
                why = "the spy ended"
            watcher.finish(time.time(), why)
    finally:
        client.close()
    return 0


@contextmanager
def _ends_on_signal() -> Iterator[None]:
    """SIGTERM is the same as Ctrl-C: the summary is still written."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _follow(client: AdminClient, watcher: Watcher) -> None:
    while True:
        if not client.has_line() and not select.select([client], [], [], _TICK)[0]:
            watcher.tick(time.time())
            continue
        line = client.next_line()
        if line is None:
            return
        record = stream.decode(line)
        if record is not None:
            watcher.feed(record)
