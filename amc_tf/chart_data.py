"""What the charts show, as numbers: the page draws them as SVG, slides are drawn from the same values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Format = Callable[[float], str]
_WHISKER_LIMIT = 1.8  # end of an axis, in longest bars
_Span = tuple[float, float, float]  # of a line of text: left and right end, middle height


@dataclass(frozen=True)
class Point:
    """One network in the trade-off chart.

    Attributes:
        cost: In the unit of the horizontal axis.
        accuracy: Top-1, in [0, 1].
        label: Shown when the pointer rests on it.
        kind: CSS class: "warmup", "search" and "control" for episodes, else "baseline", "uniform", "found"...
        note: Written beside it, "" for nothing.
    """

    cost: float
    accuracy: float
    label: str
    kind: str
    note: str = ""


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
        before: Channels, or weights, of the original.
        kept: Those that each plan keeps, one number for each.
        uniform: Those that uniform pruning keeps, where known.
    """

    name: str
    before: int
    kept: tuple[int, ...]
    uniform: int | None = None


@dataclass(frozen=True)
class OperatorPair:
    """One row of the operators chart.

    Attributes:
        name: Place and kind of the operator.
        before_ms: Its time in the original, in milliseconds.
        after_ms: Its time in the pruned network.
    """

    name: str
    before_ms: float
    after_ms: float


@dataclass(frozen=True)
class EpisodesChart:
    """One number of every episode as points, and a summary of it as lines.

    Attributes:
        title: Read out by screen readers.
        value_name: What the vertical axis shows.
        format_value: Writes the numbers of the vertical axis.
        episodes: Episode numbers, ascending; one or more.
        values: The number of each episode.
        lines: Points (episode, number) of each line: the best so far, or a running median.
        warmups: First and last of each span of episodes of random actions; they are shaded.
    """

    title: str
    value_name: str
    format_value: Format
    episodes: tuple[float, ...]
    values: tuple[float, ...]
    lines: tuple[tuple[tuple[float, float], ...], ...]
    warmups: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TradeoffChart:
    """Accuracy against cost of episodes and networks.

    Attributes:
        title: Read out by screen readers.
        cost_name: Label of the horizontal axis.
        points: The episodes, drawn small.
        marks: Networks, drawn large.
        front: Those that no other beats, by ascending cost; a line through none, or one or more.
        limit: The budget, in the unit of the cost, drawn as a line; None for none.
    """

    title: str
    cost_name: str
    points: tuple[Point, ...]
    marks: tuple[Point, ...]
    front: tuple[Point, ...]
    limit: float | None = None


@dataclass(frozen=True)
class LatencyChart:
    """The median latency of each network as a bar, its spread as a whisker.

    Attributes:
        title: Read out by screen readers.
        unit: Label of the axis, "ms per image" for example.
        bars: From the top down; one or more.
    """

    title: str
    unit: str
    bars: tuple[Bar, ...]

    @property
    def end(self) -> float:
        """Where the axis ends: whiskers far beyond all bars are cut, so that the bars can be told apart."""
        longest = max(bar.median for bar in self.bars)
        return min(max(longest, *(bar.high for bar in self.bars)), _WHISKER_LIMIT * longest)


@dataclass(frozen=True)
class ChannelsChart:
    """The share of its channels, or weights, that each layer keeps in each plan, with the numbers beside it.

    Attributes:
        title: Read out by screen readers.
        rows: Layers from the input to the output; one or more.
        kinds: CSS class of each plan.
        what: What is counted: "channels" or "weights".
    """

    title: str
    rows: tuple[Channels, ...]
    kinds: tuple[str, ...] = ("found",)
    what: str = "channels"


@dataclass(frozen=True)
class OperatorsChart:
    """The time of each operator before and after pruning, as two bars.

    Attributes:
        title: Read out by screen readers.
        rows: In the order in which the operators run; one or more.
    """

    title: str
    rows: tuple[OperatorPair, ...]


Chart = EpisodesChart | TradeoffChart | LatencyChart | ChannelsChart | OperatorsChart


def percent(value: float) -> str:
    """Writes a fraction as a percentage with at most one decimal."""
    return f"{round(100 * value, 1):g} %"


def percent_tick(value: float) -> str:
    """Writes a round fraction as a percentage with all its decimals."""
    return f"{round(100 * value, 6):g} %"


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


def front_of(points: Sequence[Point]) -> tuple[Point, ...]:
    """Returns the points that no other one beats, by ascending cost."""
    indices = pareto_front([point.cost for point in points], [point.accuracy for point in points])
    return tuple(points[index] for index in indices)


def running_median(values: Sequence[float], window: int) -> list[float]:
    """Returns the median of the last `window` values at each position (fewer at the start)."""
    medians = []
    for end in range(1, len(values) + 1):
        recent = sorted(values[max(0, end - window) : end])
        middle = len(recent) // 2
        medians.append(recent[middle] if len(recent) % 2 else (recent[middle - 1] + recent[middle]) / 2)
    return medians


def note_sides(
    places: Sequence[tuple[float, float]], lengths: Sequence[float], *, height: float, right_edge: float
) -> list[tuple[int, int]]:
    """Chooses on which side of its mark each note stands, clear of other notes and marks where that can be.

    Args:
        places: Where the marks are, in pixels; y grows downwards.
        lengths: Of the notes, in pixels.
        height: Of a line of text, in pixels.
        right_edge: Where the drawing ends, in pixels.

    Returns:
        1 for right and below, -1 for left and above, as (x, y) of each note.
    """
    taken: list[_Span] = [(x - 6, x + 6, y) for x, y in places]
    sides = []
    for (x, y), length in zip(places, lengths, strict=True):
        spans = {
            (right, below): (start, start + length, y + below * height)
            for right, below in ((1, 1), (1, -1), (-1, 1), (-1, -1))
            if (start := x if right > 0 else x - length) + length <= right_edge
        }
        free = [side for side, span in spans.items() if not any(_meet(span, it, height) for it in taken)]
        sides.append((free or list(spans))[0])
        taken.append(spans[sides[-1]])
    return sides


def _meet(one: _Span, other: _Span, height: float) -> bool:
    return abs(one[2] - other[2]) < height and one[0] < other[1] and other[0] < one[1]
