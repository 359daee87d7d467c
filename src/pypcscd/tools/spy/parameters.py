"""From the request and the reply of one command to the parameters of the call that it stands for."""

from collections.abc import Sequence

from pypcscd import redact
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
    Reconnect,
    ReleaseContext,
    Status,
    Transmit,
)
from pypcscd.protocol.observer import SeenReply, SeenRequest
from pypcscd.scard import ReaderStatus
from pypcscd.tools.spy import names
from pypcscd.tools.spy.model import Form, Parameter

#: the API call that a command is, or is a part of
CALL_NAMES = {
    Command.ESTABLISH_CONTEXT: "SCardEstablishContext",
    Command.RELEASE_CONTEXT: "SCardReleaseContext",
    Command.CONNECT: "SCardConnect",
    Command.RECONNECT: "SCardReconnect",
    Command.DISCONNECT: "SCardDisconnect",
    Command.BEGIN_TRANSACTION: "SCardBeginTransaction",
    Command.END_TRANSACTION: "SCardEndTransaction",
    Command.TRANSMIT: "SCardTransmit",
    Command.CONTROL: "SCardControl",
    Command.STATUS: "SCardStatus",
    Command.CANCEL: "SCardCancel",
    Command.CANCEL_TRANSACTION: "SCardCancelTransaction",
    Command.GET_ATTRIB: "SCardGetAttrib",
    Command.SET_ATTRIB: "SCardSetAttrib",
    Command.VERSION: "SCardEstablishContext",
}


def handle(name: str, value: int) -> Parameter:
    return Parameter(name, Form.HANDLE, value & 0xFFFFFFFF)


def named(name: str, value: int, text: str) -> Parameter:
    return Parameter(name, Form.NAMED, value, text)


def number(name: str, value: int) -> Parameter:
    return Parameter(name, Form.NUMBER, value)


def dump(name: str, data: bytes, secret: redact.Parts = ()) -> Parameter:
    return Parameter(name, Form.DUMP, data, secret=secret)


