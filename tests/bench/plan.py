"""How much is measured: everything, or enough to notice that something broke."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    #: rounds of each comparison, and seconds that each daemon has in one
    rounds: int
    seconds: float
    #: of part_calls.py: the sizes of APDUs and the calls, by their keys
    sizes: tuple[str, ...]
    calls: tuple[str, ...]
    #: further conditions: on any processor, with an ordinary emulator, without readers
    has_variants: bool
    #: the native library in pypcscd not only for calls
    native_everywhere: bool
    #: readers at the same time, for both and for ours alone
    readers: tuple[int, ...]
    readers_ours: tuple[int, ...]
    #: clients that contend; they need longer to starve each other
    contenders: tuple[int, ...]
    contention_rounds: int
    contention_seconds: float
    #: card events where the driver is told, and where it looks every 400 ms
    events: int
    events_polled: int
    #: clients that wait for the same event
    waiting: tuple[int, ...]
    #: how daemons are started, and how often
    starting: tuple[str, ...]
    starts: int
    #: idle clients and readers that memory is divided by
    idle_clients: int
    idle_readers: int
    #: seconds without any client before idle daemons are watched, and seconds of watching: unused cards
    #: lose their power after 5
    settle: float
    idle: float


FULL = Plan(
    rounds=9,
    seconds=0.25,
    sizes=("5", "255", "4k", "64k", "4k-out", "64k-out"),
    calls=("status", "list", "changes", "connect", "connect-reset"),
    has_variants=True,
    native_everywhere=True,
    readers=(1, 2, 8, 16),
    readers_ours=(32, 64, 96),
    contenders=(2, 4, 8),
    contention_rounds=5,
    contention_seconds=1.5,
    events=200,
    events_polled=40,
    waiting=(1, 16, 64),
    starting=("exec", "activate"),
    starts=9,
    idle_clients=100,
    idle_readers=16,
    settle=7.0,
    idle=8.0,
)

SMOKE = Plan(
    rounds=15,
    seconds=0.03,
    sizes=("5", "64k"),
    calls=("status", "list", "changes", "connect"),
    has_variants=False,
    native_everywhere=False,
    readers=(8,),
    readers_ours=(),
    contenders=(4,),
    contention_rounds=2,
    contention_seconds=0.5,
    events=40,
    events_polled=4,
    waiting=(1,),
    starting=("exec",),
    starts=4,
    idle_clients=50,
    idle_readers=4,
    settle=5.5,
    idle=2.0,
)

#: where one instruction takes a nanosecond, little is enough
COUNTED = replace(SMOKE, rounds=2, seconds=0.04, sizes=("5", "255", "4k", "64k"), calls=FULL.calls)
