"""The driver for CCID readers: USB devices of class 0x0B, by the CCID specification 1.1."""
