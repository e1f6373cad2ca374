"""Facts about amc_tf/batch_normalize.py."""

import numpy as np
import pytest
import tensorflow as tf

from amc_tf.batch_normalize import normalize_by_batch

EPSILON = 1e-3


def expected(inputs, scale, offset):
    axes = tuple(range(inputs.ndim - 1))
    mean, variance = inputs.mean(axes, np.float64), inputs.var(axes, np.float64)
    return (inputs - mean) / np.sqrt(variance + EPSILON) * scale + offset, mean, variance


def arrays(shape):
    rng = np.random.default_rng(0)
    draws = rng.normal(2.0, 3.0, shape), rng.normal(size=shape[-1]), rng.normal(size=shape[-1])
    return [draw.astype(np.float32) for draw in draws]


@pytest.mark.parametrize(
    "shape", [(6, 4, 4, 8), (6, 4, 4, 11), (6, 4, 4, 1), (20, 5), (6, 7, 3), (1, 1, 1, 3)]
)
@pytest.mark.parametrize("is_open", [False, True])
def test_outputs_and_statistics_are_those_of_the_batch_for_any_shape(shape, is_open):
    given = arrays(shape)
    size = None if is_open else shape[-1]
    compiled = tf.function(
        lambda inputs, scale, offset: normalize_by_batch(inputs, scale, offset, epsilon=EPSILON),
        input_signature=[
            tf.TensorSpec((*shape[:-1], size)),
            tf.TensorSpec((size,)),
            tf.TensorSpec((size,)),
        ],
    )
    outputs = compiled(*given)
    assert tuple(compiled.get_concrete_function().structured_outputs[0].shape) == (*shape[:-1], size)
    for found, exact in zip(outputs, expected(*given), strict=True):
        np.testing.assert_allclose(found, exact, atol=2e-5)


def test_gradients_are_those_of_the_definition():
    inputs, scale, offset = (tf.constant(array) for array in arrays((6, 4, 4, 11)))
    weights = tf.random.stateless_normal(inputs.shape, seed=(0, 1))

    def gradients(normalize):
        with tf.GradientTape() as tape:
            tape.watch([inputs, scale, offset])
            loss = tf.reduce_sum(weights * normalize() ** 2)
        return tape.gradient(loss, [inputs, scale, offset])

    def definition():
        mean, variance = tf.nn.moments(inputs, (0, 1, 2))
        return (inputs - mean) / tf.sqrt(variance + EPSILON) * scale + offset

    ours = gradients(lambda: normalize_by_batch(inputs, scale, offset, epsilon=EPSILON)[0])
    for found, exact in zip(ours, gradients(definition), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)
