"""Measures the batch-norm statistics of a pruned network again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.layers.weighted import BatchNormalizationRule
from amc_tf.network import NetworkFunction
from amc_tf.weights import Weights


class BatchNormEstimator:
    """Replaces the moving averages, which describe the original network, by those of the pruned one.

    Every batch normalisation normalises by the batch while it is measured, so that the layers after it see
    inputs in their usual range; mean and variance are then those over all images. Removing channels shifts
    what later layers see, and these statistics are the cheapest thing to put right (compare Li et al.,
    EagleEye, ECCV 2020).

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
        self._paths = [
            path
            for path, (_, rule) in network.graph.layers().items()
            if isinstance(rule, BatchNormalizationRule)
        ]
        self._measure = tf.function(self._statistics, input_signature=self._signature())

    def __call__(self, weights: Weights) -> Weights:
        """Returns the weights with new moving means and variances; the arrays given are not changed."""
        if not self._paths:
            return weights
        found = [self._measure(batch, weights) for batch in self._batches]
        sizes = [len(batch) for batch in self._batches]
        estimated = dict(weights)
        for path in self._paths:
            mean, variance = _combine([statistics[path] for statistics in found], sizes)
            estimated[path] = {**weights[path], "moving_mean": mean, "moving_variance": variance}
        return estimated

    def _statistics(self, images: Any, weights: Any) -> dict[str, Any]:
        """Returns for each batch normalisation float32 [calls, 2, channels]: means and variances."""
        statistics: dict[str, list[tuple[Any, Any]]] = {}
        self._network.run(images, weights, statistics=statistics)
        return {path: tf.stack([tf.stack(pair) for pair in pairs]) for path, pairs in statistics.items()}

    def _signature(self) -> list[Any]:
        images = tf.TensorSpec((None, *self._network.input_shape), tf.float32)
        return [images, self._network.weight_signature(self._network.weights)]


def _combine(
    statistics: Sequence[Any], sizes: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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
    return mean.astype(np.float32), variance.astype(np.float32)
