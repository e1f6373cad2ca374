"""Reads the per-operator profile that the official `benchmark_model` prints: text tables and CSV.

A profile has tables of the initialization and of the regular runs, each in three orders; only the regular
runs' table in run order is read. The 2018 tool and LiteRT's CompiledModel tool print no initialization and no
titles. Columns are node type, start (old builds only), first, average, share, cumulated share, memory, times
called, name.

Profiling slows the tool down, and some builds count the warm-up in: take the time of a whole network from a
run without it, and from here only what each operator's part is.
"""

from __future__ import annotations

import dataclasses
import math
import re

from amc_tf.errors import MeasurementError

_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs"
_INITIALIZATION = "Profiling Info for Benchmark Initialization"
_INNER = "Delegate internal:"
_RUN_ORDER = re.compile(r"=+ Run Order =+\s*$")
_DELEGATE_NODE = re.compile(r"^TfLite\w*Delegate\w*$")
_NUM_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """What one operator of a network costs in one inference.

    Attributes:
        kind: Node type: a TFLite operator ("CONV_2D"), or what its delegate calls it
            ("Convolution (NHWC, F32) DWConv").
        name: Output tensors and index of the node, or name and index inside the delegate.
        mean_ms: Mean time of one call, in milliseconds.
        first_ms: Time of the very first call, in milliseconds, or None where it is not known.
        share: Part of the time of all operators together, 0 to 1.
        memory_kb: Memory that the call allocated, in KB.
        times_called: Calls in one inference; 1 or more.
    """

    kind: str
    name: str
    mean_ms: float
    first_ms: float | None
    share: float
    memory_kb: float
    times_called: int


def parse_profile(text: str) -> tuple[OperatorTime, ...]:
    """Reads the time of each operator, in the order in which they ran.

    Builds that list a delegate as one node and its operators apart, under "Delegate internal", get the inner
    operators in the place of the first such node; no time is counted twice. What is not called in every
    inference (preparing the network) is left out.

    Args:
        text: Output of a run with profiling, or the CSV file that it wrote.

    Raises:
        MeasurementError: There is no table of the regular runs, or it is damaged or cut off.
    """
    before, found, regular = text.rpartition(_REGULAR)
    if not found and _INITIALIZATION in before + regular:
        raise MeasurementError(
            "The profile has only the benchmark's initialization; the output ends before the regular runs."
        )
    outer, _, inner = regular.partition(_INNER)
    operators = _run_order(outer)
    if operators is None:
        raise MeasurementError(
            "The output has no per-operator profile (no table in run order); the benchmark was run without "
            "profiling, or this binary was built without it."
        )
    return _merge(operators, (_run_order(inner) if inner else None) or [])


def _merge(operators: list[OperatorTime], inner: list[OperatorTime]) -> tuple[OperatorTime, ...]:
    """Puts the operators of a delegate in the place of its node."""
    nodes = [index for index, operator in enumerate(operators) if _DELEGATE_NODE.match(operator.kind)]
    listed_inside = any(operator.name.startswith("Delegate/") for operator in operators)
    if not nodes or not (inner or listed_inside):
        return tuple(operators)
    kept = [operator for index, operator in enumerate(operators) if index not in nodes]
    place = nodes[0]
    merged = [*kept[:place], *([] if listed_inside else inner), *kept[place:]]
    total_ms = sum(operator.mean_ms * operator.times_called for operator in merged)
    return tuple(
        dataclasses.replace(operator, share=_share(operator.mean_ms * operator.times_called, total_ms))
        for operator in merged
    )


def _share(part_ms: float, total_ms: float) -> float:
    return part_ms / total_ms if total_ms > 0 else 0.0


def _run_order(text: str) -> list[OperatorTime] | None:
    """Reads the first table in run order, or returns None where there is none."""
    lines = iter(text.splitlines())
    if not any(_RUN_ORDER.search(line) for line in lines):
        return None
    header = next(lines, "")
    is_csv = "\t" not in header
    columns = [column.strip(" []") for column in header.strip().split(", " if is_csv else "\t")]
    if columns[0].lower() != "node type" or columns[-1].lower() != "name" or len(columns) < _NUM_COLUMNS:
        raise MeasurementError(f"The profile's table has an unknown header ({header.strip()!r:.100}).")
    operators, cumulated = [], 0.0
    for line in lines:
        if not line.strip() or line.startswith("="):
            break
        operator, cumulated = _row(line, len(columns), is_csv=is_csv)
        if operator.times_called > 0:
            operators.append(operator)
    if not operators or abs(cumulated - 1) > 0.01:
        raise MeasurementError(
            f"The profile's table accounts for {cumulated:.1%} of the time; it was cut off or damaged."
        )
    return operators


def _row(line: str, num_columns: int, *, is_csv: bool) -> tuple[OperatorTime, float]:
    """Reads one row: the operator, and the share of the time up to and with it.

    CSV does not escape the commas inside a node type, so a row is read from its right end; in the name the
    tool writes a tab for each comma.
    """
    if is_csv:
        fields = line.rstrip().rsplit(", ", num_columns - 1)
    else:
        fields = line.strip("\t\r").split("\t", num_columns - 1)
    try:
        kind, *numbers, name = fields
        first, mean, share, cumulated, memory, times = [
            _number(field) for field in numbers[num_columns - _NUM_COLUMNS :]
        ]
    except ValueError as error:
        raise MeasurementError(
            f"A row of the profile cannot be read ({line.strip()!r:.100}); the output was cut off or damaged."
        ) from error
    operator = OperatorTime(
        kind=kind.strip(),
        name=name.strip().replace("\t", ","),
        mean_ms=mean,
        first_ms=first,
        share=share / 100,
        memory_kb=memory,
        times_called=int(times),
    )
    return operator, cumulated / 100


def _number(field: str) -> float:
    value = float(field.strip().removesuffix("%"))
    if not math.isfinite(value) or value < 0:
        raise ValueError(field)
    return value
