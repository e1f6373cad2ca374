"""Results as text: a table of networks, and numbers for people."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from amc_tf.latency_facts import is_predicted, percent_of
from amc_tf.run_record import NETWORKS, latency_of, networks_of

_HEADER = ("", "top-1", "top-5", "MACs", "params", "file", "latency (p5–p95)", "noise", "speed-up")
_NUM_LATENCY_COLUMNS = 3


def result_table(summary: Mapping[str, Any]) -> str:
    """Returns the networks of a summary as a table; each is compared with the original of its precision.

    Below it stands which networks could not be timed, and why.
    """
    has_latency = bool(summary["baseline"]["latency_ms"])
    rows: list[Sequence[str]] = [_HEADER if has_latency else _HEADER[:-_NUM_LATENCY_COLUMNS]]
    for key, name, _, reference in networks_of(summary):
        rows.append(_row(name, summary[key], summary[reference or key])[: len(rows[0])])
    return align(rows) + untimed({name: summary[key] for key, name, *_ in networks_of(summary)})


def untimed(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a paragraph that says which networks could not be timed, and why; nothing if all could.

    Args:
        results: Entries of a summary by the names that they are shown with.
    """
    lines = [
        f"\n{name}: could not be timed. {result['not_timed']}"
        for name, result in results.items()
        if result.get("not_timed") and not result["latency_ms"]
    ]
    return "".join(["\n", *lines]) if lines else ""


def has_predictions(summary: Mapping[str, Any]) -> bool:
    """Tells whether a latency of a summary was predicted instead of timed."""
    return any(is_predicted(latency_of(summary, key)) for key, *_ in NETWORKS)


def align(rows: Sequence[Sequence[str]], *, left: Container[int] = (0,)) -> str:
    """Returns rows as lines of aligned columns, those of `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def percent(fraction: float) -> str:
    """Writes a fraction such as 0.9833 as 98.3 %."""
    return f"{100 * fraction:.1f} %"


def quantity(number: float) -> str:
    """Writes a count such as 12345678 as 12.35 M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.4g} {unit}"
    return f"{number:g}"


def latency(value: Mapping[str, float]) -> str:
    """Writes a latency as median (5th to 95th percentile) in milliseconds."""
    return f"{value['median']:.3f} ms ({value['p5']:.3f}–{value['p95']:.3f})"


def _row(name: str, result: Mapping[str, Any], reference: Mapping[str, Any]) -> tuple[str, ...]:
    time, base = result["latency_ms"], reference["latency_ms"]
    return (
        name,
        percent(result["top1"]),
        percent(result["top5"]),
        quantity(result["macs"]),
        quantity(result["params"]),
        f"{result['tflite_bytes'] / 1000:.1f} kB",
        latency(time) if time else "",
        _noise(time) if time else "",
        f"{base['median'] / time['median']:.2f} ×" if time and base else "",
    )


def _noise(value: Mapping[str, Any]) -> str:
    if is_predicted(value):
        return "predicted"
    return "" if value["noise"] is None else percent_of(value["noise"])
