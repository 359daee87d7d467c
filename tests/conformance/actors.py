"""Clients as a scenario directs them: each is a process of its own, with one context and any number
of threads. Every call leaves a line in the transcript."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import show
import worker
from daemons import processes
from vocabulary import ANY, R0, R1, TALK
from winscard import UNTOUCHED, Result

from pypcscd.scard import Disposition, Protocol, Scope, ShareMode

if TYPE_CHECKING:
    from stage import Stage

#: how long a call may take that is expected to return
PATIENCE = 8.0
#: a call that has not returned after this many seconds is waiting for something: both daemons act on
#: what happens within 0.1 s, and the client library asks again after 0.1 s at the latest
BLOCKED_AFTER = 0.5
ROOM = 65548


class HungError(AssertionError):
    """A call did not return at all; the scenario cannot go on."""


class Process:
    """A worker process and the answers that have come from it."""

    def __init__(self) -> None:
        self.connection, other = processes.Pipe()
        self._process = processes.Process(target=worker.main, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self._results: dict[int, Result] = {}
        self._sent = 0
        self.contexts = 0

    def send(self, thread: str, method: str, arguments: tuple[object, ...]) -> int:
        self._sent += 1
        self.connection.send((self._sent, thread, method, arguments))
        return self._sent

    def receive(self, number: int, timeout: float) -> Result | None:
        """The result of a call, or None if there is none within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while number not in self._results:
            left = deadline - time.monotonic()
            if not self.connection.poll(max(left, 0)):
                return None
            answered, result = self.connection.recv()
            self._results[answered] = result
        return self._results.pop(number)

    def kill(self) -> None:
        pid = self._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self._process.join()
        self.connection.close()


class Pending:
    """A call that has been sent."""

    def __init__(self, stage: Stage, process: Process, label: str, number: int) -> None:
        self._stage = stage
        self._process = process
        self._label = label
        self._number = number
        self.render: Callable[[Result], str] = lambda result: ""
        self.is_code_shown = True
        self._result: Result | None = None

    def _poll(self, timeout: float) -> Result | None:
        if self._result is None:
            self._result = self._process.receive(self._number, timeout)
        return self._result

    @property
    def actor(self) -> str:
        return self._label.partition(".")[0]

    def is_over(self, timeout: float) -> bool:
        """Whether the call returns within ``timeout`` seconds; not recorded."""
        return self._poll(timeout) is not None

    def waits(self, after: float = BLOCKED_AFTER) -> bool:
        """Record whether the call is still waiting."""
        is_waiting = self._poll(after) is None
        self._stage.record(f"{self._label} at first", "waits" if is_waiting else "returns")
        return is_waiting

    def done(self, timeout: float = PATIENCE) -> tuple[object, ...]:
        """Wait for the end of the call and record what came out; the values it gave."""
        result = self._poll(timeout)
        if result is None:
            self._stage.record(self._label, "does not return")
            raise HungError(self._label)
        code, values = result
        self._stage.last = code
        shown = show.rv(code) if self.is_code_shown else ""
        self._stage.record(self._label, f"{shown} {self.render(result)}".strip())
        return values


