"""Tells the service manager how the daemon is: sd_notify(3)."""

import os
import time
from collections.abc import MutableMapping
from contextlib import suppress


class Notifier:
    """Sends states to the socket in NOTIFY_SOCKET; without one it does nothing."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """The variable is taken out of ``environment``, so that no helper speaks for us."""
        address = environment.pop("NOTIFY_SOCKET", "")
        # A name that begins with @ is in the abstract name space.
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def is_heard(self) -> bool:
        return bool(self._address)

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """To be followed by ``ready``, also where the reload has failed."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading the configuration again")

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1", f"STATUS={status}")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        import socket

        # A service manager that does not listen is no reason to stop serving.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.sendto(
                os.fsencode("\n".join(line.replace("\n", " ") for line in lines)), self._address
            )
