"""The layers whose weights are pruned one by one, and the cost of the network that keeps some of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amc_tf.cost import BYTES_PER_FLOAT32, Cost
from amc_tf.errors import ModelError, PlanError, SettingsError
from amc_tf.graph import ChannelGraph
from amc_tf.layers.base import LayerRule
from amc_tf.settings import MIN_KEEP_RATIO_DENSE, SearchSettings
from amc_tf.trace import Call

_NUM_STEPS = 200  # keep ratios that a layer may be given, in (0, 1]
_BITS_PER_BYTE = 8


@dataclasses.dataclass(frozen=True)
class SparseLayer:
    """A layer whose kernel is pruned weight by weight.

    Attributes:
        path: path of the layer.
        num_weights: elements of its kernel.
        positions: how often each of them is multiplied per image, in all calls of the layer.
        is_dense: whether it is a Dense layer rather than a convolution.
        num_channels: output channels.
        input_channels: channels that it reads.
        height: rows of its input, 1 for Dense.
        width: columns of its input, 1 for Dense.
        kernel_size: rows of its kernel, 1 for Dense.
        stride: its stride, 1 for Dense.
    """

    path: str
    num_weights: int
    positions: int
    is_dense: bool
    num_channels: int
    input_channels: int
    height: int
    width: int
    kernel_size: int
    stride: int


class SparseLayers:
    """A network as layers that keep a number of their weights each: what fine-grained pruning decides on.

    Pruned are the kernels of Conv2D and Dense layers. Depthwise kernels hold few weights (1 % of MobileNet's)
    that each channel depends on, and neither tensorflow-model-optimization nor XNNPACK's sparse kernels take
    them; batch normalisation and biases stay as well, and so do layers that are not trained.

    Costs are those of the weights that are not zero. A pruned kernel is stored as its weights, float32, and
    one bit for each place that says whether a weight stands there, or dense where that is shorter: this is
    what "bytes" counts. It never falls when a layer keeps more.

    Attributes:
        graph: the channel graph of the network.
        groups: the layers in network order.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        """Finds the layers.

        Args:
            graph: the channel graph of the network.

        Raises:
            ModelError: if no layer has weights that can be pruned.
        """
        self.graph = graph
        calls: dict[str, Call] = {}
        for call in graph.trace.calls:
            if type(call.layer).__name__ in ("Conv2D", "Dense") and graph.axes.get(call.path):
                calls.setdefault(call.path, call)
        macs = graph.layer_macs()
        self.groups: tuple[SparseLayer, ...] = tuple(
            _read_layer(call, macs[path]) for path, call in calls.items() if call.layer.trainable
        )
        if not self.groups:
            raise ModelError(
                f"'{graph.trace.name}' has no trainable Conv2D or Dense layer whose weights could be pruned."
            )
        self._full = graph.count()
        self._sizes = np.array([layer.num_weights for layer in self.groups], np.int64)
        self._positions = np.array([layer.positions for layer in self.groups], np.int64)
        self._mask_bytes = -(-self._sizes // _BITS_PER_BYTE)

    @property
    def full_widths(self) -> tuple[int, ...]:
        """The number of weights of each layer."""
        return tuple(layer.num_weights for layer in self.groups)

    def allowed(
        self,
        *,
        min_keep_ratio: float = SearchSettings.min_keep_ratio,
        min_keep_ratio_dense: float = MIN_KEEP_RATIO_DENSE,
    ) -> tuple[tuple[int, ...], ...]:
        """Lists how many weights each layer may keep, ascending: keep ratios in steps of half a per cent.

        Args:
            min_keep_ratio: smallest part of a convolution's weights that stays, in (0, 1].
            min_keep_ratio_dense: likewise of a Dense layer.

        Raises:
            SettingsError: if a ratio is outside its range.
        """
        for ratio in (min_keep_ratio, min_keep_ratio_dense):
            if not 0.0 < ratio <= 1.0:
                raise SettingsError(f"A smallest keep ratio of {ratio:g} was given; give one in (0, 1].")
        lowest = {False: min_keep_ratio, True: min_keep_ratio_dense}
        return tuple(_counts(layer.num_weights, lowest[layer.is_dense]) for layer in self.groups)

    def count(self, widths: Sequence[int] | None = None) -> Cost:
        """Counts the exact cost of the network whose layers keep so many weights (None: all)."""
        if widths is None:
            return self._full
        kept = np.asarray(widths, np.int64)
        if kept.shape != self._sizes.shape:
            raise PlanError(f"{len(kept)} numbers of weights were given for {len(self.groups)} layers.")
        removed = self._sizes - kept
        most = BYTES_PER_FLOAT32 * removed  # from here on a mask costs more than the zeros
        return Cost(
            macs=self._full.macs - int(removed @ self._positions),
            params=self._full.params - int(removed.sum()),
            mask_bytes=int(np.minimum(self._mask_bytes, most).sum()),
        )

    def group_macs(self, index: int) -> int:
        """Counts the multiply-accumulates of one layer before pruning."""
        return self.groups[index].num_weights * self.groups[index].positions

    def layer_macs(self, widths: Sequence[int]) -> dict[str, int]:
        """Counts the multiply-accumulates of each layer that has weights, by its path."""
        kept = {
            layer.path: int(width) * layer.positions for layer, width in zip(self.groups, widths, strict=True)
        }
        return {**self.graph.layer_macs(), **kept}

    def layers(self) -> Mapping[str, tuple[Any, LayerRule]]:
        """Returns layer and rule by path, each once, in network order."""
        return self.graph.layers()


def _read_layer(call: Call, macs: int) -> SparseLayer:
    layer: Any = call.layer
    num_weights = math.prod(layer.kernel.shape)
    is_dense = type(layer).__name__ == "Dense"
    shape = call.input_shapes[0]
    return SparseLayer(
        path=call.path,
        num_weights=num_weights,
        positions=macs // num_weights,
        is_dense=is_dense,
        num_channels=int(layer.kernel.shape[-1]),
        input_channels=int(shape[-1]),
        height=1 if is_dense else shape[0],
        width=1 if is_dense else shape[1],
        kernel_size=1 if is_dense else int(layer.kernel_size[0]),
        stride=1 if is_dense else int(layer.strides[0]),
    )


def _counts(num_weights: int, lowest: float) -> tuple[int, ...]:
    first = math.ceil(lowest * _NUM_STEPS - 1e-9)
    counts = {max(1, round(num_weights * step / _NUM_STEPS)) for step in range(first, _NUM_STEPS + 1)}
    return tuple(sorted(counts))
