"""Estimates the batch-norm statistics of a pruned network."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.layers.weighted import BatchNormalizationRule
from amc_tf.network import NetworkFunction, to_tensors
from amc_tf.plan import PruningPlan
from amc_tf.weights import Weights


class BatchNormEstimator:
    """Moves the moving averages, which describe the original network, to where the pruned one has them.

    Mean and variance are measured in both networks on the same images, and the averages take over what is
    different: the mean moves by as many standard deviations, the variance by as large a factor. What these
    few images have of their own is in both measurements and drops out: 25 images do as well as 200 without it
    (ResNet-20, see RESULTS.md), and a network that lost nothing stays as it is. Removing channels shifts what
    later layers see, and these statistics are the cheapest thing to put right (compare Li et al., EagleEye,
    ECCV 2020, who replace them).

    Every batch normalisation normalises by the batch while it is measured, so that the layers after it see
    inputs in their usual range.

    Args:
        network: the original network.
        images: float32 [images, height, width, channels] calibration images in the model's input range.
        batch_size: most images per run, which are dealt out evenly; the statistics of a batch stand in for
            those of all, so not too few.
    """

    def __init__(
        self, network: NetworkFunction, images: NDArray[np.float32], *, batch_size: int = 100
    ) -> None:
        self._network = network
        num_batches = math.ceil(len(images) / batch_size)
        self._batches = [tf.constant(batch) for batch in np.array_split(images, num_batches)]
        self._layers = {
            path: layer
            for path, (layer, rule) in network.graph.layers().items()
            if isinstance(rule, BatchNormalizationRule)
        }

    def __call__(self, weights: Weights, plan: PruningPlan | None = None) -> Weights:
        """Returns the weights with new moving means and variances; the arrays given are not changed.

        Args:
            weights: of the pruned network.
            plan: what it was pruned by; None for a network that has all its channels.
        """
        if not self._layers:
            return weights
        originals = self._originals if plan is None else self._network.slice(plan, self._originals)
        estimated = dict(weights)
        for path, after in self._measured(weights).items():
            moved = _move(originals[path], after, self._layers[path].epsilon)
            estimated[path] = {**weights[path], **moved}
        return estimated

    @functools.cached_property
    def _originals(self) -> Weights:
        """Of the original network its averages and what is measured in it, float32 [channels, 2], by path."""
        return {
            path: {
                name: np.stack([self._network.weights[path][name], arrays[name]], axis=-1) for name in arrays
            }
            for path, arrays in self._measured(self._network.weights).items()
        }

    def _measured(self, weights: Weights) -> Weights:
        """Returns moving_mean and moving_variance over all images, float32 [channels], by path."""
        tensors = to_tensors(weights)  # faster than the function's own conversion, and once for all batches
        found = [self._network.batch_statistics(batch, tensors) for batch in self._batches]
        sizes = [len(batch) for batch in self._batches]
        return {path: _combine([statistics[path] for statistics in found], sizes) for path in self._layers}


def _move(
    original: Mapping[str, NDArray[np.float32]], after: Mapping[str, NDArray[np.float32]], epsilon: float
) -> dict[str, NDArray[np.float32]]:
    """Moves averages by what two measurements differ; variances count with epsilon, as in the layer."""
    mean, mean_before = original["moving_mean"].T
    average, before = original["moving_variance"].T + epsilon
    change = (after["moving_mean"] - mean_before) * np.sqrt(average / before)
    variance = average * (after["moving_variance"] + epsilon) / before - epsilon
    return {
        "moving_mean": (mean + change).astype(np.float32),
        "moving_variance": np.maximum(variance, 0.0).astype(np.float32),
    }


def _combine(statistics: Sequence[Any], sizes: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """Joins what was measured on several batches, and in several calls of the layer, which count alike.

    Args:
        statistics: for each batch float32 [calls, 2, channels].
        sizes: images of each batch.

    Returns:
        Mean and variance over everything, float32 [channels] each.
    """
    table = np.stack([np.asarray(item, np.float64) for item in statistics])  # [batches, calls, 2, channels]
    weights = np.asarray(sizes, np.float64) / (sum(sizes) * table.shape[1])
    mean = np.einsum("b,bcn->n", weights, table[:, :, 0])
    spread = np.square(table[:, :, 0] - mean)
    variance = np.einsum("b,bcn->n", weights, table[:, :, 1] + spread)
    return {"moving_mean": mean.astype(np.float32), "moving_variance": variance.astype(np.float32)}
