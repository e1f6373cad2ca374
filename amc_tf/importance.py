"""Scores of single channels: which ones of a group to keep at a given width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from amc_tf.calibration import Calibration
from amc_tf.elimination import Reader, elimination_order
from amc_tf.errors import SettingsError
from amc_tf.graph import ChannelGraph, ChannelMap
from amc_tf.named_function import find_function, is_named_function
from amc_tf.weights import Weights

Scores = dict[str, NDArray[np.float64]]
Importance = Callable[[ChannelGraph, Weights, Calibration], Scores]


def l1_consumer(graph: ChannelGraph, weights: Weights, calibration: Calibration) -> Scores:
    """Sum of the magnitudes with which the reading kernels weigh a channel (authors' code)."""
    return _sum_readers(graph, lambda path: _input_rows(graph, weights, path, np.abs))


def l2_consumer(graph: ChannelGraph, weights: Weights, calibration: Calibration) -> Scores:
    """Root of the summed squares with which the reading kernels weigh a channel."""
    return _root(_sum_readers(graph, lambda path: _input_rows(graph, weights, path, np.square)))


def l1_producer(graph: ChannelGraph, weights: Weights, calibration: Calibration) -> Scores:
    """Sum of the magnitudes of the kernels that make a channel (Li et al., ICLR 2017)."""
    return _sum_writers(graph, lambda path: _output_columns(graph, weights, path, np.abs))


def l2_producer(graph: ChannelGraph, weights: Weights, calibration: Calibration) -> Scores:
    """Root of the summed squares of the kernels that make a channel."""
    return _root(_sum_writers(graph, lambda path: _output_columns(graph, weights, path, np.square)))


def activation(graph: ChannelGraph, weights: Weights, calibration: Calibration) -> Scores:
    """Root mean square of the channel where it is read (after "maximum response", AMC section 3.3)."""
    return _root(_sum_readers(graph, lambda path: _energy(graph, calibration, path)))


def l2_consumer_activation(graph: ChannelGraph, weights: Weights, calibration: Calibration) -> Scores:
    """Energy that a channel brings to what reads it: L2 of the kernel times RMS of the channel."""

    def contribution(path: str) -> NDArray[np.float64]:
        return _input_rows(graph, weights, path, np.square) * _energy(graph, calibration, path)

    return _root(_sum_readers(graph, contribution))


def backward_elimination(graph: ChannelGraph, weights: Weights, calibration: Calibration) -> Scores:
    """Order in which channels go when the one whose removal costs the readers least goes first, each time.

    The readers are re-fitted by least squares after every removal (see `amc_tf.elimination`), so that of two
    channels which say the same one stays; each counts in proportion to the energy of its own output. A reader
    without statistics, or of a part of the group, adds the squares of its kernel.
    """
    scores: Scores = {}
    readers_of = _readers(graph)
    for index, group in enumerate(graph.groups):
        readers: list[Reader] = []
        fixed_costs = np.zeros(group.num_channels)
        for path, channel_map in readers_of.get(index, ()):
            kernel = _kernel_by_input(graph, weights, path)
            rows, channels = _rows_of_group(channel_map, index, len(kernel))
            statistics = calibration.inputs.get(path)
            counts = np.bincount(channels, minlength=len(fixed_costs))
            if statistics is not None and (counts == counts[0]).all():
                by_channel = rows[np.argsort(channels, kind="stable")].reshape(len(counts), -1)
                readers.append(Reader(statistics, kernel, by_channel))
            else:
                squares = np.square(kernel, dtype=np.float64).sum(axis=1)
                np.add.at(fixed_costs, channels, squares[rows] / max(float(squares.sum()), 1e-12))
        order = elimination_order(readers, fixed_costs)
        scores[group.name] = np.empty(len(order))
        scores[group.name][order] = np.arange(1.0, len(order) + 1.0)
    return scores


IMPORTANCES: dict[str, Importance] = {
    "l1_consumer": l1_consumer,
    "l2_consumer": l2_consumer,
    "l1_producer": l1_producer,
    "l2_producer": l2_producer,
    "activation": activation,
    "l2_consumer_activation": l2_consumer_activation,
    "backward_elimination": backward_elimination,
}


def find_importance(name: str) -> Importance:
    """Returns the importance of that name, or a function of the user's own, named as `module:function`.

    Raises:
        SettingsError: if there is none, listing those there are.
    """
    if is_named_function(name):
        return _own_importance(name)
    if name not in IMPORTANCES:
        raise SettingsError(
            f"importance is {name!r}; choose one of {', '.join(IMPORTANCES)}, or your own as module:function."
        )
    return IMPORTANCES[name]


def _own_importance(name: str) -> Importance:
    """Returns a function of the user's own, its scores checked."""
    function = find_function(name, error=SettingsError)

    def importance(graph: ChannelGraph, weights: Weights, calibration: Calibration) -> Scores:
        scores = function(graph, weights, calibration)
        checked: Scores = {}
        for group in graph.groups:
            try:
                checked[group.name] = np.asarray(scores[group.name], dtype=np.float64)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise SettingsError(
                    f"{name} must return numbers by the name of each channel group, but has none for "
                    f"'{group.name}'."
                ) from error
            if checked[group.name].shape != (group.num_channels,):
                raise SettingsError(
                    f"{name} must return a number for each of the {group.num_channels} channels of "
                    f"'{group.name}', but returned an array of shape {list(checked[group.name].shape)}."
                )
            if not np.isfinite(checked[group.name]).all():
                raise SettingsError(f"{name} returned a number that is NaN or infinite for '{group.name}'.")
        return checked

    return importance


def _kernel_by_input(graph: ChannelGraph, weights: Weights, path: str) -> NDArray[np.float32]:
    """The reading kernel as [rows * columns * channels, outputs]."""
    name, axis = graph.layers()[path][1].reads or ("", 0)
    kernel = weights[path][name]
    return kernel.reshape(-1, kernel.shape[axis + 1])


def _readers(graph: ChannelGraph) -> Mapping[int, Sequence[tuple[str, ChannelMap]]]:
    """Returns (path, map of its input positions) of every layer that reads a group, by the group's index."""
    found: dict[int, list[tuple[str, ChannelMap]]] = {}
    for path, (_, rule) in graph.layers().items():
        channel_map = None if rule.reads is None else graph.axes[path][rule.reads[0]][rule.reads[1]]
        if channel_map is not None:
            for index in np.unique(channel_map.group):
                found.setdefault(int(index), []).append((path, channel_map))
    return found


def _rows_of_group(
    channel_map: ChannelMap, index: int, num_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns which rows of a reading kernel belong to a group, and to which channel each; int64 [rows]."""
    positions = np.flatnonzero(channel_map.group == index)
    windows = np.arange(0, num_rows, len(channel_map.group))  # the first row of each position of the window
    channels = np.tile(channel_map.channel[positions].astype(np.int64), len(windows))
    return (windows[:, None] + positions[None, :]).ravel(), channels


def _input_rows(
    graph: ChannelGraph, weights: Weights, path: str, measure: Callable[..., NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Sums a measure of the reading kernel for each input channel; float64 [channels]."""
    name, axis = graph.layers()[path][1].reads or ("", 0)
    kernel = measure(weights[path][name])
    return kernel.sum(axis=tuple(other for other in range(kernel.ndim) if other != axis), dtype=np.float64)


def _output_columns(
    graph: ChannelGraph, weights: Weights, path: str, measure: Callable[..., NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Sums a measure of the writing kernel for each output channel; float64 [channels]."""
    name, _ = graph.layers()[path][1].writes or ("", 0)
    kernel = measure(weights[path][name])
    return kernel.reshape(-1, kernel.shape[-1]).sum(axis=0, dtype=np.float64)


def _energy(graph: ChannelGraph, calibration: Calibration, path: str) -> NDArray[np.float64]:
    """Mean square of each input channel of a layer, 1 where it was not gathered; float64 [channels]."""
    name, axis = graph.layers()[path][1].reads or ("", 0)
    channel_map = graph.axes[path][name][axis]
    num_channels = 0 if channel_map is None else len(channel_map.group)
    if path not in calibration.inputs:
        return np.ones(num_channels)
    return calibration.inputs[path].mean_square.reshape(-1, num_channels).mean(axis=0, dtype=np.float64)


def _sum_readers(graph: ChannelGraph, score: Callable[[str], NDArray[np.float64]]) -> Scores:
    return _sum_over(graph, score, lambda path: graph.layers()[path][1].reads)


def _sum_writers(graph: ChannelGraph, score: Callable[[str], NDArray[np.float64]]) -> Scores:
    return _sum_over(graph, score, lambda path: graph.layers()[path][1].writes)


def _sum_over(
    graph: ChannelGraph,
    score: Callable[[str], NDArray[np.float64]],
    axis_of: Callable[[str], tuple[str, int] | None],
) -> Scores:
    """Adds up scores given per position of a weight axis into scores per channel of each group."""
    totals = [np.zeros(group.num_channels) for group in graph.groups]
    for path in graph.axes:
        place = axis_of(path)
        channel_map = None if place is None else graph.axes[path][place[0]][place[1]]
        if channel_map is not None:
            values = score(path)
            for index in np.unique(channel_map.group[channel_map.group >= 0]):
                here = channel_map.group == index
                np.add.at(totals[index], channel_map.channel[here], values[here])
    return {group.name: total for group, total in zip(graph.groups, totals, strict=True)}


def _root(scores: Scores) -> Scores:
    return {name: np.sqrt(values) for name, values in scores.items()}
