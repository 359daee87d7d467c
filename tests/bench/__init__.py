"""How fast the daemon is, and at what cost, beside Debian's pcscd: see README.md."""
