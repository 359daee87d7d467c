"""The daemon's end of a slot's socket, with nobody but the test at the other end."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from pypcscd_ifdhandler import channel as channel_module
from pypcscd_ifdhandler.channel import CommandChannel
from pypcscd_ifdhandler.wire import HEADER, MAX_PAYLOAD, Kind

Ends = tuple[CommandChannel, socket.socket]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        room = bytearray(HEADER.size + MAX_PAYLOAD)
        commands = CommandChannel(ours, room, lambda _: None, lambda: None)
        yield commands, theirs
        commands.fail("the end")


async def transmitting(commands: CommandChannel, apdu: bytes) -> "asyncio.Task[tuple[int, bytes]]":
    """A command that has been sent."""
    call = asyncio.create_task(commands.call(Kind.TRANSMIT, 0, apdu))
    await asyncio.sleep(0)
    return call


def respond(helper: socket.socket, answer: bytes) -> None:
    _, sequence, _ = HEADER.unpack_from(helper.recv(65536))
    helper.send(HEADER.pack(Kind.RESPONSE, sequence, 0) + answer)


async def test_a_client_that_goes_away_in_the_moment_of_its_answer(ends: Ends) -> None:
    commands, helper = ends
    call = await transmitting(commands, b"\0\xa4")
    respond(helper, b"\x90\0")
    # the answer is taken, but whoever waits for it does not run before it is cancelled
    commands._readable()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    following = await transmitting(commands, b"\0\xb0")
    respond(helper, b"\x6a\x82")
    assert await following == (0, b"\x6a\x82")


async def test_what_nobody_waits_for_comes_to_its_end_before_the_next(ends: Ends) -> None:
    commands, helper = ends
    call = await transmitting(commands, b"\0\xa4")
    call.cancel()
    following = asyncio.create_task(commands.call(Kind.TRANSMIT, 0, b"\0\xb0"))
    with pytest.raises(asyncio.CancelledError):
        await call
    respond(helper, b"late")
    commands._readable()
    await asyncio.sleep(0)
    respond(helper, b"\x90\0")
    assert await following == (0, b"\x90\0")


async def test_given_up_by_time_and_by_the_client_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper is not taken for stuck when it has answered."""
    monkeypatch.setattr(channel_module, "GIVEN_UP_LIMIT", 0.05)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stuck: list[int] = []
    with ours, theirs:
        room = bytearray(HEADER.size + MAX_PAYLOAD)
        commands = CommandChannel(ours, room, lambda _: None, lambda: stuck.append(1))
        call = await transmitting(commands, b"\0\xa4")
        assert commands._pending is not None
        commands._look_after(commands._pending)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        respond(theirs, b"\x90\0")
        await asyncio.sleep(0.2)
        assert not stuck
        commands.fail("the end")
