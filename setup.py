"""Everything declarative is in pyproject.toml; only what is compiled has no place there.

All of it is optional. The modules in ``QUICK`` are the same Python, compiled by mypyc: an APDU takes 40 % of
the instructions then. An editable installation has them as they are, so that what is edited is what
runs; so has one made with PYPCSCD_PURE=1.
"""

import os
import sys
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

#: what is missing without an extension
LOST = {
    "pypcscd_ifdhandler._native": "native drivers (.so)",
    "pypcscd_ccid._carrier": "quick USB transfers; readers work with slower ones",
}
#: what an APDU passes through
QUICK = tuple(
    f"{folder}/{name}.py"
    for folder, names in {
        "src/pypcscd": ("answer", "eager"),
        "src/pypcscd/protocol": ("connection", "dialects"),
        "src/pypcscd/manager": ("checks", "handles", "lock", "manager", "negotiation", "reader", "roster"),
        "src/pypcscd/server": ("calls", "session"),
        "drivers/pypcscd_virtual": ("vpcd_protocol", "vpcd_slot"),
        "drivers/pypcscd_ifdhandler": ("channel", "device", "slot_worker"),
        "drivers/pypcscd_ccid": (
            *("commands", "deadlines", "exchange", "frames", "outgoing", "pending", "slot"),
        ),
    }.items()
    for name in names
)


def _say(what: str) -> None:
    print(f"pypcscd: {what}", file=sys.stderr)  # noqa: T201


class BuildOptional(build_ext):
    """Says in plain words what is left out when it cannot be compiled."""

    def run(self) -> None:
        super().run()
        if not (self.editable_mode or self.inplace or os.environ.get("PYPCSCD_PURE")):
            self._build_quick()

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception:
            _say(
                "a compiled part could not be built; the package is installed without"
                f" {LOST[ext.name]}. Install gcc and python3-dev and reinstall to have them."
            )
            raise  # setuptools goes on, because the extension is optional

    def _build_quick(self) -> None:
        """The quick modules, all or none: they import each other."""
        part = None
        try:
            from mypyc.build import mypycify

            part = Distribution(
                {"ext_modules": mypycify([*QUICK], opt_level="2", debug_level="0", group_name="pypcscd")}
            )
            command = part.get_command_obj("build_ext")
            command.build_lib, command.build_temp = self.build_lib, self.build_temp
            command.ensure_finalized()
            command.run()
        # SystemExit is how mypyc tells of what it cannot compile
        except (Exception, SystemExit) as error:
            for extension in (part and part.ext_modules) or ():
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            _say(
                "the modules that an APDU passes through could not be compiled; the package is installed with"
                f" them as they are, which is slower ({error}). Install gcc and python3-dev and reinstall."
            )


setup(
    cffi_modules=[
        "drivers/pypcscd_ifdhandler/build_native.py:ffibuilder",
        "drivers/pypcscd_ccid/build_carrier.py:ffibuilder",
    ],
    cmdclass={"build_ext": BuildOptional},
)
