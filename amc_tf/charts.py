"""The charts of the report as SVG text: pure functions of numbers, coloured by the CSS of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

_ROW_HEIGHT = 26
_DIGIT_WIDTH = 7.2  # of one character at the 12 px of the labels, on average

Format = Callable[[float], str]


@dataclass(frozen=True)
class Point:
    """One network in the trade-off chart.

    Attributes:
        cost: In the unit of the horizontal axis.
        accuracy: Top-1, in [0, 1].
        label: Shown when the pointer rests on it.
        kind: CSS class: "warmup", "search" and "control" for episodes, else "baseline", "uniform", "found"...
    """

    cost: float
    accuracy: float
    label: str
    kind: str


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


def percent(value: float) -> str:
    """Writes a fraction as a percentage with at most one decimal."""
    return f"{round(100 * value, 1):g} %"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns round numbers (1, 2 or 5 times a power of ten apart) that lie in a range.

    Args:
        low: Lower end.
        high: Upper end, above `low`.
        count: About how many.

    Returns:
        Ascending ticks, each in [low, high].
    """
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(
        factor for factor, most in ((1, 1.5), (2, 3.5), (5, 7.5), (10, 11)) if rough < most * power
    )
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


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
    frame = _Frame(width, 260, title, (episodes[0], episodes[-1]), _padded([*values, *drawn]))
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
    frame = _Frame(width, 320, title, _padded(costs), _padded([point.accuracy for point in everything]))
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
        frame.path("front", _staircase(frame, front))
    for mark in marks:
        frame.circle(f"mark {mark.kind}", mark, 5.5)
    return frame.markup()


def latency_chart(bars: Sequence[Bar], *, width: int, title: str) -> str:
    """Draws the median latency of each network as a bar and its spread as a whisker.

    Args:
        bars: From the top down.
        width: Width in pixels.
        title: Read out by screen readers.

    Returns:
        An `<svg>` element.
    """
    values = [f"{bar.median:.2f} ms" for bar in bars]
    left = 16 + _DIGIT_WIDTH * max(len(bar.name) for bar in bars)
    longest = max(max(bar.high, bar.median) for bar in bars)
    row_height = min(56.0, max(34.0, 276 / len(bars)))
    height = 44 + row_height * len(bars)
    frame = _Frame(width, height, title, (0.0, longest), (0.0, 1.0), left=left, right=width - 76, top=6)
    frame.axes("ms per image", lambda value: f"{value:g}", None)
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
    frame = _Frame(width, height, title, (0.0, 1.0), (0.0, 1.0), left=left, right=right, top=4)
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


class _Frame:
    """An SVG element with linear axes; all text goes through ElementTree, which escapes it."""

    def __init__(
        self,
        width: int,
        height: float,
        title: str,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        **edges: float,
    ) -> None:
        self.left = edges.get("left", 52.0)
        self.right = edges.get("right", width - 14.0)
        self.top = edges.get("top", 12.0)
        self.bottom = height - 38.0
        self._x_range, self._y_range = _wide(x_range), _wide(y_range)
        box = {"viewBox": f"0 0 {width} {height:g}", "role": "img", "aria-label": title}
        self._root = ElementTree.Element("svg", box)

    def x(self, value: float) -> float:
        low, high = self._x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self._y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def axes(self, x_name: str, format_x: Format, format_y: Format | None) -> None:
        """Draws grid lines and labels; without `format_y` the vertical axis stays bare."""
        for tick in nice_ticks(*self._x_range, count=max(2, int((self.right - self.left) / 80))):
            self.path("grid", f"M{self.x(tick):.1f} {self.top}V{self.bottom}")
            self.text("tick-label middle", self.x(tick), self.bottom + 16, format_x(tick))
        for tick in nice_ticks(*self._y_range) if format_y else ():
            self.path("grid", f"M{self.left} {self.y(tick):.1f}H{self.right}")
            self.text("tick-label end", self.left - 8, self.y(tick) + 4, format_y(tick) if format_y else "")
        self.path("axis", f"M{self.left} {self.bottom}H{self.right}")
        self.text("axis-name middle", (self.left + self.right) / 2, self.bottom + 33, x_name)

    def circle(self, kind: str, point: Point, radius: float) -> None:
        place = {"cx": f"{self.x(point.cost):.1f}", "cy": f"{self.y(point.accuracy):.1f}", "r": f"{radius:g}"}
        ElementTree.SubElement(self._add("circle", kind, place), "title").text = point.label

    def rectangle(
        self, kind: str, x: float, y: float, width: float, height: float, *, radius: float = 0.0
    ) -> None:
        size = {"x": x, "y": y, "width": max(0.0, width), "height": height, "rx": radius}
        self._add("rect", kind, {name: f"{value:.1f}" for name, value in size.items()})

    def path(self, kind: str, data: str) -> None:
        self._add("path", kind, {"d": data})

    def text(self, kind: str, x: float, y: float, text: str, *, full: str = "") -> None:
        element = self._add("text", kind, {"x": f"{x:.1f}", "y": f"{y:.1f}"})
        element.text = text
        if full and full != text:
            ElementTree.SubElement(element, "title").text = full

    def markup(self) -> str:
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, kind: str, attributes: dict[str, str]) -> ElementTree.Element:
        return ElementTree.SubElement(self._root, tag, {"class": kind, **attributes})


def _wide(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _staircase(frame: _Frame, front: Sequence[Point]) -> str:
    # Between two points of the front the cheaper one is the best that was seen.
    first = front[0]
    steps = "".join(f"H{frame.x(point.cost):.1f}V{frame.y(point.accuracy):.1f}" for point in front[1:])
    return f"M{frame.x(first.cost):.1f} {frame.y(first.accuracy):.1f}{steps}"


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else "…" + name[-(length - 1) :]
