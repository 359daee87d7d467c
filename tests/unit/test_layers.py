"""The plan of the house: who imports whom, what is imported when, and no state in modules.

The rules are read off the source with ``ast``, so that an import within a function counts as well.
"""

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "src", ROOT / "drivers")

#: From the ground up; what stands on one floor may be imported by all floors above it.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"scard", "atr", "answer", "driver", "eager", "paths", "protocol", "redact", "text"}),
    frozenset({"manager"}),
    frozenset({"server", "hotplug", "control"}),
    frozenset({"configuration"}),
)
#: Whatever has no place below: command line, daemon, process, tools.
ROOF = len(FLOORS)
DOORS = FLOORS[2]
#: What the configuration holds for the doors: plain values, which do nothing.
PLAIN = {"pypcscd.server.rules", "pypcscd.hotplug.settings"}
#: The package itself holds the version only, and everybody may read that.
ANYWHERE = {"pypcscd"}

#: What may not be known on a floor, whatever it is wanted for: name of a part -> roots of modules.
UNKNOWN_HERE = {
    "protocol": {"asyncio", "socket", "selectors", "threading", "subprocess", "ssl", "os"},
    "manager": {"socket", "selectors", "struct", "threading", "subprocess", "usb", "usb1", "pyudev"},
    "scard": {"asyncio", "socket", "threading", "subprocess"},
    "atr": {"asyncio", "socket", "threading", "subprocess"},
    "paths": {"asyncio", "os", "socket", "threading", "subprocess"},
    "driver": {"socket", "threading", "subprocess"},
    "configuration": {"asyncio", "socket", "selectors", "struct", "threading", "subprocess"},
}
#: What drivers may import of pypcscd.
FOR_DRIVERS = {"pypcscd", "pypcscd.driver", "pypcscd.atr", "pypcscd.scard"}

MUTABLE_TYPES = {
    "list",
    "dict",
    "set",
    "bytearray",
    "deque",
    "defaultdict",
    "OrderedDict",
    "Counter",
    "WeakSet",
    "WeakKeyDictionary",
    "WeakValueDictionary",
    "count",
}
MUTATORS = {
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"),
    *("add", "discard", "update", "setdefault", "popitem"),
    *("difference_update", "intersection_update", "symmetric_difference_update"),
    *("appendleft", "extendleft", "popleft", "rotate", "subtract", "move_to_end"),
}


def read_sources() -> dict[str, ast.Module]:
    """Every module of the distribution by its dotted name."""
    trees = {}
    for source in SOURCES:
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            trees[".".join(parts)] = ast.parse(path.read_text(), str(path))
    return trees


TREES = read_sources()
OURS = sorted(name for name in TREES if name.split(".")[0] == "pypcscd")
DRIVERS = sorted(name for name in TREES if name.split(".")[0] != "pypcscd")


def imports(tree: ast.Module, known: Mapping[str, object]) -> Iterator[str]:
    """The modules that a module imports; of ``from a import b`` it is a.b if that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute here"
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


IMPORTS = {name: set(imports(tree, TREES)) for name, tree in TREES.items()}


def part(module: str) -> str:
    """The package or module of pypcscd's first level, e.g. "manager" for ``pypcscd.manager.lock``."""
    return module.removeprefix("pypcscd").removeprefix(".").split(".")[0]


def floor(module: str) -> int:
    return next((number for number, parts in enumerate(FLOORS) if part(module) in parts), ROOF)


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "pypcscd"


# --- floors -----------------------------------------------------------------------------------


def test_the_sources_are_found() -> None:
    assert {"pypcscd.scard", "pypcscd.manager.manager", "pypcscd.protocol", "pypcscd.daemon"} <= set(OURS)
    assert "pypcscd_ifdhandler.driver" in DRIVERS
    assert "pypcscd.manager.manager" in IMPORTS["pypcscd.daemon"]
    assert "pypcscd.configuration.tables" in IMPORTS["pypcscd.configuration.settings_file"]


def test_every_floor_is_inhabited() -> None:
    assert {floor(name) for name in OURS if name != "pypcscd"} == set(range(ROOF + 1))
    assert floor("pypcscd.daemon") == ROOF


