"""Requests become decisions here: readers, handles, locks, events and power.

Nothing in this package knows of bytes on a wire, sockets or USB. Start at ``manager.Manager``.
"""
