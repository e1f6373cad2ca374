"""Measures the batch-norm statistics of a pruned network again."""

from __future__ import annotations

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
        batch_size: images per run; the statistics of a batch stand in for those of all, so not too few.
    """

    def __init__(
        self, network: NetworkFunction, images: NDArray[np.float32], *, batch_size: int = 100
    ) -> None:
        self._network = network
        starts = range(0, len(images), batch_size)
        self._batches = [tf.constant(images[start : start + batch_size]) for start in starts]
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
        means: dict[str, list[NDArray[np.float32]]] = {path: [] for path in self._paths}
        variances: dict[str, list[NDArray[np.float32]]] = {path: [] for path in self._paths}
        for batch in self._batches:
            for path, (mean, variance) in self._measure(batch, weights).items():
                means[path].append(mean.numpy())
                variances[path].append(variance.numpy())
        shares = np.array([len(batch) for batch in self._batches], np.float64)
        shares /= shares.sum()
        estimated = dict(weights)
        for path in self._paths:
            mean = np.tensordot(shares, means[path], 1)
            spread = np.tensordot(shares, np.square(np.array(means[path]) - mean), 1)
            variance = np.tensordot(shares, variances[path], 1) + spread
            estimated[path] = {
                **weights[path],
                "moving_mean": mean.astype(np.float32),
                "moving_variance": variance.astype(np.float32),
            }
        return estimated

    def _statistics(self, images: Any, weights: Any) -> dict[str, tuple[Any, Any]]:
        statistics: dict[str, tuple[Any, Any]] = {}
        self._network.run(images, weights, statistics=statistics)
        return statistics

    def _signature(self) -> list[Any]:
        images = tf.TensorSpec((None, *self._network.input_shape), tf.float32)
        return [images, self._network.weight_signature(self._network.weights)]
