"""The inputs that single output positions of a layer see, gathered as rows."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from amc_tf.layers.base import Reading


def sample_positions(reading: Reading, num_points: int, key: Any) -> Any:
    """Draws output positions, with replacement; takes all of them, in order, where there are no more.

    Args:
        reading: what the layer reads.
        num_points: positions to draw.
        key: int32 [2] seed; the same key gives the same positions.

    Returns:
        int32 [positions], row-major.
    """
    height, width = (_positions_and_pads(reading, axis)[0] for axis in range(2))
    if height * width <= num_points:
        return tf.range(height * width)
    return tf.random.stateless_uniform((num_points,), key, 0, height * width, tf.int32)


def read_windows(reading: Reading, positions: Any) -> Any:
    """Gathers what output positions see.

    Args:
        reading: what the layer reads.
        positions: int32 [positions], row-major, the same for all images.

    Returns:
        float32 [batch * positions, rows * columns * channels].
    """
    (_, row_pads), (width, column_pads) = (_positions_and_pads(reading, axis) for axis in range(2))
    tensor = tf.pad(reading.tensor, [(0, 0), row_pads, column_pads, (0, 0)])
    row_length, channels = tensor.shape[2:]
    rows, columns = positions // width, positions % width
    corners = rows * reading.strides[0] * row_length + columns * reading.strides[1]
    offsets = [
        row * reading.dilation[0] * row_length + column * reading.dilation[1]
        for row in range(reading.kernel_size[0])
        for column in range(reading.kernel_size[1])
    ]
    flat = tf.reshape(tensor, (-1, tensor.shape[1] * row_length, channels))
    windows = tf.gather(flat, corners[:, None] + tf.constant(offsets)[None, :], axis=1)
    return tf.reshape(windows, (-1, len(offsets) * channels))


def _positions_and_pads(reading: Reading, axis: int) -> tuple[int, tuple[int, int]]:
    """Returns the output positions along rows (0) or columns (1), and the padding before and after."""
    size = reading.tensor.shape[axis + 1]
    extent = (reading.kernel_size[axis] - 1) * reading.dilation[axis] + 1
    stride = reading.strides[axis]
    if reading.padding != "SAME":
        return (size - extent) // stride + 1, (0, 0)
    positions = math.ceil(size / stride)
    total = max((positions - 1) * stride + extent - size, 0)
    return positions, (total // 2, total - total // 2)
