"""The examples of docs/protocol.md do what they say."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Daemon

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(
    start_daemon: Callable[..., Daemon], example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = start_daemon("--virtual", "hello", readers=1)
    scope: dict[str, object] = {}
    exec(example.replace("/run/pcscd/pcscd.comm", str(daemon.path)), scope)
    for value in scope.values():
        if hasattr(value, "close") and hasattr(value, "recv"):
            value.close()
    # what is printed is in the comment beside it
    assert (
        capsys.readouterr().out.split()
        == re.findall(r"^print\(.*\) +# (.*)$", example, re.MULTILINE)[0].split()
    )


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2
