"""What a speed measurement found, and how two timings are compared."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Options:
    """What all parts are told.

    Attributes:
        data_dir: The folder that `benchmarks.shared_data` describes.
        rounds: How often timings that are compared are taken in turn.
    """

    data_dir: Path
    rounds: int


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number of the report.

    Attributes:
        key: Its name, "part.what".
        value: The median where there are several measurements.
        unit: Of the value.
        limit: What it is held against; None for a number that only explains.
        at_least: Whether the limit is the smallest value that holds, not the largest.
        spread: The smallest and largest measurement; None for a single one.
    """

    key: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    spread: tuple[float, float] | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the limit is kept; None without one."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of the report."""
        return {**dataclasses.asdict(self), "holds": self.holds}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Figure:
        """Reads what `to_json` returned."""
        values = {name: value for name, value in entry.items() if name != "holds"}
        spread = values["spread"] and tuple(values["spread"])
        return cls(**{**values, "spread": spread})


def median(key: str, values: Sequence[float], unit: str, **options: Any) -> Figure:
    """Makes a figure of the median of several measurements."""
    return Figure(key, statistics.median(values), unit, spread=(min(values), max(values)), **options)


def seconds(run: Callable[[], Any]) -> float:
    """Times one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def in_turn(rounds: int, *runs: Callable[[], Any]) -> list[list[float]]:
    """Times several calls in turn, after one call of each that does not count.

    Returns:
        The seconds of each call, one list of `rounds` numbers for each of `runs`.
    """
    for run in runs:
        run()
    taken = [[seconds(run) for run in runs] for _ in range(rounds)]
    return [list(column) for column in zip(*taken, strict=True)]


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divides timings taken in one round by each other."""
    return [first / second for first, second in zip(numerators, denominators, strict=True)]
