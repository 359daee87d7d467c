"""What the client library of this machine cannot ask for: other protocol versions, cancelling from
another process, handles that are not one's own; and the end of the daemon."""

from rawclient import RawClient
from show import StateFlag
from stage import Stage
from vocabulary import EXCLUSIVE, R0

EMPTY = int(StateFlag.EMPTY)


def versions(s: Stage) -> None:
    for major, minor in ((4, 4), (4, 0), (4, 2), (4, 3), (4, 5), (4, 6), (4, 7), (3, 4), (5, 0)):
        with RawClient(s) as raw:
            raw.version(major, minor)


def version_again_after_a_refusal(s: Stage) -> None:
    with RawClient(s) as raw:
        raw.version(9, 9)
        raw.version(4, 4)
        raw.establish()


def version_twice(s: Stage) -> None:
    with RawClient(s) as raw:
        raw.version(4, 4)
        raw.version(4, 4)
        raw.establish()


def no_version_at_all(s: Stage) -> None:
    with RawClient(s) as raw:
        raw.establish()


def context_replaced(s: Stage) -> None:
    with RawClient(s) as raw:
        raw.version(4, 4)
        first = raw.establish()
        second = raw.establish()
        raw.release(first)
        raw.release(second)
        raw.release(second)


def cancel_from_another_process(s: Stage) -> None:
    a, b = s.actors("A B")
    call = a.changes_later([(R0, EMPTY)], 10000)
    other = b.changes_later([(R0, EMPTY)], 10000)
    call.waits()
    other.waits()
    with RawClient(s) as raw:
        raw.cancel(a.context)
    call.done()
    other.waits()
    s.insert()
    other.done()


def cancel_of_nobody(s: Stage) -> None:
    with RawClient(s) as raw:
        raw.cancel(0)
        raw.cancel(0x7FFFFFFF)


def cancel_of_an_idle_context(s: Stage) -> None:
    a = s.actor("A")
    with RawClient(s) as raw:
        raw.cancel(a.context)
    a.list_readers()


def foreign_handle(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    with RawClient(s) as raw:
        raw.version(4, 4)
        raw.establish()
        raw.status(h)
    a.status(h)


def foreign_handle_without_context(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    with RawClient(s) as raw:
        raw.status(h)
    a.status(h)


def unknown_command(s: Stage) -> None:
    for command in (0x00, 0x03, 0x0C, 0x0E, 0x18, 0xFFFFFFFF):
        with RawClient(s) as raw:
            raw.send(command, b"")


def wrong_size(s: Stage) -> None:
    for size in (0, 4, 11, 13, 1000):
        with RawClient(s) as raw:
            raw.send(0x01, bytes(size))


def dies_in_the_middle_of_a_message(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    with RawClient(s) as raw:
        raw.version(4, 4)
        context = raw.establish()
        raw.connect(context, EXCLUSIVE)
        raw.send_part(0x09, 32, bytes(10))
    s.await_users(0)
    a.connect(EXCLUSIVE)


def terminated_with_a_card_in_use(s: Stage) -> None:
    a = s.actor("A")
    s.insert()
    h = a.connect()
    s.powers()
    s.terminate()
    s.powers()
    a.status(h)
    a.list_readers()
