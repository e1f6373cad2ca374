"""The figures of the report: what a run left behind, as charts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amc_tf import charts
from amc_tf.chart_data import (
    Bar,
    Channels,
    ChannelsChart,
    Chart,
    EpisodesChart,
    LatencyChart,
    OperatorPair,
    OperatorsChart,
    Point,
    TradeoffChart,
    front_of,
    percent,
    percent_tick,
    running_median,
)
from amc_tf.latency_facts import is_predicted, unit_of
from amc_tf.run_record import TUNED, RunRecord, is_number, latency_of, networks_of

# Widths of the drawings in px; the page shows the one that fits, so that text keeps its size on a phone.
_HALF_WIDTH, _FULL_WIDTH, _PHONE_WIDTH = 544, 1104, 340
_MEDIAN_WINDOW = 15
_MOST_OPERATORS = 40

# Kind of budget: what the episodes call it, its name on the axis, what one unit of the axis holds.
_COSTS = {
    "macs": ("macs", "million MACs", 1e6),
    "params": ("params", "million parameters", 1e6),
    "bytes": ("bytes", "MB of float32 weights", 1e6),
    "latency": ("latency_ms", "ms per image", 1.0),
}


@dataclass(frozen=True)
class Figure:
    """One chart with what is written around it.

    Attributes:
        name: Short and stable, as of a file: "channels".
        title: Short heading.
        note: One or two sentences on how to read it.
        chart: What it shows.
        is_full: Whether the wide drawing takes the whole width of the page, not half of it.
        legend: CSS class and meaning of the marks.
    """

    name: str
    title: str
    note: str
    chart: Chart
    is_full: bool = False
    legend: tuple[tuple[str, str], ...] = ()

    @property
    def wide(self) -> str:
        """The chart as `<svg>` markup for a wide page; every text in it is escaped."""
        return charts.draw(self.chart, width=_FULL_WIDTH if self.is_full else _HALF_WIDTH)

    @property
    def narrow(self) -> str:
        """The same for a phone."""
        return charts.draw(self.chart, width=_PHONE_WIDTH)


def make_figures(record: RunRecord) -> dict[str, Figure]:
    """Makes the figures of what the run has data for.

    Args:
        record: What the run left behind.

    Returns:
        By name, in the order of interest: "channels", "tradeoff" (from two episodes on), "latency" (if
        measured), "operators" (if profiled), "reward" and "accuracy" (from two episodes on).
    """
    episodes = [episode for episode in record.episodes if is_number(episode.get("reward"))]
    has_search = len(episodes) > 1
    figures = [
        _channels_figure(channel_rows(record), what="channels" if record.keeps_channels else "weights"),
        _tradeoff_figure(record.summary, episodes) if has_search else None,
        _latency_figure(record.summary),
        _operators_figure(record.summary),
        _reward_figure(episodes) if has_search else None,
        _accuracy_figure(episodes) if has_search else None,
    ]
    return {figure.name: figure for figure in figures if figure is not None}


def _latency_figure(summary: Mapping[str, Any]) -> Figure | None:
    bars = _latency_bars(summary)
    if not bars:
        return None
    note = "Median of the measured runs; the whisker spans the 5th to the 95th percentile."
    if any("predicted" in bar.kind for bar in bars):
        note += " Dashed bars are predicted by a latency table, not timed."
    chart = LatencyChart("Latency of each network", unit_of(summary.get("meter")), bars)
    if any(bar.high > chart.end for bar in bars):
        note += " Those that end in an arrow go on beyond the chart."
    return Figure("latency", "Latency before and after", note, chart)


def _operators_figure(summary: Mapping[str, Any]) -> Figure | None:
    rows = [
        OperatorPair(str(row["name"]), row["before_ms"], row["after_ms"])
        for row in (summary.get("operators") or {}).get("rows") or ()
    ]
    if not rows:
        return None
    note = (
        "Each operator of the float32 networks in the order in which they run, from a profile on the device."
    )
    if len(rows) > _MOST_OPERATORS:
        dearest = sorted(rows, key=lambda row: -row.before_ms)[:_MOST_OPERATORS]
        note += f" Shown are the {_MOST_OPERATORS} of {len(rows)} that take longest in the original."
        rows = [row for row in rows if row in dearest]
    chart = OperatorsChart("Time of each operator before and after", tuple(rows))
    legend = (("baseline", "Original"), ("found", "Found plan"))
    return Figure("operators", "Operators before and after", note, chart, is_full=True, legend=legend)


def _reward_figure(episodes: Sequence[Mapping[str, Any]]) -> Figure:
    lines = [
        tuple((line["episode"], line["best_reward"]) for line in stage if is_number(line.get("best_reward")))
        for stage in _by_stage(episodes)
    ]
    note = "Each point is one plan; the line is the best one within the budget so far."
    chart = EpisodesChart(
        "Reward of each episode and the best so far",
        "reward",
        "{:.3g}".format,
        tuple(episode["episode"] for episode in episodes),
        tuple(episode["reward"] for episode in episodes),
        tuple(line for line in lines if line),
        _warmups(episodes),
    )
    note += " It begins anew with each stage." if len(lines) > 1 else ""
    return Figure("reward", "Reward over episodes", note, chart)


def _accuracy_figure(episodes: Sequence[Mapping[str, Any]]) -> Figure:
    lines = []
    for stage in _by_stage(episodes):
        medians = running_median([line["top1"] for line in stage], _MEDIAN_WINDOW)
        lines.append(tuple((line["episode"], median) for line, median in zip(stage, medians, strict=True)))
    chart = EpisodesChart(
        "Top-1 accuracy of each episode and its running median",
        "top-1",
        percent_tick,
        tuple(episode["episode"] for episode in episodes),
        tuple(episode["top1"] for episode in episodes),
        tuple(lines),
        _warmups(episodes),
    )
    note = f"Top-1 on the search images, not fine-tuned; the line is the median of {_MEDIAN_WINDOW} episodes."
    return Figure("accuracy", "Accuracy over episodes", note, chart)


def _by_stage(episodes: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Parts the episodes of a run by its stages."""
    return [list(stage) for _, stage in itertools.groupby(episodes, key=lambda line: line.get("stage", 1))]


