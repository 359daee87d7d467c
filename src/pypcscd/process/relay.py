"""What stands between a logger and the handlers that write its lines."""

import logging
from collections.abc import Sequence


class Relay(logging.Handler):
    """Gives lines to other handlers, and owns these."""

    def __init__(self, handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._handlers = handlers

    def close(self) -> None:
        for handler in self._handlers:
            handler.close()
        super().close()

    def pass_on(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
