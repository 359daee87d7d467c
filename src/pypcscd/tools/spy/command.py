"""The command line of ``pypcscd spy``."""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from pypcscd.control import stream
from pypcscd.tools.admin import AdminError
from pypcscd.tools.child import SIGNALLED, Ending, complain, run_command
from pypcscd.tools.client import add_socket_option
from pypcscd.tools.spy.live import spy_live
from pypcscd.tools.spy.objects import JsonRenderer
from pypcscd.tools.spy.output import WatchThread
from pypcscd.tools.spy.pcapng import PcapngWriter
from pypcscd.tools.spy.proxy import Proxy, ProxyError
from pypcscd.tools.spy.render import TextRenderer
from pypcscd.tools.spy.watcher import Filter, Renderer, Watcher
from pypcscd.tools.spy.wire import WireRenderer

_TOOL = "pypcscd spy"
#: seconds for which decoding may keep passing on waiting
_SWITCH_INTERVAL = 0.0001


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_TOOL,
        usage=f"{_TOOL} [options]\n"
        f"       {_TOOL} [options] -- COMMAND [ARGUMENT ...]\n"
        f"       {_TOOL} [options] --proxy SOCKET\n"
        f"       {_TOOL} [options] --read FILE",
        description="Show the PC/SC calls of programs, with their parameters, results and durations. "
        "PINs and keys are hidden. Without COMMAND, --proxy and --read: all clients of a running pypcscd, "
        "as its administrator.",
        epilog="example: pypcscd spy -- opensc-tool --list-readers",
    )
    source = parser.add_argument_group("what to watch")
    add_socket_option(source)
    source.add_argument(
        "--proxy",
        metavar="SOCKET",
        type=Path,
        help="listen here and watch whoever connects, until Ctrl-C; "
        "programs find it by PCSCLITE_CSOCK_NAME=SOCKET",
    )
    source.add_argument(
        "--proxy-mode",
        metavar="MODE",
        type=_mode,
        default=0o600,
        help="who may connect there (600: you); the daemon takes them for you",
    )
    source.add_argument("--read", metavar="FILE", type=Path, help="show a recording")
    source.add_argument("--pid", metavar="N", type=int, help="only this process")
    source.add_argument("--uid", metavar="N", type=int, help="only this user")
    source.add_argument("--reader", metavar="TEXT", help="only calls that concern a reader with this name")
    source.add_argument(
        "--table-size",
        type=int,
        choices=(16, 48),
        help="records in the reader table, for protocols before 4.6 (found out by default)",
    )
    shape = parser.add_argument_group("how to show it")
    form = shape.add_mutually_exclusive_group()
    form.add_argument("--wire", action="store_true", help="show the messages instead of the calls")
    form.add_argument("--json", action="store_true", help="write an object for each call, one on a line")
    shape.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write there (to stderr with a COMMAND, else stdout)",
    )
    shape.add_argument("--record", metavar="FILE", type=Path, help="keep the messages, for --read")
    shape.add_argument("--pcapng", metavar="FILE", type=Path, help="keep the APDUs, for Wireshark")
    shape.add_argument(
        "--show-secrets", action="store_true", help="do not hide PINs and keys, in files neither"
    )
    shape.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="auto: on a terminal"
    )
    parser.add_argument("command", metavar="COMMAND", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a file mode like 600")
    return mode


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if sum(choice is not None for choice in (options.command, options.proxy, options.read)) > 1:
        parser.error("only one of COMMAND, --proxy SOCKET and --read FILE")
    try:
        with ExitStack() as files:
            watcher = _watcher(options, files)
            if options.read is not None:
                return _read(options.read, watcher)
            if options.command is None and options.proxy is None:
                return spy_live(options, watcher)
            return asyncio.run(_watch(options, watcher))
    except (ProxyError, AdminError, stream.StreamError) as error:
        return complain(_TOOL, str(error), 1)


def _watcher(options: argparse.Namespace, files: ExitStack) -> Watcher:
    out: TextIO = sys.stderr if options.command is not None else sys.stdout
    if options.output is not None:
        out = files.enter_context(options.output.open("w", encoding="utf-8", errors="replace"))
    is_colourful = options.color == "always" or (options.color == "auto" and _wants_colour(out))
    secrets = options.show_secrets
    renderer: Renderer | None = None
    if options.json:
        renderer = JsonRenderer(shows_secrets=secrets)
    elif not options.wire:
        renderer = TextRenderer(is_colourful=is_colourful, shows_secrets=secrets)
    packets = None
    if options.pcapng is not None:
        packets = PcapngWriter(files.enter_context(_private(options.pcapng).open("wb")))
    record: Callable[[stream.Record], None] | None = None
    if options.record is not None:
        recording = files.enter_context(_private(options.record).open("w", encoding="ascii"))
        print(_header(), file=recording)

        def record(what: stream.Record) -> None:
            print(stream.encode(what), file=recording, flush=True)

    return Watcher(
        lambda line: print(line, file=out, flush=True),
        renderer=renderer,
        wire=WireRenderer(shows_secrets=secrets) if options.wire else None,
        packets=packets,
        record=record,
        shows_secrets=secrets,
        table_size=options.table_size,
        chosen=Filter(pid=options.pid, uid=options.uid, reader=options.reader),
    )


def _wants_colour(out: TextIO) -> bool:
    return out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _private(path: Path) -> Path:
    """The file, made for its owner alone: what cards say is nobody else's business."""
    path.touch(mode=0o600)
    return path


def _header() -> str:
    import json

    return json.dumps(stream.HEADER)


def _read(path: Path, watcher: Watcher) -> int:
    last = 0.0
    for record in _records(path):
        last = record.time
        watcher.feed(record)
    watcher.finish(last, "the recording ends")
    return 0


def _records(path: Path) -> Iterator[stream.Record]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                record = stream.decode(line)
            except stream.StreamError as error:
                raise stream.StreamError(f"{path}:{number}: {error}") from error
            if record is not None:
                yield record


async def _watch(options: argparse.Namespace, watcher: Watcher) -> int:
    # The decoding thread hands over as soon as a client's bytes wait to be passed on.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    ending = Ending()
    with tempfile.TemporaryDirectory(prefix="pypcscd-") as directory:
        path = options.proxy or Path(directory, "pcscd.comm")
        thread: WatchThread | None = None

        def watch(record: stream.Record) -> None:
            if thread is not None:
                thread.put(record)

        proxy = Proxy(path.absolute(), options.socket.absolute(), watch, options.proxy_mode)
        thread = WatchThread(watcher, proxy.clock.now)
        await proxy.start()
        thread.start()
        try:
            if options.command is None:
                return await _serve(path, ending)
            environment = os.environ | {"PCSCLITE_CSOCK_NAME": str(path)}
            if ending.asked_to_end:
                return SIGNALLED + ending.asked_to_end
            return await run_command(_TOOL, [options.command, *options.arguments], environment, ending)
        finally:
            proxy.close()
            # The last words of connections that end now come with the loop's next turns.
            await asyncio.sleep(0)
            await asyncio.to_thread(thread.finish)
            if thread.failure is not None and not isinstance(thread.failure, BrokenPipeError):
                complain(_TOOL, f"writing: {thread.failure.strerror or thread.failure}", 1)


async def _serve(path: Path, ending: Ending) -> int:
    """Until a signal says that it is enough."""
    print(f"watching {path}; PCSCLITE_CSOCK_NAME={path} leads programs here; Ctrl-C ends", file=sys.stderr)
    return await ending.wait()
