"""pypcscd: a PC/SC resource manager daemon for Linux."""

__version__ = "0.1.0"
