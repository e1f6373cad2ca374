"""Weights of a network as arrays by layer path: read from a model, cut to a plan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph, ChannelMap, named_weights
from amc_tf.plan import PruningPlan

Weights = dict[str, dict[str, NDArray[np.float32]]]


def read_weights(graph: ChannelGraph) -> Weights:
    """Reads the weights of the layers that have a pruning rule.

    Returns:
        By layer path and weight name, float32 in the layer's own shapes; copies.

    Raises:
        ModelError: If one is NaN or infinite: everything that is computed with it would be, too.
    """
    weights = {}
    for path, (layer, rule) in graph.layers().items():
        if graph.axes.get(path) and layer.weights:
            arrays = named_weights(layer, rule).items()
            weights[path] = {name: np.array(array.numpy(), dtype=np.float32) for name, array in arrays}
            broken = [name for name, array in weights[path].items() if not np.isfinite(array).all()]
            if broken:
                raise ModelError(
                    f"The layer {path} has NaN or infinite numbers in its {broken[0]}: its training "
                    "diverged. Take the weights of an earlier epoch."
                )
    return weights


def slice_weights(graph: ChannelGraph, plan: PruningPlan, weights: Weights) -> Weights:
    """Cuts the removed channels out of full weights.

    Args:
        graph: the network.
        plan: what to keep.
        weights: full weights as `read_weights` returns them.

    Returns:
        New arrays of the slim shapes.

    Raises:
        PlanError: if the plan does not belong to the network.
    """
    plan.validate(graph)
    masks = plan.masks(graph)
    return {
        path: {name: _cut(array, graph.axes[path].get(name, ()), masks) for name, array in arrays.items()}
        for path, arrays in weights.items()
    }


def _cut(
    array: NDArray[np.float32], maps: tuple[ChannelMap | None, ...], masks: list[NDArray[np.bool_]]
) -> NDArray[np.float32]:
    for axis, channel_map in enumerate(maps):
        if channel_map is not None:
            array = np.compress(channel_map.kept(masks), array, axis=axis)
    return np.ascontiguousarray(array)