def _warmups(episodes: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, int], ...]:
    """Returns the first episode and the last warm-up episode of each stage that has warmed up."""
    spans = []
    for stage in _by_stage(episodes):
        warmups = [line["episode"] for line in stage if line.get("kind") == "warmup"]
        spans += [(stage[0]["episode"], warmups[-1])] if warmups else []
    return tuple(spans)


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
    points = tuple(_episode_point(episode, episode[key] / unit, cost_name) for episode in episodes)
    marks = tuple(_marks(summary, kind, unit, precision))
    names = [("dot warmup", "warm-up episode")] if _warmups(episodes) else []
    names.append(("dot search", "episode"))
    return Figure(
        "tradeoff",
        "Accuracy against cost",
        "Small points are episodes on the search images, not fine-tuned, with their Pareto front; large "
        "ones are networks on the validation images.",
        TradeoffChart(
            f"Top-1 accuracy against {cost_name}",
            cost_name,
            points,
            marks,
            front_of(points),
            limit / unit if is_number(limit) else None,
        ),
        is_full=True,
        legend=(*names, *((mark.kind, mark.label.partition(":")[0]) for mark in marks)),
    )


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
    for key, name, css, _ in networks_of(summary):
        result = summary[key]
        # The same network stored in another way is as accurate, and costs the same but for its time.
        is_another = key == "finetuned_dense" and kind != "latency"
        if is_another or key.startswith("int8") != (precision == "int8"):
            continue
        latency = result.get("latency_ms") or {}
        size = result.get("bytes", 4 * result["params"])
        values = {"macs": result["macs"], "params": result["params"], "bytes": size}
        cost = latency.get("median") if kind == "latency" else values[kind]
        if cost is not None:
            label = f"{name}: top-1 {percent(result['top1'])}"
            marks.append(Point(cost / unit, result["top1"], label, css))
    return marks


def _latency_bars(summary: Mapping[str, Any]) -> tuple[Bar, ...]:
    """Returns a bar for each network; fine-tuning changes no shape, so a tuned one stands for both."""
    bars = []
    for key, name, kind, _ in networks_of(summary):
        latency = latency_of(summary, key)
        if latency and not latency_of(summary, TUNED.get(key, "")):
            short = name.replace(", fine-tuned", "")
            css = f"{kind} predicted" if is_predicted(latency) else kind
            bars.append(Bar(short, css, latency["median"], latency["p5"], latency["p95"]))
    return tuple(bars)


def channel_rows(record: RunRecord) -> tuple[Channels, ...]:
    """Returns the channels, or weights, of each layer before and after, from the input to the output."""
    sparse = record.summary.get("layers")
    if sparse:
        return tuple(Channels(str(c["layer"]), c["weights"], (c["kept"],), c.get("uniform")) for c in sparse)
    listed = record.summary.get("channels")
    if listed:
        return tuple(
            Channels(str(c.get("layer") or c["group"]), c["before"], (c["after"],), c.get("uniform"))
            for c in listed
        )
    return tuple(Channels(name, before, (kept,)) for name, (kept, before) in record.groups.items())


def _channels_figure(channels: tuple[Channels, ...], *, what: str) -> Figure | None:
    if not channels:
        return None
    note = f"Share of the original {what} that the found plan keeps, with the numbers before and after."
    legend: tuple[tuple[str, str], ...] = (("found", "Found plan"),)
    if any(row.uniform is not None for row in channels):
        note += " The mark is uniform pruning."
        legend = (*legend, ("uniform", "Uniform"))
    chart = ChannelsChart(f"{what.capitalize()} kept in each layer", channels, what=what)
    title = f"{what.capitalize()} of each layer"
    return Figure("channels", title, note, chart, is_full=True, legend=legend)
