"""The page of a sweep: accuracy against latency of all its networks, as chart, table and one HTML file."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from amc_tf import page
from amc_tf.chart_data import Point, percent, percent_tick
from amc_tf.chart_frame import Frame, padded, staircase
from amc_tf.front import FrontNetwork, front_axis

_WIDE, _NARROW = 1104, 340
_SVG_STYLE = "svg { background: var(--card); font-family: system-ui, sans-serif; }"


def front_chart(networks: Sequence[FrontNetwork], *, width: int, time_unit: str = "ms per image") -> str:
    """Draws accuracy against cost of the networks, and the line of those that no other beats.

    Args:
        networks: the original first; those without the cost of the axis are left out.
        width: in pixels.
        time_unit: what latencies are given in.

    Returns:
        An `<svg>` element, coloured by the style of the page.
    """
    axis = front_axis(networks)
    axis_name, unit = (time_unit, 1.0) if axis == "latency_ms" else ("million MACs", 1e6)
    if any(network.predicted for network in networks):
        axis_name += ", predicted in part"
    points = [
        (network, _point(network, cost / unit, axis_name)) for network, cost in _with_cost(networks, axis)
    ]
    frame = Frame(
        width,
        420,
        f"Top-1 accuracy against {axis_name}",
        padded([point.cost for _, point in points]),
        padded([point.accuracy for _, point in points]),
    )
    frame.axes(axis_name, "{:g}".format, percent_tick)
    front = sorted((point for network, point in points if network.on_front), key=lambda point: point.cost)
    frame.path("front", staircase(frame, front))
    for network, point in points:
        frame.circle(f"mark {point.kind}", point, 6.5 if network.on_front else 4.5)
        if network.key == "finetuned" and width > 500:
            frame.text("note", frame.x(point.cost) + 9, frame.y(point.accuracy) + 16, str(network.budget))
    return frame.markup()


def standalone_svg(markup: str) -> bytes:
    """Returns the chart as an SVG file of its own, with its colours for light and dark."""
    style = importlib.resources.files("amc_tf").joinpath("templates/chart.css").read_text(encoding="utf-8")
    head, _, body = markup.partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}><style>{style}{_SVG_STYLE}</style>{body}\n".encode()


def render_front(
    networks: Sequence[FrontNetwork], failures: Mapping[str, str], facts: Mapping[str, Any]
) -> str:
    """Returns the page of a sweep, which loads nothing.

    Args:
        networks: the original first.
        failures: why a budget could not be met, by budget.
        facts: "model", "data", "meter" (its name or None), "time_unit", "command", and "folders" by budget.
    """
    kinds = {network.kind: network.name for network in networks}
    return (
        page.environment()
        .get_template("front.html.jinja")
        .render(
            **facts,
            headline=headline(networks),
            wide=front_chart(networks, width=_WIDE, time_unit=facts["time_unit"]),
            narrow=front_chart(networks, width=_NARROW, time_unit=facts["time_unit"]),
            legend=list(kinds.items()),
            has_latency=front_axis(networks) == "latency_ms",
            columns=_columns(networks),
            rows=[_row(network, networks, facts["folders"]) for network in _by_cost(networks)],
            failures=failures,
        )
    )


def headline(networks: Sequence[FrontNetwork]) -> str:
    """Says in one sentence what there is to choose from."""
    axis = front_axis(networks)
    original = networks[0]
    cheapest = min(
        (network for network in networks if network.on_front), key=lambda network: network.cost(axis) or 0.0
    )
    what = "latency" if axis == "latency_ms" else "MACs"
    part = (cheapest.cost(axis) or 0.0) / (original.cost(axis) or 1.0)
    front = sum(network.on_front for network in networks)
    return (
        f"{len(networks)} networks, {front} of them beaten by no other: down to {part:.0%} of the {what} at "
        f"{page.percent(cheapest.top1)} top-1, from {page.percent(original.top1)}."
    ).replace("% of", " % of")


def _with_cost(networks: Sequence[FrontNetwork], axis: str) -> list[tuple[FrontNetwork, float]]:
    return [(network, cost) for network in networks if (cost := network.cost(axis)) is not None]


def _by_cost(networks: Sequence[FrontNetwork]) -> list[FrontNetwork]:
    """Orders networks from the dearest to the cheapest; those without a cost come last."""
    axis = front_axis(networks)
    return sorted(networks, key=lambda network: -(network.cost(axis) or 0.0))


def _point(network: FrontNetwork, cost: float, axis_name: str) -> Point:
    name = network.name if network.budget is None else f"{network.name}, {network.budget}"
    label = f"{name}: top-1 {percent(network.top1)}, {cost:.4g} {axis_name}"
    return Point(cost, network.top1, label, network.kind)


def _columns(networks: Sequence[FrontNetwork]) -> list[str]:
    names = ["Network", "Budget", "Top-1", "MACs", "Parameters", "File"]
    return [*names, *(["Latency, median"] if front_axis(networks) == "latency_ms" else [])]


def _row(
    network: FrontNetwork, networks: Sequence[FrontNetwork], folders: Mapping[str, str]
) -> dict[str, Any]:
    original = next(other for other in networks if other.model == network.model)
    budget = network.budget or (original.model if len({other.model for other in networks}) > 1 else "")
    latency = "—" if network.latency_ms is None else f"{network.latency_ms:.3f} ms"
    notes = [] if network.latency_ratio is None else [page.part_of(network.latency_ratio, 1.0)]
    link = {"link": f"{folders[budget]}/report.html"} if budget in folders else {}
    cells = [
        {"value": budget, "notes": [], **link},
        {"value": page.percent(network.top1), "notes": []},
        *(
            {
                "value": page.quantity(value),
                "notes": [page.part_of(value, whole)] if network.budget else [],
            }
            for value, whole in ((network.macs, original.macs), (network.params, original.params))
        ),
        {"value": f"{page.quantity(network.tflite_bytes)}B", "notes": []},
    ]
    if front_axis(networks) == "latency_ms":
        cells.append({"value": latency, "notes": [*notes, *(["predicted"] if network.predicted else [])]})
    return {"name": network.name, "kind": network.kind, "is_final": network.on_front, "cells": cells}
