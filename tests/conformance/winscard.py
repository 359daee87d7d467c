"""The calls of libpcsclite by ctypes, with nothing smoothed: every argument goes in and every result
comes out as the library has it, because that is what is compared."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_long, c_ubyte, c_ulong, c_void_p

#: what an out-parameter holds before the call: still there afterwards means "not written"
UNTOUCHED = 0xA5A5A5A5
ATR_ROOM = 33
NAME_ROOM = 128
AUTO_ALLOCATE = 0xFFFFFFFF

#: return code, and the values that the call wrote
Result = tuple[int, tuple[object, ...]]


class IoRequest(ctypes.Structure):
    _fields_ = (("protocol", c_ulong), ("length", c_ulong))


class State(ctypes.Structure):
    _fields_ = (
        ("reader", c_char_p),
        ("user_data", c_void_p),
        ("current", c_ulong),
        ("event", c_ulong),
        ("atr_length", c_ulong),
        ("atr", c_ubyte * ATR_ROOM),
    )


class Winscard:
    """The library of this process. Handles are plain numbers."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libpcsclite.so.1")

    def _call(self, name: str, *args: object) -> int:
        function = getattr(self._library, name)
        function.restype = c_long
        return int(function(*args)) & 0xFFFFFFFF

    def establish(self, scope: int) -> Result:
        context = c_ulong(UNTOUCHED)
        rv = self._call("SCardEstablishContext", c_ulong(scope), None, None, byref(context))
        return rv, (context.value,)

    def release(self, context: int) -> Result:
        return self._call("SCardReleaseContext", c_ulong(context)), ()

    def is_valid(self, context: int) -> Result:
        return self._call("SCardIsValidContext", c_ulong(context)), ()

    def cancel(self, context: int) -> Result:
        return self._call("SCardCancel", c_ulong(context)), ()

    def list_readers(self, context: int, room: int | None = None) -> Result:
        """``room``: bytes of the buffer; None: only ask for the length."""
        length = c_ulong(UNTOUCHED if room is None else room)
        buffer = None if room is None else ctypes.create_string_buffer(room + 1)
        rv = self._call("SCardListReaders", c_ulong(context), None, buffer, byref(length))
        names = buffer.raw[: length.value] if buffer is not None and rv == 0 else b""
        return rv, (length.value, names)

    def list_groups(self, context: int, room: int | None = None) -> Result:
        length = c_ulong(UNTOUCHED if room is None else room)
        buffer = None if room is None else ctypes.create_string_buffer(room + 1)
        rv = self._call("SCardListReaderGroups", c_ulong(context), buffer, byref(length))
        names = buffer.raw[: length.value] if buffer is not None and rv == 0 else b""
        return rv, (length.value, names)

    def connect(self, context: int, reader: str, share: int, protocols: int) -> Result:
        card, active = c_long(UNTOUCHED), c_ulong(UNTOUCHED)
        rv = self._call(
            "SCardConnect",
            c_ulong(context),
            c_char_p(reader.encode()),
            c_ulong(share),
            c_ulong(protocols),
            byref(card),
            byref(active),
        )
        return rv, (card.value, active.value)

    def probe(self, context: int, reader: str, protocols: int) -> Result:
        """Connect, ask for the status, and disconnect."""
        rv, (card, active) = self.connect(context, reader, 2, protocols)
        if rv:
            return rv, (active, 0, b"")
        assert isinstance(card, int)
        _, status = self.status(card)
        self.disconnect(card, 0)
        return rv, (active, status[2], status[4])

    def reconnect(self, card: int, share: int, protocols: int, initialization: int) -> Result:
        active = c_ulong(UNTOUCHED)
        rv = self._call(
            "SCardReconnect",
            c_long(card),
            c_ulong(share),
            c_ulong(protocols),
            c_ulong(initialization),
            byref(active),
        )
        return rv, (active.value,)

    def disconnect(self, card: int, disposition: int) -> Result:
        return self._call("SCardDisconnect", c_long(card), c_ulong(disposition)), ()

    def begin(self, card: int) -> Result:
        return self._call("SCardBeginTransaction", c_long(card)), ()

    def end(self, card: int, disposition: int) -> Result:
        return self._call("SCardEndTransaction", c_long(card), c_ulong(disposition)), ()

    def status(self, card: int, name_room: int = NAME_ROOM, atr_room: int = ATR_ROOM) -> Result:
        name, atr = ctypes.create_string_buffer(name_room + 1), (c_ubyte * (atr_room + 1))()
        name_length, atr_length = c_ulong(name_room), c_ulong(atr_room)
        state, protocol = c_ulong(UNTOUCHED), c_ulong(UNTOUCHED)
        rv = self._call(
            "SCardStatus",
            c_long(card),
            name,
            byref(name_length),
            byref(state),
            byref(protocol),
            atr,
            byref(atr_length),
        )
        text = name.raw[: min(name_length.value, name_room)]
        return rv, (
            text,
            name_length.value,
            state.value,
            protocol.value,
            bytes(atr[: min(atr_length.value, atr_room)]),
            atr_length.value,
        )

    def changes(self, context: int, timeout: int, states: Sequence[tuple[str, int]]) -> Result:
        array = (State * max(len(states), 1))()
        for entry, (reader, current) in zip(array, states, strict=False):
            entry.reader, entry.current, entry.event = reader.encode(), current, UNTOUCHED
            entry.atr_length = 0
        rv = self._call(
            "SCardGetStatusChange", c_ulong(context), c_ulong(timeout), array, c_ulong(len(states))
        )
        return rv, tuple(
            (entry.event, bytes(entry.atr[: min(entry.atr_length, ATR_ROOM)]))
            for entry in array[: len(states)]
        )

    def transmit(self, card: int, protocol: int, apdu: bytes, room: int, pci_length: int = 16) -> Result:
        send, receive = IoRequest(protocol, pci_length), IoRequest(UNTOUCHED, 16)
        buffer, length = ctypes.create_string_buffer(max(room, 1)), c_ulong(room)
        rv = self._call(
            "SCardTransmit",
            c_long(card),
            byref(send),
            apdu,
            c_ulong(len(apdu)),
            byref(receive),
            buffer,
            byref(length),
        )
        answer = buffer.raw[: length.value] if rv == 0 else b""
        return rv, (length.value, answer, receive.protocol)

    def control(self, card: int, code: int, data: bytes, room: int) -> Result:
        buffer, length = ctypes.create_string_buffer(max(room, 1)), c_ulong(UNTOUCHED)
        rv = self._call(
            "SCardControl",
            c_long(card),
            c_ulong(code),
            data,
            c_ulong(len(data)),
            buffer,
            c_ulong(room),
            byref(length),
        )
        return rv, (length.value, buffer.raw[: length.value] if rv == 0 else b"")

    def get_attrib(self, card: int, attribute: int, room: int | None) -> Result:
        length = c_ulong(UNTOUCHED if room is None else room)
        buffer = None if room is None else ctypes.create_string_buffer(room + 1)
        rv = self._call("SCardGetAttrib", c_long(card), c_ulong(attribute), buffer, byref(length))
        value = buffer.raw[: length.value] if buffer is not None and rv == 0 else b""
        return rv, (length.value, value)

    def get_attrib_allocated(self, card: int, attribute: int) -> Result:
        """With SCARD_AUTOALLOCATE: the library makes the buffer, and SCardFreeMemory frees it."""
        length, pointer = c_ulong(AUTO_ALLOCATE), POINTER(c_ubyte)()
        rv = self._call("SCardGetAttrib", c_long(card), c_ulong(attribute), byref(pointer), byref(length))
        value = bytes(pointer[: length.value]) if rv == 0 else b""
        return rv, (length.value, value)

    def set_attrib(self, card: int, attribute: int, value: bytes) -> Result:
        return self._call("SCardSetAttrib", c_long(card), c_ulong(attribute), value, c_ulong(len(value))), ()

    def establish_many(self, count: int) -> Result:
        """How many of ``count`` contexts there were until one was refused; the last result."""
        done, rv = 0, 0
        while done < count and rv == 0:
            rv, _ = self.establish(2)
            done += rv == 0
        return rv, (done,)

    def connect_many(self, context: int, reader: str, share: int, protocols: int, count: int) -> Result:
        """The same for card handles."""
        done, rv = 0, 0
        while done < count and rv == 0:
            rv, _ = self.connect(context, reader, share, protocols)
            done += rv == 0
        return rv, (done,)
