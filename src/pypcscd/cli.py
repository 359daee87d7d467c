"""The command ``pypcscd``, also installed as ``pcscd``: the daemon, and the tools around it.

What only one of them needs is imported there: no tool is to wait for what the daemon needs.
"""

import gc
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

#: sub-command -> (module whose ``main(arguments)`` runs it, one line for the help)
_TOOLS = {
    "run": ("pypcscd.tools.run", "run a command with a private daemon and virtual readers"),
    "scan": ("pypcscd.tools.scan", "list the readers and cards, or watch them"),
    "status": ("pypcscd.tools.status", "show readers and clients, who holds a card, who waits"),
    "spy": ("pypcscd.tools.spy.command", "show the PC/SC calls of programs"),
    "apdu": ("pypcscd.tools.apdu", "send APDUs to a card and print the responses"),
    "install": ("pypcscd.tools.install.command", "let this system start pypcscd where pcscd would be"),
    "uninstall": ("pypcscd.tools.uninstall", "take back what install did"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon or a tool; returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    _open_standard_streams()
    if words and words[0] in _TOOLS:
        return _tool(words[0], words[1:])
    if words and not words[0].startswith("-"):
        sys.stderr.write(f"pypcscd: there is no tool {words[0]!r}; there are {', '.join(_TOOLS)}\n")
        return 1
    # What a start makes stays: looking for garbage in it again and again costs 6 % of its time.
    gc.disable()
    try:
        return _daemon(words)
    finally:
        gc.enable()


def _open_standard_streams() -> None:
    """Open what whoever started us has closed of descriptors 0 to 2, before a socket of ours gets one.

    That one would be taken for a terminal, and libuv does not even close it.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _tool(name: str, words: Sequence[str]) -> int:
    """Run a tool; what can happen to each of them ends here."""
    module, _ = _TOOLS[name]
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a reader may have letters that the terminal has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            status: int = import_module(module).main(words)
        finally:
            # now, because the interpreter does it where nobody could catch what happens
            sys.stdout.flush()
    except OSError as error:
        if error.filename is None:
            # What could not be written the interpreter would try to write once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            # Whoever read it has gone, as "head" does: no reason to complain.
            return 128 + signal.SIGPIPE
        sys.stderr.write(f"pypcscd {name}: {error.filename or 'writing'}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def _daemon(words: Sequence[str]) -> int:
    from pypcscd.configuration import options as command_line
    from pypcscd.configuration.config import DaemonError

    tools = "\n".join(f"  {name:<10}{text}" for name, (_, text) in _TOOLS.items())
    options = command_line.parse(words, tools)
    if options.hotplug:
        from pypcscd.process.rescan import ask_for_rescan

        return ask_for_rescan(options.socket)
    # Whoever asks for a reload or a rescan too early must not end the daemon.
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if options.settings is not None:
        options.settings = options.settings.absolute()
    try:
        return _serve(options)
    except DaemonError as error:
        sys.stderr.write(f"pypcscd: {error}\n")
        return 1


def _serve(options: "argparse.Namespace") -> int:
    """Run the daemon, here or in the background; returns the exit status. Raises DaemonError."""
    from pypcscd.configuration.config import DaemonError
    from pypcscd.configuration.options import make_config
    from pypcscd.process.activation import inherited_sockets

    config = make_config(options, os.environ)
    inherited = inherited_sockets(os.environ)
    background = None
    if not options.foreground:
        from pypcscd.process.background import detach

        child = detach()
        if isinstance(child, int):
            return child
        background = child
    # Costly imports, not needed to print a help text, nor by who waits for the daemon in the background.
    import logging

    from pypcscd import lifecycle
    from pypcscd.daemon import Daemon
    from pypcscd.process import logs
    from pypcscd.process.notify import Notifier

    daemon = Daemon(config, inherited)
    logs.configure(
        logging.getLevelNamesMapping()[options.level.upper()],
        stream=sys.stdout,
        colours=options.color,
        in_background=background is not None,
        is_reader=daemon.is_reader,
    )
    try:
        lifecycle.run(
            daemon,
            notifier=Notifier(os.environ),
            reread=lambda: make_config(options, os.environ),
            ready=background.ready if background is not None else None,
        )
    except DaemonError as error:
        if background is None:
            raise
        logging.getLogger("pypcscd").critical("%s", error)
        background.ended(1)
        return 1
    if background is not None:
        background.ended(0)
    return 0
