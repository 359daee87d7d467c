"""Describes the compiled part to cffi; named in ``setup.py``, used at build time only."""

from pathlib import Path

from cffi import FFI

_FOLDER = Path("drivers/pypcscd_ccid")
_HEADER = (_FOLDER / "carrier.h").read_text(encoding="ascii")

ffibuilder = FFI()
ffibuilder.cdef(
    "".join(
        line
        for line in _HEADER.splitlines(keepends=True)
        if not line.startswith("#") or line.startswith("#define")
    )
)
# Optional: without a compiler USB readers work by ctypes, which takes more CPU time.
ffibuilder.set_source(
    "pypcscd_ccid._carrier",
    '#include "carrier.h"',
    sources=[str(_FOLDER / "carrier.c")],
    include_dirs=[str(_FOLDER)],
    depends=[str(_FOLDER / "carrier.h")],
    optional=True,
)
