"""The driver interface: what the manager needs of a driver, and nothing else.

A *device* is what is found or configured; opened, it offers one or more *slots*, each a place for
one card. Drivers are classes registered in the entry-point group ``pypcscd.drivers``; the daemon
imports one when the first device needs it.

The manager runs at most one coroutine of a slot at a time and never polls. It runs coroutines
outside of any task, so a driver must not use ``asyncio.timeout`` or ``asyncio.current_task``; the
manager keeps the deadlines. Cancelling a coroutine must abort the
command and leave the slot usable.
"""

import abc
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pypcscd.answer import Answer as Answer
from pypcscd.scard import Protocol


class Presence(enum.Enum):
    """What a driver knows of the card in a slot."""

    ABSENT = "absent"
    PRESENT = "present"
    #: the reader is there but does not answer sensibly
    UNKNOWN = "unknown"


class Reason(enum.Enum):
    """Why a driver failed; the manager maps each to the PC/SC code of the call at hand."""

    NO_DEVICE = "the reader is gone"
    NO_CARD = "there is no card"
    COMMUNICATION = "the exchange failed"
    TIMEOUT = "no answer in time"
    POWER = "the card could not be powered"
    PROTOCOL_REFUSED = "the card refused the protocol parameters"
    PROTOCOL_UNSUPPORTED = "the reader does not support the protocol"
    NOT_SUPPORTED = "not supported"
    UNKNOWN_ATTRIBUTE = "unknown attribute"
    INSUFFICIENT_BUFFER = "the answer is too long"
    INVALID_PARAMETER = "a parameter is not valid"


class DriverError(Exception):
    """A failed driver command. ``reason`` decides what clients see, ``detail`` is for the log."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class DeviceOpenError(Exception):
    """A device could not be opened. The message says why and what to do; its caller names the device.

    ``permanent``: trying again cannot help until the configuration or the system changes (a missing
    or unusable library, an unknown card class); otherwise the device is tried again with back-off.
    ``is_gone``: it is not plugged in, or not any more. ``reset_may_help``: it is there, but does not
    do what it should, so ``Driver.reset`` is worth a try.
    """

    def __init__(
        self, message: str, *, permanent: bool = False, is_gone: bool = False, reset_may_help: bool = False
    ) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.is_gone = is_gone
        self.reset_may_help = reset_may_help


class NotMineError(DeviceOpenError):
    """What was to be opened is nothing for this driver, such as the keyboard part of a reader.

    No mistake of anybody: it is left alone without a word, or to the next driver.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=True)


@dataclass(frozen=True)
class DeviceConfig:
    """A device to be opened: which driver, under what name, with what options.

    ``name`` is the base of the reader names (without the two hexadecimal numbers). ``numbering``
    names the group in which reader numbers are given out, so that readers of one native library
    get 00, 01, 02 … whatever their names. ``options`` are the driver's own, as text.
    """

    driver: str
    name: str
    numbering: str
    options: Mapping[str, str] = field(default_factory=dict)
    #: where this device was configured, for messages: "/etc/reader.conf.d/vpcd:3" or "--virtual"
    origin: str = ""
    #: the reader number it shall have; None, or taken already: the lowest that is free
    number: int | None = None
    #: the numbers that are kept for others; that these have changed makes it no other device
    spared_numbers: frozenset[int] = field(default=frozenset(), compare=False)


def _ignore_presence(presence: Presence) -> None:
    """A slot that nobody listens to yet."""


def _ignore_loss(why: str) -> None:
    """A device that nobody listens to yet."""


class Slot(abc.ABC):
    """One place for a card. All commands raise DriverError."""

    #: seconds that an exchange with the card may take before the manager cancels it; None: the driver
    #: itself ends each within a bounded time, which spares a timer for every APDU
    transmit_deadline: float | None = 600.0
    #: seconds that any other command may take
    command_deadline: float = 60.0

    def __init__(self) -> None:
        #: what the driver knows right now
        self.presence = Presence.ABSENT
        #: set by the manager; called through ``update_presence``
        self.presence_changed: Callable[[Presence], None] = _ignore_presence

    def update_presence(self, presence: Presence) -> None:
        """For drivers: note what was seen, and tell the manager if it is news.

        A card that was swapped unseen is reported as ABSENT and then PRESENT.
        """
        if presence is not self.presence:
            self.presence = presence
            self.presence_changed(presence)

    def counters(self) -> Mapping[str, int]:
        """What went wrong since the device was opened, by the driver's own words, for ``pypcscd status``.

        Of all slots together, where it cannot be told of which one it was.
        """
        return {}

    @abc.abstractmethod
    async def power_on(self) -> bytes:
        """Power the card up and return its ATR (2 to 33 bytes)."""

    @abc.abstractmethod
    async def power_off(self) -> None:
        """Cut the power."""

    @abc.abstractmethod
    async def reset(self) -> bytes:
        """Reset the card (warm where the reader can) and return its ATR (2 to 33 bytes)."""

    @abc.abstractmethod
    async def set_protocol(self, protocol: Protocol) -> None:
        """Select ``Protocol.T0`` or ``Protocol.T1``, with PPS where the card wants it.

        PROTOCOL_UNSUPPORTED lets the manager try the card's default protocol instead;
        NOT_SUPPORTED means that there is nothing to select.
        """

    @abc.abstractmethod
    async def transmit(self, protocol: Protocol, apdu: bytes) -> bytes:
        """Send a command APDU (0 to 65,548 bytes) and return the response with its status word."""

    @abc.abstractmethod
    async def control(self, code: int, data: bytes) -> bytes:
        """Send a command to the reader itself (SCardControl). NOT_SUPPORTED: unknown code."""

    @abc.abstractmethod
    async def get_attribute(self, attribute: int) -> bytes:
        """Return an attribute's value (at most 264 bytes). UNKNOWN_ATTRIBUTE: there is none."""

    @abc.abstractmethod
    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set an attribute. UNKNOWN_ATTRIBUTE: there is none, or it is read-only."""


class Device(abc.ABC):
    """An open device."""

    def __init__(self) -> None:
        #: set by whoever opened the device; the driver calls it once with a reason for the log
        #: when the device is gone. Its slots then only raise NO_DEVICE; it is still closed.
        self.lost: Callable[[str], None] = _ignore_loss
        #: set by the driver before it calls ``lost`` if the device was unplugged, or reset by somebody else:
        #: nothing has failed, and whoever follows what is plugged in is told soon
        self.is_unplugged = False

    @property
    @abc.abstractmethod
    def slots(self) -> Sequence[Slot]:
        """The slots, in the order of their numbers; the same objects for the device's life."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Give everything back. Cards are powered off by then. Never raises."""


class Driver(abc.ABC):
    """Opens devices. One instance per daemon, made by calling the class without arguments."""

    @abc.abstractmethod
    async def open(self, config: DeviceConfig) -> Device:
        """Open the device. Raises DeviceOpenError."""

    async def reset(self, config: DeviceConfig) -> bool:
        """Bring a device to its senses that cannot be opened, by what comes close to unplugging it.

        False: there is no way to do that, or it would disturb others.
        """
        return False

    def helpers(self) -> Mapping[int, str]:
        """The processes that work for the driver, by id: what runs in each, for ``pypcscd status``."""
        return {}

    async def close(self) -> None:
        """All devices are closed: end helpers and free what they shared. Never raises."""
        return
