"""A client process of the tests: makes the calls that it is told to make, each in the thread that it
is told to use, and sends back what came out."""

import os
import queue
import threading
from multiprocessing.connection import Connection

from winscard import Result, Winscard

#: number of the call, thread, method of Winscard, arguments
Order = tuple[int, str, str, tuple[object, ...]]


def main(orders: Connection) -> None:
    """Serve until the other end of the connection is closed."""
    library = Winscard()
    threads: dict[str, queue.SimpleQueue[Order]] = {}
    sending = threading.Lock()

    def serve(inbox: "queue.SimpleQueue[Order]") -> None:
        while True:
            number, _, method, arguments = inbox.get()
            result: Result = getattr(library, method)(*arguments)
            with sending:
                orders.send((number, result))

    while True:
        try:
            order: Order = orders.recv()
        except (EOFError, OSError):
            # some thread may be waiting inside the library: there is nothing to wait for here
            os._exit(0)
        inbox = threads.get(order[1])
        if inbox is None:
            inbox = threads[order[1]] = queue.SimpleQueue()
            threading.Thread(target=serve, args=(inbox,), daemon=True).start()
        inbox.put(order)