class Parameters:
    """The parameters of one connection's calls, and what must be remembered of earlier ones."""

    def __init__(self) -> None:
        self.context = 0
        #: the readers of the card handles
        self.readers: dict[int, str] = {}
        self._features: dict[int, int] = {}

    def reader(self, request: SeenRequest) -> str:
        body = request.body
        if isinstance(body, Connect):
            return body.reader_name
        return self.readers.get(getattr(body, "card", 0), "")

    def inputs(self, request: SeenRequest, secret: redact.Parts = ()) -> list[Parameter]:
        """The in-parameters; ``secret``: the secret parts of the request's data."""
        body = request.body
        if isinstance(body, ReleaseContext | Cancel):
            return [handle("hContext", body.context)]
        if isinstance(body, EstablishContext):
            return [named("dwScope", body.scope, names.scope(body.scope))]
        if isinstance(body, Connect):
            return [
                handle("hContext", body.context),
                Parameter("szReader", Form.TEXT, body.reader_name),
                *self._modes(body),
            ]
        if not isinstance(
            body,
            Reconnect
            | Disconnect
            | BeginTransaction
            | EndTransaction
            | Transmit
            | Control
            | Status
            | LongStatus
            | CancelTransaction
            | Attribute,
        ):
            return []
        first = handle("hCard", body.card)
        if isinstance(body, Reconnect):
            start = body.initialization
            return [first, *self._modes(body), named("dwInitialization", start, names.disposition(start))]
        if isinstance(body, Disconnect | EndTransaction):
            end = body.disposition
            return [first, named("dwDisposition", end, names.disposition(end))]
        if isinstance(body, Transmit):
            return [
                first,
                named("pioSendPci.dwProtocol", body.send_protocol, names.protocols(body.send_protocol)),
                handle("pioSendPci.cbPciLength", body.send_pci_length),
                number("bSendLength", body.send_length),
                dump("bSendBuffer", request.data, secret),
            ]
        if isinstance(body, Control):
            return [
                first,
                named("dwControlCode", body.code, names.control_code(body.code, self._features)),
                number("bSendLength", body.send_length),
                dump("bSendBuffer", request.data, secret),
            ]
        if isinstance(body, Attribute):
            chosen = named("dwAttrId", body.identifier, names.attribute(body.identifier))
            if request.command is Command.GET_ATTRIB:
                return [first, chosen]
            return [
                first,
                chosen,
                number("bAttrLen", body.length),
                dump("bAttr", body.value[: body.length]),
            ]
        return [first]

    def _modes(self, body: Connect | Reconnect) -> list[Parameter]:
        wanted = body.preferred_protocols
        return [
            named("dwShareMode", body.share_mode, names.share_mode(body.share_mode)),
            Parameter("dwPreferredProtocols", Form.MASK, wanted, names.protocols(wanted)),
        ]

    def outputs(self, request: SeenRequest, reply: SeenReply) -> list[Parameter]:
        """The out-parameters; also notes contexts, handles and features for later calls."""
        body = reply.body
        is_good = result(body) == 0
        if isinstance(body, EstablishContext):
            if is_good:
                self.context = body.context
            return [handle("hContext", body.context)]
        if isinstance(body, Connect):
            if is_good:
                self.readers[body.card] = body.reader_name
            return [handle("hCard", body.card), self._active(body.active_protocol)]
        if isinstance(body, Reconnect):
            return [self._active(body.active_protocol)]
        if isinstance(body, Disconnect):
            if is_good:
                self.readers.pop(body.card, None)
            return []
        if isinstance(body, Transmit):
            used = body.receive_protocol
            return [
                named("pioRecvPci.dwProtocol", used, names.protocols(used)),
                handle("pioRecvPci.cbPciLength", body.receive_pci_length),
                number("bRecvLength", body.receive_length),
                *([dump("bRecvBuffer", reply.data)] if is_good else []),
            ]
        if isinstance(body, Control):
            return self._control_outputs(body, reply.data)
        if isinstance(body, Attribute) and request.command is Command.GET_ATTRIB:
            length = number("bAttrLen", body.length)
            return [length, dump("bAttr", body.value[: body.length])] if is_good else [length]
        return []

    def _active(self, protocol: int) -> Parameter:
        return named("dwActiveProtocol", protocol, names.protocols(protocol))

    def _control_outputs(self, body: Control, data: bytes) -> list[Parameter]:
        outputs = [number("bRecvLength", body.returned)]
        if body.rv != 0:
            return outputs
        outputs.append(dump("bRecvBuffer", data))
        if body.code == redact.CM_IOCTL_GET_FEATURE_REQUEST:
            learnt = names.features(data)
            self._features |= learnt
            outputs += [
                Parameter(names.feature(tag), Form.HANDLE, code, is_detail=True)
                for code, tag in learnt.items()
            ]
        return outputs

    def list_readers(self, readers: Sequence[ReaderStatus]) -> tuple[list[Parameter], list[Parameter]]:
        """SCardListReaders, in and out."""
        length = sum(len(reader.name.encode("utf-8", "surrogateescape")) + 1 for reader in readers)
        return [handle("hContext", self.context)], [
            handle("pcchReaders", length + 1),
            *(Parameter("mszReaders", Form.TEXT, reader.name) for reader in readers),
        ]

    def status(self, card: int, readers: Sequence[ReaderStatus]) -> list[Parameter]:
        """What SCardStatus takes from the reader table."""
        wanted = self.readers.get(card)
        reader = next((reader for reader in readers if reader.name == wanted), None)
        if reader is None:
            return []
        length = len(reader.name.encode("utf-8", "surrogateescape")) + 1
        return [
            number("cchReaderLen", length),
            Parameter("mszReaderName", Form.TEXT, reader.name),
            named("dwState", reader.state | reader.event_counter << 16, names.reader_state(reader.state)),
            named("dwProtocol", reader.protocol, names.protocols(reader.protocol)),
            number("bAtrLen", len(reader.atr)),
            Parameter("bAtr", Form.BYTES, reader.atr),
        ]

    def states(self, before: Sequence[ReaderStatus], readers: Sequence[ReaderStatus]) -> list[Parameter]:
        """What SCardGetStatusChange can say of each reader; ``before``: at its first look."""
        known = {reader.name: reader for reader in before}
        found = []
        for reader in readers:
            old = known.get(reader.name)
            changed = old is not None and (old.state, old.event_counter) != (
                reader.state,
                reader.event_counter,
            )
            state = names.event_state_of(reader, changed=changed)
            found += [
                Parameter("szReader", Form.TEXT, reader.name),
                Parameter("dwEventState", Form.NAMED, state, names.event_state(state), is_detail=True),
                Parameter("Atr length", Form.NUMBER, len(reader.atr), is_detail=True),
                Parameter("Atr", Form.BYTES, reader.atr, is_detail=True),
            ]
        return found


def result(body: Message | None) -> int:
    return int(getattr(body, "rv", 0))
