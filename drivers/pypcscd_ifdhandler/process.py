"""The daemon's end of a helper process: starting it, asking it, noticing its death, ending it."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from socket import (
    AF_UNIX,
    MSG_CMSG_CLOEXEC,
    SHUT_WR,
    SO_SNDBUF,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    recv_fds,
    socket,
    socketpair,
)
from typing import TypeVar

from pypcscd_ifdhandler import wire
from pypcscd_ifdhandler.wire import Kind

logger = logging.getLogger("pypcscd.ifdhandler")

#: Seconds for an orderly end before SIGKILL, and for that to have its effect.
CLOSE_LIMIT = 2.0
KILL_LIMIT = 1.0
#: The level of each priority of a driver's log lines, lowest first.
_LEVELS = (logging.DEBUG, logging.INFO, logging.ERROR, logging.CRITICAL)
_MAX_LOG_LINE = 8192
_BUNDLES_VARIABLE = "PCSCLITE_HP_DROPDIR"
#: Log lines handled in one turn of the loop, so that a chatty driver delays nobody.
_LINES_PER_TURN = 64


T = TypeVar("T")


class HelperGoneError(Exception):
    """The helper ended before it answered; the message says how."""


@dataclass
class Reply:
    """A message of the control socket, with the slot sockets that came along."""

    kind: int
    argument: int
    payload: bytes
    sockets: list[socket] = field(default_factory=list)


def helper_command(control_fd: int, log_fd: int, priority: int, library: str) -> list[str]:
    """The command line of a helper; ``-P`` keeps the working directory out of the module path."""
    numbers = [str(control_fd), str(log_fd), str(priority)]
    return [sys.executable, "-P", "-m", "pypcscd_ifdhandler.helper", *numbers, library]


def helper_environment(library: str) -> dict[str, str]:
    """The daemon's own; a driver in a bundle (DIRECTORY/X.bundle/Contents/Linux) finds the bundle by it.

    libccid takes the variable, which may name several directories for us, for the one that it is in.
    """
    bundle = PurePath(library).parent.parent.parent
    if ".bundle" not in bundle.name:
        return dict(os.environ)
    return os.environ | {_BUNDLES_VARIABLE: str(bundle.parent)}


def _spawn(command: list[str], environment: dict[str, str], *descriptors: int) -> int:
    """Start a process that inherits ``descriptors`` and standard error only; returns its id.

    posix_spawn() because it blocks for a few hundred microseconds at most: no copy of the daemon's
    page tables, no pipe to wait for.
    """
    # Duplicating a descriptor onto itself is how POSIX lets a child inherit it.
    inherited = [(os.POSIX_SPAWN_DUP2, number, number) for number in descriptors]
    standard = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)]
    return os.posix_spawn(
        command[0], command, environment, file_actions=[*inherited, *standard], setsigmask=[]
    )


def _describe_end(info: os.waitid_result | None) -> str:
    if info is None:
        return "has ended"
    if info.si_code == os.CLD_EXITED:
        return f"ended by itself with status {info.si_status}"
    try:
        name = signal.Signals(info.si_status).name
    except ValueError:
        name = f"signal {info.si_status}"
    return f"was killed by {name}"


def _lowest_priority() -> int:
    """The lowest priority of log lines that anybody wants to see."""
    return next((n for n, level in enumerate(_LEVELS) if logger.isEnabledFor(level)), len(_LEVELS))


async def settle(future: "asyncio.Future[T]", seconds: float) -> T:
    """Await a future, but for ``seconds`` at most. Raises TimeoutError."""

    def expire() -> None:
        if not future.done():
            future.set_exception(TimeoutError())

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        return await future
    finally:
        timer.cancel()


class HelperProcess:
    """A running helper. The constructor starts it; ``ready`` settles when the library is loaded."""

    def __init__(self, library: str, ended: Callable[["HelperProcess", str], None]) -> None:
        """``ended`` is called once, when the process is gone, with a sentence for the log.

        Raises OSError if no process can be started.
        """
        self.library = library
        self._name = PurePath(library).name
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._dismissed = False
        self._kill_timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        #: settles with READY or UNUSABLE
        self.ready: asyncio.Future[Reply] = self._loop.create_future()
        self._requests = {self._sequence: self.ready}

        self._control, control = socketpair(AF_UNIX, SOCK_SEQPACKET)
        self._log, log = socketpair(AF_UNIX, SOCK_SEQPACKET)
        try:
            self._control.setblocking(False)
            self._log.setblocking(False)
            log.setsockopt(SOL_SOCKET, SO_SNDBUF, wire.SEND_BUFFER)
            command = helper_command(control.fileno(), log.fileno(), _lowest_priority(), library)
            self.pid = _spawn(command, helper_environment(library), control.fileno(), log.fileno())
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._control.close()
            self._log.close()
            raise
        finally:
            control.close()
            log.close()
        self._loop.add_reader(self._pidfd, self._process_ended)
        self._loop.add_reader(self._control.fileno(), self._control_readable)
        self._loop.add_reader(self._log.fileno(), self._log_readable)

    def __str__(self) -> str:
        return f"driver helper for {self.library} (pid {self.pid})"

    @property
    def usable(self) -> bool:
        """Whether requests can be made."""
        return not self._dismissed and not self._gone.done()

    # -- requests

    def ask(self, kind: Kind, argument: int, payload: bytes = b"") -> "asyncio.Future[Reply]":
        """Send a request; the future raises HelperGoneError if the helper ends before it answers.

        The request stays in force when the future is cancelled. Slot sockets that come with an
        answer that nobody awaits are closed.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._gone.done():
            future.set_exception(HelperGoneError(f"{self} has ended"))
            return future
        self._sequence += 1
        self._requests[self._sequence] = future
        # On failure it is ending; the future is settled once it is known how it ended.
        with contextlib.suppress(OSError):
            self._control.send(wire.pack(kind, self._sequence, argument, payload))
        return future

    def _control_readable(self) -> None:
        while True:
            try:
                message, descriptors, _, _ = recv_fds(
                    self._control, wire.MAX_MESSAGE, wire.MAX_SLOTS, MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            if not message:
                self._loop.remove_reader(self._control.fileno())
                return
            sockets = [socket(fileno=descriptor) for descriptor in descriptors]
            try:
                kind, sequence, argument, payload = wire.unpack(message)
            except wire.WireError as error:
                logger.error("%s is not in its right mind (it sent %s) and is killed", self, error)
                self._kill()
                return
            request = self._requests.pop(sequence, None)
            if request is None or request.done():
                for orphan in sockets:
                    orphan.close()
            else:
                request.set_result(Reply(kind, argument, payload, sockets))

    # -- the log

    def _log_readable(self) -> None:
        for _ in range(_LINES_PER_TURN):
            if not self._read_log():
                return

    def _read_log(self) -> bool:
        """Log a line of the driver; False: there is none."""
        try:
            line = self._log.recv(_MAX_LOG_LINE)
        except BlockingIOError:
            return False
        except OSError:
            line = b""
        if not line:
            self._loop.remove_reader(self._log.fileno())
            return False
        level = _LEVELS[min(line[0], len(_LEVELS) - 1)]
        for text in line[1:].decode("utf-8", "backslashreplace").splitlines():
            printable = text if text.isprintable() else repr(text)[1:-1]
            logger.log(level, "%s: %s", self._name, printable)
        return True

    # -- the end

    def dismiss(self) -> None:
        """Have the helper close its readers and end; it is killed if that takes too long."""
        if self._dismissed or self._gone.done():
            return
        self._dismissed = True
        with contextlib.suppress(OSError):
            self._control.shutdown(SHUT_WR)
        self._kill_timer = self._loop.call_later(CLOSE_LIMIT, self._close_expired)

    async def wait(self) -> None:
        """Wait for the end of a dismissed helper. Never raises."""
        waiter: asyncio.Future[None] = self._loop.create_future()

        def wake(_: "asyncio.Future[None]") -> None:
            if not waiter.done():
                waiter.set_result(None)

        self._gone.add_done_callback(wake)
        try:
            await settle(waiter, CLOSE_LIMIT + KILL_LIMIT)
        except TimeoutError:
            logger.error("%s cannot be killed: the kernel waits for a device; unplug the reader", self)
        finally:
            self._gone.remove_done_callback(wake)

    def kill_stuck(self) -> None:
        """The driver does not come back; its readers are lost, and can be opened anew."""
        logger.error(
            "%s has not returned from a cancelled command; its helper (pid %d) is killed, which costs all"
            " readers that it serves",
            self.library,
            self.pid,
        )
        self._kill()

    def _close_expired(self) -> None:
        logger.warning("%s did not close its readers within %g s and is killed", self, CLOSE_LIMIT)
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _process_ended(self) -> None:
        try:
            info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            info = None  # a program that embeds this one reaps all children
        how = f"{self} {_describe_end(info)}"
        self._loop.remove_reader(self._pidfd)
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        # What it sent before it ended may still lie in the sockets.
        self._control_readable()
        while self._read_log():
            continue
        for end in (self._control, self._log):
            self._loop.remove_reader(end.fileno())
            end.close()
        # not before: of what it has sent, something may be reason to kill it
        os.close(self._pidfd)
        requests, self._requests = self._requests, {}
        for request in requests.values():
            if not request.done():
                request.set_exception(HelperGoneError(how))
        self._gone.set_result(None)
        self._ended(self, how)
