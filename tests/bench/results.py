"""Measured values: medians, their spread, and ratios; and how they are kept in a file."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

REFERENCE = "pcscd"


@dataclass(frozen=True)
class Value:
    """A median, its quartiles and the extremes."""

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """Of one sample or more."""
        if len(samples) == 1:
            (only,) = samples
            return cls(only, only, only, only, only, 1)
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high, min(samples), max(samples), len(samples))


@dataclass(frozen=True)
class Row:
    """One line of the table: the same work for each daemon."""

    key: str
    group: str
    title: str
    unit: str
    values: Mapping[str, Value]
    #: of each of ours to pcscd's
    ratios: Mapping[str, Value] = field(default_factory=dict)
    more_is_better: bool = False

    @classmethod
    def of(
        cls,
        key: str,
        group: str,
        title: str,
        unit: str,
        samples: Mapping[str, Sequence[float]],
        *,
        more_is_better: bool = False,
        compared: bool = True,
    ) -> Self:
        """``samples``: for each daemon. Where there are as many of both, they were taken in turns: then the
        ratio is the median of those of neighbours, which a slow minute of the machine touches alike."""
        values = {name: Value.of(found) for name, found in samples.items() if found}
        reference = samples.get(REFERENCE, ())
        ratios = {}
        for name, found in samples.items():
            if name == REFERENCE or not (compared and found and reference):
                continue
            if len(found) == len(reference) and all(reference):
                ratios[name] = Value.of([a / b for a, b in zip(found, reference, strict=True)])
            elif values[REFERENCE].median:
                ratios[name] = Value.of([values[name].median / values[REFERENCE].median])
        return cls(key, group, title, unit, values, ratios, more_is_better)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Self:
        def values(name: str) -> dict[str, Value]:
            return {kind: Value(**value) for kind, value in data[name].items()}

        return cls(**{**data, "values": values("values"), "ratios": values("ratios")})

    def dump(self) -> dict[str, Any]:
        return asdict(self)
