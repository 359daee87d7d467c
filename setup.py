"""Everything declarative is in pyproject.toml; only cffi's hook has no place there."""

from setuptools import setup

setup(cffi_modules=["drivers/pypcscd_ifdhandler/build_native.py:ffibuilder"])
