"""Describes the compiled part to cffi; named in ``setup.py``, used at build time only."""

from pathlib import Path

from cffi import FFI

_FOLDER = Path("drivers/pypcscd_ifdhandler")
_HEADER = (_FOLDER / "native.h").read_text(encoding="ascii")

ffibuilder = FFI()
ffibuilder.cdef("".join(line for line in _HEADER.splitlines(keepends=True) if not line.startswith("#")))
# Optional: without a compiler everything but native drivers still works, and says so when asked.
ffibuilder.set_source(
    "pypcscd_ifdhandler._native",
    '#include "native.h"',
    sources=[str(_FOLDER / "native.c")],
    include_dirs=[str(_FOLDER)],
    depends=[str(_FOLDER / "native.h")],
    libraries=["dl"],
    optional=True,
)
