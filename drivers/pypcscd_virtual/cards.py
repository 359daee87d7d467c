"""The ready-made cards, and finding a card by its name."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path

from pypcscd_virtual import apdu as apdus
from pypcscd_virtual.card import Card
from pypcscd_virtual.sle4442 import Sle4442

_SUCCESS = b"\x90\x00"
_WRONG_LENGTH = b"\x67\x00"
_CONDITIONS_NOT_SATISFIED = b"\x69\x85"
_NOT_FOUND = b"\x6a\x82"
_WRONG_P1_P2 = b"\x6a\x86"
_UNKNOWN_INS = b"\x6d\x00"
_UNKNOWN_CLA = b"\x6e\x00"


class Hello(Card):
    """One application that greets: the card of pcsc-lite's own first example.

    SELECT of ``AID`` (00 A4 04 00) answers 90 00; then 00 00 00 00 answers "Hello world!" 90 00.
    Everything else gets the status word of ISO/IEC 7816-4, section 5.6 that tells what is wrong.
    """

    AID = bytes.fromhex("A0 00 00 00 62 03 01 0C 06 01")
    GREETING = b"Hello world!"
    #: T=0 and T=1, historical bytes "hello"
    atr = bytes.fromhex("3B 85 80 01 68 65 6C 6C 6F 66")

    def __init__(self) -> None:
        self._is_selected = False

    def power_on(self) -> None:
        self._is_selected = False

    def transmit(self, apdu: bytes) -> bytes:
        try:
            command = apdus.parse(apdu)
        except ValueError:
            return _WRONG_LENGTH
        if command.cla != 0x00:
            return _UNKNOWN_CLA
        if command.ins == 0xA4:
            return self._select(command)
        if command.ins == 0x00:
            return self._greet(command)
        return _UNKNOWN_INS

    def _select(self, command: apdus.Command) -> bytes:
        if command.p1 != 0x04:
            # files by their identifier (P1 = 00) may be asked for, but there are none
            return _NOT_FOUND if command.p1 in (0x00, 0x01, 0x02, 0x08, 0x09) else _WRONG_P1_P2
        if command.data != self.AID:
            return _NOT_FOUND
        self._is_selected = True
        return _SUCCESS

    def _greet(self, command: apdus.Command) -> bytes:
        if not self._is_selected:
            return _CONDITIONS_NOT_SATISFIED
        if command.p1 or command.p2:
            return _WRONG_P1_P2
        # case 1 gets its answer too, though it expects no data: that is how the example asks
        if 0 < command.ne < len(self.GREETING):
            return bytes((0x6C, len(self.GREETING)))
        return self.GREETING + _SUCCESS


class Echo(Card):
    """Answers each command with its data field, and 90 00: for measuring and for testing long APDUs.

    A command without a data field (cases 1 and 2, or bytes that are no proper APDU) is answered
    with all its bytes, up to 65,536. Le is not looked at.
    """

    #: T=0 and T=1; the historical bytes say that extended lengths are understood
    #: (ISO/IEC 7816-4, section 8.1.1.2.7, third software function table)
    atr = bytes.fromhex("3B 85 80 01 80 73 00 00 40 B7")

    def transmit(self, apdu: bytes) -> bytes:
        try:
            data = apdus.parse(apdu).data
        except ValueError:
            data = b""
        return (data or apdu[: apdus.MAX_RESPONSE_DATA]) + _SUCCESS


READY_MADE: Mapping[str, type[Card]] = {"hello": Hello, "sle4442": Sle4442, "echo": Echo}


class CardNameError(ValueError):
    """No card can be made of that name; the message is meant for whoever wrote it."""


def find(name: str) -> type[Card]:
    """The class that ``name`` stands for: a ready-made card, or ``module:Class``.

    The module is looked for in the current directory first, as with ``python -m``. Importing it
    reads files and runs its code. Raises CardNameError.
    """
    if ":" in name:
        return _import(name)
    try:
        return READY_MADE[name]
    except KeyError:
        known = ", ".join(READY_MADE)
        raise CardNameError(
            f"there is no card named {name!r}; ready-made cards are {known}, "
            "and module:Class names a card of your own"
        ) from None


def make(name: str) -> Card:
    """A new card of the class that ``find`` gives. Raises CardNameError, also if its constructor fails."""
    return build(find(name))


def build(card_class: type[Card]) -> Card:
    """A new card of that class. Raises CardNameError if the class cannot be called without arguments."""
    try:
        return card_class()
    except (Exception, SystemExit) as error:
        raise CardNameError(
            f"card class {card_class.__qualname__} could not be set up: {type(error).__name__}: {error}; "
            "it must be possible to call it without arguments"
        ) from error


def _import(name: str) -> type[Card]:
    module_name, _, class_name = name.partition(":")
    here = str(Path.cwd())
    # only for the time of the import: the daemon's own modules must never come from that directory
    sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            hint = "; leave out the .py" if module_name.endswith(".py") else ""
            raise CardNameError(
                f"card {name!r}: there is no module {module_name!r}, neither in {here} "
                f"nor on Python's module path{hint}"
            ) from error
        raise CardNameError(f"card {name!r}: module {module_name!r} needs a module: {error}") from error
    except (Exception, SystemExit) as error:
        raise CardNameError(
            f"card {name!r}: importing {module_name!r} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(here)

    found = getattr(module, class_name, None)
    if inspect.isclass(found) and issubclass(found, Card):
        return found
    cards = [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Card) and value is not Card
    ]
    raise CardNameError(
        f"card {name!r}: module {module_name!r} has no class {class_name!r} that is a subclass of "
        f"pypcscd_virtual.card.Card; it has {', '.join(cards) or 'none at all'}"
    )
