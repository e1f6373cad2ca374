"""Predicts latency from widths by a device's latency table, for the bounds of a latency budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from amc_tf.device.operators import Operator
from amc_tf.device.table import LatencyTable
from amc_tf.graph import ChannelGraph, ChannelMap
from amc_tf.latency_model import ObservedLatencies
from amc_tf.plan import allowed_widths
from amc_tf.trace import Call

_MAX_POINTS = 128  # widths of one axis at which an operator is predicted
_PRIOR_WEIGHT = 0.3  # of the common factor, in measurements of which each share has its part
_NNLS_ROUNDS = 30  # for each unknown
# What a layer becomes in TFLite; activations and batch normalisation end up inside these. Of the others
# (reshapes, softmax, activations that stand alone) nothing is predicted: the fit to measurements covers them.
_KINDS = {
    "Conv2D": "CONV_2D",
    "DepthwiseConv2D": "DEPTHWISE_CONV_2D",
    "Conv2DTranspose": "TRANSPOSE_CONV",
    "Dense": "FULLY_CONNECTED",
    "GlobalAveragePooling2D": "MEAN",
    "AveragePooling2D": "AVERAGE_POOL_2D",
    "MaxPooling2D": "MAX_POOL_2D",
    "ZeroPadding2D": "PAD",
    "Add": "ADD",
    "Multiply": "MUL",
    "Concatenate": "CONCATENATION",
}


class TablePredictor(ObservedLatencies):
    """An upper bound of what a latency table says, corrected by the measurements of the search.

    latency = sum over operators o of share_o * bound_o(channels in, channels out), where bound_o is the
    longest time that the table predicts for the operator at these channel counts or fewer, over the widths
    that a search may choose. So it never falls when a width rises, which the bounds of a budget rely on,
    although real latency falls here and there: where 24 channels take longer than 32, both count as long.

    share_o >= 0 is 1 for a table that is exactly right. The shares minimise the squared relative errors over
    all measurements, each drawn towards the common factor by which measurements exceed the table, so that a
    few measurements set the factor and many tell the operators apart.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        table: LatencyTable,
        baseline_ms: float,
        *,
        round_to: int = 8,
        min_keep_ratio: float = 0.2,
    ) -> None:
        """Predicts every operator at every width; takes a second for a large network.

        Args:
            graph: the network.
            table: of the device.
            baseline_ms: latency of the original, measured or predicted.
            round_to: widths are multiples of this (or untouched); others count as the next one.
            min_keep_ratio: smallest part of the channels that stays in each group.

        Raises:
            MeasurementError: if the table is empty or of other precisions, or the latency is not above 0.
        """
        super().__init__()
        widths = [
            allowed_widths(group.num_channels, round_to=round_to, min_keep_ratio=min_keep_ratio)
            for group in graph.groups
        ]
        operators = _find_operators(graph)
        self._bounds = [_Bound(table, item, widths, round_to) for item in operators]
        forms = [form for item in operators for form in (item.inputs, item.outputs)]
        self._fixed = np.array([form.fixed for form in forms], np.int64)
        self._multiplicity = np.array([form.multiplicity for form in forms], np.int64)
        self.observe(graph.full_widths, baseline_ms)

    def _terms(self, widths: Sequence[int]) -> NDArray[np.float64]:
        """Returns the bound of each operator in ms, [operators]."""
        channels = (self._fixed + self._multiplicity @ np.asarray(widths)).tolist()
        pairs = zip(channels[::2], channels[1::2], strict=True)
        return np.array([bound(*pair) for bound, pair in zip(self._bounds, pairs, strict=True)])

    def _fit(self, terms: NDArray[np.float64], latencies: NDArray[np.float64]) -> NDArray[np.float64]:
        factor = float(np.median(latencies / terms.sum(axis=1)))
        rows = terms / latencies[:, None]
        prior = _PRIOR_WEIGHT * terms.shape[1] ** 0.5 * np.diag(rows.mean(axis=0))
        matrix = np.concatenate([rows, prior])
        targets = np.concatenate([np.ones(len(rows)), prior.sum(axis=1) * factor])
        return nnls(matrix, targets, maxiter=_NNLS_ROUNDS * terms.shape[1])[0]


