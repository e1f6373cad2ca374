"""Normalizes by the batch with TensorFlow's fused operator, at its full speed for any number of channels."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_LANES = 8  # the operator is some eight times slower on a CPU where its channels are no multiple of this


def normalize_by_batch(inputs: Any, scale: Any, offset: Any, *, epsilon: float) -> tuple[Any, Any, Any]:
    """Normalizes each channel by the mean and variance that it has in this batch.

    Args:
        inputs: float32 [..., C] tensor of rank 2 or more; C may be open while it is traced.
        scale: float32 [C], multiplies what is normalized.
        offset: float32 [C], is added to that.
        epsilon: Added to the variance before its root, above 0.

    Returns:
        The outputs, float32 of the shape of the inputs; the mean and the variance of each channel, float32
        [C] each. The variance is that of the batch itself, as in Keras, not the estimate from a sample that
        the operator makes. Gradients pass through the outputs alone.
    """
    shape = tf.shape(inputs)
    channels = inputs.shape[-1] or shape[-1]
    missing = -channels % _LANES
    images = inputs if inputs.shape.rank == 4 else tf.reshape(inputs, (-1, 1, 1, channels))
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=_if_any(missing, lambda: tf.pad(images, [[0, 0], [0, 0], [0, 0], [0, missing]]), images),
        scale=tf.pad(scale, [[0, missing]]),
        offset=tf.pad(offset, [[0, missing]]),
        mean=tf.zeros((0,)),
        variance=tf.zeros((0,)),
        epsilon=epsilon,
        is_training=True,
    )
    # Not a strided slice, whose gradient takes ten times as long.
    outputs = _if_any(missing, lambda: tf.slice(outputs, [0] * 4, [-1, -1, -1, channels]), outputs)
    outputs = tf.ensure_shape(tf.reshape(outputs, shape), inputs.shape)
    positions = tf.cast(tf.size(inputs) // channels, tf.float32)
    return outputs, mean[:channels], variance[:channels] * (positions - 1.0) / positions


def _if_any(missing: Any, changed: Any, unchanged: Any) -> Any:
    """Returns what `changed` makes where channels are missing; decided while running if they are open."""
    if isinstance(missing, int):
        return changed() if missing else unchanged
    return tf.cond(missing > 0, changed, lambda: unchanged)
