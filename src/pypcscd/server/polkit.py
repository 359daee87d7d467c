"""Asks polkit whether a client may use the daemon, and a card: the actions that pcscd has.

Whoever writes rules for them keys on their names; docs/settings.md has an example. The question goes over
D-Bus (polkit's reference manual, "The org.freedesktop.PolicyKit1.Authority Interface"). This module is
imported only where polkit is asked.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from pypcscd.server.access import Peer
from pypcscd.server.rules import AccessRule
from pypcscd.text import safe_text

log = logging.getLogger("pypcscd.polkit")

ACCESS_PCSC = "org.debian.pcsc-lite.access_pcsc"
ACCESS_CARD = "org.debian.pcsc-lite.access_card"

_SERVICE = "org.freedesktop.PolicyKit1"
_PATH = "/org/freedesktop/PolicyKit1/Authority"
_INTERFACE = "org.freedesktop.PolicyKit1.Authority"
_ALLOW_USER_INTERACTION = 1
#: seconds; somebody may have to type a password
_PATIENCE = 60.0


class Polkit:
    """The authority, on a connection to the system bus that is made when it is first needed."""

    def __init__(self, trusted: AccessRule, *, patience: float = _PATIENCE) -> None:
        #: who is let in without a question; if it names nobody, only root is
        self.trusted = trusted
        self._patience = patience
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._checks = itertools.count(1)

    @property
    def needs_groups(self) -> bool:
        return self.trusted.groups is not None

    def trusts(self, peer: Peer) -> bool:
        """No question is needed."""
        return peer.uid == 0 or (not self.trusted.is_open and self.trusted.allows(peer))

    def close(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    async def may_connect(self, peer: Peer) -> bool:
        """Asked once for each connection."""
        return await self._authorize(peer, ACCESS_PCSC, {})

    async def may_use(self, peer: Peer, reader: str) -> bool:
        """Asked for each SCardConnect; ``reader``: the name that the client asks for."""
        return await self._authorize(peer, ACCESS_CARD, {"reader": reader})

    async def _authorize(self, peer: Peer, action: str, details: Mapping[str, str]) -> bool:
        # A task, because what is awaited here asks for the current one.
        reason = await asyncio.get_running_loop().create_task(self._find_objection(peer, action, details))
        if reason is None:
            return True
        about = f" to reader {safe_text(details['reader'])}" if details else ""
        log.warning(
            "%s was denied access%s: %s; to allow it, write a rule for the action %s and uid %d in "
            "/etc/polkit-1/rules.d, or name user or group in [access] of the settings",
            peer,
            about,
            reason,
            action,
            peer.uid,
        )
        return False

    async def _find_objection(self, peer: Peer, action: str, details: Mapping[str, str]) -> str | None:
        """Why the answer is no; None: it is yes."""
        cancellation = f"pypcscd-{next(self._checks)}"
        has_answer = False
        try:
            async with asyncio.timeout(self._patience):
                bus = await self._connect()
                answer = await bus.call(_question(peer, action, details, cancellation))
                has_answer = True
        except TimeoutError:
            return f"polkit gave no answer within {self._patience:g} s"
        except (OSError, EOFError) as error:
            return f"the system bus cannot be reached ({error or type(error).__name__})"
        except Exception as error:
            # The library's own errors have no base in common, and without an answer nobody is let in.
            return f"polkit could not be asked ({error or type(error).__name__})"
        finally:
            if not has_answer:
                self._cancel(cancellation)
        return _objection(answer)

    async def _connect(self) -> MessageBus:
        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
            return self._bus

    def _cancel(self, cancellation: str) -> None:
        """Nobody waits for the answer any more: a dialog that is open may be closed."""
        if self._bus is None or not self._bus.connected:
            return
        message = Message(
            destination=_SERVICE,
            path=_PATH,
            interface=_INTERFACE,
            member="CancelCheckAuthorization",
            signature="s",
            body=[cancellation],
            flags=MessageFlag.NO_REPLY_EXPECTED,
        )
        with suppress(OSError):
            self._bus.send(message)


def _question(peer: Peer, action: str, details: Mapping[str, str], cancellation: str) -> Message:
    # The kernel has told pid and uid; polkit looks up when the process was started.
    process: dict[str, Any] = {
        "pid": Variant("u", peer.pid),
        "start-time": Variant("t", 0),
        "uid": Variant("i", peer.uid if peer.uid < 1 << 31 else peer.uid - (1 << 32)),
    }
    return Message(
        destination=_SERVICE,
        path=_PATH,
        interface=_INTERFACE,
        member="CheckAuthorization",
        signature="(sa{sv})sa{ss}us",
        body=[["unix-process", process], action, dict(details), _ALLOW_USER_INTERACTION, cancellation],
    )


def _objection(answer: Message) -> str | None:
    if answer.message_type is not MessageType.METHOD_RETURN:
        said = answer.body[0] if answer.body else answer.error_name
        return f"polkit could not decide ({said})"
    is_authorized, is_challenge, _ = answer.body[0]
    if is_authorized:
        return None
    return "polkit wants a password and nobody can be asked for it" if is_challenge else "polkit says no"
