"""Why a file cannot be a driver library for this process, read from its ELF header.

The dynamic linker's own words ("wrong ELF class: ELFCLASS32") help only those who know them.
Source: System V ABI, chapter 4 (the ELF header).
"""

import struct
import sys

#: Bytes of a file that ``objection`` wants to see.
HEADER_SIZE = 20

_MAGIC = b"\x7fELF"
_BITS = {1: 32, 2: 64}
_BYTE_ORDER = {1: "little", 2: "big"}
_SHARED_OBJECT = 3
_MACHINES = {
    2: "sparc",
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch",
}


def _machine(header: bytes, byte_order: str) -> tuple[int, str]:
    (number,) = struct.unpack_from("<H" if byte_order == "little" else ">H", header, 18)
    return number, _MACHINES.get(number, f"machine type {number}")


def own_header() -> bytes:
    """The header of the running program."""
    with open("/proc/self/exe", "rb") as program:  # noqa: PTH123 - pathlib is slow to import
        return program.read(HEADER_SIZE)


def objection(header: bytes, own: bytes) -> str | None:
    """Say what is wrong with a library that begins with ``header``; None: nothing.

    ``own``: the first ``HEADER_SIZE`` bytes of the running program, to compare with.
    """
    if len(header) < HEADER_SIZE or header[:4] != _MAGIC:
        return "is not a shared library (no ELF header)"
    bits, own_bits = _BITS.get(header[4], 0), _BITS.get(own[4], 0)
    order = _BYTE_ORDER.get(header[5], "")
    if not bits or not order:
        return "is not a shared library (its ELF header is damaged)"
    number, machine = _machine(header, order)
    own_number, own_machine = _machine(own, sys.byteorder)
    if bits != own_bits or order != sys.byteorder or number != own_number:
        return f"is a {bits}-bit library ({machine}); this daemon is {own_bits}-bit ({own_machine})"
    (file_type,) = struct.unpack_from("=H", header, 16)
    if file_type != _SHARED_OBJECT:
        return "is an ELF file, but not a shared library"
    return None
