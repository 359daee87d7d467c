"""Which event loop the daemon runs on."""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it is installed: a turn costs it a quarter of what it costs asyncio's own.

    An APDU to a USB reader takes three turns, and they were half of its cost.
    """
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
