"""The bundles in which vendors install drivers of USB readers: the readers they list, and their libraries.

A bundle is a directory ``NAME.bundle`` with a ``Contents/Info.plist``, a property list in XML.
pcscd reads it line by line, so there are files that are no XML at all and work; they are read in
the same way here. What is wrong with a bundle costs that bundle, or the one reader that is wrong.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: CFBundleName of a driver that gives way to those made for a reader; libccid is one
_CLASS_DRIVER = "CCIDCLASSDRIVER"
_LARGEST_ID = 0xFFFF
#: libccid's has 60,000 bytes
_LARGEST_FILE = 1_000_000
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_KEY_OR_VALUE = re.compile(r"<key>\s*([A-Za-z0-9 \t]+?)\s*</key>|<string>([^<\n]*)</string>")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


class BundleError(Exception):
    """A bundle cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Bundle:
    """An installed driver."""

    #: of the Info.plist, for messages
    path: Path
    library: Path
    #: it gives way to drivers that were made for a reader
    is_class_driver: bool
    #: (idVendor, idProduct) -> friendly name
    readers: Mapping[tuple[int, int], str]


def load_bundles(directories: Iterable[Path]) -> tuple[list[Bundle], list[str]]:
    """All bundles of the directories, in the order of these and of their names; and what is wrong.

    A directory that does not exist has no bundles. Reads files: not for the event loop.
    """
    bundles: list[Bundle] = []
    mistakes: list[str] = []
    for directory in directories:
        try:
            names = sorted(path.name for path in directory.iterdir() if ".bundle" in path.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            mistakes.append(f"{directory}: {error.strerror}; no drivers are taken from there")
            continue
        for name in names:
            path = directory / name / "Contents" / "Info.plist"
            try:
                bundle, wrong_readers = parse(path, _read(path))
            except BundleError as error:
                mistakes.append(f"{path}: {error}; the driver is not used")
            else:
                bundles.append(bundle)
                mistakes += wrong_readers
    return bundles, mistakes


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise BundleError(error.strerror) from error
    if len(raw) > _LARGEST_FILE:
        raise BundleError(f"larger than {_LARGEST_FILE} bytes")
    return raw


def parse(path: Path, raw: bytes) -> tuple[Bundle, list[str]]:
    """The bundle whose Info.plist at ``path`` is ``raw``, and what is wrong with single readers of it.

    Raises BundleError, whose message does not name the file.
    """
    content = _Content(_property_list(raw) or _scan(raw))
    vendors, products, names = (
        content.texts(f"ifd{key}") for key in ("VendorID", "ProductID", "FriendlyName")
    )
    if not len(vendors) == len(products) == len(names):
        raise BundleError(
            f"it lists {len(vendors)} ifdVendorID, {len(products)} ifdProductID and {len(names)} "
            "ifdFriendlyName, which must be as many of each"
        )
    executable = content.text("CFBundleExecutable")
    if "\0" in executable or executable in (".", ".."):
        raise BundleError(f"CFBundleExecutable {executable!r} is not the name of a file")
    readers: dict[tuple[int, int], str] = {}
    mistakes: list[str] = []
    for vendor, product, name in zip(vendors, products, names, strict=True):
        try:
            readers[_number(vendor), _number(product)] = name
        except ValueError as error:
            mistakes.append(f"{path}: {name}: {error}; this reader is left out")
    bundle = Bundle(
        path=path,
        library=path.parent / os.uname().sysname / executable,
        is_class_driver=_CLASS_DRIVER in content.texts("CFBundleName", is_needed=False),
        readers=readers,
    )
    return bundle, mistakes


class _Content:
    """The values of a property list by their keys."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def texts(self, key: str, *, is_needed: bool = True) -> list[str]:
        """The texts in a list that are not empty; a text by itself is a list of one."""
        value = self._values.get(key)
        if value is None and is_needed:
            raise BundleError(f"it has no {key}")
        return [
            text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text
        ]

    def text(self, key: str) -> str:
        texts = self.texts(key)
        if len(texts) != 1:
            raise BundleError(f"{key} must have one value")
        return texts[0]


def _number(text: str) -> int:
    """Hexadecimal, with or without 0x. Raises ValueError."""
    try:
        number = int(text, 16)
    except ValueError:
        number = -1
    if not 0 <= number <= _LARGEST_ID:
        raise ValueError(f"{text!r} is not a hexadecimal number up to FFFF")
    return number


def _property_list(raw: bytes) -> Mapping[str, Any] | None:
    """None: it is no property list."""
    # Needed once per start, and by who has bundles at all.
    import plistlib

    try:
        content = plistlib.loads(raw, fmt=plistlib.FMT_XML)
    except Exception:
        # Whatever a wrong file makes the parser stumble over, which is not only its own errors.
        return None
    return content if isinstance(content, dict) else None


def _scan(raw: bytes) -> Mapping[str, list[str]]:
    """Keys and the texts that follow them, wherever they are; all else is skipped."""
    text = _COMMENT.sub("", raw.decode("utf-8", "surrogateescape"))
    text = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    values: dict[str, list[str]] = {}
    found: list[str] = []
    for match in _KEY_OR_VALUE.finditer(text):
        if match[1] is not None:
            found = values[match[1]] = []
        else:
            found.append(_unescaped(match[2]))
    return values


def _unescaped(text: str) -> str:
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text
