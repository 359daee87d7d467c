"""The table size that is told to 4.6 clients, as libpcsclite 2.5.0 and 2.5.1 understand it.

That library keeps one array for the whole process and the largest size it was ever told. A smaller
one makes it return SCARD_E_UNSUPPORTED_FEATURE from every call that needs the table, without reading
the table. (getReaderStates in winscard_clnt.c)
"""

import asyncio
from pathlib import Path

from fakes import FakeSlot

from pypcscd.manager.manager import Manager
from pypcscd.protocol import ClientConnection, Command, Reply
from pypcscd.protocol.messages import StatesSize, Version
from pypcscd.server.door import Door
from pypcscd.server.listener import Listener, open_socket
from pypcscd.server.rules import SocketConfig


class LibraryError(Exception):
    """SCARD_E_UNSUPPORTED_FEATURE"""


class Library:
    """What of the library matters here: each look is a new context, and so a new connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._largest = 0

    async def list_readers(self) -> list[str]:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        connection = ClientConnection()

        async def ask(command: Command, body: Version | None = None) -> Reply:
            writer.write(connection.request(command, body))
            async with asyncio.timeout(5):
                while (event := connection.next_event()) is None:
                    data = await reader.read(100_000)
                    assert data, "the daemon hung up"
                    connection.receive_data(data)
            assert isinstance(event, Reply)
            return event

        try:
            await ask(Command.VERSION, Version(4, 6))
            size = (await ask(Command.READERS_STATE_SIZE)).body
            assert isinstance(size, StatesSize)
            if size.readers < self._largest:
                raise LibraryError
            self._largest = size.readers
            return [status.name for status in (await ask(Command.READERS_STATE_ARRAY)).readers]
        finally:
            writer.close()
            await writer.wait_closed()


async def test_size_never_shrinks(tmp_path: Path) -> None:
    manager = Manager()
    config = SocketConfig(tmp_path / "socket")
    listener = Listener(Door(manager, config, ()), open_socket(config), 4)
    listener.start()
    library = Library(config.path)
    try:
        assert await library.list_readers() == []
        one = await manager.add_readers("One", 0, [FakeSlot()])
        many = await manager.add_readers("Many", 0, [FakeSlot() for _ in range(20)])
        assert len(await library.list_readers()) == 21
        await manager.remove_readers(many)
        assert await library.list_readers() == ["One 00 00"]
        await manager.remove_readers(one)
        assert await library.list_readers() == []
        await manager.add_readers("Two", 0, [FakeSlot()])
        assert await library.list_readers() == ["Two 00 00"]
    finally:
        listener.close()
        await manager.close()
