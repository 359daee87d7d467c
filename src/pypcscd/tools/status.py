"""``pypcscd status``: readers, clients, who holds a card and who waits for it."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pypcscd.paths import admin_path_of
from pypcscd.text import safe_text
from pypcscd.tools.admin import AdminClient, AdminError
from pypcscd.tools.client import add_socket_option

#: seconds for which requests are counted
_MEASURE = 0.25
#: seconds after which ``--watch`` looks again even if nothing was reported: times go on
_REFRESH = 1.0
_CLEAR = "\033[H\033[2J"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="pypcscd status",
        description="Show readers, cards and clients of a running pypcscd: who holds a card, who waits.",
        epilog="It asks the daemon's admin socket, which is for root and the daemon's own user and group.",
    )
    add_socket_option(parser)
    parser.add_argument("--json", action="store_true", help="write the whole status as a JSON object")
    parser.add_argument(
        "-w", "--watch", action="store_true", help="go on, and show each change; Ctrl-C ends it"
    )
    options = parser.parse_args(arguments)
    try:
        client = AdminClient(admin_path_of(options.socket))
        try:
            for report in _reports(client, watch=options.watch):
                _show(report, as_json=options.json, clear=options.watch and sys.stdout.isatty())
        finally:
            client.close()
    except AdminError as error:
        print(f"pypcscd status: {error}", file=sys.stderr)
        return 1
    return 0


def _reports(client: AdminClient, *, watch: bool) -> Iterator[dict[str, Any]]:
    if watch:
        client.ask("watch")
    while True:
        client.set_timeout(None)
        yield client.ask("status", measure=_MEASURE)
        if not watch:
            return
        _await_change(client)


def _await_change(client: AdminClient) -> None:
    """Until something is reported, for ``_REFRESH`` at most."""
    deadline = time.monotonic() + _REFRESH
    while (left := deadline - time.monotonic()) > 0:
        client.set_timeout(left)
        try:
            if "event" in client.next_object():
                return
        except TimeoutError:
            return


def _show(report: Mapping[str, Any], *, as_json: bool, clear: bool) -> None:
    if as_json:
        print(json.dumps(report), flush=True)
        return
    print((_CLEAR if clear else "") + "\n".join(lines(report)), flush=True)


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The status for people."""
    daemon = report["daemon"]
    yield f"pypcscd {daemon['version']}, pid {daemon['pid']}, running for {duration(daemon['uptime'])}"
    for socket in report["sockets"]:
        shown = "" if socket["readers"] == ["*"] else f", shows {', '.join(socket['readers'])}"
        yield f"  {safe_text(socket['path'])}: {_count(socket['clients'], 'client')}{safe_text(shown)}"
    yield ""
    yield "Readers" if report["readers"] else "No readers"
    for reader in report["readers"]:
        yield from _reader(reader)
    yield ""
    yield "Clients" if report["clients"] else "No clients"
    for client in report["clients"]:
        yield from _client(client)
    if report["helpers"]:
        yield ""
        yield "Driver helpers"
        for helper in report["helpers"]:
            yield f"  pid {helper['pid']}: {safe_text(helper['library'])}"


def _reader(reader: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {safe_text(reader['name'])}  (driver {safe_text(reader['driver'])})"
    yield f"    {_card(reader)}"
    holder = reader["holder"]
    if holder is not None:
        how = "in exclusive use by" if reader["exclusive"] else "held by"
        yield f"    {how} {_who(holder)} for {duration(holder['seconds'])}"
    elif reader["users"]:
        yield f"    shared, {_count(reader['users'], 'connection')}, free to take"
    for place, waiter in enumerate(reader["waiting"], 1):
        yield f"    waiting ({place}): {_who(waiter)} for {duration(waiter['seconds'])}"
    # a daemon that has not been restarted since an update may not know them
    if counters := reader.get("counters"):
        trouble = ", ".join(
            f"{safe_text(name).replace('_', ' ')} {count}" for name, count in counters.items()
        )
        yield f"    went wrong since it was opened: {trouble}"


def _card(reader: Mapping[str, Any]) -> str:
    state = reader["state"]
    if "UNKNOWN" in state:
        return "the reader does not answer"
    if not reader["card"]:
        return "no card"
    if "SWALLOWED" in state:
        return "a card that does not answer"
    atr = " ".join(reader["atr"][position : position + 2] for position in range(0, len(reader["atr"]), 2))
    power = "powered" if reader["powered"] else "not powered"
    protocol = f", in use with {reader['protocol']}" if reader["protocol"] else ""
    return f"card, {power}{protocol}; ATR {atr} ({safe_text(reader['atr_phrase'])})"


def _client(client: Mapping[str, Any]) -> Iterator[str]:
    rate = client["requests_per_second"]
    speed = f", {rate:g} requests/s" if rate else ""
    order = ", big-endian" if client["byte_order"] == "big" else ""
    yield (
        f"  ({client['client']}) {_program(client)}, uid {client['uid']}, "
        f"protocol {client['dialect']}{order}{speed}"
    )
    if client["busy"]:
        yield "    a call is being carried out"
    if client["waits_for_change"]:
        yield "    waits for a change of readers or cards"
    if client["context"] is None:
        yield "    has no context"
    for handle in client["handles"]:
        event = f", not told yet: {handle['event']}" if handle["event"] else ""
        yield f"    card handle 0x{handle['handle']:08X}: {safe_text(handle['reader'])}{event}"


def _who(user: Mapping[str, Any]) -> str:
    if user["pid"] is None:
        return "a client that is going away"
    return f"({user['client']}) {_program(user)}"


def _program(user: Mapping[str, Any]) -> str:
    return f"{safe_text(user['executable'] or 'unknown program')}, pid {user['pid']}"


def duration(seconds: float) -> str:
    """ "0.35 s", "12 s", "3 min 20 s", "2 h 5 min" or "3 d 4 h"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = int(seconds)
    for size, unit, smaller, smaller_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {smaller_unit}"
    return f"{whole} s"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
