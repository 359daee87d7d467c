"""What a simulated device says about itself, from the functional descriptor to the whole device."""

import struct
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

# CCID 1.1 section 5.1; the names are the specification's, in its order
_FUNCTIONAL = struct.Struct("<BBHBBIIIBIIBIIIIIBBHBB")

CHARACTER, TPDU, SHORT_APDU, EXTENDED_APDU = 0, 0x10000, 0x20000, 0x40000
LEVELS = 0x70000
AUTO_NEGOTIATION = 0x40
AUTO_PPS = 0x80
AUTO_IFSD = 0x400


@dataclass(frozen=True)
class Functional:
    """The CCID class descriptor."""

    bcd_ccid: int = 0x0110
    max_slot_index: int = 0
    voltage_support: int = 7
    protocols: int = 3
    default_clock: int = 4000
    maximum_clock: int = 4000
    num_clocks: int = 0
    data_rate: int = 10752
    max_data_rate: int = 344086
    num_data_rates: int = 0
    max_ifsd: int = 254
    synch_protocols: int = 0
    mechanical: int = 0
    features: int = SHORT_APDU | 0x4BA
    max_message: int = 271
    class_get_response: int = 0xFF
    class_envelope: int = 0xFF
    lcd_layout: int = 0
    pin_support: int = 0
    max_busy_slots: int = 1

    @property
    def slots(self) -> int:
        return self.max_slot_index + 1

    @property
    def level(self) -> int:
        return self.features & LEVELS

    def encode(self) -> bytes:
        return _FUNCTIONAL.pack(54, 0x21, *(getattr(self, each.name) for each in fields(self)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*_FUNCTIONAL.unpack(data)[2:])


@dataclass(frozen=True)
class Interface:
    """A CCID interface. Endpoint addresses are given out by the device, in the order of its interfaces."""

    functional: Functional = field(default_factory=Functional)
    interrupt: bool = True
    #: its own string
    label: str = ""
    interface_class: int = 0x0B
    protocol: int = 0
    #: what the class requests answer; without, they stall
    data_rates: tuple[int, ...] | None = None
    clocks: tuple[int, ...] | None = None
    #: vendor commands and their answers, both in hexadecimal
    escapes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Device:
    vendor: int
    product: int
    manufacturer: str = "pypcscd tests"
    product_name: str = "Simulated reader"
    serial: str = ""
    bcd_device: int = 0x0100
    high_speed: bool = False
    interfaces: tuple[Interface, ...] = (Interface(),)
    #: whether a transfer that fills its last packet is ended by an empty one
    zero_length_packets: bool = True

    @property
    def packet_size(self) -> int:
        return 512 if self.high_speed else 64

    def strings(self) -> list[str]:
        """The texts by index, from 1."""
        names = [each.label for each in self.interfaces if each.label]
        return [self.manufacturer, self.product_name, self.serial, *names]

    def string_index(self, text: str) -> int:
        return self.strings().index(text) + 1 if text else 0

    def device_descriptor(self) -> bytes:
        names = [self.string_index(text) for text in (self.manufacturer, self.product_name, self.serial)]
        values = (0x0200, 0, 0, 0, 64, self.vendor, self.product, self.bcd_device, *names, 1)
        return struct.pack("<BBHBBBBHHHBBBB", 18, 1, *values)

    def qualifier_descriptor(self) -> bytes:
        return struct.pack("<BBHBBBBBB", 10, 6, 0x0200, 0, 0, 0, 64, 1, 0)

    def endpoints(self, number: int) -> tuple[int, int, int]:
        """The addresses of an interface's bulk OUT, bulk IN and interrupt IN endpoints."""
        first = 2 * number + 1
        return first, 0x80 | first, 0x80 | (first + 1)

    def interface_descriptor(self, number: int) -> bytes:
        interface = self.interfaces[number]
        out, in_, interrupt = self.endpoints(number)
        endpoints = [(out, 2, self.packet_size, 0), (in_, 2, self.packet_size, 0)]
        if interface.interrupt:
            size = max(8, 1 + (2 * interface.functional.slots + 7) // 8)
            # one millisecond; high speed counts in powers of two of an eighth of that
            endpoints.append((interrupt, 3, size, 4 if self.high_speed else 1))
        kind = (interface.interface_class, 0, interface.protocol)
        parts = [
            struct.pack("<9B", 9, 4, number, 0, len(endpoints), *kind, self.string_index(interface.label))
        ]
        parts.append(interface.functional.encode())
        parts += [struct.pack("<BBBBHB", 7, 5, *endpoint) for endpoint in endpoints]
        return b"".join(parts)

    def configuration_descriptor(self) -> bytes:
        count = len(self.interfaces)
        body = b"".join(self.interface_descriptor(number) for number in range(count))
        return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), count, 1, 0, 0x80, 50) + body

    def string_descriptor(self, index: int) -> bytes | None:
        if index == 0:
            return struct.pack("<BBH", 4, 3, 0x0409)
        texts = self.strings()
        if index > len(texts):
            return None
        data = texts[index - 1].encode("utf-16-le")
        return bytes([2 + len(data), 3]) + data


