"""``pypcscd install`` and ``pypcscd uninstall``: a system that starts pypcscd where it started pcscd."""
