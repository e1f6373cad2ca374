"""The frame of a chart: an SVG element with linear axes, and the numbers on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree

from amc_tf.chart_data import Format, Point

DIGIT_WIDTH = 7.2  # of one character at the 12 px of the labels, on average


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


def labels_width(y_range: tuple[float, float], format_y: Format) -> float:
    """Returns how much room the labels of a vertical axis need, in pixels; at least that of "100 %"."""
    longest = max((len(format_y(tick)) for tick in nice_ticks(*_wide(y_range))), default=0)
    return max(52.0, 14.0 + DIGIT_WIDTH * longest)


class Frame:
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
        """Returns where a value stands on the horizontal axis, in pixels."""
        low, high = self._x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Returns where a value stands on the vertical axis, in pixels."""
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
        """Draws a point, its label as the tooltip."""
        place = {"cx": f"{self.x(point.cost):.1f}", "cy": f"{self.y(point.accuracy):.1f}", "r": f"{radius:g}"}
        ElementTree.SubElement(self._add("circle", kind, place), "title").text = point.label

    def rectangle(
        self, kind: str, x: float, y: float, width: float, height: float, *, radius: float = 0.0
    ) -> None:
        """Draws a rectangle from its upper left corner."""
        size = {"x": x, "y": y, "width": max(0.0, width), "height": height, "rx": radius}
        self._add("rect", kind, {name: f"{value:.1f}" for name, value in size.items()})

    def path(self, kind: str, data: str) -> None:
        """Draws a path."""
        self._add("path", kind, {"d": data})

    def text(self, kind: str, x: float, y: float, text: str, *, full: str = "") -> None:
        """Writes text; what it is short for becomes the tooltip."""
        element = self._add("text", kind, {"x": f"{x:.1f}", "y": f"{y:.1f}"})
        element.text = text
        if full and full != text:
            ElementTree.SubElement(element, "title").text = full

    def markup(self) -> str:
        """Returns the element as text."""
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, kind: str, attributes: dict[str, str]) -> ElementTree.Element:
        return ElementTree.SubElement(self._root, tag, {"class": kind, **attributes})


def _wide(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def padded(values: Sequence[float]) -> tuple[float, float]:
    """Returns the span of some values with a margin on both sides."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def staircase(frame: Frame, front: Sequence[Point]) -> str:
    """Returns the path of a Pareto front.

    Args:
        frame: where it is drawn.
        front: its points by ascending cost; one or more.
    """
    # Between two points of the front the cheaper one is the best that was seen.
    first = front[0]
    steps = "".join(f"H{frame.x(point.cost):.1f}V{frame.y(point.accuracy):.1f}" for point in front[1:])
    return f"M{frame.x(first.cost):.1f} {frame.y(first.accuracy):.1f}{steps}"
