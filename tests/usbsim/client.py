"""Orders to the simulated readers, from a test beside them."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self


class SimulatorError(Exception):
    """The simulator refused an order."""


class Simulator:
    """Starts the simulator and speaks with it; every method of ``Shell`` that begins with ``do_`` is a
    method here."""

    def __init__(self, path: str = "/run/usbsim") -> None:
        Path(path).unlink(missing_ok=True)
        folder = Path(__file__).parent.parent
        self._process = subprocess.Popen([sys.executable, "-m", "usbsim", path], cwd=folder)
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 20
        while True:
            try:
                self._socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.01)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self.order("quit")
        self._process.wait(10)
        self._socket.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def order(self, what: str, **arguments: Any) -> dict[str, Any]:
        self._socket.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        if not answer["ok"]:
            raise SimulatorError(answer["error"])
        return answer

    def plug(self, name: str, model: str, cards: dict[str, Any] | None = None, **changes: Any) -> None:
        self.order("plug", name=name, model=model, cards=cards, **changes)

    def state(self, name: str, reset: bool = False) -> dict[str, Any]:
        state: dict[str, Any] = self.order("state", name=name, reset=reset)["state"]
        return state

    def counters(self, name: str, interface: int = 0) -> dict[str, int]:
        counters: dict[str, int] = self.state(name)["interfaces"][interface]["counters"]
        return counters
