"""A reader for card emulators that connect over the network: the server side of vpcd.

Options of a device: ``slots`` (1 to 256, default 1), ``port`` (of the first slot, default 35963; the
others follow upwards), ``host`` (the address to listen on, default 127.0.0.1).
"""

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from pypcscd.driver import Device, DeviceConfig, DeviceOpenError, Driver
from pypcscd_virtual import vpcd_protocol as wire
from pypcscd_virtual.vpcd_slot import VpcdSlot

_log = logging.getLogger("pypcscd.vpcd")

DEFAULT_HOST = "127.0.0.1"
#: An emulator whose computer vanished must not hold the slot for ever. Connections inherit this.
_KEEP_ALIVE = (
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
)
#: slot numbers have two hexadecimal digits in reader names
MAX_SLOTS = 256


class VpcdDevice(Device):
    """A reader whose slots listen on consecutive TCP ports."""

    def __init__(self, name: str, slots: int) -> None:
        super().__init__()
        self._name = name
        # One byte is always left: of a room that was filled, the event loop would ask for more at once.
        room = memoryview(bytearray(wire.MAX_FRAME + 1))
        titles = (f"vpcd reader {name!r} slot {number:02X}" for number in range(slots))
        self._slots = [VpcdSlot(title, room) for title in titles]
        self._servers: list[asyncio.Server] = []

    @property
    def slots(self) -> Sequence[VpcdSlot]:
        return self._slots

    async def listen(self, host: str, first_port: int) -> None:
        """Open the ports. Raises DeviceOpenError; then no port stays open."""
        for port, slot in enumerate(self._slots, first_port):
            try:
                server = await _bind(slot.new_connection, host, port)
                self._servers.append(server)
                for listening in server.sockets:
                    for level, option, value in _KEEP_ALIVE:
                        listening.setsockopt(level, option, value)
                await server.start_serving()
            except asyncio.CancelledError:
                await self.close()
                raise
            except OSError as error:
                await self.close()
                # asyncio wraps the system's text in another sentence; names that are not found have none
                why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
                raise DeviceOpenError(
                    f"cannot listen on {host} port {port}: {why}; "
                    f"'ss -tanp sport = :{port}' shows who has the port; "
                    "end that program, or choose other ports with the option 'port'"
                ) from error
        addresses = {listener.getsockname()[0] for server in self._servers for listener in server.sockets}
        if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
            _log.warning(
                "vpcd reader %r listens on %s: whoever can connect there can play a card and see the "
                "commands sent to it; use a firewall, or 127.0.0.1 and an ssh tunnel",
                self._name,
                host,
            )

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for slot in self._slots:
            slot.close()
        # asyncio closes aborted sockets in its next turn
        await asyncio.sleep(0)


async def _bind(new_connection: Callable[[], asyncio.Protocol], host: str, port: int) -> asyncio.Server:
    """A server that does not serve yet. Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return await loop.create_server(new_connection, host, port, start_serving=False)
    # To look this up, the loop would start threads. With a named protocol, asyncio sets TCP_NODELAY.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        return await loop.create_server(new_connection, sock=listening, start_serving=False)
    except OSError:
        listening.close()
        raise


class VpcdDriver(Driver):
    """Opens readers for emulators."""

    async def open(self, config: DeviceConfig) -> VpcdDevice:
        """A reader that listens. Raises DeviceOpenError."""
        unknown = sorted(set(config.options) - {"slots", "port", "host"})
        if unknown:
            raise DeviceOpenError(
                f"unknown option {unknown[0]!r}; there are 'slots', 'port' and 'host'",
                permanent=True,
            )
        slots = _number("slots", config.options.get("slots", "1"), MAX_SLOTS)
        port = _number("port", config.options.get("port", str(wire.DEFAULT_PORT)), 0xFFFF)
        if port + slots - 1 > 0xFFFF:
            raise DeviceOpenError(
                f"{slots} slots from port {port} on go beyond port 65535; choose a lower port",
                permanent=True,
            )
        host = config.options.get("host", DEFAULT_HOST)
        device = VpcdDevice(config.name, slots)
        await device.listen(host, port)
        last = f" to {port + slots - 1}" if slots > 1 else ""
        _log.info("%s: waiting for emulators on %s port %d%s", config.name, host, port, last)
        return device


def _number(option: str, text: str, limit: int) -> int:
    with suppress(ValueError):
        number = int(text)
        if 1 <= number <= limit:
            return number
    raise DeviceOpenError(
        f"option {option!r} must be a number from 1 to {limit}, not {text!r}", permanent=True
    )
