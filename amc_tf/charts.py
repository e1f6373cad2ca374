"""The charts of the report as SVG text: pure functions of numbers, coloured by the CSS of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amc_tf.chart_frame import Format, Frame, Point, padded, percent, staircase

_ROW_HEIGHT = 26
_DIGIT_WIDTH = 7.2  # of one character at the 12 px of the labels, on average


@dataclass(frozen=True)
class Bar:
    """One row of the latency chart.

    Attributes:
        name: Name of the network.
        kind: CSS class.
        median, low, high: Milliseconds: the median and the ends of the spread (5th and 95th percentile).
    """

    name: str
    kind: str
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Channels:
    """One row of the channels chart.

    Attributes:
        name: Name of the layer.
        before: Channels of the original.
        after: Channels that were kept.
        uniform: Channels that uniform pruning keeps, where known.
    """

    name: str
    before: int
    after: int
    uniform: int | None = None


def pareto_front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Returns the indices of the points that no other point beats in both cost and accuracy.

    Args:
        costs: Lower is better.
        accuracies: Higher is better; same length.

    Returns:
        Indices by ascending cost, and so by ascending accuracy.
    """
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -accuracies[i])):
        if not front or accuracies[index] > accuracies[front[-1]]:
            front.append(index)
    return front


def running_median(values: Sequence[float], window: int) -> list[float]:
    """Returns the median of the last `window` values at each position (fewer at the start)."""
    medians = []
    for end in range(1, len(values) + 1):
        recent = sorted(values[max(0, end - window) : end])
        middle = len(recent) // 2
        medians.append(recent[middle] if len(recent) % 2 else (recent[middle - 1] + recent[middle]) / 2)
    return medians


