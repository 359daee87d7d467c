"""The scaling curves, as PNG and SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import Row

#: colours that people tell apart, and shapes for those who cannot
_STYLES = {
    "pcscd": ("#555555", "s", "pcscd"),
    "vpcd": ("#0072b2", "o", "pypcscd, built-in vpcd"),
    "native": ("#d55e00", "^", "pypcscd, libifdvpcd in its helper"),
    "ccid": ("#009e73", "D", "pypcscd, CCID"),
}


def draw(rows: Mapping[str, Row], folder: Path) -> list[str]:
    """Write the plots that the rows suffice for; the names of those, without extension."""
    curves = {
        name: [(title, label, log, _curves(rows, pattern)) for title, label, pattern, log in panels]
        for name, panels in _PLOTS.items()
    }
    wanted = {name: panels for name, panels in curves.items() if any(found for *_, found in panels)}
    if wanted:
        _draw(wanted, folder)
    return list(wanted)


def _draw(plots: Mapping[str, Sequence[tuple[str, str, bool, Any]]], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    # the same picture gives the same file
    mpl.rcParams.update({"svg.hashsalt": "pypcscd", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    for name, panels in plots.items():
        figure, axes = pyplot.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.3), layout="constrained")
        for axis, (title, label, log, found) in zip(axes, panels, strict=True):
            _panel(axis, title, label, log, _ACROSS[name], found)
        axes[0].legend(frameon=False, fontsize=8)
        for kind in ("png", "svg"):
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(folder / f"{name}.{kind}", dpi=110, metadata=metadata)
        pyplot.close(figure)


#: what there are more and more of
_ACROSS = {"readers": "readers", "contention": "clients", "usb": "cards"}
#: file -> panels: title, axis, the key of the rows around the number, logarithmic
_PLOTS: Mapping[str, Sequence[tuple[str, str, tuple[str, str], bool]]] = {
    "readers": (
        ("Readers at the same time", "µs per APDU", ("readers-", ""), False),
        ("CPU of the daemon", "µs per APDU", ("readers-", "-cpu"), False),
    ),
    "contention": (
        ("Clients contending: throughput", "transactions/s", ("contend-", "-rate"), False),
        ("p99 wait of the worst-off client", "ms", ("contend-", "-worst"), True),
        ("With 5 ms between: p99 wait", "ms", ("think-", "-p99"), True),
    ),
    "usb": (
        ("Simulated USB, cards of 200 ms", "ms for 5 APDUs each", ("usb-slow-", ""), False),
        ("CPU of the daemon, cards of 0 ms", "µs per APDU", ("usb-rate-", "-cpu"), False),
    ),
}


def _curves(rows: Mapping[str, Row], pattern: tuple[str, str]) -> dict[str, list[tuple[int, Any]]]:
    """Kind -> number of readers or clients, and value."""
    prefix, suffix = pattern
    found: dict[str, list[tuple[int, Any]]] = {}
    for key, row in rows.items():
        middle = key.removeprefix(prefix).removesuffix(suffix)
        if key == f"{prefix}{middle}{suffix}" and middle.isdigit():
            for kind, value in row.values.items():
                found.setdefault(kind, []).append((int(middle), value))
    return {kind: sorted(points, key=lambda point: point[0]) for kind, points in found.items()}


def _panel(axis: Any, title: str, label: str, log: bool, unit: str, curves: Mapping[str, Any]) -> None:
    numbers = sorted({number for points in curves.values() for number, _ in points})
    for kind, points in curves.items():
        colour, shape, name = _STYLES[kind]
        places = [number for number, _ in points]
        axis.plot(places, [value.median for _, value in points], color=colour, marker=shape, label=name, ms=4)
        low, high = [value.low for _, value in points], [value.high for _, value in points]
        axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.minorticks_off()
    if log:
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, 1.1 * max(value.high for points in curves.values() for _, value in points))
    axis.set_title(title, fontsize=9)
    axis.set_ylabel(label)
    axis.set_xlabel(unit)
    axis.grid(alpha=0.25)
