"""From messages to calls of the manager, and back: one method for each command.

Each returns the bytes of the answer, or is a coroutine for them where it may have to wait. A call that
fails raises PcscError; ``refusal`` makes the answer of it.
"""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from pypcscd.manager.handles import Client, InsufficientBufferError
from pypcscd.manager.manager import Manager
from pypcscd.protocol.connection import FIXED_TABLE_SIZE, Pieces, Request, ServerConnection
from pypcscd.protocol.dialects import DIALECTS, NATIVE_ORDER, NEWEST, Codec, WaitAnswer
from pypcscd.protocol.messages import (
    Attribute,
    BeginTransaction,
    Cancel,
    CancelTransaction,
    Command,
    Connect,
    Control,
    Disconnect,
    EndTransaction,
    EstablishContext,
    LongStatus,
    Message,
    ReaderEvents,
    Reconnect,
    ReleaseContext,
    StatesSize,
    Status,
    Transmit,
    Version,
    Waiting,
)
from pypcscd.scard import MAX_ATR_SIZE, MAX_READERNAME, PcscError, Protocol, ReaderStatus, ReturnCode

log = logging.getLogger("pypcscd.session")

#: attributes that are a number (PC/SC part 3, section 3.1.4, and pcsc-lite's reader.h); drivers give it
#: in our byte order, the only thing in a value that a client of the other order would misread
_NUMERIC_ATTRIBUTES = frozenset(
    (
        *(0x00010102, 0x00020110, 0x00040131, 0x00050140, 0x00050142, 0x00060150),
        *range(0x00030120, 0x00030127),
        *range(0x00080201, 0x0008020D),
        *(0x0007A007, 0x7FFF0001, 0x7FFF0007),
    )
)


#: an answer, or the coroutine that makes it where that may take time
_Answering = bytes | Coroutine[Any, Any, Pieces]


class NoAnswerError(Exception):
    """There is nothing that could be answered; the connection is to be closed."""


class TableCache:
    """The reader table as bytes, made once per change for each layout in use."""

    def __init__(self) -> None:
        self._readers: tuple[ReaderStatus, ...] = ()
        self._tables: dict[tuple[Codec, int], bytes] = {}

    def get(self, codec: Codec, readers: tuple[ReaderStatus, ...], size: int) -> bytes:
        """``size``: the number of records; those that no reader needs are unused."""
        if readers is not self._readers:
            self._readers = readers
            self._tables.clear()
        table = self._tables.get((codec, size))
        if table is None:
            table = self._tables[codec, size] = codec.encode_table(readers, size)
        return table


