"""Statistics of what each reading layer sees in the original network, gathered once on calibration images.

Because the target of the reconstruction is the output of the original layer on the same inputs, Y = X W, the
second moments XᵀX are all that least squares ever needs: XᵀY = XᵀX W.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.graph import ChannelGraph
from amc_tf.layers.base import Reading
from amc_tf.network import NetworkFunction
from amc_tf.trace import Call

MAX_FEATURES = 8192


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
        inputs: statistics by path of the reading layer.
        skipped: why a reading layer has none, by path.
    """

    inputs: dict[str, InputStatistics]
    skipped: dict[str, str]


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
        batch_size: images per run.
    """
    sizes = _feature_counts(network.graph)
    skipped = {
        path: f"{size} inputs are more than {MAX_FEATURES}"
        for path, size in sizes.items()
        if size > MAX_FEATURES
    }
    grams = {
        path: tf.Variable(tf.zeros((size + 1, size + 1)), trainable=False)
        for path, size in sizes.items()
        if path not in skipped
    }
    step, counts = _make_step(network, grams, points_per_image, seed)
    for number, start in enumerate(range(0, len(images), batch_size)):
        step(tf.convert_to_tensor(images[start : start + batch_size]), tf.constant(number))
    statistics = {}
    for path, gram in grams.items():
        statistics[path] = _summarise(gram.numpy(), counts[path] * len(images))
    return Calibration(statistics, skipped)


def _summarise(gram: NDArray[np.float32], num_samples: int) -> InputStatistics:
    """Turns the sum of x xᵀ, with a constant 1 as the last feature, into mean and covariance."""
    mean = gram[-1, :-1].astype(np.float64) / num_samples
    covariance = gram[:-1, :-1] / np.float64(num_samples) - np.outer(mean, mean)
    return InputStatistics(mean.astype(np.float32), covariance.astype(np.float32), num_samples)


def _feature_counts(graph: ChannelGraph) -> dict[str, int]:
    """Counts what one output position sees, for the layers that read prunable channels."""
    found = {}
    for path, (layer, rule) in graph.layers().items():
        if rule.reads is not None:
            name, axis = rule.reads
            channel_map = graph.axes[path][name][axis]
            if channel_map is not None:
                window = 1 if name == "pointwise_kernel" else int(np.prod(getattr(layer, "kernel_size", (1,))))
                found[path] = window * len(channel_map.group)
    return found


def _make_step(
    network: NetworkFunction, grams: dict[str, Any], points_per_image: int, seed: int
) -> tuple[Any, dict[str, int]]:
    """Makes the compiled function that adds one batch, and the positions per image of each layer."""
    counts: dict[str, int] = dict.fromkeys(grams, 0)
    rules = {path: rule for path, (_, rule) in network.graph.layers().items()}
    numbers = {path: number for number, path in enumerate(grams)}

    def step(images: Any, batch: Any) -> None:
        def observe(call: Call, inputs: list[Any]) -> None:
            if call.path in grams:
                reading = rules[call.path].reading(call, inputs, network.weights[call.path])
                key = tf.stack([batch, seed + 7919 * numbers[call.path]])
                rows, positions = _sample_rows(reading, points_per_image, key)
                counts[call.path] += positions
                rows = tf.concat([rows, tf.ones_like(rows[:, :1])], axis=1)
                grams[call.path].assign_add(tf.matmul(rows, rows, transpose_a=True))

        network.run(images, network.weights, observer=observe)

    signature = [tf.TensorSpec((None, *network.input_shape)), tf.TensorSpec((), tf.int32)]
    compiled = tf.function(step, input_signature=signature)
    compiled.get_concrete_function()
    return compiled, counts


def _sample_rows(reading: Reading, num_points: int, key: Any) -> tuple[Any, int]:
    """Gathers the windows of sampled output positions.

    Returns:
        float32 [batch * positions, rows * columns * channels], and the positions per image.
    """
    tensor, height, width = _pad(reading)
    if height * width <= num_points:
        chosen = tf.range(height * width)
    else:
        chosen = tf.random.stateless_uniform((num_points,), key, 0, height * width, tf.int32)
    row_length, channels = tensor.shape[2:]
    corners = (chosen // width) * reading.strides[0] * row_length + (chosen % width) * reading.strides[1]
    offsets = [
        row * reading.dilation[0] * row_length + column * reading.dilation[1]
        for row in range(reading.kernel_size[0])
        for column in range(reading.kernel_size[1])
    ]
    flat = tf.reshape(tensor, (-1, tensor.shape[1] * row_length, channels))
    windows = tf.gather(flat, corners[:, None] + tf.constant(offsets)[None, :], axis=1)
    return tf.reshape(windows, (-1, len(offsets) * channels)), int(chosen.shape[0])


def _pad(reading: Reading) -> tuple[Any, int, int]:
    """Pads the tensor as the layer does; returns it with the rows and columns of the output."""
    pads, sizes = [], []
    for axis in range(2):
        size = reading.tensor.shape[axis + 1]
        extent = (reading.kernel_size[axis] - 1) * reading.dilation[axis] + 1
        stride = reading.strides[axis]
        if reading.padding == "SAME":
            positions = math.ceil(size / stride)
            total = max((positions - 1) * stride + extent - size, 0)
        else:
            positions, total = (size - extent) // stride + 1, 0
        pads.append((total // 2, total - total // 2))
        sizes.append(positions)
    return tf.pad(reading.tensor, [(0, 0), *pads, (0, 0)]), sizes[0], sizes[1]