def episodes_chart(
    episodes: Sequence[float],
    values: Sequence[float],
    *,
    lines: Sequence[Sequence[tuple[float, float]]],
    warmups: Sequence[tuple[float, float]],
    width: int,
    title: str,
    format_value: Format,
) -> str:
    """Draws one number of every episode as points and a summary of it as a line.

    Args:
        episodes: Episode numbers, ascending.
        values: The number of each episode.
        lines: Points (episode, number) of each line, one or more: the best so far, or a running median.
        warmups: First and last of each span of episodes of random actions; they are shaded.
        width: Width in pixels; text keeps its size whatever the width.
        title: Read out by screen readers.
        format_value: Writes the numbers of the vertical axis.

    Returns:
        An `<svg>` element.
    """
    drawn = [value for line in lines for _, value in line]
    frame = Frame(width, 260, title, (episodes[0], episodes[-1]), padded([*values, *drawn]))
    for first, last in warmups:
        start, end = frame.x(first), min(frame.x(last + 1), frame.right)
        frame.rectangle("shade", start, frame.top, end - start, frame.bottom - frame.top)
        frame.text("note", start + 6, frame.top + 14, "warm-up" if end - start > 60 else "")
    frame.axes("episode", lambda value: f"{value:g}", format_value)
    dots = " ".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in zip(episodes, values, strict=True))
    frame.path("dots search", dots)
    for line in lines:
        frame.path("line", "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in line))
    return frame.markup()


def tradeoff_chart(
    points: Sequence[Point],
    marks: Sequence[Point],
    *,
    limit: float | None,
    width: int,
    title: str,
    cost_name: str,
    format_cost: Format,
) -> str:
    """Draws accuracy against cost of all episodes, their Pareto front, and the networks that matter.

    Args:
        points: The episodes.
        marks: Networks, drawn large.
        limit: The budget, in the unit of the cost; drawn as a line.
        width: Width in pixels.
        title: Read out by screen readers.
        cost_name: Label of the horizontal axis.
        format_cost: Writes the numbers of the horizontal axis.

    Returns:
        An `<svg>` element.
    """
    everything = [*points, *marks]
    costs = [point.cost for point in everything] + ([] if limit is None else [limit])
    frame = Frame(width, 320, title, padded(costs), padded([point.accuracy for point in everything]))
    frame.axes(cost_name, format_cost, percent)
    if limit is not None:
        x = frame.x(limit)
        frame.path("limit", f"M{x:.1f} {frame.top}V{frame.bottom}")
        end = x > frame.right - 60
        frame.text("note end" if end else "note", x + (-5 if end else 5), frame.bottom - 8, "budget")
    for point in points:
        frame.circle(f"dot {point.kind}", point, 2.6)
    front = [points[i] for i in pareto_front([p.cost for p in points], [p.accuracy for p in points])]
    if front:
        frame.path("front", staircase(frame, front))
    for mark in marks:
        frame.circle(f"mark {mark.kind}", mark, 5.5)
    return frame.markup()


def latency_chart(bars: Sequence[Bar], *, width: int, title: str, unit: str = "ms per image") -> str:
    """Draws the median latency of each network as a bar and its spread as a whisker.

    Args:
        bars: From the top down.
        width: Width in pixels.
        title: Read out by screen readers.
        unit: Label of the axis.

    Returns:
        An `<svg>` element.
    """
    values = [f"{bar.median:.2f} ms" for bar in bars]
    left = 16 + _DIGIT_WIDTH * max(len(bar.name) for bar in bars)
    longest = max(max(bar.high, bar.median) for bar in bars)
    row_height = min(56.0, max(34.0, 276 / len(bars)))
    height = 44 + row_height * len(bars)
    frame = Frame(width, height, title, (0.0, longest), (0.0, 1.0), left=left, right=width - 76, top=6)
    frame.axes(unit, lambda value: f"{value:g}", None)
    for row, (bar, value) in enumerate(zip(bars, values, strict=True)):
        middle = 6 + row_height * (row + 0.5)
        frame.text("name end", left - 10, middle + 4, bar.name)
        frame.rectangle(f"bar {bar.kind}", left, middle - 11, frame.x(bar.median) - left, 22, radius=3)
        low, high = frame.x(bar.low), frame.x(bar.high)
        whisker = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10M{high:.1f} {middle - 5}v10"
        frame.path("whisker", whisker)
        frame.text("value", max(high, frame.x(bar.median)) + 8, middle + 4, value)
    return frame.markup()


def channels_chart(rows: Sequence[Channels], *, width: int, title: str) -> str:
    """Draws the share of its channels that each layer keeps, with the numbers beside it.

    Args:
        rows: Layers from the input to the output.
        width: Width in pixels.
        title: Read out by screen readers.

    Returns:
        An `<svg>` element.
    """
    most = int((0.38 if width < 500 else 0.3) * width / _DIGIT_WIDTH)
    names = [_shortened(row.name, most) for row in rows]
    left = 16 + _DIGIT_WIDTH * max(len(name) for name in names)
    numbers = [f"{row.before} → {row.after}" for row in rows]
    right = width - 14 - _DIGIT_WIDTH * max(len(number) for number in numbers)
    height = 40 + _ROW_HEIGHT * len(rows)
    frame = Frame(width, height, title, (0.0, 1.0), (0.0, 1.0), left=left, right=right, top=4)
    frame.axes("channels kept", percent, None)
    for index, (row, name, number) in enumerate(zip(rows, names, numbers, strict=True)):
        top = 4 + _ROW_HEIGHT * index + 5
        frame.text("name end", left - 10, top + 12, name, full=row.name)
        frame.rectangle("bar before", left, top, right - left, 16, radius=2)
        frame.rectangle("bar found", left, top, frame.x(row.after / row.before) - left, 16, radius=2)
        if row.uniform is not None:
            frame.path("tick", f"M{frame.x(row.uniform / row.before):.1f} {top - 2}v20")
        frame.text("value", right + 10, top + 12, number)
    return frame.markup()


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else "…" + name[-(length - 1) :]
