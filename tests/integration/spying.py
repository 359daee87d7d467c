"""What the tests of the spy share: reading its output, and looking for a PIN."""

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path

SELECT = "00A404000AA00000006203010C0601"
PIN = b"73519264"
VERIFY = "0020008108" + PIN.hex().upper()
#: calls that a client library answers alone
LOCAL = {"SCardFreeMemory", "SCardIsValidContext", "SCardListReaderGroups"}


@dataclass
class Block:
    """A call as it was printed: its parameters, each with all its lines, and the result."""

    name: str
    parameters: dict[str, list[str]] = field(default_factory=dict)
    result: str = ""
    duration: float = 0.0

    def numbers(self, key: str) -> list[int]:
        return [
            int(found, 16) for text in self.parameters[key] for found in re.findall(r"0x([0-9A-F]+)", text)
        ]

    def constants(self, key: str) -> list[str]:
        return [
            found for text in self.parameters[key] for found in re.findall(r"(?:SCARD|CM)_\w+|T=\d", text)
        ]


def parse(output: str) -> list[Block]:
    """The calls in an output of either program; both write them alike."""
    blocks: list[Block] = []
    key = ""
    for raw in output.splitlines():
        line = re.sub(r"^\(\d+\) ", "", raw)
        if re.match(r"SCar", line):
            blocks.append(Block(line.strip().replace("SCarControl", "SCardControl")))
        elif (result := re.match(r" => .*\((\w+ \[0x[0-9A-F]+\])\)\s+\[([\d.]+)\]", line)) and blocks:
            blocks[-1].result = result[1]
            blocks[-1].duration = float(result[2])
        elif (dumped := re.match(r" ([io])  ([0-9A-F]{4} .*)", line)) and blocks:
            blocks[-1].parameters.setdefault(f"{key} bytes", []).append(dumped[2].rstrip())
        elif (parameter := re.match(r" ([io])  ?([\w.]+(?: length)?):? ?(.*)", line)) and blocks:
            key = f"{parameter[1]} {parameter[2]}".replace("phCard", "hCard")
            blocks[-1].parameters.setdefault(key, []).append(parameter[3].rstrip())
    return [block for block in blocks if block.name not in LOCAL and block.result]


def traces(pin: bytes) -> list[str]:
    """How a PIN may look in an output."""
    upper, lower = pin.hex(" ").upper(), pin.hex(" ")
    found = [pin.decode(), upper, lower, upper.replace(" ", ""), lower.replace(" ", "")]
    # base64 with the PIN at any position, without the letters that its neighbours have a part in
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + pin).decode()
        found.append(text[-(-shift * 8 // 6) : (shift + len(pin)) * 8 // 6])
    return found


def leaks(text: str) -> list[str]:
    return [trace for trace in traces(PIN) if trace in text]


def read(path: Path) -> str:
    return path.read_bytes().decode("latin-1")
