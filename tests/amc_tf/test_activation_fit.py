"""Facts about amc_tf/activation_fit.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from amc_tf.activation_fit import Samples, _targets, fit, linear_range

RELU, RELU6 = (0.0, math.inf), (0.0, 6.0)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (keras.layers.ReLU(), RELU),
        (keras.layers.ReLU(6.0), RELU6),
        (keras.layers.Activation("relu"), RELU),
        (keras.layers.Activation("relu6"), RELU6),
        (keras.layers.Conv2D(2, 1, activation="relu"), RELU),
        (keras.layers.ReLU(negative_slope=0.1), None),
        (keras.layers.ReLU(threshold=1.0), None),
        (keras.layers.Activation("silu"), None),
        (keras.layers.Activation("linear"), None),
        (keras.layers.MaxPooling2D(), None),
    ],
)
def test_range_in_which_an_activation_is_the_identity(layer, expected):
    assert linear_range(layer) == expected


def test_targets_are_what_is_wanted_or_lies_on_the_same_flat_side():
    wanted = tf.constant([3.0, 3.0, -1.0, -1.0, 9.0, 9.0])
    outputs = tf.constant([-5.0, 8.0, -5.0, 2.0, 2.0, 8.0])
    np.testing.assert_array_equal(_targets(outputs, wanted, RELU6), [3.0, 3.0, -5.0, 0.0, 6.0, 8.0])
    np.testing.assert_array_equal(_targets(outputs, wanted, RELU), [3.0, 3.0, -5.0, 0.0, 9.0, 9.0])


@pytest.mark.parametrize("linear", [RELU, RELU6])
@pytest.mark.parametrize("in_a_sum", [False, True])
def test_what_the_activation_hides_does_not_bend_the_kernel(linear, in_a_sum):
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 2, (5, 3))
    inputs = rng.normal(0, 1, (2000, 5))
    beside = rng.normal(0, 1, (2000, 3)) if in_a_sum else np.zeros((2000, 3))
    wanted = inputs @ kernel + 1.0 + beside
    wanted[wanted < 0] -= 2.0
    wanted[wanted > linear[1]] += 2.0
    samples = Samples(*(tf.constant(part, tf.float32) for part in (inputs, wanted, beside)))

    behind = np.clip(inputs @ kernel + 1.0 + beside, *linear)

    def error(layer_range):
        found, constant = fit(samples, np.zeros((5, 3)), ridge=1e-6, intercept=True, linear=layer_range)
        return np.square(np.clip(inputs @ found + constant + beside, *linear) - behind).mean()

    assert error(linear) < 0.1 * error(None)


def test_without_an_activation_or_an_intercept_it_is_least_squares():
    rng = np.random.default_rng(0)
    inputs, wanted = rng.normal(1, 1, (50, 4)), rng.normal(2, 1, (50, 2))
    samples = Samples(tf.constant(inputs, tf.float32), tf.constant(wanted, tf.float32), 0.0)

    found, constant = fit(samples, np.zeros((4, 2)), ridge=1e-9, intercept=False, linear=None)

    np.testing.assert_allclose(found, np.linalg.lstsq(inputs, wanted, rcond=None)[0], atol=1e-4)
    np.testing.assert_array_equal(constant, 0.0)


def test_strong_ridge_keeps_the_kernel():
    rng = np.random.default_rng(0)
    start = rng.normal(0, 1, (4, 2))
    samples = Samples(
        *(tf.constant(rng.normal(0, 1, shape), tf.float32) for shape in [(50, 4), (50, 2)]), 0.0
    )

    found, _ = fit(samples, start, ridge=1e6, intercept=True, linear=RELU)

    np.testing.assert_allclose(found, start, atol=1e-4)


def test_inputs_whose_squares_tensorflow_takes_for_zero_are_fitted():
    rng = np.random.default_rng(0)
    spread = 10.0 ** rng.uniform(-20, -18, 512)  # as behind many layers that each make them smaller
    mixed = rng.normal(0, 1, (800, 4)) @ rng.normal(0, 1, (4, 512)) * spread
    inputs = tf.constant(mixed, tf.float32)
    samples = Samples(inputs, tf.zeros((800, 2)), tf.zeros((800, 2)))
    start = rng.normal(0, 1, (512, 2))

    kernel, constant = fit(samples, start, ridge=1e-2, intercept=True, linear=None)

    assert np.isfinite(kernel).all() and np.abs(constant).max() < 1e-15
