"""Calls as text, in the manner that users of pcsc-spy know."""

from collections.abc import Iterator

from pypcscd import redact
from pypcscd.text import safe_text
from pypcscd.tools.spy import names
from pypcscd.tools.spy.model import Call, Connection, Form, Note, Parameter, Shown

_BYTES_PER_LINE = 16


class Palette:
    """Colours of a terminal, or none."""

    def __init__(self, *, is_colourful: bool) -> None:
        self.call = "\033[34m" if is_colourful else ""
        self.input = "\033[32m" if is_colourful else ""
        self.output = "\033[35m" if is_colourful else ""
        self.failure = "\033[31m" if is_colourful else ""
        self.note = "\033[33m" if is_colourful else ""
        self.end = "\033[0m" if is_colourful else ""


class TextRenderer:
    """Lines of text for each call, and at the end the table of times."""

    def __init__(self, *, is_colourful: bool = False, shows_secrets: bool = False) -> None:
        self._palette = Palette(is_colourful=is_colourful)
        self._shows_secrets = shows_secrets
        self._introduced: set[int] = set()
        self._times: dict[str, list[float]] = {}

    def render(self, shown: Shown) -> list[str]:
        lines = [*self._introduction(shown.connection)]
        lines += self._note(shown) if isinstance(shown, Note) else self._call(shown)
        return lines

    def summary(self) -> list[str]:
        """How much time each kind of call took, the most costly first."""
        if not self._times:
            return ["", "no calls"]
        totals = sorted(((sum(times), name) for name, times in self._times.items()), reverse=True)
        whole = sum(total for total, _ in totals)
        lines = [
            "",
            f"{len(self._introduced)} connection{'s' if len(self._introduced) != 1 else ''}, "
            "calls sorted by their total time",
            f"total time: {whole:.6f} sec",
        ]
        for total, name in totals:
            count = len(self._times[name])
            share = 100 * total / whole if whole else 0.0
            lines.append(f"{total:.6f} sec ({count:3} call{'s' if count != 1 else ' '}) {share:5.2f}% {name}")
        return lines

    def _introduction(self, connection: Connection) -> Iterator[str]:
        if connection.number not in self._introduced:
            self._introduced.add(connection.number)
            palette = self._palette
            yield f"{palette.note}({connection.number}) is {safe_text(str(connection))}{palette.end}"

    def _note(self, note: Note) -> list[str]:
        palette = self._palette
        return [f"({note.connection.number}) {palette.note}! {safe_text(note.text)}{palette.end}"]

    def _call(self, call: Call) -> list[str]:
        palette = self._palette
        self._times.setdefault(call.name, []).append(call.duration)
        lines = [f"{palette.call}{call.name}{palette.end}"]
        for mark, colour, parameters in (
            ("i", palette.input, call.inputs),
            ("o", palette.output, call.outputs),
        ):
            lines += (
                f"{colour} {mark} {text}{palette.end}"
                for parameter in parameters
                for text in parameter_lines(parameter, shows_secrets=self._shows_secrets)
            )
        lines += (f" ({safe_text(remark)})" for remark in self._remarks(call))
        inferred = "  inferred" if call.is_inferred and call.rv is not None else ""
        lines.append(f"{self._result(call)}  [{call.duration:.6f}]{inferred}")
        return [f"({call.connection.number}) {line}" for line in lines]

    def _remarks(self, call: Call) -> Iterator[str]:
        yield from call.remarks
        if call.attempts > 1:
            yield f"asked {call.attempts} times, because another connection held the card"

    def _result(self, call: Call) -> str:
        palette = self._palette
        if call.rv is None:
            return f"{palette.failure} => no result{palette.end}"
        text, name = names.result(call.rv)
        sentence = f" => {text[0].upper()}{text[1:]}. ({name} [0x{call.rv:08X}])"
        return f"{palette.failure}{sentence}{palette.end}" if call.rv else sentence


def parameter_lines(parameter: Parameter, *, shows_secrets: bool) -> Iterator[str]:
    """A parameter as one line, or as several if it is a block of bytes."""
    indent = " " if parameter.is_detail else ""
    if isinstance(parameter.value, bytes):
        secret = () if shows_secrets else parameter.secret
        if parameter.form is Form.DUMP:
            yield f"{parameter.name}{_size(len(parameter.value), secret)}"
            yield from (f" {line}" for line in dump(parameter.value, secret))
        else:
            yield f"{indent}{parameter.name}: {' '.join(redact.to_hex(parameter.value, secret))}"
        return
    yield f"{indent}{parameter.name}: {value_text(parameter)}"


def _size(length: int, secret: redact.Parts) -> str:
    if not secret:
        return "" if length else " (empty)"
    hidden = sum(end - start for start, end in secret)
    return f" ({hidden} secret byte{'s' if hidden != 1 else ''} hidden; --show-secrets shows)"


def value_text(parameter: Parameter) -> str:
    """A number or a text with its names."""
    value = parameter.value
    if isinstance(value, str):
        return safe_text(value)
    assert isinstance(value, int)
    if parameter.form is Form.NUMBER:
        return f"0x{value:08X} ({value})"
    if parameter.form is Form.NAMED:
        return f"{parameter.text} (0x{value:08X})"
    if parameter.form is Form.MASK:
        return f"0x{value:08X} ({parameter.text})"
    return f"0x{value:08X}"


def dump(data: bytes, secret: redact.Parts = ()) -> Iterator[str]:
    """Sixteen bytes on a line, with their position and as letters."""
    hexadecimal = redact.to_hex(data, secret)
    letters = redact.hide(data, secret)
    for start in range(0, len(data), _BYTES_PER_LINE):
        end = start + _BYTES_PER_LINE
        yield f"{start:04X} {' '.join(hexadecimal[start:end]):<47} {printable(letters[start:end])}"


def printable(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
