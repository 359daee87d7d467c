"""Whatever clients send, right or wrong, the daemon answers or hangs up, and goes on."""

import struct
from collections.abc import Callable
from contextlib import suppress

from exchanges import ALL, V42A, V42B
from harness import Daemon
from player import Player
from streams import Maker

from pypcscd.protocol import Command, Dialect

STREAMS = 3000
WITH_CARD = {Command.RECONNECT, Command.DISCONNECT, Command.BEGIN_TRANSACTION, Command.END_TRANSACTION}
WITH_CARD |= {Command.TRANSMIT, Command.CONTROL, Command.STATUS, Command.CANCEL_TRANSACTION}
WITH_CARD |= {Command.GET_ATTRIB, Command.SET_ATTRIB}
WITH_CONTEXT = {Command.RELEASE_CONTEXT, Command.CONNECT, Command.CANCEL}


def misbehave(daemon: Daemon, reader: str, seed: int) -> None:
    """A client that begins in order and goes on with anything, mostly about its own card and context."""
    maker = Maker(seed)
    dialect: Dialect = maker.random.choice([one for one in ALL if one is not V42A])
    order = maker.random.choice("<>")
    with Player(daemon.path, dialect, order) as client:
        client.establish()
        # one before may have left the card in raw mode
        card = client.connect(reader, maker.random.choice((2, 3)), 7)
        stream = b""
        for _ in range(maker.random.randrange(1, 6)):
            request, dialect = maker.request(V42B if dialect is V42A else dialect, order)
            number = struct.unpack_from(order + "I", request, 4)[0]
            own = card if number in WITH_CARD else client.context if number in WITH_CONTEXT else None
            if own is not None and len(request) >= 12 and maker.chance(0.9):
                request = request[:8] + struct.pack(order + "I", own) + request[12:]
            stream += request
        # the daemon hangs up in the middle of what it does not understand
        with suppress(BrokenPipeError, ConnectionResetError):
            client.send_and_leave(maker.spoil(stream))


def test_no_stream_is_too_much(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon("--virtual", "echo", "--virtual", "hello", readers=2)
    name, other = (state.name for state in daemon.readers())
    with Player(daemon.path, ALL[-1]) as bystander:
        bystander.establish()
        card = bystander.connect(other)
        for seed in range(STREAMS):
            misbehave(daemon, name, seed)
        bystander.check_status(card)
        bystander.check_step()
        # nobody who has gone holds anything
        daemon.wait_readers(
            lambda found: [state.sharing for state in found if state.name == name] == [0], "no users"
        )
    assert daemon.log.count("connection closed because") > STREAMS // 20
    assert "please report" not in daemon.log
