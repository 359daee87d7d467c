"""One slot in the helper: carries out the daemon's commands and watches for cards.

The thread that receives a command makes the native call and sends the response, so there is no hop
within the helper. Locking follows the IFD handler API 3.0: one lock per reader, or one that several
share when the driver is not thread-safe, held around every call but the polling function, the stop
function and IFDHSetCapabilities.
"""

import threading
import time
from _thread import LockType
from collections.abc import Callable
from socket import AF_UNIX, SHUT_RDWR, SO_SNDBUF, SOCK_SEQPACKET, SOL_SOCKET, socketpair
from typing import TYPE_CHECKING

from pypcscd_ifdhandler._native import ffi, lib
from pypcscd_ifdhandler.api import (
    MAX_ATR_SIZE,
    MAX_ATTRIBUTE_SIZE,
    MAX_BUFFER_SIZE,
    PowerAction,
    ResponseCode,
    Tag,
    describe,
)
from pypcscd_ifdhandler.wire import HEADER, MAX_MESSAGE, SEND_BUFFER, Kind

if TYPE_CHECKING:
    from pypcscd_ifdhandler._native import CData

#: Seconds between two looks for a card with drivers that must be polled.
POLL_INTERVAL = 0.4
#: The first pause, the next is twice as long: a card that is there already may come into view only
#: when its reader has been opened, as that of an emulator that connects to it.
FIRST_POLL_INTERVAL = 0.05
#: How long a polling function may block, milliseconds: without a function that stops it (closing
#: waits for it), and with one (an event that the driver misses is made up for after that time).
POLL_BOUND = 1_000
POLL_BOUND_STOPPABLE = 5_000
#: Seconds that a close waits for a command of another slot under the same lock.
CLOSE_PATIENCE = 0.5
_STOP_RETRY = 0.05


