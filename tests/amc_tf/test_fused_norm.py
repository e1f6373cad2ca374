"""Facts about amc_tf/fused_norm.py."""

import keras
import numpy as np
import pytest

from amc_tf.fused_norm import with_fused_norm


def is_fused(layer):
    return type(layer).__name__ == "FusedBatchNormalization"


def alone(shape=(8, 8, 5), **options):
    return keras.Sequential([keras.Input(shape), keras.layers.BatchNormalization(**options)])


def test_a_training_step_equals_that_of_the_keras_layer():
    plain = alone(momentum=0.9)
    fused = with_fused_norm(plain)
    assert is_fused(fused.layers[0])
    rng = np.random.default_rng(0)
    for _ in range(3):
        images = rng.normal(2.0, 3.0, (64, 8, 8, 5)).astype(np.float32)
        np.testing.assert_allclose(fused(images, training=True), plain(images, training=True), atol=1e-4)
    for ours, theirs in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fused(images, training=False), plain(images, training=False), atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [alone(axis=1), alone((5,)), alone(scale=False), alone(center=False), alone(dtype="mixed_float16")],
    ids=["other axis", "vectors", "no scale", "no offset", "half precision"],
)
def test_what_the_operator_cannot_compute_stays_a_keras_layer(model):
    copy = with_fused_norm(model, momentum=0.5)
    assert type(copy.layers[0]) is keras.layers.BatchNormalization
    assert copy.layers[0].momentum == 0.5
    assert copy.layers[0].get_config()["axis"] == model.layers[0].get_config()["axis"]


def test_a_frozen_layer_keeps_its_statistics():
    model = alone(trainable=False)
    copy = with_fused_norm(model)
    images = np.random.default_rng(0).normal(2.0, 3.0, (16, 8, 8, 5)).astype(np.float32)
    np.testing.assert_array_equal(copy(images, training=True), model(images, training=True))
    np.testing.assert_array_equal(copy.layers[0].moving_mean, 0.0)


def test_nested_and_shared_layers_keep_their_weights_and_function():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), keras.layers.BatchNormalization(name="norm"), keras.layers.ReLU()],
        name="inner",
    )
    inner.layers[0].set_weights([np.arange(1.0, 5.0) for _ in range(4)])
    inputs = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.Add()([inner(first), inner(inner(first))]))

    copy = with_fused_norm(model)

    assert is_fused(copy.get_layer("inner").get_layer("norm"))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_activations_that_keras_does_not_know_are_copied():
    def halved(values):
        return values / 2

    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 1, activation=halved)])
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(with_fused_norm(model)(images), model(images))
