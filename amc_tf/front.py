"""The networks of several compressions of one model side by side, and which of them no other beats."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from amc_tf.chart_data import pareto_front
from amc_tf.latency_facts import is_predicted
from amc_tf.run_record import networks_of


@dataclasses.dataclass(frozen=True)
class FrontNetwork:
    """One network of a sweep.

    Attributes:
        key: its key in summary.json, such as "finetuned".
        name: for people.
        kind: CSS class.
        budget: the budget that it was made for; None for an original.
        top1: accuracy on the validation images, in [0, 1].
        top5: likewise.
        macs: multiply-accumulates per image.
        params: parameters.
        tflite_bytes: size of its TFLite file.
        latency_ms: median latency, in units of one timing of the original; None where it was not timed.
        latency_ratio: latency / that of the original in the same precision, timed beside it; None likewise.
        predicted: whether the latency comes from a table.
        on_front: whether no other network is both cheaper and more accurate.
        model: where the original came from.
    """

    key: str
    name: str
    kind: str
    budget: str | None
    top1: float
    top5: float
    macs: int
    params: int
    tflite_bytes: int
    latency_ms: float | None
    latency_ratio: float | None
    predicted: bool
    on_front: bool = False
    model: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of front.json."""
        value = dataclasses.asdict(self)
        del value["kind"]
        return {**value, "precision": "int8" if self.key.startswith("int8") else "float32"}

    def cost(self, axis: str) -> float | None:
        """Returns the cost on an axis, "latency_ms" or "macs"."""
        return self.latency_ms if axis == "latency_ms" else float(self.macs)


def collect_networks(summaries: Mapping[str, Mapping[str, Any]]) -> tuple[FrontNetwork, ...]:
    """Lists the networks of all compressions of one model or several, and marks the Pareto front.

    Each compression times its networks beside the original. What counts is that ratio: latencies are given in
    units of the original of that model's first compression, so that a device that was slower during one of
    them does not make its networks look slow.

    Args:
        summaries: summary.json by budget, one or more, of one data.

    Returns:
        Of each model the originals, then the networks of each budget; the front is one of latency where the
        first original was timed, else of MACs.

    Raises:
        KeyError: if a summary lacks an entry.
    """
    of_models: dict[str, dict[str, Mapping[str, Any]]] = {}
    for budget, summary in summaries.items():
        of_models.setdefault(str(summary.get("model", "")), {})[budget] = summary
    networks = [network for own in of_models.values() for network in _collect_of_model(own)]
    return _mark_front(networks, front_axis(networks))


def _collect_of_model(summaries: Mapping[str, Mapping[str, Any]]) -> list[FrontNetwork]:
    first = next(iter(summaries.values()))
    networks = [
        _network(first, key, name, kind, budget=None, units=first, reference=reference or key)
        for key, name, kind, reference in networks_of(first)
        if reference is None
    ]
    for budget, summary in summaries.items():
        networks += [
            _network(summary, key, name, kind, budget=budget, units=first, reference=reference)
            for key, name, kind, reference in networks_of(summary)
            if reference is not None
        ]
    return networks


def front_axis(networks: Sequence[FrontNetwork]) -> str:
    """Returns what the networks are compared by: "latency_ms" where the first, the original, was timed."""
    return "macs" if networks[0].latency_ms is None else "latency_ms"


def _network(
    summary: Mapping[str, Any],
    key: str,
    name: str,
    kind: str,
    *,
    budget: str | None,
    units: Mapping[str, Any],
    reference: str,
) -> FrontNetwork:
    result, latency = summary[key], summary[key]["latency_ms"]
    unit = (units.get(reference) or {}).get("latency_ms")
    ratio = None if latency is None else latency["ratio"]
    return FrontNetwork(
        key,
        name,
        kind,
        budget,
        **{field: result[field] for field in ("top1", "top5", "macs", "params", "tflite_bytes")},
        latency_ms=ratio * unit["median"] if ratio and unit and budget else (latency or {}).get("median"),
        latency_ratio=ratio if budget else None,
        predicted=is_predicted(latency),
        model=str(summary.get("model", "")),
    )


def _mark_front(networks: Sequence[FrontNetwork], axis: str) -> tuple[FrontNetwork, ...]:
    known = [
        (index, cost) for index, network in enumerate(networks) if (cost := network.cost(axis)) is not None
    ]
    front = pareto_front([cost for _, cost in known], [networks[index].top1 for index, _ in known])
    chosen = {known[position][0] for position in front}
    return tuple(
        dataclasses.replace(network, on_front=index in chosen) for index, network in enumerate(networks)
    )
