"""What each operator costs before and after pruning, for the summary, on a device that can profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amc_tf.device.latency import LatencyMeter
from amc_tf.device.operators import Operator, assign_times, read_operators
from amc_tf.errors import MeasurementError, ModelError

_SHORT = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}
Times = Sequence[float | None]


def profile_operators(meter: LatencyMeter | None, original: bytes, slim: bytes) -> dict[str, Any] | None:
    """Profiles the original and the slim network.

    Profiles are taken last and only shown: one that cannot be had is told, not raised.

    Args:
        meter: Profiles networks if it has a method `profile`, as `PhoneMeter` does.
        original: TFLite bytes.
        slim: TFLite bytes of the pruned network.

    Returns:
        Under "rows" a row for each operator (see `pair_operators`), or under "error" why there are none; None
        for a meter that cannot profile.
    """
    profile = getattr(meter, "profile", None)
    if profile is None:
        return None
    networks, times = [], []
    try:
        for tflite in (original, slim):
            rows = [(row.kind, row.mean_ms * row.times_called) for row in profile(tflite)]
            networks.append(read_operators(tflite))
            times.append(assign_times(networks[-1], rows))
    except (MeasurementError, ModelError) as error:
        return {"error": str(error)}
    before, after = times
    if before is None or after is None:
        return {"error": "The profile is of other operators than those of the network."}
    return pair_operators(networks[0], before, networks[1], after)


def pair_operators(
    original: Sequence[Operator], before_ms: Times, slim: Sequence[Operator], after_ms: Times
) -> dict[str, Any]:
    """Puts the operators of two networks side by side.

    Args:
        original: In run order.
        before_ms: Time of each in milliseconds, None where it is not known.
        slim: Likewise, of the pruned network.
        after_ms: Likewise.

    Returns:
        Under "rows" "name", "before_ms" and "after_ms" of each operator whose times are both known, or under
        "error" why operators cannot be told which was which.
    """
    if [operator.kind for operator in original] != [operator.kind for operator in slim]:
        return {"error": "Pruning left other operators than the original has, so that none can be paired."}
    pairs = zip(original, before_ms, after_ms, strict=True)
    rows = [
        {"name": f"{number} {_name(operator)}", "before_ms": before, "after_ms": after}
        for number, (operator, before, after) in enumerate(pairs, 1)
        if before is not None and after is not None
    ]
    return {"rows": rows}


def _name(operator: Operator) -> str:
    """Names an operator by its work, which pruning leaves: kind, window, size of the output."""
    words = [_SHORT.get(operator.kind, operator.kind.lower().replace("_", " "))]
    if operator.kernel != (1, 1):
        words.append("×".join(map(str, operator.kernel)))
    if operator.output[:2] != (1, 1):
        words.append(f"to {operator.output[0]}×{operator.output[1]}")
    return " ".join(words)
