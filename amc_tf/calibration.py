"""Statistics of what each reading layer sees in the original network, gathered once on calibration images.

Because the target of the reconstruction is the output of the original layer on the same inputs, Y = X W, the
second moments XᵀX are all that least squares ever needs: XᵀY = XᵀX W.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.graph import ChannelGraph
from amc_tf.network import NetworkFunction, to_tensors
from amc_tf.trace import Call
from amc_tf.windows import read_windows, sample_positions

MAX_FEATURES = 8192
_MAX_TENSOR_BYTES = 2**27
# What float32 leaves of the moments of inputs that never change, as a part of their mean square.
_ROUNDING = 1e-9
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class InputStatistics:
    """First and second moments of the inputs of one layer over sampled positions.

    The features are the inputs that one output position sees, in the order rows, columns, channels.

    Attributes:
        mean: float32 [features].
        covariance: float32 [features, features], around that mean.
        num_samples: positions sampled.
    """

    mean: NDArray[np.float32]
    covariance: NDArray[np.float32]
    num_samples: int

    @property
    def mean_square(self) -> NDArray[np.float32]:
        """Mean square of each feature, float32 [features]."""
        return np.diag(self.covariance) + np.square(self.mean)

    @property
    def second_moment(self) -> NDArray[np.float32]:
        """Mean of x xᵀ, float32 [features, features]."""
        return self.covariance + np.outer(self.mean, self.mean)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was gathered on the calibration images.

    Attributes:
        inputs: statistics by path of the reading layer; a layer of more than `MAX_FEATURES` inputs has none.
    """

    inputs: dict[str, InputStatistics]


def calibrate(
    network: NetworkFunction,
    images: NDArray[np.float32],
    *,
    points_per_image: int = 64,
    seed: int = 0,
    batch_size: int = 50,
) -> Calibration:
    """Runs the original network and gathers the input statistics of every layer that reads prunable channels.

    The paper and its code sample 10 positions per image; the moments are cheap enough here for more.

    Args:
        network: the network with its own weights.
        images: float32 [images, height, width, channels] in the model's input range.
        points_per_image: output positions sampled per image and layer, with replacement, the same ones for
            all images of a batch; a layer with fewer positions is taken whole.
        seed: seed of the positions.
        batch_size: most images per run; fewer where a feature map of these would take over 128 MiB.
    """
    sizes = _feature_counts(network.graph)
    for path, size in sizes.items():
        if size > MAX_FEATURES:
            _LOGGER.warning(
                "Layer %s has %d inputs, more than %d: it is not re-fitted when channels that it reads go.",
                path,
                size,
                MAX_FEATURES,
            )
    sums = {path: MomentSums(size) for path, size in sizes.items() if size <= MAX_FEATURES}
    step = _make_step(network, sums, points_per_image, seed)
    batch_size = min(batch_size, network.graph.trace.most_images(_MAX_TENSOR_BYTES))
    for number, start in enumerate(range(0, len(images), batch_size)):
        step(tf.convert_to_tensor(images[start : start + batch_size]), tf.constant(number))
    del step  # which holds the sums, of which each goes once its moments are there
    return Calibration({path: sums.pop(path).summarise() for path in tuple(sums)})


def add_ridge(
    moments: NDArray[np.float64] | NDArray[np.float32], mean_square: NDArray[Any], *, ridge: float
) -> None:
    """Adds a ridge to the diagonal of moments, in place, so that they can be inverted.

    Args:
        moments: float [inputs, inputs], positive semi-definite up to rounding.
        mean_square: float [inputs], of the inputs; bounds what rounding has left of the moments.
        ridge: as a share of the mean diagonal.
    """
    diagonal = np.diag_indices_from(moments)
    least = _ROUNDING * mean_square.mean()
    flushed = len(moments) * np.finfo(np.float32).tiny  # where TensorFlow takes squares near 0 for 0
    moments[diagonal] += max(ridge * moments[diagonal].mean(), least) + flushed


class MomentSums:
    """Sums over the sampled inputs x of one layer: of d dᵀ, where d is x less the first batch's mean, then 1.

    Taking off a value near the mean keeps the digits that float32 would lose in the mean square.
    """

    def __init__(self, num_features: int) -> None:
        self._gram = tf.Variable(tf.zeros((num_features + 1, num_features + 1)), trainable=False)
        self._pivot = tf.Variable(tf.zeros(num_features), trainable=False)
        self._has_pivot = False

    def add(self, rows: Any, batch: Any) -> None:
        """Adds rows, float32 [images * positions, features]; batch is the number of the batch, from 0."""
        if not self._has_pivot:
            self._pivot.assign(tf.where(batch == 0, tf.reduce_mean(rows, axis=0), self._pivot))
            self._has_pivot = True
        rows = tf.concat([rows - self._pivot, tf.ones_like(rows[:, :1])], axis=1)
        self._gram.assign_add(tf.matmul(rows, rows, transpose_a=True))

    def summarise(self) -> InputStatistics:
        """Turns the sums into mean and covariance."""
        gram = self._gram.numpy().astype(np.float64)
        num_samples = round(gram[-1, -1])
        gram /= num_samples
        shift = gram[-1, :-1]
        covariance = gram[:-1, :-1] - np.outer(shift, shift)
        mean = self._pivot.numpy() + shift
        return InputStatistics(mean.astype(np.float32), covariance.astype(np.float32), num_samples)


def _feature_counts(graph: ChannelGraph) -> dict[str, int]:
    """Counts what one output position sees, for the layers that read prunable channels."""
    found = {}
    for path, (layer, rule) in graph.layers().items():
        if rule.reads is not None:
            name, axis = rule.reads
            channel_map = graph.axes[path][name][axis]
            if channel_map is not None:
                kernel_size = (1,) if name == "pointwise_kernel" else getattr(layer, "kernel_size", (1,))
                found[path] = math.prod(kernel_size) * len(channel_map.group)
    return found


def _make_step(
    network: NetworkFunction, sums: dict[str, MomentSums], points_per_image: int, seed: int
) -> Any:
    """Makes the compiled function that adds one batch."""
    rules = {path: rule for path, (_, rule) in network.graph.layers().items()}
    numbers = {path: number for number, path in enumerate(sums)}
    weights = to_tensors(network.weights)

    def step(images: Any, batch: Any) -> None:
        def observe(call: Call, inputs: list[Any]) -> None:
            if call.path in sums:
                reading = rules[call.path].reading(call, inputs, weights[call.path])
                key = tf.stack([batch, seed + 7919 * numbers[call.path]])
                rows = read_windows(reading, sample_positions(reading, points_per_image, key))
                sums[call.path].add(rows, batch)

        network.run(images, weights, observer=observe)

    signature = [tf.TensorSpec((None, *network.input_shape)), tf.TensorSpec((), tf.int32)]
    return tf.function(step, input_signature=signature, autograph=False)