@pytest.mark.parametrize("module", OURS)
def test_no_import_runs_upwards(module: str) -> None:
    imported = {name for name in IMPORTS[module] if is_ours(name)} - ANYWHERE
    if module == "pypcscd":
        assert not imported, "the package itself imports nothing"
        return
    assert {name for name in imported if floor(name) > floor(module)} == set()


@pytest.mark.parametrize("module", OURS)
def test_nobody_imports_a_driver(module: str) -> None:
    packages = {name.split(".")[0] for name in DRIVERS}
    assert packages
    assert {name for name in IMPORTS[module] if name.split(".")[0] in packages} == set()


def test_there_are_no_cycles() -> None:
    """Not even for annotations alone."""
    graph = {name: IMPORTS[name] & TREES.keys() - {name} for name in TREES}
    # raises CycleError, which names the modules
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", [name for name in OURS if part(name) == "manager"])
def test_manager_never_imports_the_protocol(module: str) -> None:
    assert {name for name in IMPORTS[module] if name.startswith("pypcscd.protocol")} == set()


@pytest.mark.parametrize("module", [name for name in OURS if part(name) == "protocol"])
def test_protocol_needs_only_the_vocabulary(module: str) -> None:
    imported = {name for name in IMPORTS[module] if is_ours(name) and part(name) != "protocol"}
    assert imported <= {"pypcscd.scard"}


@pytest.mark.parametrize("module", [name for name in OURS if part(name) == "configuration"])
def test_configuration_is_said_in_plain_values(module: str) -> None:
    """It tells manager and doors what to do, and does nothing with them."""
    imported = {name for name in IMPORTS[module] if is_ours(name) and part(name) in DOORS | {"manager"}}
    assert imported <= PLAIN | {"pypcscd.manager.settings"}


def test_reading_lines_of_toml_needs_nothing_of_ours() -> None:
    assert {name for name in IMPORTS["pypcscd.configuration.toml_lines"] if is_ours(name)} == set()


@pytest.mark.parametrize("module", [name for name in OURS if part(name) in UNKNOWN_HERE])
def test_what_a_floor_does_not_know(module: str) -> None:
    roots = {name.split(".")[0] for name in IMPORTS[module]}
    assert roots & UNKNOWN_HERE[part(module)] == set()


@pytest.mark.parametrize("module", [name for name in OURS if part(name) in DOORS])
def test_doors_do_not_know_each_other(module: str) -> None:
    assert {part(name) for name in IMPORTS[module] if is_ours(name)} & DOORS <= {part(module)}


def test_the_parts_meet_in_the_daemon_only() -> None:
    meeting = {
        name
        for name, imported in IMPORTS.items()
        if len({part(other) for other in imported - PLAIN if is_ours(other)} & DOORS) > 1
    }
    assert meeting == {"pypcscd.daemon"}


@pytest.mark.parametrize("module", DRIVERS)
def test_drivers_know_only_the_driver_interface(module: str) -> None:
    package = module.split(".")[0]
    assert {name for name in IMPORTS[module] if is_ours(name)} <= FOR_DRIVERS
    others = {name for name in IMPORTS[module] if name in DRIVERS and name.split(".")[0] != package}
    assert others == set()


# --- what is imported when --------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["pypcscd.configuration.options", "pypcscd.lifecycle", "pypcscd.tools.run"]
)
def test_starting_imports_no_driver_and_nothing_costly(module: str) -> None:
    script = f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    packages = {name.split(".")[0] for name in DRIVERS}
    unwanted = packages | {
        "cffi",
        "_cffi_backend",
        "importlib.metadata",
        "usb",
        "usb1",
        "pyudev",
        "dbus_fast",
    }
    assert {name for name in loaded if name in unwanted or name.split(".")[0] in unwanted} == set()


