"""The figures of a report as PNG and SVG files for slides: large text on white, 16:9 if that holds them."""

from __future__ import annotations

import functools
import importlib.resources
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amc_tf.chart_data import (
    Channels,
    ChannelsChart,
    EpisodesChart,
    LatencyChart,
    OperatorPair,
    OperatorsChart,
    Point,
    TradeoffChart,
    note_sides,
    percent_tick,
)
from amc_tf.charts import shortened
from amc_tf.figures import Figure
from amc_tf.run_folder import clear_errors, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_WIDTH, _HEIGHT = 12.8, 7.2  # inches
_DOTS_PER_INCH = 150  # 1920 x 1080 pixels
_ROWS_OF_PANEL, _MOST_PANELS = 18, 3
_LEGEND_COLUMNS = 4
_Row = TypeVar("_Row", Channels, OperatorPair)
_STYLE: dict[str, Any] = {
    "font.size": 17,
    "font.family": "sans-serif",
    "axes.titlesize": 24,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 18,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.fontsize": 14,
    "text.parse_math": False,  # names of layers may hold dollar signs
    "svg.hashsalt": "amc-tf",
}


def write_slides(figures: Iterable[Figure], folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Writes each figure as NAME.png and NAME.svg, over older ones.

    Args:
        figures: With different names.
        folder: Made with its parents if missing.

    Returns:
        The files.

    Raises:
        RunFolderError: If a file cannot be written.
    """
    paths = []
    with clear_errors(Path(folder)):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for figure in figures:
        for suffix in ("png", "svg"):
            path = Path(folder) / f"{figure.name}.{suffix}"
            content = draw_slide(figure, suffix)
            write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
            paths.append(path)
    return tuple(paths)


def draw_slide(figure: Figure, suffix: str) -> bytes:
    """Draws a figure.

    Args:
        figure: What to draw, with its title and its legend.
        suffix: "png" or "svg".

    Returns:
        The contents of the file; equal for equal figures.
    """
    import matplotlib

    with matplotlib.rc_context({**_STYLE, **_colours_of_axes()}):
        canvas = _draw(figure)
        file = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        canvas.savefig(file, format=suffix, dpi=_DOTS_PER_INCH, metadata=metadata)
    return file.getvalue()


@functools.cache
def palette() -> Mapping[str, str]:
    """Returns the colours of the page on light background by name, as its style sheet has them."""
    style = importlib.resources.files("amc_tf").joinpath("templates/chart.css").read_text(encoding="utf-8")
    light = style.partition("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))


def _colours_of_axes() -> dict[str, str]:
    colours = palette()
    return {
        "text.color": colours["ink"],
        "axes.labelcolor": colours["soft"],
        "axes.edgecolor": colours["edge"],
        "xtick.color": colours["soft"],
        "ytick.color": colours["soft"],
        "grid.color": colours["grid"],
    }


def _draw(figure: Figure) -> Canvas:
    match figure.chart:
        case EpisodesChart() as chart:
            return _episodes(figure, chart)
        case TradeoffChart() as chart:
            return _tradeoff(figure, chart)
        case LatencyChart() as chart:
            return _latency(figure, chart)
        case ChannelsChart() as chart:
            return _channels(figure, chart)
        case OperatorsChart() as chart:
            return _operators(figure, chart)


def _canvas(height: float = _HEIGHT) -> Canvas:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.2, wspace=0.06)
    return Canvas(figsize=(_WIDTH, height), layout=layout, facecolor="white")


def _axes(figure: Figure, x_name: str, y_name: str = "") -> tuple[Canvas, Axes]:
    canvas = _canvas()
    axes = canvas.add_subplot()
    axes.set_title(figure.title)
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(visible=True)
    axes.locator_params(steps=[1, 2, 5, 10])
    return canvas, axes


def _episodes(figure: Figure, chart: EpisodesChart) -> Canvas:
    canvas, axes = _axes(figure, "episode", chart.value_name)
    axes.yaxis.set_major_formatter(lambda value, _: chart.format_value(value))
    for index, (first, last) in enumerate(chart.warmups):
        axes.axvspan(first, last + 1, color=palette()["shade"], label="" if index else "warm-up")
    axes.scatter(chart.episodes, chart.values, s=26, color=palette()["dot"], alpha=0.45, linewidths=0)
    for line in chart.lines:
        axes.plot(*zip(*line, strict=True), color=palette()["ink"], linewidth=2.5)
    if chart.warmups:
        axes.legend(frameon=False, loc="lower right")
    return canvas


def _tradeoff(figure: Figure, chart: TradeoffChart) -> Canvas:
    canvas, axes = _axes(figure, chart.cost_name, "top-1")
    axes.yaxis.set_major_formatter(lambda value, _: percent_tick(value))
    names = dict(figure.legend)
    for kind in dict.fromkeys(point.kind for point in chart.points):
        points = [point for point in chart.points if point.kind == kind]
        axes.scatter(
            [point.cost for point in points],
            [point.accuracy for point in points],
            s=16,
            color=palette()[{"warmup": "baseline", "control": "uniform"}.get(kind, "dot")],
            alpha=0.45,
            linewidths=0,
            label=names.pop(f"dot {kind}", None),
        )
    if chart.limit is not None:
        axes.axvline(chart.limit, color=palette()["soft"], linestyle="--", linewidth=1.5, label="budget")
    if chart.front:
        costs, accuracies = zip(*((point.cost, point.accuracy) for point in chart.front), strict=True)
        axes.plot(costs, accuracies, drawstyle="steps-post", color=palette()["ink"], linewidth=1.6)
    for mark in chart.marks:
        name = names.pop(mark.kind, None)
        axes.scatter(mark.cost, mark.accuracy, s=170, zorder=3, label=name, **_look(mark.kind))
    noted = [mark for mark in chart.marks if mark.note]
    if noted:
        _write_notes(axes, noted)
    if axes.get_legend_handles_labels()[0]:
        canvas.legend(frameon=False, loc="outside lower center", ncols=_LEGEND_COLUMNS)
    return canvas


def _write_notes(axes: Axes, marks: Sequence[Point]) -> None:
    """Writes the notes of marks clear of one another, as far as the size of the axes is known."""
    width, height = 0.85 * _WIDTH * 72, 0.7 * _HEIGHT * 72  # points
    place = axes.transLimits.transform([(mark.cost, mark.accuracy) for mark in marks])
    places = [(float(x) * width, (1.0 - float(y)) * height) for x, y in place]
    lengths = [9.0 * len(mark.note) + 20 for mark in marks]
    sides = note_sides(places, lengths, height=18, right_edge=width)
    for mark, (right, below) in zip(marks, sides, strict=True):
        axes.annotate(
            mark.note,
            (mark.cost, mark.accuracy),
            (10 * right, -10 * below),
            textcoords="offset points",
            ha="left" if right > 0 else "right",
            va="top" if below > 0 else "bottom",
            fontsize=14,
        )


def _latency(figure: Figure, chart: LatencyChart) -> Canvas:
    canvas, axes = _axes(figure, chart.unit)
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    axes.set_yticks(range(len(chart.bars)), [bar.name for bar in chart.bars])
    for row, bar in enumerate(chart.bars):
        axes.barh(row, bar.median, height=0.55, **_look(bar.kind))
        high = min(bar.high, chart.end)
        spread = [[max(0.0, bar.median - bar.low)], [max(0.0, high - bar.median)]]
        axes.errorbar(bar.median, row, xerr=spread, color=palette()["ink"], capsize=6, linewidth=1.8)
        if bar.high > chart.end:
            axes.plot(chart.end, row, marker=">", markersize=11, color=palette()["ink"])
        end = max(bar.median, high)
        axes.annotate(f"{bar.median:.2f} ms", (end, row), (10, 0), textcoords="offset points", va="center")
    axes.set_xlim(0.0, 1.14 * chart.end)
    return canvas


def _channels(figure: Figure, chart: ChannelsChart) -> Canvas:
    height = 0.72 / len(chart.kinds)

    def draw_row(axes: Axes, place: int, row: Channels) -> None:
        axes.barh(place, 1.0, height=0.72, color=palette()["track"])
        for plan, (kind, kept) in enumerate(zip(chart.kinds, row.kept, strict=True)):
            middle = place - 0.36 + height * (plan + 0.5)
            axes.barh(middle, kept / row.before, height=height, **_look(kind))
        if row.uniform is not None:
            share = row.uniform / row.before
            axes.vlines(share, place - 0.42, place + 0.42, palette()["uniform"], lw=3)

    numbers = [f"{row.before} → {', '.join(map(str, row.kept))}" for row in chart.rows]
    canvas = _panels(figure, chart.rows, numbers, draw_row, bars=len(chart.kinds), longest=1.0)
    for axes in canvas.axes:
        axes.set_xlabel(f"{chart.what} kept")
        axes.set_xticks([0.0, 0.5, 1.0], ["0 %", "50 %", "100 %"])
    return canvas


def _operators(figure: Figure, chart: OperatorsChart) -> Canvas:
    def draw_row(axes: Axes, place: int, row: OperatorPair) -> None:
        axes.barh(place - 0.18, row.before_ms, height=0.36, **_look("baseline"))
        axes.barh(place + 0.18, row.after_ms, height=0.36, **_look("found"))

    numbers = [f"{row.before_ms:.3f} → {row.after_ms:.3f}" for row in chart.rows]
    longest = max(max(row.before_ms, row.after_ms) for row in chart.rows)
    canvas = _panels(figure, chart.rows, numbers, draw_row, bars=2, longest=longest)
    for axes in canvas.axes:
        axes.set_xlabel("ms")
        axes.locator_params(axis="x", nbins=4)
    return canvas


def _panels(
    figure: Figure,
    rows: Sequence[_Row],
    numbers: Sequence[str],
    draw_row: Callable[[Axes, int, _Row], None],
    *,
    bars: int,
    longest: float,
) -> Canvas:
    """Draws named rows from the top down, in several columns where they are many.

    Args:
        figure: For its title and legend.
        rows: Each with a name.
        numbers: Written behind each.
        draw_row: Draws the bars of a row at a height of the axes.
        bars: In a row, one below the other.
        longest: Where the horizontal axis ends.
    """
    num_panels = min(_MOST_PANELS, math.ceil(len(rows) / _ROWS_OF_PANEL))
    size = math.ceil(len(rows) / num_panels)
    canvas = _canvas(max(_HEIGHT, 1.9 + size * max(0.3, 0.16 * bars)))
    canvas.suptitle(figure.title, x=0.016, ha="left", weight="bold", size=24)
    text_size = 17 - 3 * (num_panels - 1)
    for panel, axes in enumerate(canvas.subplots(1, num_panels, squeeze=False)[0]):
        part = range(panel * size, min(len(rows), (panel + 1) * size))
        axes.set_yticks(range(len(part)), [shortened(rows[index].name, 24) for index in part])
        axes.set_ylim(size - 0.4, -0.6)
        axes.set_xlim(0.0, longest)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelsize=text_size)
        for place, index in enumerate(part):
            draw_row(axes, place, rows[index])
            axes.text(longest, place, f" {numbers[index]}", va="center", size=text_size - 1)
    if figure.legend:
        from matplotlib.patches import Patch

        handles = [Patch(label=name, **_look(kind)) for kind, name in figure.legend]
        canvas.legend(handles=handles, frameon=False, loc="outside lower center", ncols=_LEGEND_COLUMNS)
    return canvas


def _look(kind: str) -> dict[str, Any]:
    """Returns how a mark or bar is filled and outlined, as the style sheet does for its CSS class."""
    words, colours = kind.split(), palette()
    colour = next((colours[word] for word in words if word in colours), colours["found"])
    alpha = 0.2 if "predicted" in words else 0.35 if "int8" in words else 1.0
    fill = (colour, 0.0 if "raw" in words else alpha)
    line = "--" if "predicted" in words else "-"
    return {"facecolor": fill, "edgecolor": colour, "linewidth": 2.0, "linestyle": line}
