"""CCID readers that exist in software, on the kernel's own USB stack.

``usbip`` speaks the protocol of the kernel's virtual host controller, ``descriptors`` and ``device`` are
a USB device, ``ccid`` is a reader in it, ``cards`` and ``t1`` are cards; none of these do any input or
output. ``shell`` attaches devices to the kernel and takes orders from tests, which ``client`` gives.
"""