class SlotWorker:
    """A slot; ``serve`` runs in a thread of its own from ``open`` to the end of the socket."""

    def __init__(self, library: "CData", lun: int, lock: LockType) -> None:
        self.daemon_end, self._socket = socketpair(AF_UNIX, SOCK_SEQPACKET)
        self.daemon_end.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)
        self._socket.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)
        self._library = library
        self.lun = lun
        self.lock = lock
        self._powered = False
        self._stopping = False
        self._pause = threading.Event()
        self._poll_function = ffi.NULL
        self._stop_function = ffi.NULL
        self.presence = -1
        self._interval = FIRST_POLL_INTERVAL
        self._next_look = 0.0
        self._request = bytearray(MAX_MESSAGE)
        self._response = bytearray(MAX_MESSAGE)
        self._command = ffi.from_buffer("unsigned char[]", self._request) + HEADER.size
        self._answer = ffi.from_buffer("unsigned char[]", self._response) + HEADER.size
        self._length = ffi.new("unsigned long *")
        self._actions: dict[int, Callable[[int, int], int]] = {
            Kind.POWER_ON: self._power_on,
            Kind.POWER_OFF: self._power_off,
            Kind.RESET: self._reset,
            Kind.SET_PROTOCOL: self._set_protocol,
            Kind.TRANSMIT: self._transmit,
            Kind.CONTROL: self._control,
            Kind.GET: self._get,
            Kind.SET: self._set,
        }

    # -- opening and closing

    def open(self, device: bytes, channel: int) -> int:
        """Create the channel and look for a card once; returns IFDHCreateChannel's code."""
        with self.lock:
            if device and lib.ifd_version(self._library) == 3:
                code = lib.ifd_create_channel_by_name(self._library, self.lun, device)
            else:
                code = lib.ifd_create_channel(self._library, self.lun, channel)
            if code != ResponseCode.SUCCESS:
                self.forget()
                return code
            self._poll_function = self._offered(Tag.POLLING_THREAD_WITH_TIMEOUT)
            if self._poll_function:
                self._stop_function = self._offered(Tag.STOP_POLLING_THREAD)
            self.presence = lib.ifd_icc_presence(self._library, self.lun)
        return code

    def forget(self) -> None:
        """Give the sockets back of a slot that was never served."""
        self._socket.close()
        self.daemon_end.close()

    def _offered(self, tag: Tag) -> "CData":
        return lib.ifd_offered_function(self._library, self.lun, tag)

    def capability(self, tag: Tag) -> int | None:
        """A capability of one byte; None if the driver does not know it."""
        value = ffi.new("unsigned char[]", MAX_ATTRIBUTE_SIZE)
        length = ffi.new("unsigned long *", 1)
        with self.lock:
            code = lib.ifd_get_capabilities(self._library, self.lun, tag, length, value)
        return value[0] if code == ResponseCode.SUCCESS and length[0] == 1 else None

    def stop(self) -> None:
        """Make ``serve`` end after the command at hand. May be called from any thread, repeatedly."""
        self._stopping = True
        self._pause.set()
        try:
            self._socket.shutdown(SHUT_RDWR)
        except OSError:
            return  # the daemon closed its end before

    def _power_down(self) -> None:
        """A closing slot leaves its card without power; not under another slot's stuck command."""
        if self._powered and self.lock.acquire(timeout=CLOSE_PATIENCE):
            try:
                self._power_off(0, 0)
            finally:
                self.lock.release()

    def close(self) -> None:
        """Close the channel; ``serve`` has ended."""
        # A driver that is stuck in another slot must not keep this one from closing.
        locked = self.lock.acquire(timeout=CLOSE_PATIENCE)
        try:
            lib.ifd_close_channel(self._library, self.lun)
        finally:
            if locked:
                self.lock.release()
        self._socket.close()

    # -- commands

    def serve(self) -> None:
        """Carry out commands until ``stop`` is called or the daemon closes its end; then power down."""
        poller = None
        if self._poll_function:
            poller = threading.Thread(target=self._poll, name=f"poll {self.lun:#x}")
            poller.start()
        else:
            self._look_every(FIRST_POLL_INTERVAL)
            self._next_look = time.monotonic() + self._interval
        receive, request, polled = self._socket.recv_into, self._request, poller is None
        while not self._stopping:
            try:
                size = receive(request)
            except BlockingIOError:
                self._look_in_turn()
                continue
            except OSError:
                break
            if not size:
                break
            self._respond(size)
            if polled and time.monotonic() >= self._next_look:
                self._look_in_turn()
        if poller is not None:
            self._end_polling(poller)
        self._power_down()

    def _respond(self, size: int) -> None:
        kind, sequence, argument = HEADER.unpack_from(self._request)
        self._length[0] = 0
        action = self._actions[kind]
        if kind == Kind.SET:
            code = action(argument, size - HEADER.size)
        else:
            with self.lock:
                code = action(argument, size - HEADER.size)
        length = self._length[0] if code == ResponseCode.SUCCESS else 0
        if length > MAX_BUFFER_SIZE:
            self.log(f"the driver claims an answer of {length} bytes; taken as a communication error")
            code, length = ResponseCode.COMMUNICATION_ERROR, 0
        HEADER.pack_into(self._response, 0, Kind.RESPONSE, sequence, code)
        self._send(memoryview(self._response)[: HEADER.size + length])
        if code == ResponseCode.ICC_NOT_PRESENT:
            self._look()

    def _send(self, message: bytes | memoryview) -> None:
        try:
            self._socket.send(message)
        except OSError:
            # The daemon has closed its end; the next receive says so and ends the loop.
            self._stopping = True

    def log(self, text: str) -> None:
        """A line of the helper's own in the driver's log, as an error."""
        lib.ifd_log(2, f"Lun {self.lun:#x}: {text}".encode())

    # The actions: called under the lock (but _set); the answer goes to the response buffer and its
    # size to _length.

    def _power(self, action: PowerAction) -> int:
        self._length[0] = MAX_ATR_SIZE
        code = lib.ifd_power_icc(self._library, self.lun, action, self._length, self._answer)
        if code == ResponseCode.SUCCESS:
            self._powered = action is not PowerAction.DOWN
        if action is PowerAction.DOWN:
            self._length[0] = 0
        elif self._length[0] > MAX_ATR_SIZE:
            self.log(f"the driver claims an ATR of {self._length[0]} bytes; taken as a failed power-up")
            code = ResponseCode.ERROR_POWER_ACTION
        return code

    def _power_present(self, action: PowerAction) -> int:
        # Drivers count on being asked for the card before every power command.
        code = self._look_locked()
        return self._power(action) if code == ResponseCode.ICC_PRESENT else code

    def _power_on(self, _argument: int, _size: int) -> int:
        return self._power_present(PowerAction.UP)

    def _power_off(self, _argument: int, _size: int) -> int:
        code = self._power_present(PowerAction.DOWN)
        return ResponseCode.SUCCESS if code == ResponseCode.ICC_NOT_PRESENT else code

    def _reset(self, _argument: int, _size: int) -> int:
        return self._power_present(PowerAction.RESET)

    def _set_protocol(self, protocol: int, _size: int) -> int:
        return lib.ifd_set_protocol_parameters(self._library, self.lun, protocol)

    def _transmit(self, protocol: int, size: int) -> int:
        self._length[0] = MAX_BUFFER_SIZE
        return lib.ifd_transmit_to_icc(
            self._library, self.lun, protocol, self._command, size, self._length, self._answer
        )

    def _control(self, control_code: int, size: int) -> int:
        self._length[0] = MAX_BUFFER_SIZE
        return lib.ifd_control(
            self._library, self.lun, control_code, self._command, size, self._length, self._answer
        )

    def _get(self, tag: int, _size: int) -> int:
        self._length[0] = MAX_ATTRIBUTE_SIZE
        return lib.ifd_get_capabilities(self._library, self.lun, tag, self._length, self._answer)

    def _set(self, tag: int, size: int) -> int:
        return lib.ifd_set_capabilities(self._library, self.lun, tag, size, self._command)

    # -- presence

    def _look_locked(self) -> int:
        """Ask the driver for the card and report a change. The lock is held, also while reporting:
        else the poller could report an older state after a newer one."""
        code = lib.ifd_icc_presence(self._library, self.lun)
        self._next_look = time.monotonic() + self._interval
        if code != self.presence:
            self.presence = code
            if code not in (ResponseCode.ICC_PRESENT, ResponseCode.ICC_NOT_PRESENT):
                self.log(f"IFDHICCPresence failed with {describe(code)}; the reader's state is unknown")
            self._send(HEADER.pack(Kind.PRESENCE, 0, code))
        return code

    def _look(self) -> None:
        with self.lock:
            self._look_locked()

    def _look_every(self, seconds: float) -> None:
        self._interval = seconds
        # The kernel's time-out costs nothing per command, unlike one of Python's.
        lib.ifd_receive_timeout(self._socket.fileno(), int(seconds * 1000))

    def _look_in_turn(self) -> None:
        if self._interval < POLL_INTERVAL:
            self._look_every(min(2 * self._interval, POLL_INTERVAL))
        self._look()

    def _poll(self) -> None:
        """The polling thread: never holds the lock while the driver's polling function blocks."""
        bound = POLL_BOUND_STOPPABLE if self._stop_function else POLL_BOUND
        while not self._stopping:
            code = lib.ifd_poll(self._poll_function, self.lun, bound)
            if self._stopping:
                return
            self._look()
            if code != ResponseCode.SUCCESS:
                self._pause.wait(POLL_INTERVAL)

    def _end_polling(self, poller: threading.Thread) -> None:
        self._stopping = True
        self._pause.set()
        while poller.is_alive():
            # Repeated, because a stop that comes just before the polling function begins is lost.
            if self._stop_function:
                lib.ifd_stop_polling(self._stop_function, self.lun)
            poller.join(_STOP_RETRY)