class Actor:
    """A client, or one of its threads."""

    def __init__(self, stage: Stage, name: str, process: Process, thread: str = "") -> None:
        self._stage = stage
        self.name = name
        self.process = process
        self._thread = thread
        self._context = [0]

    def thread(self, name: str) -> Actor:
        """The same client and context in another thread."""
        other = Actor(self._stage, f"{self.name}/{name}", self.process, name)
        other._context = self._context
        return other

    @property
    def context(self) -> int:
        return self._context[0]

    def _send(
        self, method: str, label: str, *arguments: object, render: Callable[[Result], str] | None = None
    ) -> Pending:
        number = self.process.send(self._thread, method, arguments)
        pending = Pending(self._stage, self.process, f"{self.name}.{method}({label})", number)
        if render is not None:
            pending.render = render
        return pending

    # --- contexts -------------------------------------------------------------------------------

    def establish(self, scope: int = Scope.SYSTEM) -> int:
        pending = self._send("establish", str(int(scope)), scope, render=self._show_context)
        (context,) = pending.done()
        assert isinstance(context, int)
        if self._stage.last == 0:
            self._context[0] = context
            self.process.contexts += 1
        return context

    def _show_context(self, result: Result) -> str:
        return self._stage.name("c", result)

    def _named_context(self, context: int | None) -> tuple[int, str]:
        return (self.context, "") if context is None else (context, self._stage.known("c", context))

    def release_later(self, context: int | None = None) -> Pending:
        raw, label = self._named_context(context)
        return self._send("release", label, raw)

    def release(self, context: int | None = None) -> None:
        self.release_later(context).done()
        if self._stage.last == 0:
            self.process.contexts -= 1

    def is_valid(self, context: int | None = None) -> None:
        raw, label = self._named_context(context)
        self._send("is_valid", label, raw).done()

    def cancel(self, context: int | None = None) -> None:
        raw, label = self._named_context(context)
        self._send("cancel", label, raw).done()

    def establish_many(self, count: int) -> int:
        """Returns how many there were."""
        # a hung-up connection looks this way or that, by chance; how many there were does not
        pending = self._send("establish_many", str(count), count, render=_show_count)
        pending.is_code_shown = False
        (done,) = pending.done(20)
        assert isinstance(done, int)
        self.process.contexts += done
        return done

    # --- readers --------------------------------------------------------------------------------

    def list_readers(self, room: int | None = 1000) -> None:
        def render(result: Result) -> str:
            length, names = result[1]
            assert isinstance(length, int)
            assert isinstance(names, bytes)
            return f"{show.number(length)} {names.decode().split(chr(0))}"

        self._send("list_readers", show.words([room]), self.context, room, render=render).done()

    def list_groups(self, room: int | None = 1000) -> None:
        self._send("list_groups", show.words([room]), self.context, room, render=_show_values).done()

    def changes_later(
        self, states: Sequence[tuple[str, int]], timeout: int = 0, context: int | None = None
    ) -> Pending:
        raw, label = self._named_context(context)
        text = ", ".join(f"{_short(reader)}:{show.state(current)}" for reader, current in states)
        time_out = "INFINITE" if timeout == show.INFINITE else f"{timeout} ms"
        label = f"{label + ', ' if label else ''}[{text}], {time_out}"
        return self._send("changes", label, raw, timeout, list(states), render=_show_changes)

    def changes(
        self, states: Sequence[tuple[str, int]], timeout: int = 0, context: int | None = None
    ) -> list[int]:
        """The event words."""
        values = self.changes_later(states, timeout, context).done()
        return [entry[0] for entry in values if isinstance(entry, tuple)]

    def state(self, reader: str = R0) -> int:
        """The present state of a reader, without CHANGED: fit to be passed to the next call."""
        (word,) = self.changes([(reader, 0)])
        return word & ~int(show.StateFlag.CHANGED)

    # --- cards ----------------------------------------------------------------------------------

    def connect_later(
        self,
        share: int = ShareMode.SHARED,
        protocols: int = ANY,
        reader: str = R0,
        context: int | None = None,
    ) -> Pending:
        raw, label = self._named_context(context)
        label += (
            ", " if label else ""
        ) + f"{_short(reader)}, {show.share(share)}, {show.protocols(protocols)}"

        def render(result: Result) -> str:
            if result[0] and self._stage.is_brief:
                return ""
            card = self._stage.name("h", result)
            active = result[1][1]
            assert isinstance(active, int)
            return f"{card} {show.protocols(active)}"

        return self._send("connect", label, raw, reader, share, protocols, render=render)

    def connect(
        self,
        share: int = ShareMode.SHARED,
        protocols: int = ANY,
        reader: str = R0,
        context: int | None = None,
    ) -> int:
        card = self.connect_later(share, protocols, reader, context).done()[0]
        assert isinstance(card, int)
        return card

    def connect_many(self, count: int, share: int = ShareMode.SHARED, reader: str = R0) -> int:
        pending = self._send(
            "connect_many",
            f"{_short(reader)}, {show.share(share)}, {count}",
            self.context,
            reader,
            share,
            ANY,
            count,
            render=_show_count,
        )
        (done,) = pending.done(20)
        assert isinstance(done, int)
        return done

    def probe(self, protocols: int, reader: str = R0) -> None:
        """Connect, status and disconnect in one line."""

        def render(result: Result) -> str:
            active, state, atr = result[1]
            assert isinstance(active, int)
            assert isinstance(state, int)
            assert isinstance(atr, bytes)
            if result[0]:
                return show.protocols(active)
            return f"{show.protocols(active)}, {show.reader_state(state)} {show.data(atr)}"

        label = f"{_short(reader)}, {show.protocols(protocols)}"
        self._send("probe", label, self.context, reader, protocols, render=render).done()

    def reconnect_later(
        self,
        card: int,
        share: int = ShareMode.SHARED,
        protocols: int = ANY,
        initialization: int = Disposition.LEAVE,
    ) -> Pending:
        label = (
            f"{self._card(card)}, {show.share(share)}, {show.protocols(protocols)}, "
            f"{show.disposition(initialization)}"
        )
        return self._send("reconnect", label, card, share, protocols, initialization, render=_show_protocol)

    def reconnect(
        self,
        card: int,
        share: int = ShareMode.SHARED,
        protocols: int = ANY,
        initialization: int = Disposition.LEAVE,
    ) -> None:
        self.reconnect_later(card, share, protocols, initialization).done()

    def disconnect_later(self, card: int, disposition: int = Disposition.LEAVE) -> Pending:
        label = f"{self._card(card)}, {show.disposition(disposition)}"
        return self._send("disconnect", label, card, disposition)

    def disconnect(self, card: int, disposition: int = Disposition.LEAVE) -> None:
        self.disconnect_later(card, disposition).done()

    def begin_later(self, card: int) -> Pending:
        return self._send("begin", self._card(card), card)

    def begin(self, card: int) -> None:
        self.begin_later(card).done()

    def end_later(self, card: int, disposition: int = Disposition.LEAVE) -> Pending:
        return self._send("end", f"{self._card(card)}, {show.disposition(disposition)}", card, disposition)

    def end(self, card: int, disposition: int = Disposition.LEAVE) -> None:
        self.end_later(card, disposition).done()

    def status_later(self, card: int, name_room: int = 128, atr_room: int = 33) -> Pending:
        label = self._card(card)
        if (name_room, atr_room) != (128, 33):
            label += f", {name_room}, {atr_room}"
        return self._send("status", label, card, name_room, atr_room, render=_show_status)

    def status(self, card: int, name_room: int = 128, atr_room: int = 33) -> None:
        self.status_later(card, name_room, atr_room).done()

    def transmit_later(
        self, card: int, apdu: bytes | str = TALK, protocol: int = Protocol.T1, room: int = ROOM
    ) -> Pending:
        command = bytes.fromhex(apdu) if isinstance(apdu, str) else apdu
        label = f"{self._card(card)}, {show.protocols(protocol)}, {show.data(command)}"
        if room != ROOM:
            label += f", {room}"
        return self._send("transmit", label, card, protocol, command, room, render=_show_answer)

    def transmit(
        self, card: int, apdu: bytes | str = TALK, protocol: int = Protocol.T1, room: int = ROOM
    ) -> None:
        self.transmit_later(card, apdu, protocol, room).done()

    def received_protocol(self, card: int, protocol: int) -> None:
        """What the call says about the protocol of the answer (other lines leave that out)."""
        label = f"{self._card(card)}, {show.protocols(protocol)} received by"
        command = bytes.fromhex(TALK)
        render = _show_answer_and_protocol
        self._send("transmit", label, card, protocol, command, ROOM, render=render).done()

    def control(self, card: int, code: int, data: bytes = b"", room: int = 264) -> None:
        label = f"{self._card(card)}, 0x{code:08X}, {show.data(data)}, {room}"
        self._send("control", label, card, code, data, room, render=_show_values).done()

    def get_attrib(self, card: int, attribute: int, room: int | None = 264) -> None:
        label = f"{self._card(card)}, 0x{attribute:08X}, {room}"
        self._send("get_attrib", label, card, attribute, room, render=_show_values).done()

    def get_attrib_allocated(self, card: int, attribute: int) -> None:
        label = f"{self._card(card)}, 0x{attribute:08X}"
        self._send("get_attrib_allocated", label, card, attribute, render=_show_values).done()

    def set_attrib(self, card: int, attribute: int, value: bytes = b"") -> None:
        label = f"{self._card(card)}, 0x{attribute:08X}, {show.data(value)}"
        self._send("set_attrib", label, card, attribute, value).done()

    def _card(self, card: int) -> str:
        return self._stage.known("h", card)


