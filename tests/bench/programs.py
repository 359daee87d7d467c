"""The C programs of the suite: compiled when it runs, and how to talk to them."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bench.interpreter import NotInstalledError, environment

HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-I/usr/include/PCSC")
LIBRARIES = ("-lpcsclite", "-lpthread")


class BrokenError(Exception):
    """Something that is measured, or measures, did not do what it should; the text says what."""


class Programs:
    """The compiled programs, in a folder that its owner removes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        return self.compiled(HERE / f"{name}.c")

    @cached_property
    def environment(self) -> Path:
        """Where Python and pypcscd are."""
        try:
            return environment(self.folder)
        except NotInstalledError as error:
            raise BrokenError(str(error)) from None

    @property
    def pypcscd(self) -> Path:
        """Another program can be measured, such as one of another checkout."""
        return Path(os.environ.get("PYPCSCD") or self.environment / "pypcscd")

    def compiled(self, source: Path) -> Path:
        out = self.folder / source.stem
        if not out.exists():
            subprocess.run(["cc", *FLAGS, "-o", out, source, *LIBRARIES], check=True)
        return out


class Conversation:
    """A running program that obeys a line at a time. As a context it ends with its input."""

    def __init__(
        self, command: Sequence[str | Path], env: Mapping[str, str], cpu: int | None, timeout: float = 300
    ) -> None:
        pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
        words = [*pinned, "timeout", str(timeout), *map(str, command)]
        self._name = Path(command[0]).name
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(env), text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, order: object) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            print(order, file=self._process.stdin)

    def hear(self) -> Any:
        """The next line, which is JSON, or "ready". Raises BrokenError at the end."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise BrokenError(f"{self._name} ended with {self._process.wait()}")
        return line.strip() if line == "ready\n" else json.loads(line)

    def ask(self, order: object) -> Any:
        self.say(order)
        return self.hear()

    def await_ready(self) -> Self:
        answer = self.hear()
        if answer != "ready":
            raise BrokenError(f"{self._name} is not ready but says {answer}")
        return self