def test_help_needs_no_event_loop() -> None:
    """``pypcscd --version`` and ``--help`` are not to wait for what only the daemon needs."""
    script = """
import atexit, json, sys
from pypcscd.cli import main
atexit.register(lambda: print(json.dumps([*sys.modules])))
main(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "pypcscd.configuration.options" in loaded
    assert loaded & {"asyncio", "pypcscd.daemon", "pypcscd.server.session"} == set()


def test_tools_do_not_wait_for_what_the_daemon_needs() -> None:
    script = "import pypcscd.cli, json, sys; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert {name for name in json.loads(done.stdout) if is_ours(name)} == {"pypcscd", "pypcscd.cli"}


def test_the_daemon_loads_what_administrators_ask_for_when_they_do() -> None:
    """It is a tenth of the start, and a megabyte."""
    script = "import pypcscd.lifecycle, json, sys; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert "pypcscd.control.admin" in loaded
    behind = {f"pypcscd.control.{name}" for name in ("service", "status", "stream", "taps")}
    behind |= {"pypcscd.protocol.observer", "pypcscd.redact"}
    assert behind <= set(OURS)
    assert loaded & behind == set()


def test_settings_are_read_only_where_there_is_a_file() -> None:
    script = """
import json, pathlib, sys, pypcscd.cli, pypcscd.daemon, pypcscd.lifecycle
from pypcscd.configuration import options
options.DEFAULT_SETTINGS = pathlib.Path("/no such file")
options.make_config(options.parse([], ""), {})
print(json.dumps([*sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    readers = {
        f"pypcscd.configuration.{name}" for name in ("settings_file", "tables", "values", "toml_lines")
    }
    assert readers <= set(OURS)
    assert loaded & {"tomllib", *readers} == set()


# --- no sleeping, no state in modules ---------------------------------------------------------


def sleeps(tree: ast.Module) -> list[int]:
    """Lines that use ``time.sleep``, under whatever name ``time`` was imported."""
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "time"
    }
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="time", names=names) if any(name.name == "sleep" for name in names):
                found.append(node.lineno)
            case ast.Attribute(value=ast.Name(id=name), attr="sleep") if name in aliases:
                found.append(node.lineno)
    return found


def mutable_names(tree: ast.Module) -> set[str]:
    """Module-level names that are bound to something that can be changed in place."""
    names = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        match value:
            case ast.List() | ast.Dict() | ast.Set() | ast.ListComp() | ast.DictComp() | ast.SetComp():
                pass
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in MUTABLE_TYPES:
                pass
            case ast.Call(func=ast.Subscript(value=ast.Name(id=name))) if name in MUTABLE_TYPES:
                pass
            case _:
                continue
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def state_changes(tree: ast.Module, shared: set[str]) -> list[str]:
    """Where functions change module-level names: ``global``, or one of ``shared`` in place.

    A module may build its tables with statements of its own level: they run once.
    """
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        nodes = list(ast.walk(function))
        local = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        local |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        for node in nodes:
            changed: ast.expr | None = None
            match node:
                case ast.Global(names=names):
                    found += [f"{node.lineno}: global {name}" for name in names]
                case ast.Call(func=ast.Attribute(value=target, attr=method)) if method in MUTATORS:
                    changed = target
                case ast.Call(func=ast.Name(id="next"), args=[target, *_]):
                    changed = target
                case ast.Subscript(value=target, ctx=ast.Store() | ast.Del()):
                    changed = target
                case ast.AugAssign(target=ast.Attribute() as target):
                    changed = target
            match changed:
                case ast.Name(id=name) if name in shared and name not in local:
                    found.append(f"{changed.lineno}: {name}")
                case ast.Attribute(value=ast.Name(id=owner), attr=name) if (
                    name in shared and name.isupper() and owner not in ("self", "cls") and owner not in local
                ):
                    found.append(f"{changed.lineno}: {owner}.{name}")
    return found


def compiled_modules() -> list[str]:
    """Those that ``setup.py`` has compiled."""
    statements = ast.parse((ROOT / "setup.py").read_text()).body
    (quick,) = (
        statement.value
        for statement in statements
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "QUICK"
    )
    paths = eval(compile(ast.Expression(quick), "setup.py", "eval"))
    return [".".join(Path(path).with_suffix("").parts[1:]) for path in paths]


def waits_in_handling(tree: ast.Module) -> list[int]:
    """Lines with an ``await``, or the like, in an ``except`` or a ``finally``."""
    return [
        inner.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        for handling in (*node.handlers, *node.finalbody)
        for inner in ast.walk(handling)
        if isinstance(inner, ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]


MUTABLE = {name: mutable_names(tree) for name, tree in TREES.items()}
#: Names are looked at together, for a table may be changed by who imports it.
ALL_MUTABLE = set().union(*MUTABLE.values())


@pytest.mark.parametrize("module", sorted(TREES))
def test_nobody_sleeps(module: str) -> None:
    assert sleeps(TREES[module]) == []


@pytest.mark.parametrize("module", sorted(TREES))
def test_modules_hold_no_state(module: str) -> None:
    imported = {
        alias.asname or alias.name
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    shared = MUTABLE[module] | (imported & ALL_MUTABLE)
    shared |= {name for name in ALL_MUTABLE if name.isupper()}
    assert state_changes(TREES[module], shared) == []


@pytest.mark.parametrize("module", compiled_modules())
def test_what_is_compiled_does_not_wait_while_an_error_is_handled(module: str) -> None:
    """Whatever runs meanwhile would take that error for the cause of its own."""
    assert waits_in_handling(TREES[module]) == []


# --- the rules themselves can fail ------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef f(): time.sleep(1)",
        "import time as t\nt.sleep(1)",
        "def f():\n    from time import sleep",
    ],
)
def test_sleeping_is_found(source: str) -> None:
    assert sleeps(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    ["import asyncio\nasync def f(): await asyncio.sleep(1)", "import time\ntime.monotonic()"],
)
def test_other_sleeps_are_not_meant(source: str) -> None:
    assert not sleeps(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "n = 0\ndef f():\n    global n\n    n += 1",
        "seen = []\ndef f(x): seen.append(x)",
        "seen: list[int] = []\ndef f(x): seen.append(x)",
        "cache = {}\ndef f(k, v): cache[k] = v",
        "cache = dict()\ndef f(k): del cache[k]",
        "cache = {k: 0 for k in 'ab'}\ndef f(k): cache[k] += 1",
        "cache = collections.defaultdict(list)\ndef f(k): cache.setdefault(k, 1)",
        "cache = WeakSet[int]()\nclass C:\n    def f(self): cache.add(self)",
        "numbers = itertools.count()\ndef f(): return next(numbers)",
        "numbers = itertools.count()\nf = lambda: next(numbers)",
        "buffer = bytearray(4)\nasync def f(): buffer[0] = 1",
    ],
)
def test_state_is_found(source: str) -> None:
    tree = ast.parse(source)
    assert state_changes(tree, mutable_names(tree))


