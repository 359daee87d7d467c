"""The words of the scenarios."""

from pypcscd.scard import Disposition, Protocol, ShareMode

T0, T1, RAW, ANY_OLD = Protocol.T0, Protocol.T1, Protocol.RAW, Protocol.ANY_OLD
ANY = T0 | T1
EXCLUSIVE, SHARED, DIRECT = ShareMode.EXCLUSIVE, ShareMode.SHARED, ShareMode.DIRECT
LEAVE, RESET = Disposition.LEAVE, Disposition.RESET
UNPOWER, EJECT = Disposition.UNPOWER, Disposition.EJECT
R0, R1 = "Virtual PCD 00 00", "Virtual PCD 00 01"
#: an APDU that the emulated cards answer with itself
TALK = "80CA0000"