class Calls:
    """The calls of one connection."""

    def __init__(
        self, manager: Manager, client: Client, connection: ServerConnection, tables: TableCache
    ) -> None:
        self._manager = manager
        self._client = client
        self._connection = connection
        self._tables = tables
        #: the readers and the size told by READERS_STATE_SIZE, for the READERS_STATE_ARRAY that follows
        self._counted: tuple[tuple[ReaderStatus, ...], int] | None = None
        #: the readers last shown to a client whose WAIT is not answered with them
        self._shown: tuple[ReaderStatus, ...] | None = None
        #: whatever goes wrong before it is known who the client is, the answer is no
        self._is_denied = True
        #: decides on each SCardConnect, given the reader's name; None: all are allowed
        self.may_use: Callable[[str], Awaitable[bool]] | None = None
        #: pcsc-lite 1.6.5 does not say that it has stopped waiting; an event would be out of place then
        self._forgets_to_stop = False
        #: each takes the body of the request, of the command's own class, and the data behind it
        self._methods: dict[Command, Callable[[Any, bytes], _Answering]] = {
            Command.ESTABLISH_CONTEXT: self._establish_context,
            Command.RELEASE_CONTEXT: self._release_context,
            Command.CONNECT: self._connect,
            Command.RECONNECT: self._reconnect,
            Command.DISCONNECT: self._disconnect,
            Command.BEGIN_TRANSACTION: self._begin_transaction,
            Command.END_TRANSACTION: self._end_transaction,
            Command.TRANSMIT: self._transmit,
            Command.CONTROL: self._control,
            Command.STATUS: self._status,
            Command.CANCEL: self._cancel,
            Command.CANCEL_TRANSACTION: self._cancel_transaction,
            Command.GET_ATTRIB: self._get_attrib,
            Command.SET_ATTRIB: self._set_attrib,
            Command.VERSION: self._version,
            Command.GET_READERS_STATE: self._get_readers_state,
            Command.WAIT_READER_STATE_CHANGE: self._wait,
            Command.STOP_WAITING_READER_STATE_CHANGE: self._stop_waiting,
            Command.GET_READER_EVENTS: self._get_reader_events,
            Command.READERS_STATE_SIZE: self._readers_state_size,
            Command.READERS_STATE_ARRAY: self._readers_state_array,
        }

    def admit(self) -> None:
        """Carry out calls from now on; until then each is refused, CMD_VERSION with the reason."""
        self._is_denied = False

    def answer(self, request: Request) -> _Answering:
        """Carry out a request: its answer, or a coroutine for it where that may take time.

        Either raises PcscError, of which ``refusal`` makes the answer, UnknownHandleError for a card
        handle of somebody else, and NoAnswerError.
        """
        if self._is_denied:
            return self._denial(request)
        if self._forgets_to_stop and request.command is not Command.STOP_WAITING_READER_STATE_CHANGE:
            self._manager.stop_waiting(self._client)
        command, body, data = request
        return self._methods[command](body, data)

    def refusal(self, request: Request, error: PcscError) -> bytes:
        """The answer that says no: the request with the return code, and how much room it takes."""
        body = cast(Message, request.body)
        needed = error.needed if isinstance(error, InsufficientBufferError) else 0
        if isinstance(body, Connect):
            body = body._replace(card=0)
        elif isinstance(body, Transmit):
            body = body._replace(receive_length=needed)
        elif isinstance(body, Control):
            body = body._replace(returned=needed)
        elif isinstance(body, Attribute) and needed:
            body = body._replace(length=needed)
        elif isinstance(body, Reconnect):
            # the library hands this on to the program whatever the result
            body = body._replace(active_protocol=Protocol.UNDEFINED)
        # every body that can be refused ends in rv
        return self._connection.reply(body._replace(rv=error.code))  # type: ignore[call-arg]

    def _denial(self, request: Request) -> bytes:
        """Closing the socket would only look like a broken daemon; clients pass this code on."""
        if request.body is None or isinstance(request.body, Waiting):
            raise NoAnswerError("it was denied access")
        return self.refusal(request, PcscError(ReturnCode.W_SECURITY_VIOLATION))

    # --- contexts and connections -------------------------------------------------------------

    def _version(self, body: Version, data: bytes) -> bytes:
        dialect = DIALECTS.get((body.major, body.minor))
        if dialect is None:
            # clients from pcsc-lite 2.4.1 on try again with the version that we name
            return self._connection.reply(Version(*NEWEST.version, ReturnCode.E_SERVICE_STOPPED))
        self._connection.select_dialect(dialect)
        order = {"<": "little", ">": "big"}[self._connection.byte_order]
        log.debug("%s speaks protocol %s, %s-endian", self._client.label, self._connection.dialect, order)
        self._forgets_to_stop = dialect.wait_has_body
        return self._connection.reply(body._replace(rv=ReturnCode.SUCCESS))

    def _establish_context(self, body: EstablishContext, data: bytes) -> bytes:
        context = self._manager.establish_context(self._client, body.scope)
        return self._connection.reply(EstablishContext(body.scope, context))

    async def _release_context(self, body: ReleaseContext, data: bytes) -> bytes:
        await self._manager.release_context(self._client, body.context)
        return self._connection.confirm()

    async def _connect(self, body: Connect, data: bytes) -> bytes:
        reader = self._full_name(body.reader_name)
        if self.may_use is not None and not await self.may_use(reader):
            raise PcscError(ReturnCode.W_SECURITY_VIOLATION)
        card, protocol = await self._manager.connect(
            self._client,
            body.context,
            reader,
            body.share_mode,
            body.preferred_protocols,
        )
        answer = Connect(body.context, body.reader, body.share_mode, body.preferred_protocols, card, protocol)
        return self._connection.reply(answer)

    def _full_name(self, name: str) -> str:
        """A client whose dialect has no room for a reader's whole name only knows it shortened."""
        codec, view = self._connection.codec, self._client.view
        if codec.dialect.name_size == MAX_READERNAME or view.find(name) is not None:
            return name
        encoded = name.encode("utf-8", "surrogateescape")
        known = (reader.name for reader in view.readers() if codec.encode_name(reader.name) == encoded)
        return next(known, name)

    async def _reconnect(self, body: Reconnect, data: bytes) -> bytes:
        protocol = await self._manager.reconnect(
            self._client, body.card, body.share_mode, body.preferred_protocols, body.initialization
        )
        return self._connection.reply(body._replace(active_protocol=protocol, rv=0))

    def _disconnect(self, body: Disconnect, data: bytes) -> _Answering:
        card, disposition, _ = body
        if self._manager.disconnect_now(self._client, card, disposition):
            return self._connection.confirm()
        return self._confirm_after(self._manager.disconnect(self._client, card, disposition))

    def _begin_transaction(self, body: BeginTransaction, data: bytes) -> _Answering:
        if self._manager.begin_transaction_now(self._client, body.card):
            return self._connection.confirm()
        return self._confirm_after(self._manager.begin_transaction(self._client, body.card))

    def _end_transaction(self, body: EndTransaction, data: bytes) -> _Answering:
        card, disposition, _ = body
        if self._manager.end_transaction_now(self._client, card, disposition):
            return self._connection.confirm()
        return self._confirm_after(self._manager.end_transaction(self._client, card, disposition))

    async def _confirm_after(self, call: Coroutine[Any, Any, None]) -> bytes:
        await call
        return self._connection.confirm()

    # --- using a card -------------------------------------------------------------------------

    async def _transmit(self, body: Transmit, data: bytes) -> Pieces:
        card, protocol, _, _, _, _, room, _ = body
        used, response = await self._manager.transmit(self._client, card, protocol, data, room)
        return self._connection.reply_transmit(body, used, response)

    async def _control(self, body: Control, data: bytes) -> bytes:
        response = await self._manager.control(self._client, body.card, body.code, data, body.receive_length)
        return self._connection.reply(body._replace(returned=len(response), rv=0), response)

    def _status(self, body: Status | LongStatus, data: bytes) -> _Answering:
        if isinstance(body, LongStatus) and (
            body.reader_length > self._connection.dialect.name_size or body.atr_length > MAX_ATR_SIZE
        ):
            raise PcscError(ReturnCode.E_INSUFFICIENT_BUFFER)
        if self._manager.status_now(self._client, body.card):
            return self._connection.confirm()
        return self._confirm_after(self._manager.status(self._client, body.card))

    async def _get_attrib(self, body: Attribute, data: bytes) -> bytes:
        value = await self._manager.get_attrib(self._client, body.card, body.identifier, body.length)
        value = self._turned(body.identifier, value)
        return self._connection.reply(body._replace(value=value, length=len(value), rv=0))

    async def _set_attrib(self, body: Attribute, data: bytes) -> bytes:
        value = self._turned(body.identifier, body.value[: body.length])
        await self._manager.set_attrib(self._client, body.card, body.identifier, value)
        return self._connection.confirm()

    def _turned(self, attribute: int, value: bytes) -> bytes:
        """The value of an attribute between the client's byte order and ours."""
        is_number = attribute in _NUMERIC_ATTRIBUTES and len(value) == 4
        return value[::-1] if is_number and self._connection.byte_order != NATIVE_ORDER else value

    # --- readers and their changes --------------------------------------------------------------

    def _fixed_table(self) -> bytes:
        size = self._connection.table_size
        return self._tables.get(self._connection.codec, self._client.view.snapshot(), size)

    def _get_readers_state(self, body: object, data: bytes) -> bytes:
        if self._connection.dialect.wait_has_body:
            self._shown = self._client.view.snapshot()
        return self._connection.reply_readers(self._fixed_table())

    def _count(self) -> tuple[tuple[ReaderStatus, ...], int]:
        # libpcsclite 2.5 refuses to work in the whole process once it is told a smaller size than
        # before, by this connection or by another one.
        view = self._client.view
        return view.snapshot(), max(view.most_readers, FIXED_TABLE_SIZE)

    def _readers_state_size(self, body: object, data: bytes) -> bytes:
        self._counted = self._count()
        return self._connection.reply(StatesSize(self._counted[1]))

    def _readers_state_array(self, body: object, data: bytes) -> bytes:
        # As many records as were counted, even if a reader has come or gone since: the client
        # has made room for them and reads no more and no less.
        readers, size = self._counted or self._count()
        self._counted = None
        return self._connection.reply_readers(self._tables.get(self._connection.codec, readers, size))

    def _wait(self, body: object, data: bytes) -> bytes:
        # Registering and taking the table happen in the same turn of the event loop: a change
        # is either in the table or wakes the client.
        self._manager.wait(self._client)
        if self._connection.dialect.wait_answer is WaitAnswer.TABLE:
            return self._connection.reply_readers(self._fixed_table())
        silence = self._connection.no_reply()
        if self._connection.dialect.wait_has_body and self._shown not in (None, self._client.view.snapshot()):
            # Up to 4.3 the table came with the command before; a change in between would be missed.
            self._manager.stop_waiting(self._client)
            return silence + self._connection.event(ReturnCode.SUCCESS)
        return silence

    def _stop_waiting(self, body: object, data: bytes) -> bytes:
        if self._manager.stop_waiting(self._client):
            return self._connection.reply(Waiting())
        # The event that has been sent, or is sent now, is taken for the answer.
        return self._connection.no_reply()

    def _get_reader_events(self, body: object, data: bytes) -> bytes:
        return self._connection.reply(ReaderEvents(self._client.view.reader_events))

    async def _cancel_transaction(self, body: CancelTransaction, data: bytes) -> bytes:
        # Nothing waits here for a call that this connection could still send.
        await self._manager.status(self._client, body.card)
        return self._connection.reply(CancelTransaction(body.card))

    def _cancel(self, body: Cancel, data: bytes) -> bytes:
        self._manager.cancel(self._client, body.context)
        return self._connection.reply(Cancel(body.context))
