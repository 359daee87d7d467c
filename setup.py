"""Everything declarative is in pyproject.toml; only the optional compiled part has no place there."""

import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

#: what is missing without an extension
LOST = {
    "pypcscd_ifdhandler._native": "native drivers (.so)",
    "pypcscd_ccid._carrier": "quick USB transfers; readers work with slower ones",
}


class BuildOptional(build_ext):
    """Says in plain words what is left out when there is no C compiler."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception:
            print(  # noqa: T201
                "pypcscd: a compiled part could not be built; the package is installed without"
                f" {LOST[ext.name]}. Install gcc and python3-dev and reinstall to have them.",
                file=sys.stderr,
            )
            raise  # setuptools goes on, because the extension is optional


setup(
    cffi_modules=[
        "drivers/pypcscd_ifdhandler/build_native.py:ffibuilder",
        "drivers/pypcscd_ccid/build_carrier.py:ffibuilder",
    ],
    cmdclass={"build_ext": BuildOptional},
)
