"""The SLE 4442 memory card as an ACS ACR38 reader shows it.

The card itself has no APDUs; the reader translates pseudo-APDUs of class FF. Sources: ACS, "ACR38x
(CCID) Reference Manual", version 6.04, section 9.3.6 (commands), and Infineon, "SLE 4432/SLE 4442"
data sheet (memories, code counter). The manual gives 90 00 "if no error" and no other status words;
those used here are of ISO/IEC 7816-4 and are our choice.
"""

from collections.abc import Callable

from pypcscd_virtual import apdu as apdus
from pypcscd_virtual.card import Card

MEMORY_SIZE = 256
#: only the first bytes of the memory have protection bits
PROTECTABLE_SIZE = 32
CARD_TYPE = 0x06
_CODE_SIZE = 3
#: the three tries as a bit mask: 07, 03, 01, and 00 when the code is locked for good
_ALL_TRIES = 0x07

_SUCCESS = b"\x90\x00"
_WRONG_LENGTH = b"\x67\x00"
_SECURITY_NOT_SATISFIED = b"\x69\x82"
_CONDITIONS_NOT_SATISFIED = b"\x69\x85"
_WRONG_DATA = b"\x6a\x80"
_WRONG_P1_P2 = b"\x6a\x86"
_OUT_OF_RANGE = b"\x6b\x00"
_UNKNOWN_INS = b"\x6d\x00"
_UNKNOWN_CLA = b"\x6e\x00"


def _factory_memory() -> bytearray:
    memory = bytearray(b"\xff" * MEMORY_SIZE)
    memory[0:4] = bytes.fromhex("A2 13 10 91")  # the header that the card sends at reset
    memory[6:8] = bytes.fromhex("81 15")  # chip manufacturer and type
    memory[21:27] = bytes.fromhex("D2 76 00 00 04 00")  # application identifier
    return memory


class Sle4442(Card):
    """A fresh card with its transport code FF FF FF.

    Memory, code and error counter survive power cycles; the code must be presented again after
    each. SELECT_CARD_TYPE (FF A4 00 00 01 06) comes first after each power-up.
    """

    #: T=0 without interface bytes; the historical bytes are the header of the memory
    atr = bytes.fromhex("3B 04 A2 13 10 91")

    def __init__(self) -> None:
        self.memory = _factory_memory()
        #: addresses (0 to 31) that can never be written again
        self.protected = {0, 1, 2, 3, 6, 7, *range(21, 27)}
        self.code = b"\xff" * _CODE_SIZE
        self.error_counter = _ALL_TRIES
        self._is_selected = False
        self._is_open = False
        self._commands: dict[int, Callable[[int, int, bytes], bytes]] = {
            0x20: self._present_code,
            0xA4: self._select_card_type,
            0xB0: self._read_memory,
            0xB1: self._read_error_counter,
            0xB2: self._read_protection_bits,
            0xD0: self._write_memory,
            0xD1: self._write_protection,
            0xD2: self._change_code,
        }

    def power_on(self) -> None:
        self._is_selected = False
        self._is_open = False

    def transmit(self, apdu: bytes) -> bytes:
        try:
            command = apdus.parse(apdu)
        except ValueError:
            return _WRONG_LENGTH
        if command.cla != 0xFF:
            return _UNKNOWN_CLA
        answer = self._commands.get(command.ins)
        if answer is None:
            return _UNKNOWN_INS
        if not self._is_selected and command.ins != 0xA4:
            return _CONDITIONS_NOT_SATISFIED
        return answer(command.p2, command.ne, command.data)

    def _select_card_type(self, p2: int, ne: int, data: bytes) -> bytes:
        if len(data) != 1:
            return _WRONG_LENGTH
        self.power_on()  # the command powers the card down and up
        if data[0] != CARD_TYPE:
            return _WRONG_DATA
        self._is_selected = True
        return _SUCCESS

    def _read_memory(self, address: int, ne: int, data: bytes) -> bytes:
        if data or not ne:
            return _WRONG_LENGTH
        if address + ne > MEMORY_SIZE:
            return _OUT_OF_RANGE
        return bytes(self.memory[address : address + ne]) + _SUCCESS

    def _read_error_counter(self, p2: int, ne: int, data: bytes) -> bytes:
        # MEM_L is 04 in newer manuals and 00 in older ones
        if data or ne not in (4, 256):
            return _WRONG_LENGTH
        return bytes((self.error_counter, 0, 0, 0)) + _SUCCESS

    def _read_protection_bits(self, p2: int, ne: int, data: bytes) -> bytes:
        if data or ne not in (4, 256):
            return _WRONG_LENGTH
        bits = sum(1 << address for address in range(PROTECTABLE_SIZE) if address not in self.protected)
        return bits.to_bytes(4, "little") + _SUCCESS

    def _write_memory(self, address: int, ne: int, data: bytes) -> bytes:
        refusal = self._refuse_write(address, data, MEMORY_SIZE)
        if refusal:
            return refusal
        changed = (at for at, byte in enumerate(data, address) if byte != self.memory[at])
        if not self.protected.isdisjoint(changed):
            return _CONDITIONS_NOT_SATISFIED
        self.memory[address : address + len(data)] = data
        return _SUCCESS

    def _write_protection(self, address: int, ne: int, data: bytes) -> bytes:
        """Protect each byte that is named with its true value; the others stay as they are."""
        refusal = self._refuse_write(address, data, PROTECTABLE_SIZE)
        if refusal:
            return refusal
        matching = {at for at, byte in enumerate(data, address) if byte == self.memory[at]}
        self.protected |= matching
        return _SUCCESS if len(matching) == len(data) else _WRONG_DATA

    def _refuse_write(self, address: int, data: bytes, size: int) -> bytes:
        """The status word that forbids the write, empty if it is allowed."""
        if not data:
            return _WRONG_LENGTH
        if address + len(data) > size:
            return _OUT_OF_RANGE
        return b"" if self._is_open else _SECURITY_NOT_SATISFIED

    def _present_code(self, p2: int, ne: int, data: bytes) -> bytes:
        if len(data) != _CODE_SIZE:
            return _WRONG_LENGTH
        # as in the chip: a try is used up first, and given back only if the code was right
        has_try = self.error_counter != 0
        self.error_counter >>= 1
        self._is_open = has_try and data == self.code
        if self._is_open:
            self.error_counter = _ALL_TRIES
        return bytes((0x90, self.error_counter))

    def _change_code(self, p2: int, ne: int, data: bytes) -> bytes:
        if p2 != 0x01:
            return _WRONG_P1_P2
        if len(data) != _CODE_SIZE:
            return _WRONG_LENGTH
        if not self._is_open:
            return _SECURITY_NOT_SATISFIED
        self.code = data
        return _SUCCESS
