"""Simulated devices on the kernel's virtual host controller, under the orders of a test.

    python -m usbsim SOCKET

Orders come over a Unix socket, one JSON object a line, and each is answered by one: see ``Shell.order``.
"""

import json
import selectors
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .cards import Card
from .ccid import Fault
from .descriptors import MODELS, Device, Functional, Interface
from .device import SimulatedDevice
from .usbip import Decoder

VHCI = Path("/sys/devices/platform/vhci_hcd.0")
#: ports of a controller's two hubs together; the first half is the one for full and high speed
PORTS = 30
FULL_SPEED, HIGH_SPEED = 2, 3


class Attached:
    """A device in a port. The kernel speaks USB/IP over the other end of the socket."""

    def __init__(self, device: SimulatedDevice, port: int) -> None:
        self.device = device
        self.port = port
        self.decoder = Decoder()
        self.socket, kernel = socket.socketpair()
        speed = HIGH_SPEED if device.description.high_speed else FULL_SPEED
        # any number does as the device's id, if only the two ends agree
        (VHCI / "attach").write_text(f"{port} {kernel.fileno()} {port + 1} {speed}")
        kernel.close()
        self.socket.setblocking(True)


class Shell:
    def __init__(self, path: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._attached: dict[str, Attached] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._running = True

    def run(self) -> None:
        while self._running:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            for name in list(self._attached):
                self._flush(name)

    def _patience(self) -> float | None:
        due = [due for each in self._attached.values() if (due := each.device.next_due()) is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _flush(self, name: str) -> None:
        attached = self._attached[name]
        data = attached.device.advance(time.monotonic())
        try:
            if data:
                attached.socket.sendall(data)
        except OSError:
            self._unplug(name)
            return
        if attached.device.gone:
            self._unplug(name)

    def _receive(self, name: str) -> None:
        attached = self._attached.get(name)
        if attached is None:
            return  # pulled by an order that came in the same moment
        data = b""
        with suppress(OSError):
            data = attached.socket.recv(1 << 20)
        if not data:
            self._unplug(name)
            return
        now = time.monotonic()
        for message in attached.decoder.feed(data):
            attached.device.feed(message, now)

    def _unplug(self, name: str) -> None:
        attached = self._attached.pop(name)
        self._selector.unregister(attached.socket)
        # the kernel takes the end of the connection for a pulled cable
        attached.socket.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        buffer = bytearray()

        def readable() -> None:
            data = client.recv(65536)
            if not data:
                self._selector.unregister(client)
                client.close()
                return
            buffer.extend(data)
            while b"\n" in buffer:
                line, _, rest = bytes(buffer).partition(b"\n")
                buffer[:] = rest
                try:
                    answer = {"ok": True, **self.order(json.loads(line))}
                except Exception as error:
                    answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
                client.sendall(json.dumps(answer).encode() + b"\n")

        self._selector.register(client, selectors.EVENT_READ, readable)

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """``do`` names one of the methods below, the rest are its arguments. The answer has the time at
        which it was done, by the clock that all processes share."""
        arguments = dict(order)
        method: Callable[..., dict[str, Any] | None] = getattr(self, f"do_{arguments.pop('do')}")
        return {**(method(**arguments) or {}), "time": time.monotonic()}

    def do_plug(
        self, name: str, model: str, cards: dict[str, Any] | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Plug a reader in. ``cards`` by slot, or by ``interface:slot``; ``changes`` to the model: fields
        of the device, or of the only interface and its descriptor."""
        if name in self._attached:
            raise ValueError(f"{name} is plugged in")
        device = SimulatedDevice(changed(MODELS[model], changes))
        for place, card in (cards or {}).items():
            interface, _, slot = place.rpartition(":")
            device.ccids[int(interface or 0)].insert(int(slot), Card.from_json(card))
        taken = {each.port for each in self._attached.values()} | used_ports()
        port = next(port for port in range(8 * PORTS) if port % PORTS < PORTS // 2 and port not in taken)
        attached = Attached(device, port)
        self._attached[name] = attached
        self._selector.register(attached.socket, selectors.EVENT_READ, lambda: self._receive(name))
        return {"port": port}

    def do_unplug(self, name: str) -> None:
        self._unplug(name)

    def do_insert(self, name: str, slot: int = 0, interface: int = 0, **card: Any) -> None:
        self._attached[name].device.ccids[interface].insert(slot, Card.from_json(card))

    def do_remove(self, name: str, slot: int = 0, interface: int = 0) -> None:
        self._attached[name].device.ccids[interface].remove(slot)

    def do_fault(self, name: str, kind: str, interface: int = 0, **values: Any) -> None:
        self._attached[name].device.ccids[interface].faults.append(Fault(kind, **values))

    def do_hang(self, name: str) -> None:
        """Let the reader not answer any more, until it is reset at its port."""
        self._attached[name].device.hung = True

    def do_card(self, name: str, slot: int = 0, interface: int = 0, **values: Any) -> None:
        """Change a card in its place: latency, T=1 habits."""
        card = self._attached[name].device.ccids[interface].slots[slot].card
        assert card is not None
        for key, value in values.items():
            if key in ("t1_words", "t1_always"):
                setattr(card.t1, key.removeprefix("t1_"), list(value))
            else:
                setattr(card, key, value)

    def do_state(self, name: str, reset: bool = False) -> dict[str, Any]:
        device = self._attached[name].device
        state = device.state()
        if reset:
            device.counters.clear()
            for ccid in device.ccids:
                ccid.counters.clear()
        return {"state": state}

    def do_log(self, name: str, interface: int = 0) -> dict[str, Any]:
        return {"log": list(self._attached[name].device.ccids[interface].log)}

    def do_names(self) -> dict[str, Any]:
        return {"names": sorted(self._attached)}

    def do_quit(self) -> None:
        for name in list(self._attached):
            self._unplug(name)
        self._running = False


def changed(device: Device, changes: dict[str, Any]) -> Device:
    """A device with other values for some of its fields, wherever they are."""
    parts: dict[type, dict[str, Any]] = {Functional: {}, Interface: {}, Device: {}}
    for key, value in changes.items():
        kind = next(kind for kind in parts if key in kind.__dataclass_fields__)  # type: ignore[attr-defined]
        parts[kind][key] = tuple(value) if isinstance(value, list) else value
    if parts[Functional] or parts[Interface]:
        (interface,) = device.interfaces
        functional = replace(interface.functional, **parts[Functional])
        parts[Device]["interfaces"] = (replace(interface, functional=functional, **parts[Interface]),)
    return replace(device, **parts[Device])


def used_ports() -> set[int]:
    """Ports that the kernel has not freed yet."""
    used = set()
    for path in VHCI.glob("status*"):
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            # 4: nothing attached
            if len(fields) > 2 and int(fields[2]) != 4:
                used.add(int(fields[1]))
    return used


def main() -> None:
    Shell(sys.argv[1]).run()