def _short(reader: str) -> str:
    return {R0: "r0", R1: "r1"}.get(reader, repr(reader))


def _show_count(result: Result) -> str:
    return f"after {result[1][0]}"


def _show_protocol(result: Result) -> str:
    (active,) = result[1]
    assert isinstance(active, int)
    return show.protocols(active)


def _show_values(result: Result) -> str:
    return show.words(
        show.data(value) if isinstance(value, bytes) else show.number(value)
        for value in result[1]
        if isinstance(value, bytes | int)
    )


def _show_answer(result: Result) -> str:
    length, answer, _ = result[1]
    assert isinstance(answer, bytes)
    return f"{length} {show.data(answer)}"


def _show_answer_and_protocol(result: Result) -> str:
    protocol = result[1][2]
    assert isinstance(protocol, int)
    return f"{_show_answer(result)} by {show.protocols(protocol)}"


def _show_changes(result: Result) -> str:
    parts = []
    for entry in result[1]:
        assert isinstance(entry, tuple)
        event, atr = entry
        parts.append(f"{show.state(event)} {show.data(atr)}")
    return "[" + ", ".join(parts) + "]"


def _show_status(result: Result) -> str:
    name, name_length, state, protocol, atr, atr_length = result[1]
    assert isinstance(name, bytes)
    assert isinstance(atr, bytes)
    assert isinstance(state, int)
    assert isinstance(protocol, int)
    text = name.rstrip(b"\0").decode()
    shown = protocol if protocol == UNTOUCHED else show.protocols(protocol)
    shown = "untouched" if protocol == UNTOUCHED else shown
    return f"{text!r}/{name_length} {show.reader_state(state)} {shown} {show.data(atr)}/{atr_length}"
