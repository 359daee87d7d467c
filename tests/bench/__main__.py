"""The command line: ``PYTHONPATH=tests python -m bench …``, see README.md."""

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import machine, session
from bench.plan import FULL
from bench.programs import BrokenError, Programs
from bench.results import Row
from bench.table import GROUPS, plain
from bench.targets import unjudged

#: what is measured in virtual machines, as modules
MACHINES = ("usb", "counted")
ALL = (*session.PARTS, *MACHINES)
RESULT = Path("build/bench/results.json")
DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description="Measure the daemon beside pcscd.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, print the table, and keep the results")
    run.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(ALL)}; all if none is named")
    run.add_argument("--out", type=Path, default=RESULT, help="file for the results (%(default)s)")
    commands.add_parser("smoke", help="a short run that fails if something became much slower")
    in_guest = commands.add_parser("in-guest", help="for bench itself: what it runs in a virtual machine")
    in_guest.add_argument("programs", type=Path)
    for name, words in (("docs", "write docs/performance.md"), ("table", "print the table")):
        command = commands.add_parser(name, help=f"{words} from results")
        command.add_argument("result", type=Path, nargs="?", default=RESULT)
    options = parser.parse_args()
    try:
        return _obey(options)
    except BrokenError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _obey(options: argparse.Namespace) -> int:
    if options.command == "smoke":
        from bench import smoke

        return smoke.main()
    if options.command == "in-guest":
        from bench import counted

        counted.in_guest(options.programs)
        return 0
    if options.command == "run":
        _run(options.parts or ALL, options.out)
        return 0
    try:
        result = json.loads(options.result.read_text())
    except FileNotFoundError:
        raise BrokenError(f"there is no {options.result}; make bench writes one") from None
    if options.command == "docs":
        from bench import page

        page.write(result, DOCS)
    else:
        _print_table([Row.load(row) for row in result["rows"]])
    return 0


def _run(parts: Sequence[str], out: Path) -> None:
    unknown = set(parts) - set(ALL)
    if unknown:
        raise BrokenError(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    result = machine.describe()
    rows: list[Row] = []
    failures: list[str] = []
    say = _progress()
    # before the others, because these enter a namespace for good
    for part in MACHINES:
        if part in parts:
            try:
                rows += _in_machine(part, say)
            except BrokenError as error:
                # the other parts can do without
                failures.append(str(error))
    here = [part for part in session.PARTS if part in parts]
    if here:
        with session.private(FULL, say) as bench:
            for part in here:
                rows += session.measure(bench, part)
    if set(parts) != set(ALL) and out.exists():
        # those that were not measured now stay as they were
        new = {row.group for row in rows}
        rows += [row for row in map(Row.load, json.loads(out.read_text())["rows"]) if row.group not in new]
    rows.sort(key=lambda row: list(GROUPS).index(row.group))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**result, "rows": [row.dump() for row in rows]}, indent=1) + "\n")
    _print_table(rows)
    if set(parts) == set(ALL) and (missing := unjudged({row.key: row for row in rows})):
        failures.append(f"not measured, though there are targets for them: {', '.join(missing)}")
    if failures:
        raise BrokenError("\n".join(failures))


def _in_machine(part: str, say: Callable[[str], None]) -> list[Row]:
    module = importlib.import_module(f"bench.{part}")
    with tempfile.TemporaryDirectory(prefix="pypcscd-bench-") as folder:
        return list(module.measure(Programs(Path(folder)), say))


def _progress() -> Callable[[str], None]:
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

    return say


def _print_table(rows: Sequence[Row]) -> None:
    print(plain(rows))


if __name__ == "__main__":
    sys.exit(main())
