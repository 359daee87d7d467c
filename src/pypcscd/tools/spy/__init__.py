"""``pypcscd spy``: the PC/SC calls of programs, seen from the daemon's side of the socket.

Bytes of both directions (``proxy``, ``live``, ``recording``) become messages in
``pypcscd.protocol.observer``, calls in ``calls``, and text, JSON or packets in ``render``,
``wire``, ``objects`` and ``pcapng``.
"""
