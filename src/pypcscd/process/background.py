"""Going into the background as pcscd does: whoever started the daemon waits until it serves."""

import os
from contextlib import suppress

#: the daemon died without a word
_DIED = 2


class Background:
    """The daemon's end: it has left the session, and says once how the start went.

    Until it is ready, standard error stays open, so that who starts it by hand sees why it does not start.
    """

    def __init__(self, waiting: int) -> None:
        """``waiting``: the descriptor on which the parent waits for one byte. ``detach`` makes one."""
        self._waiting = waiting

    def ready(self) -> None:
        """Let the parent end with success, and hold on to neither terminal nor directory."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        os.close(null)
        os.chdir("/")
        self._tell(0)

    def ended(self, status: int) -> None:
        """Let the parent end with this status, if it still waits."""
        self._tell(status)

    def _tell(self, status: int) -> None:
        if self._waiting >= 0:
            # The parent may have been killed.
            with suppress(OSError):
                os.write(self._waiting, bytes([status]))
            os.close(self._waiting)
            self._waiting = -1


def detach() -> Background | int:
    """Fork. In the child: the way to the parent. In the parent: the exit status, when it is known.

    To be called before there are threads and an event loop.
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        told = os.read(reading, 1)
        return told[0] if told else _DIED
    os.close(reading)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return Background(writing)
