"""Within the helper: opens and closes readers as the control socket asks for them."""

import threading
from _thread import LockType
from socket import MSG_CMSG_CLOEXEC, send_fds, socket
from typing import TYPE_CHECKING

from pypcscd_ifdhandler import wire
from pypcscd_ifdhandler._native import ffi, lib
from pypcscd_ifdhandler.api import MAX_ATTRIBUTE_SIZE, ResponseCode, Tag, describe
from pypcscd_ifdhandler.slot_worker import SlotWorker
from pypcscd_ifdhandler.wire import Kind

if TYPE_CHECKING:
    from pypcscd_ifdhandler._native import CData


def start_log(log_fd: int, priority: int) -> None:
    """Send the driver's log lines of at least ``priority`` to ``log_fd``, one datagram each."""
    lib.ifd_log_to(log_fd, priority)


class Host:
    """The library, the devices that it serves, and the control socket."""

    def __init__(self, control: socket, library: "CData") -> None:
        self.library = library
        #: drivers keep static state, so only one device is opened at a time
        self.create_lock = threading.Lock()
        self.devices: dict[int, ServedDevice] = {}
        #: whether devices have a lock each; asked while no device is busy that could delay the answer
        self.thread_safe = False
        self._control = control

    def serve(self, warning: str) -> None:
        """Report that the library is ready; obey until the daemon closes the control socket."""
        self.send(wire.pack(Kind.READY, 0, lib.ifd_version(self.library), warning.encode()))
        while True:
            try:
                message = self._control.recv(wire.MAX_MESSAGE, MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                return
            if not message:
                return
            kind, request, argument, payload = wire.unpack(message)
            if kind == Kind.OPEN:
                channel, device = wire.unpack_open(payload)
                served = self.devices[argument] = ServedDevice(self, request, argument, device, channel)
                served.start()
            elif kind == Kind.CLOSE:
                self._close(request, argument)
            elif kind == Kind.ASK:
                self._ask(request, argument)

    def send(self, message: bytes, descriptors: list[int] | None = None) -> None:
        """Send on the control socket; any thread may."""
        try:
            if descriptors is None:
                self._control.send(message)
            else:
                send_fds(self._control, [message], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return  # the daemon is gone; serve() sees it too

    def close(self) -> None:
        """Close all devices, then the library."""
        devices = list(self.devices.values())
        for device in devices:
            device.stop()
        for device in devices:
            device.join()
        lib.ifd_unload(self.library)

    def parent_of(self, index: int) -> "ServedDevice | None":
        """Another open device, whose lock is shared if the driver is not thread-safe."""
        others = (device for device in list(self.devices.values()) if device.index != index)
        return next((device for device in others if device.slots), None)

    def _close(self, request: int, index: int) -> None:
        device = self.devices.get(index)
        if device is not None:
            device.close_request = request
            device.stop()
        # It may have come to its end meanwhile; a second CLOSED for a request means nothing.
        if index not in self.devices:
            self.send(wire.pack(Kind.CLOSED, request))

    def _ask(self, request: int, tag: int) -> None:
        value = ffi.new("unsigned char[]", MAX_ATTRIBUTE_SIZE)
        length = ffi.new("unsigned long *", MAX_ATTRIBUTE_SIZE)
        code = lib.ifd_get_capabilities(self.library, 0, tag, length, value)
        size = min(length[0], MAX_ATTRIBUTE_SIZE) if code == ResponseCode.SUCCESS else 0
        self.send(wire.pack(Kind.CAPABILITY, request, code, bytes(ffi.buffer(value, size))))


class ServedDevice:
    """A device of one or more slots; its first slot's thread opens it."""

    def __init__(self, host: Host, request: int, index: int, device: bytes, channel: int) -> None:
        self._host = host
        self._open_request = request
        self.index = index
        self._device = device
        self._channel = channel
        self.slots: list[SlotWorker] = []
        self._threads = [threading.Thread(target=self._run, name=f"device {index}")]
        self._stopping = False
        #: the request to be answered once the device is closed
        self.close_request: int | None = None

    def start(self) -> None:
        self._threads[0].start()

    def stop(self) -> None:
        """Make all slots end; a device that is being opened ends right after."""
        self._stopping = True
        for slot in list(self.slots):
            slot.stop()

    def join(self) -> None:
        # the first thread starts and joins the others
        self._threads[0].join()

    def _run(self) -> None:
        with self._host.create_lock:
            code = self._open_first()
            if code == ResponseCode.SUCCESS:
                self._open_others()
        if code != ResponseCode.SUCCESS:
            self._end(wire.pack(Kind.FAILED, self._open_request, code, self._call_text().encode()))
            return
        self._report_opened()
        for slot in self.slots[1:]:
            thread = threading.Thread(target=slot.serve, name=f"slot {slot.lun:#x}")
            self._threads.append(thread)
            thread.start()
        if self._stopping:
            self.stop()
        self.slots[0].serve()
        for thread in self._threads[1:]:
            thread.join()
        for slot in self.slots:
            slot.close()
        self._end()

    def _end(self, report: bytes = b"") -> None:
        # first of all: the index may be used again as soon as the daemon knows
        del self._host.devices[self.index]
        if report:
            self._host.send(report)
        if self.close_request is not None:
            self._host.send(wire.pack(Kind.CLOSED, self.close_request))

    def _call_text(self) -> str:
        if self._device and lib.ifd_version(self._host.library) == 3:
            return f'IFDHCreateChannelByName("{self._device.decode("utf-8", "replace")}")'
        return f"IFDHCreateChannel({self._channel:#x})"

    def _lock(self) -> LockType:
        """The lock of the first slot."""
        parent = self._host.parent_of(self.index)
        return threading.Lock() if parent is None or self._host.thread_safe else parent.slots[0].lock

    def _open_first(self) -> int:
        slot = SlotWorker(self._host.library, self.index << 16, self._lock())
        code = slot.open(self._device, self._channel)
        if code == ResponseCode.SUCCESS:
            self.slots.append(slot)
        return code

    def _open_others(self) -> None:
        first = self.slots[0]
        for number in range(1, min(first.capability(Tag.SLOTS_NUMBER) or 1, wire.MAX_SLOTS)):
            separate = first.capability(Tag.SLOT_THREAD_SAFE) == 1
            lock = threading.Lock() if separate else first.lock
            slot = SlotWorker(self._host.library, (self.index << 16) | number, lock)
            code = slot.open(self._device, self._channel)
            if code != ResponseCode.SUCCESS:
                slot.log(f"this slot could not be opened ({describe(code)}); going on with those before it")
                return
            self.slots.append(slot)

    def _report_opened(self) -> None:
        access = self.slots[0].capability(Tag.SIMULTANEOUS_ACCESS) or 0
        self._host.thread_safe = self.slots[0].capability(Tag.THREAD_SAFE) == 1
        payload = wire.pack_opened(access, [slot.presence for slot in self.slots])
        message = wire.pack(Kind.OPENED, self._open_request, len(self.slots), payload)
        self._host.send(message, [slot.daemon_end.fileno() for slot in self.slots])
        for slot in self.slots:
            slot.daemon_end.close()
