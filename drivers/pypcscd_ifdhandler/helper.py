"""The helper process: one driver library and the readers that it serves.

Run as ``python -m pypcscd_ifdhandler.helper CONTROL_FD LOG_FD LOG_PRIORITY LIBRARY``. It ends when
the daemon closes the control socket, or dies: the readers are then closed and the cards powered
down. A crash of the library ends this process only.
"""

import os
import signal
import sys
import threading
from socket import SO_SNDBUF, SOL_SOCKET, socket

from pypcscd_ifdhandler import wire
from pypcscd_ifdhandler.library import LibraryError, import_native, load

#: Seconds that closing all readers may take once the daemon has gone; SIGALRM ends the process then.
CLOSE_LIMIT = 5
#: Exit status after an error in the helper itself.
EX_SOFTWARE = 70


def _die_of(arguments: threading.ExceptHookArgs) -> None:
    """An unexpected error in any thread ends the process, so that the daemon opens the readers anew."""
    sys.excepthook(arguments.exc_type, arguments.exc_value or arguments.exc_type(), arguments.exc_traceback)
    sys.stderr.flush()
    os._exit(EX_SOFTWARE)


def _close_other_descriptors(*kept: int) -> None:
    """Whatever else the daemon left open is not for drivers to see."""
    previous = 2
    for descriptor in sorted(kept):
        os.closerange(previous + 1, descriptor)
        previous = descriptor
    os.closerange(previous + 1, os.sysconf("SC_OPEN_MAX"))


def main(arguments: list[str]) -> None:
    """Serve one library until the daemon closes the control socket."""
    control_fd, log_fd, priority = (int(argument) for argument in arguments[:3])
    path = arguments[3]
    # Ctrl-C and systemd's stop signal reach the whole group; the daemon closes its helpers in order.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    _close_other_descriptors(control_fd, log_fd)
    os.set_inheritable(control_fd, False)
    os.set_inheritable(log_fd, False)
    threading.excepthook = _die_of
    control = socket(fileno=control_fd)
    control.setsockopt(SOL_SOCKET, SO_SNDBUF, wire.SEND_BUFFER)
    try:
        import_native()
        # After import_native(): this module imports the compiled part itself.
        from pypcscd_ifdhandler.host import Host, start_log

        start_log(log_fd, priority)
        library, warning = load(path)
    except LibraryError as error:
        control.send(wire.pack(wire.Kind.UNUSABLE, 0, payload=str(error).encode()))
        return
    host = Host(control, library)
    host.serve(warning)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(CLOSE_LIMIT)
    host.close()
    # Not by way of Python's finalisation: native threads of the driver may still run.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
