"""The daemon as a process: ready, signals, reload, auto-exit, and an end that comes in any case."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import threading
from collections.abc import Callable

from pypcscd.client_sockets import shown
from pypcscd.configuration.config import Config, DaemonError
from pypcscd.daemon import Daemon
from pypcscd.eager import Background
from pypcscd.process.census import Census
from pypcscd.process.event_loop import new_event_loop
from pypcscd.process.idle import IdleClock
from pypcscd.process.notify import Notifier

log = logging.getLogger("pypcscd.daemon")

#: SIGALRM because pcscd takes it, too
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM)
#: so many of them end the process at once, as with pcscd
_FORCING = 3
#: seconds that the end may take, with a driver that hangs, and then some for a last word
_STOP_BOUND = 8.0
_LAST_WORD = 1.0
#: exit status when it did not end in order
_FORCED = 1


def run(
    daemon: Daemon,
    *,
    notifier: Notifier | None = None,
    reread: Callable[[], Config] | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Run a daemon until a signal or auto-exit ends it. Raises DaemonError if it cannot start.

    ``reread`` makes the configuration anew for a reload, in a thread, and raises DaemonError if it is
    wrong. ``ready`` is called once, when clients are served.
    """
    _allow_many_clients()
    _let_clients_finish()
    lifecycle = _Lifecycle(daemon, notifier or Notifier({}), reread)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(lifecycle.run(ready))
    finally:
        gc.unfreeze()
        lifecycle.has_ended()


def _allow_many_clients() -> None:
    """Each client takes a descriptor; the usual soft limit of 1,024 is there for select() only."""
    # A service manager may forbid it; it will have set a limit of its own.
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _let_clients_finish() -> None:
    """Do not take the processor from a client that is still sending.

    libpcsclite sends a request in up to three pieces. Woken by the first one, in the middle of that, we
    would only see that the rest is missing; with Linux 6.18 that is what happens to half of all APDUs, and
    costs a quarter of our time. Batch scheduling (sched(7)) leaves us as large a share, but no such haste.
    """
    # The service manager, or whoever started us, may have chosen another policy, or forbid it.
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class _Lifecycle:
    def __init__(self, daemon: Daemon, notifier: Notifier, reread: Callable[[], Config] | None) -> None:
        self._daemon = daemon
        self._notifier = notifier
        self._reread = reread
        self._background = Background(log)
        self._stop = asyncio.Event()
        self._stop_signals = 0
        self._is_reloading = False
        self._must_reload_again = False
        self._is_serving = False
        #: what became of the last reload, if there is something to be done about it
        self._failure = ""
        self._census = Census(daemon.manager, lambda: daemon.sockets.clients, self._tell_numbers)
        self._last_resort: list[threading.Timer] = []

    async def run(self, ready: Callable[[], None] | None) -> None:
        self._handle_signals()
        starting = asyncio.ensure_future(self._daemon.start())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return
        try:
            starting.result()
            self._is_serving = True
            # From here on there is garbage to look for, but not among what the start made.
            gc.freeze()
            gc.enable()
            self._notifier.ready(self._status())
            if ready is not None:
                ready()
            self._begin_auto_exit()
            if self._notifier.is_heard:
                self._daemon.sockets.observers.append(self._census.note_change)
                self._census.start()
            await stopping
            self._background.cancel()
            await self._daemon.stop()
            self._ignore_signals()
        finally:
            stopping.cancel()

    def has_ended(self) -> None:
        for timer in self._last_resort:
            timer.cancel()

    def _status(self) -> str:
        return f"{self._census}; serving on {shown(self._daemon.sockets.paths)}{self._failure}"

    def _tell_numbers(self) -> None:
        # A reload says them at its end.
        if not self._is_reloading:
            self._notifier.status(self._status())

    # --- signals ------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._note_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._ask_for_reload)
        loop.add_signal_handler(signal.SIGUSR1, self._look_for_readers)

    def _ignore_signals(self) -> None:
        """All is done but for the interpreter's own end, which a signal shall not turn into a failure."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _note_stop_signal(self, number: signal.Signals) -> None:
        self._stop_signals += 1
        if self._stop_signals == 1:
            self._begin_to_stop(number.name)
        elif self._stop_signals < _FORCING:
            log.warning("still stopping; one more signal ends the daemon at once")
        else:
            self._end_now("it was told so three times")

    def _begin_to_stop(self, why: str) -> None:
        if not self._stop.is_set():
            log.info("stopping (%s)", why)
            self._census.stop()
            self._notifier.stopping(f"stopping ({why})")
            self._bound_the_end()
            self._stop.set()

    def _bound_the_end(self) -> None:
        """Threads, because what hangs may be the event loop, or the writing of log lines."""
        reason = f"a device did not close within {_STOP_BOUND:.0f} s"
        self._last_resort = [
            threading.Timer(_STOP_BOUND, self._end_now, (reason,)),
            threading.Timer(_STOP_BOUND + _LAST_WORD, os._exit, (_FORCED,)),
        ]
        for timer in self._last_resort:
            timer.daemon = True
            timer.start()

    def _end_now(self, why: str) -> None:
        try:
            self._daemon.sockets.release()
            log.critical("ended at once because %s; cards may still have power", why)
        finally:
            os._exit(_FORCED)

    def _look_for_readers(self) -> None:
        if self._is_serving and not self._stop.is_set():
            log.info("looking for readers (SIGUSR1)")
            self._background.adopt(asyncio.create_task(self._daemon.rescan()))

    # --- reload -------------------------------------------------------------------------------

    def _ask_for_reload(self) -> None:
        if self._stop.is_set():
            return
        if self._reread is None or not self._is_serving:
            log.warning("SIGHUP: there is nothing to be read again now")
        elif self._is_reloading:
            self._must_reload_again = True
        else:
            self._is_reloading = True
            self._background.adopt(asyncio.create_task(self._reload_until_current(self._reread)))

    async def _reload_until_current(self, reread: Callable[[], Config]) -> None:
        try:
            self._must_reload_again = True
            while self._must_reload_again:
                self._must_reload_again = False
                await self._reload(reread)
        finally:
            self._is_reloading = False

    async def _reload(self, reread: Callable[[], Config]) -> None:
        self._notifier.reloading()
        self._failure = ""
        try:
            config = await asyncio.to_thread(reread)
            await self._daemon.reconfigure(config)
        except DaemonError as error:
            log.error("reload failed, everything is as before: %s", error)
            self._failure = f"; reload failed: {error}"
        except Exception:
            log.exception("reload failed because of a defect; please report this")
            self._failure = "; reload failed, see the log"
        else:
            log.info("reloaded")
        self._notifier.ready(self._status())

    # --- auto-exit ----------------------------------------------------------------------------

    def _begin_auto_exit(self) -> None:
        seconds = self._daemon.config.auto_exit
        if seconds is not None:
            sockets = self._daemon.sockets
            clock = IdleClock(seconds, lambda: sockets.is_used, self._leave)
            sockets.observers.append(clock.look)
            clock.look()

    def _leave(self) -> bool:
        """Nobody was connected for long enough. Whoever comes from now on is left to the next daemon."""
        sockets = self._daemon.sockets
        if sockets.has_queue or self._daemon.is_watched:
            return False
        sockets.stop_accepting()
        self._begin_to_stop(f"no client for {self._daemon.config.auto_exit:g} s")
        return True
