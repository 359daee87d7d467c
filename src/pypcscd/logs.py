"""Where log lines go and what they look like."""

import logging
import sys


def configure(level: int) -> None:
    """Readable lines on standard error: time, severity, text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # asyncio's own debug lines say nothing to an administrator
    logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))
