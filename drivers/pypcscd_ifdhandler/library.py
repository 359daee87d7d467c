"""Loads a driver library into the helper process and explains why one cannot be loaded."""

import os
import sys
from typing import TYPE_CHECKING

from pypcscd_ifdhandler import elf

if TYPE_CHECKING:
    from pypcscd_ifdhandler._native import CData

_MESSAGE_SIZE = 2048
_NOT_LOADED = 1
_INCOMPLETE = 2


class LibraryError(Exception):
    """A library that cannot be used; the message says which, why and what to do."""


def import_native() -> None:
    """Import the compiled part so that driver libraries find ``log_msg`` and its like in it.

    An extension module's symbols are private unless it is loaded with RTLD_GLOBAL.
    Raises LibraryError.
    """
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        from pypcscd_ifdhandler import _native  # noqa: F401
    except ImportError as error:
        raise LibraryError(
            "the compiled part of pypcscd's native driver support cannot be loaded"
            f" ({error}). pypcscd was installed without a C compiler, or for another Python:"
            " install gcc and python3-dev and reinstall pypcscd"
        ) from None
    finally:
        sys.setdlopenflags(flags)


def check_file(path: str) -> None:
    """Look at the file before the dynamic linker does. Raises LibraryError."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            header = file.read(elf.HEADER_SIZE)
    except FileNotFoundError:
        raise LibraryError(
            f"there is no driver library {path}; install the driver or correct the path"
        ) from None
    except PermissionError:
        raise LibraryError(
            f"the driver library {path} may not be read; the user that the daemon runs as needs read access"
        ) from None
    except OSError as error:
        raise LibraryError(
            f"cannot read the driver library {path}: {error.strerror}; correct the path"
        ) from None
    if (objection := elf.objection(header, elf.own_header())) is not None:
        raise LibraryError(f"{path} {objection}; install the driver that was built for this system")


def load(path: str) -> tuple["CData", str]:
    """Load a driver library; ``import_native`` was called before.

    Returns the library and a warning, which is empty if all is well. Raises LibraryError.
    """
    from pypcscd_ifdhandler._native import ffi, lib

    check_file(path)
    library = ffi.new("ifd_library **")
    message = ffi.new("char[]", _MESSAGE_SIZE)
    # a name without a slash would be searched in the system's library directories
    result = lib.ifd_load(os.fsencode(os.path.abspath(path)), library, message, _MESSAGE_SIZE)  # noqa: PTH100
    said = bytes(ffi.buffer(message)).partition(b"\0")[0].decode("utf-8", "replace")
    if result == _NOT_LOADED:
        raise LibraryError(
            f"the driver library {path} cannot be loaded: {said};"
            " install what it needs, or a build of the driver for this system"
        )
    if result == _INCOMPLETE:
        raise LibraryError(
            f"{path} is not an IFD handler driver: it lacks {said}; check the path of the library"
        )
    if said:
        said = (
            f"the driver library {path} names functions that nobody offers ({said});"
            " it will be killed if it calls them"
        )
    return library[0], said
