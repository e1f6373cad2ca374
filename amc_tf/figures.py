"""The figures of the report: what a run left behind, as charts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amc_tf import charts
from amc_tf.chart_frame import Point, percent
from amc_tf.latency_facts import is_predicted, unit_of
from amc_tf.run_record import NETWORKS, RunRecord, is_number, latency_of

# Widths of the drawings in px; the page shows the one that fits, so that text keeps its size on a phone.
_HALF_WIDTH, _FULL_WIDTH, _PHONE_WIDTH = 544, 1104, 340
_MEDIAN_WINDOW = 15

# Fine-tuning changes no shape: where the tuned network was measured, its bar stands for both.
_TUNED = {"uniform": "uniform_finetuned", "pruned": "finetuned"}

# Kind of budget: what the episodes call it, its name on the axis, what one unit of the axis holds.
_COSTS = {
    "macs": ("macs", "million MACs", 1e6),
    "params": ("params", "million parameters", 1e6),
    "bytes": ("bytes", "MB of float32 weights", 1e6),
    "latency": ("latency_ms", "ms per image", 1.0),
}


@dataclass(frozen=True)
class Figure:
    """One chart, drawn for a wide and for a narrow page.

    Attributes:
        title: Short heading.
        note: One or two sentences on how to read it.
        wide: `<svg>` markup; every text in it is escaped.
        narrow: The same for a phone.
        is_full: Whether the wide drawing takes the whole width of the page, not half of it.
        legend: CSS class and meaning of the marks.
    """

    title: str
    note: str
    wide: str
    narrow: str
    is_full: bool = False
    legend: tuple[tuple[str, str], ...] = ()


def make_figures(record: RunRecord) -> list[Figure]:
    """Draws what the run has data for.

    Args:
        record: What the run left behind.

    Returns:
        Reward, accuracy, accuracy against cost (from two episodes on), latency (if measured), channels.
    """
    episodes = [episode for episode in record.episodes if is_number(episode.get("reward"))]
    figures = []
    if len(episodes) > 1:
        figures += [
            _reward_figure(episodes),
            _accuracy_figure(episodes),
            _tradeoff_figure(record.summary, episodes),
        ]
    bars = _latency_bars(record.summary)
    if bars:
        note = "Median of the measured runs; the whisker spans the 5th to the 95th percentile."
        if any("predicted" in bar.kind for bar in bars):
            note += " Dashed bars are predicted by a latency table, not timed."
        figures.append(
            _figure(
                "Latency before and after",
                note,
                lambda width: charts.latency_chart(
                    bars,
                    width=width,
                    title="Latency of each network",
                    unit=unit_of(record.summary.get("meter")),
                ),
            )
        )
    channels = _channels(record)
    return [*figures, _channels_figure(channels)] if channels else figures


def _figure(title: str, note: str, draw: Callable[[int], str], *, is_full: bool = False) -> Figure:
    return Figure(title, note, draw(_FULL_WIDTH if is_full else _HALF_WIDTH), draw(_PHONE_WIDTH), is_full)


def _reward_figure(episodes: Sequence[Mapping[str, Any]]) -> Figure:
    lines = [
        [(line["episode"], line["best_reward"]) for line in stage if is_number(line.get("best_reward"))]
        for stage in _by_stage(episodes)
    ]
    note = "Each point is one plan; the line is the best one within the budget so far."
    return _figure(
        "Reward over episodes",
        f"{note} It begins anew with each stage." if len(lines) > 1 else note,
        lambda width: charts.episodes_chart(
            [episode["episode"] for episode in episodes],
            [episode["reward"] for episode in episodes],
            lines=[line for line in lines if line],
            warmups=_warmups(episodes),
            width=width,
            title="Reward of each episode and the best so far",
            format_value="{:.3g}".format,
        ),
    )


def _accuracy_figure(episodes: Sequence[Mapping[str, Any]]) -> Figure:
    lines = []
    for stage in _by_stage(episodes):
        medians = charts.running_median([line["top1"] for line in stage], _MEDIAN_WINDOW)
        lines.append([(line["episode"], median) for line, median in zip(stage, medians, strict=True)])
    return _figure(
        "Accuracy over episodes",
        f"Top-1 on the search images, not fine-tuned; the line is the median of {_MEDIAN_WINDOW} episodes.",
        lambda width: charts.episodes_chart(
            [episode["episode"] for episode in episodes],
            [episode["top1"] for episode in episodes],
            lines=lines,
            warmups=_warmups(episodes),
            width=width,
            title="Top-1 accuracy of each episode and its running median",
            format_value=percent,
        ),
    )


def _by_stage(episodes: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Parts the episodes of a run by its stages."""
    return [list(stage) for _, stage in itertools.groupby(episodes, key=lambda line: line.get("stage", 1))]