def test_changing_the_table_of_another_module_is_found() -> None:
    assert state_changes(ast.parse("import a\ndef f(): a.TABLE[1] = 2"), {"TABLE"})
    assert state_changes(ast.parse("from a import TABLE\ndef f(): TABLE.clear()"), {"TABLE"})


@pytest.mark.parametrize(
    "source",
    [
        "table = {1: 2}\ndef f(k): return table[k]",
        "table = []\nfor k in range(3):\n    table.append(k)",
        "seen = []\ndef f():\n    seen = []\n    seen.append(1)",
        "seen = []\ndef f(seen): seen.append(1)",
        "names = ('a', 'b')\ndef f(): return names",
        "numbers = []\ndef f(): return next(iter(numbers))",
    ],
)
def test_constants_are_no_state(source: str) -> None:
    tree = ast.parse(source)
    assert not state_changes(tree, mutable_names(tree))


def test_imports_of_every_form_are_seen() -> None:
    source = "import a.b\nfrom c import d, e\ndef f():\n    import g\n    from c.h import i\n"
    assert set(imports(ast.parse(source), {"c.d": None})) == {"a.b", "c.d", "c", "g", "c.h"}


@pytest.mark.parametrize(
    "source",
    [
        "async def f():\n    try: g()\n    except OSError: await h()",
        "async def f():\n    try: g()\n    finally:\n        async with h(): pass",
    ],
)
def test_waiting_while_an_error_is_handled_is_found(source: str) -> None:
    assert waits_in_handling(ast.parse(source))


def test_other_waiting_is_not_meant() -> None:
    source = "async def f():\n    try: await g()\n    except OSError: h()\n    else: await h()"
    assert not waits_in_handling(ast.parse(source))
