"""The charts of the report as SVG text: pure functions of their numbers, coloured by the CSS of the page."""

from __future__ import annotations

from amc_tf.chart_data import (
    ChannelsChart,
    Chart,
    EpisodesChart,
    LatencyChart,
    OperatorsChart,
    TradeoffChart,
    note_sides,
    percent_tick,
)
from amc_tf.chart_frame import DIGIT_WIDTH, Frame, labels_width, padded, staircase

_ROW_HEIGHT = 26
_NOTE_HEIGHT = 22  # above the plot, for the name of a shaded span


def draw(chart: Chart, *, width: int) -> str:
    """Draws a chart.

    Args:
        chart: What it shows.
        width: In pixels; text keeps its size whatever the width.

    Returns:
        An `<svg>` element; every text in it is escaped.
    """
    match chart:
        case EpisodesChart():
            return episodes_chart(chart, width=width)
        case TradeoffChart():
            return tradeoff_chart(chart, width=width)
        case LatencyChart():
            return latency_chart(chart, width=width)
        case ChannelsChart():
            return channels_chart(chart, width=width)
        case OperatorsChart():
            return operators_chart(chart, width=width)


def episodes_chart(chart: EpisodesChart, *, width: int) -> str:
    """Draws one number of every episode; the name of a shaded span stands above it, clear of the points."""
    episodes, drawn = chart.episodes, [value for line in chart.lines for _, value in line]
    values = padded([*chart.values, *drawn])
    frame = Frame(
        width,
        270,
        chart.title,
        (episodes[0], episodes[-1]),
        values,
        top=_NOTE_HEIGHT,
        left=labels_width(values, chart.format_value),
    )
    for first, last in chart.warmups:
        start, end = frame.x(first), min(frame.x(last + 1), frame.right)
        frame.rectangle("shade", start, frame.top, end - start, frame.bottom - frame.top)
        frame.text("note", start, frame.top - 7, "warm-up" if end - start > 52 else "")
    frame.axes("episode", lambda value: f"{value:g}", chart.format_value)
    dots = zip(episodes, chart.values, strict=True)
    frame.path("dots search", " ".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in dots))
    for line in chart.lines:
        frame.path("line", "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in line))
    return frame.markup()


def tradeoff_chart(chart: TradeoffChart, *, width: int) -> str:
    """Draws accuracy against cost of all episodes, their Pareto front, and the networks that matter."""
    everything = [*chart.points, *chart.marks]
    costs = [point.cost for point in everything] + ([] if chart.limit is None else [chart.limit])
    height = 400 if width > 800 else 320
    accuracies = padded([point.accuracy for point in everything])
    left = labels_width(accuracies, percent_tick)
    frame = Frame(width, height, chart.title, padded(costs), accuracies, left=left)
    frame.axes(chart.cost_name, "{:g}".format, percent_tick)
    if chart.limit is not None:
        x = frame.x(chart.limit)
        frame.path("limit", f"M{x:.1f} {frame.top}V{frame.bottom}")
        end = x > frame.right - 60
        frame.text("note end" if end else "note", x + (-5 if end else 5), frame.bottom - 8, "budget")
    for point in chart.points:
        frame.circle(f"dot {point.kind}", point, 2.6)
    if chart.front:
        frame.path("front", staircase(frame, chart.front))
    noted = [mark for mark in chart.marks if mark.note]
    for mark in chart.marks:
        frame.circle(f"mark {mark.kind}", mark, 5.5)
    places = [(frame.x(mark.cost), frame.y(mark.accuracy)) for mark in noted]
    lengths = [DIGIT_WIDTH * len(mark.note) + 14 for mark in noted]
    sides = note_sides(places, lengths, height=15, right_edge=width)
    for mark, (x, y), (right, below) in zip(noted, places, sides, strict=True):
        kind = "note" if right > 0 else "note end"
        frame.text(kind, x + 9 * right, y + (15 if below > 0 else -7), mark.note)
    return frame.markup()


def latency_chart(chart: LatencyChart, *, width: int) -> str:
    """Draws the median latency of each network as a bar and its spread as a whisker."""
    bars = chart.bars
    values = [f"{bar.median:.2f} ms" for bar in bars]
    left = 16 + DIGIT_WIDTH * max(len(bar.name) for bar in bars)
    row_height = min(56.0, max(34.0, 276 / len(bars)))
    height = 44 + row_height * len(bars)
    frame = Frame(
        width, height, chart.title, (0.0, chart.end), (0.0, 1.0), left=left, right=width - 76, top=6
    )
    frame.axes(chart.unit, lambda value: f"{value:g}", None)
    for row, (bar, value) in enumerate(zip(bars, values, strict=True)):
        middle = 6 + row_height * (row + 0.5)
        frame.text("name end", left - 10, middle + 4, bar.name)
        frame.rectangle(f"bar {bar.kind}", left, middle - 11, frame.x(bar.median) - left, 22, radius=3)
        low, high = frame.x(bar.low), frame.x(min(bar.high, chart.end))
        # An arrow where the whisker is cut, else a bar.
        tip = (
            f"M{high - 6:.1f} {middle - 5}l6 5l-6 5"
            if bar.high > chart.end
            else f"M{high:.1f} {middle - 5}v10"
        )
        frame.path("whisker", f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10{tip}")
        frame.text("value", max(high, frame.x(bar.median)) + 8, middle + 4, value)
    return frame.markup()


def channels_chart(chart: ChannelsChart, *, width: int) -> str:
    """Draws the share of its channels that each layer keeps, one bar for each plan."""
    rows, num_plans = chart.rows, len(chart.kinds)
    most = int((0.38 if width < 500 else 0.3) * width / DIGIT_WIDTH)
    names = [shortened(row.name, most) for row in rows]
    left = 16 + DIGIT_WIDTH * max(len(name) for name in names)
    numbers = [f"{row.before} → {', '.join(map(str, row.kept))}" for row in rows]
    if width < 500 and num_plans > 1:
        numbers = [str(row.before) for row in rows]
    right = width - 14 - DIGIT_WIDTH * max(len(number) for number in numbers)
    bar_height = 16 if num_plans == 1 else 8
    row_height = max(_ROW_HEIGHT, bar_height * num_plans + 12)
    height = 40 + row_height * len(rows)
    frame = Frame(width, height, chart.title, (0.0, 1.0), (0.0, 1.0), left=left, right=right, top=4)
    frame.axes(f"{chart.what} kept", percent_tick, None)
    for index, (row, name, number) in enumerate(zip(rows, names, numbers, strict=True)):
        top = 4 + row_height * index + (row_height - bar_height * num_plans) / 2
        bars = bar_height * num_plans
        frame.text("name end", left - 10, top + bars / 2 + 4, name, full=row.name)
        frame.rectangle("bar before", left, top, right - left, bars, radius=2)
        for plan, (kind, kept) in enumerate(zip(chart.kinds, row.kept, strict=True)):
            length = frame.x(kept / row.before) - left
            frame.rectangle(f"bar {kind}", left, top + bar_height * plan, length, bar_height, radius=2)
        if row.uniform is not None:
            frame.path("tick", f"M{frame.x(row.uniform / row.before):.1f} {top - 2}v{bars + 4}")
        frame.text("value", right + 10, top + bars / 2 + 4, number)
    return frame.markup()


def operators_chart(chart: OperatorsChart, *, width: int) -> str:
    """Draws the times of each operator before and after, one bar below the other."""
    names = [shortened(row.name, int(0.38 * width / DIGIT_WIDTH)) for row in chart.rows]
    numbers = [f"{row.before_ms:.3f} → {row.after_ms:.3f}" for row in chart.rows]
    left = 16 + DIGIT_WIDTH * max(len(name) for name in names)
    right = width - 14 - DIGIT_WIDTH * max(len(number) for number in numbers)
    height = 40 + _ROW_HEIGHT * len(names)
    longest = max(max(row.before_ms, row.after_ms) for row in chart.rows)
    frame = Frame(width, height, chart.title, (0.0, longest), (0.0, 1.0), left=left, right=right, top=4)
    frame.axes("ms", "{:g}".format, None)
    for index, (row, name, number) in enumerate(zip(chart.rows, names, numbers, strict=True)):
        top = 4 + _ROW_HEIGHT * index + 5
        frame.text("name end", left - 10, top + 12, name, full=row.name)
        frame.rectangle("bar baseline", left, top, frame.x(row.before_ms) - left, 8, radius=2)
        frame.rectangle("bar found", left, top + 8, frame.x(row.after_ms) - left, 8, radius=2)
        frame.text("value", right + 10, top + 12, number)
    return frame.markup()


def shortened(name: str, length: int) -> str:
    """Returns a name that is cut at its start where it is longer than `length` characters."""
    return name if len(name) <= length else "…" + name[-(length - 1) :]