def _warmups(episodes: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Returns the first episode and the last warm-up episode of each stage that has warmed up."""
    spans = []
    for stage in _by_stage(episodes):
        warmups = [line["episode"] for line in stage if line.get("kind") == "warmup"]
        spans += [(stage[0]["episode"], warmups[-1])] if warmups else []
    return spans


def _tradeoff_figure(summary: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> Figure:
    budget = summary.get("budget") or {}
    kind = str(budget.get("kind"))
    if kind not in _COSTS or not all(is_number(episode.get(_COSTS[kind][0])) for episode in episodes):
        kind = "macs"
    key, cost_name, unit = _COSTS[kind]
    if kind == "latency":
        cost_name = unit_of(summary.get("meter"))
    if kind == "latency" and str((summary.get("meter") or {}).get("name")).startswith("table:"):
        cost_name += ", predicted"
    precision = _precision(summary) if kind == "latency" else "float32"
    if precision != "float32":
        cost_name += f", {precision}"
    limit = budget.get("limit") if kind == budget.get("kind") else None
    points = [_episode_point(episode, episode[key] / unit, cost_name) for episode in episodes]
    marks = _marks(summary, kind, unit, precision)
    drawn = _figure(
        "Accuracy against cost",
        "Small points are episodes on the search images, not fine-tuned, with their Pareto front; large "
        "ones are networks on the validation images.",
        lambda width: charts.tradeoff_chart(
            points,
            marks,
            limit=limit / unit if is_number(limit) else None,
            width=width,
            title=f"Top-1 accuracy against {cost_name}",
            cost_name=cost_name,
            format_cost="{:g}".format,
        ),
    )
    names = [("dot warmup", "warm-up episode")] if _warmups(episodes) else []
    names.append(("dot search", "episode"))
    return replace(drawn, legend=(*names, *((mark.kind, mark.label.partition(":")[0]) for mark in marks)))


def _episode_point(episode: Mapping[str, Any], cost: float, cost_name: str) -> Point:
    label = f"Episode {episode['episode']}: top-1 {percent(episode['top1'])}, {cost:.4g} {cost_name}"
    return Point(cost, episode["top1"], label, str(episode.get("kind", "search")))


def _precision(summary: Mapping[str, Any]) -> str:
    """Returns the precision in which the search timed its networks."""
    search = (summary.get("settings") or {}).get("search") or {}
    return str(search.get("latency_precision", "float32"))


def _marks(summary: Mapping[str, Any], kind: str, unit: float, precision: str) -> list[Point]:
    """Returns the networks in the precision of the episodes' costs."""
    marks = []
    for key, name, css, _ in NETWORKS:
        result = summary.get(key)
        if not result or key.startswith("int8") != (precision == "int8"):
            continue
        latency = result.get("latency_ms") or {}
        values = {"macs": result["macs"], "params": result["params"], "bytes": 4 * result["params"]}
        cost = latency.get("median") if kind == "latency" else values[kind]
        if cost is not None:
            label = f"{name}: top-1 {percent(result['top1'])}"
            marks.append(Point(cost / unit, result["top1"], label, css))
    return marks


def _latency_bars(summary: Mapping[str, Any]) -> list[charts.Bar]:
    bars = []
    for key, name, kind, _ in NETWORKS:
        latency = latency_of(summary, key)
        if latency and not (key in _TUNED and latency_of(summary, _TUNED[key])):
            short = name.replace(", fine-tuned", "")
            css = f"{kind} predicted" if is_predicted(latency) else kind
            bars.append(charts.Bar(short, css, latency["median"], latency["p5"], latency["p95"]))
    return bars


def _channels(record: RunRecord) -> list[charts.Channels]:
    listed = record.summary.get("channels")
    if listed:
        return [
            charts.Channels(str(c.get("layer") or c["group"]), c["before"], c["after"], c.get("uniform"))
            for c in listed
        ]
    return [charts.Channels(name, before, kept) for name, (kept, before) in record.groups.items()]


def _channels_figure(channels: Sequence[charts.Channels]) -> Figure:
    note = "Share of the original channels that the found plan keeps, with the numbers before and after."
    if any(row.uniform is not None for row in channels):
        note += " The mark is uniform pruning."
    return _figure(
        "Channels of each layer",
        note,
        lambda width: charts.channels_chart(channels, width=width, title="Channels kept in each layer"),
        is_full=True,
    )