def _reader(vendor: int, product: int, name: str, **values: Any) -> Device:
    interface = {key: values.pop(key) for key in ("interrupt", "data_rates", "escapes") if key in values}
    device = {key: values.pop(key) for key in ("high_speed",) if key in values}
    return Device(
        vendor,
        product,
        product_name=name,
        interfaces=(Interface(Functional(**values), **interface),),
        **device,
    )


# sysmocom's bank of eight SIM slots, as it declares itself: T=0 at TPDU level, eight slots busy at once
OCTSIM = Functional.decode(
    bytes.fromhex(
        "36210001070701000000c4090000204e000004401a000000100e000000000000"
        "0000000000000000b000010010010000ffff00000008"
    )
)
# Figures as such readers declare them, with identifiers that the reference driver knows.
_OMNIKEY = {"default_clock": 4800, "maximum_clock": 8000, "max_data_rate": 412903}
MODELS: dict[str, Device] = {
    "tpdu": _reader(0x076B, 0x3021, "TPDU reader", features=TPDU | 0xB2, max_data_rate=100000),
    "short": _reader(0x0B0C, 0x0052, "Short APDU reader", features=SHORT_APDU | 0x4BA, **_OMNIKEY),
    "extended": _reader(
        0x04E6,
        0x5810,
        "Extended APDU reader",
        features=EXTENDED_APDU | 0x4BA,
        max_message=65556,
        high_speed=True,
    ),
    # the same, but with messages so short that commands and answers travel in pieces
    "extended-small": _reader(0x04E6, 0x5810, "Extended APDU reader", features=EXTENDED_APDU | 0x4BA),
    "character": _reader(0x0B97, 0x7762, "Character reader", features=0xB2),
    "polled": _reader(
        0x0B0C, 0x0052, "Polled reader", features=SHORT_APDU | 0x4BA, interrupt=False, **_OMNIKEY
    ),
    "gemalto": _reader(0x08E6, 0x3437, "USB SmartCard Reader", features=TPDU | 0x230, max_data_rate=344086),
    "octsim": Device(
        0x1D50, 0x6141, product_name="sysmoOCTSIM", interfaces=(Interface(OCTSIM, label="CCID"),)
    ),
}
MODELS["composite"] = replace(
    MODELS["short"],
    product=0x5810,
    vendor=0x04E6,
    product_name="Two interfaces",
    interfaces=(
        Interface(Functional(features=SHORT_APDU | 0x4BA), label="Contact"),
        Interface(Functional(features=EXTENDED_APDU | 0x4BA, max_message=2048), label="Contactless"),
    ),
)
# a keyboard with a card reader in it: only the second interface is one
MODELS["keyboard"] = replace(
    MODELS["short"],
    product_name="Keyboard",
    interfaces=(
        Interface(interface_class=0x03, protocol=1),
        Interface(Functional(features=SHORT_APDU | 0x4BA)),
    ),
)