@dataclasses.dataclass(frozen=True)
class _Channels:
    """A number of channels as a function of the widths: fixed + multiplicity @ widths."""

    fixed: int
    multiplicity: tuple[int, ...]

    @classmethod
    def of(cls, channels: ChannelMap, graph: ChannelGraph) -> _Channels:
        groups = channels.group
        counts = np.bincount(groups[groups >= 0], minlength=len(graph.groups))
        multiplicity = tuple((counts // np.array(graph.full_widths)).tolist())
        return cls(int((groups < 0).sum()), multiplicity)

    def values(self, widths: Sequence[Sequence[int]], round_to: int) -> NDArray[np.int64]:
        """Lists the channel counts that the widths of a search lead to, at most `_MAX_POINTS`, ascending."""
        used = [index for index, count in enumerate(self.multiplicity) if count]
        if not used:
            return np.array([self.fixed])
        lowest, largest = (
            self.fixed + sum(self.multiplicity[index] * widths[index][end] for index in used)
            for end in (0, -1)
        )
        if len(used) == 1:
            found = self.fixed + self.multiplicity[used[0]] * np.array(widths[used[0]])
        else:
            found = np.append(np.arange(lowest, largest, round_to), largest)
        step = -(-len(found) // _MAX_POINTS)
        return found[::-1][::step][::-1]


@dataclasses.dataclass(frozen=True)
class _LayerOperator:
    """An operator of the network, and its channels as functions of the widths."""

    operator: Operator
    inputs: _Channels
    outputs: _Channels


class _Bound:
    """The time of one operator as a function of its channels that never falls."""

    def __init__(
        self, table: LatencyTable, item: _LayerOperator, widths: Sequence[Sequence[int]], round_to: int
    ) -> None:
        (operator,) = table.translate([item.operator])
        self._inputs, self._outputs = (form.values(widths, round_to) for form in (item.inputs, item.outputs))
        columns, rows = np.meshgrid(self._outputs, self._inputs)
        times = table.times.predict_widths(operator, rows.ravel(), columns.ravel()).reshape(rows.shape)
        self._table = np.maximum.accumulate(np.maximum.accumulate(times, axis=0), axis=1)
        self._found: dict[tuple[int, int], float] = {}

    def __call__(self, inputs: int, outputs: int) -> float:
        """Returns the time in ms with these channels; between two known widths that of the larger."""
        time = self._found.get((inputs, outputs))
        if time is None:
            row = min(int(np.searchsorted(self._inputs, inputs)), len(self._inputs) - 1)
            column = min(int(np.searchsorted(self._outputs, outputs)), len(self._outputs) - 1)
            time = self._found[inputs, outputs] = float(self._table[row, column])
        return time


def _find_operators(graph: ChannelGraph) -> list[_LayerOperator]:
    """Lists what the calls of a network become in TFLite, in network order."""
    nothing = (0,) * len(graph.groups)
    forms = {
        number: _Channels(shape[-1] if shape else 1, nothing)
        for number, shape in zip(graph.trace.inputs, graph.trace.input_shapes, strict=True)
    }
    found = []
    for call, outputs in zip(graph.trace.calls, graph.outputs, strict=True):
        forms.update(zip(call.outputs, (_Channels.of(item, graph) for item in outputs), strict=True))
        if call.inputs and call.outputs:
            source, result = forms[call.inputs[0]], forms[call.outputs[0]]
            found.extend(_operators_of(call, source, result))
    return found


def _operators_of(call: Call, source: _Channels, result: _Channels) -> list[_LayerOperator]:
    layer, name = call.layer, type(call.layer).__name__
    if name == "SeparableConv2D":
        depthwise = _operator("DEPTHWISE_CONV_2D", layer, call.input_shapes[0], call.output_shapes[0])
        pointwise = Operator("CONV_2D", depthwise.output, _three(call.output_shapes[0]))
        return [_LayerOperator(depthwise, source, source), _LayerOperator(pointwise, source, result)]
    if name not in _KINDS:
        return []
    operator = _operator(_KINDS[name], layer, call.input_shapes[0], call.output_shapes[0])
    return [_LayerOperator(operator, source, result)]


def _operator(kind: str, layer: Any, source: Sequence[int], result: Sequence[int]) -> Operator:
    """Returns a layer as an operator; its channels do not count."""
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None) or (1, 1)
    stride = getattr(layer, "strides", None) or (1, 1)
    groups = getattr(layer, "groups", 1)
    return Operator(
        kind,
        _three(source),
        _three(result),
        kernel=tuple(map(int, window)) if len(window) == 2 else (1, 1),  # type: ignore[arg-type]  # two
        stride=tuple(map(int, stride)) if len(stride) == 2 else (1, 1),  # type: ignore[arg-type]  # two
        groups=groups if kind == "CONV_2D" else 1,
    )


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    sizes = (1, 1, *shape)
    return sizes[-3], sizes[-2], sizes[-1]
