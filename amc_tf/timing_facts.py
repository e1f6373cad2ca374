"""How surely the networks of a run were timed: the noise of each timing, and what it allows to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amc_tf.latency_facts import is_predicted, percent_of
from amc_tf.run_record import is_number, latency_of, networks_of

COLUMNS = ("Network", "Beside the original", "Noise", "Runs")
_NOISE = (
    "Each network is timed in turn with the original of its precision; the ratio of the two cancels what "
    "slows the device for a while. Noise is how far one round of a measurement is from the next: "
    "interquartile range / median of these ratios."
)


@dataclass(frozen=True)
class TimingTable:
    """The timings of a run as a table for people.

    Attributes:
        rows: "name", "kind" (CSS class) and "cells" of each network that was timed, not predicted.
        remarks: What the noise means for the result, in sentences.
        columns: Of the table.
    """

    rows: tuple[Mapping[str, Any], ...]
    remarks: tuple[str, ...]
    columns: tuple[str, ...] = COLUMNS


def timing_table(summary: Mapping[str, Any]) -> TimingTable:
    """Lists how surely each network was timed.

    Args:
        summary: summary.json.

    Returns:
        The table; it has no rows where no noise is known.
    """
    timed = [
        (name, kind, latency)
        for key, name, kind, _ in networks_of(summary)
        if (latency := latency_of(summary, key)) and not is_predicted(latency)
    ]
    if all(latency.get("noise") is None for _, _, latency in timed):
        return TimingTable((), ())
    rows = tuple({"name": name, "kind": kind, "cells": _cells(latency)} for name, kind, latency in timed)
    return TimingTable(rows, (_NOISE, *_remarks(summary)))


def told_apart(latency: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Tells whether two networks differ by more than the noise of their timings.

    Args:
        latency: Of a summary.
        other: Likewise, timed beside the same original.

    Returns:
        None where one was not timed, or its ratio or noise is unknown.
    """
    values = [timing.get(name) for timing in (latency, other) for name in ("ratio", "noise")]
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < len(values) or is_predicted(latency) or is_predicted(other):
        return None
    ratio, noise, other_ratio, other_noise = numbers
    return abs(ratio - other_ratio) > max(noise * ratio, other_noise * other_ratio)


def _cells(latency: Mapping[str, Any]) -> list[dict[str, Any]]:
    ratio, noise, num_runs = (latency.get(name) for name in ("ratio", "noise", "num_runs"))
    texts = (
        "—" if ratio is None else f"{ratio:.3f} ×",
        "—" if noise is None else percent_of(noise),
        "—" if num_runs is None else str(num_runs),
    )
    return [{"value": text, "notes": []} for text in texts]


def _remarks(summary: Mapping[str, Any]) -> list[str]:
    remarks = []
    original = latency_of(summary, "baseline") or {}
    if is_number(original.get("ratio")) and not is_predicted(original):
        ratio = original["ratio"]
        remarks.append(
            f"The original timed beside itself came out at {ratio:.3f} ×, where 1 would be perfect."
        )
    tuned = ("finetuned", "uniform_finetuned")
    final, uniform = tuned if all(summary.get(key) for key in tuned) else ("pruned", "uniform")
    found = latency_of(summary, final) or {}
    for key, name in (("baseline", "the original"), (uniform, "uniform pruning")):
        if told_apart(found, latency_of(summary, key) or {}) is False:
            remarks.append(f"The found plan and {name} differ by less than the noise: they are equally fast.")
    return remarks
