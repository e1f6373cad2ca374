import keras
import numpy as np
import pytest

from amc_tf.calibration import Calibration, InputStatistics, calibrate
from amc_tf.errors import SettingsError
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan
from amc_tf.reconstruct import Reconstructor
from tests.harness import random_plan, randomize
from tests.networks import classifier

KEPT = (0, 2, 3, 6)
PLAN = PruningPlan({"first": KEPT}, {"first": 8})
TINY = 1e-7


def reader(*, use_bias=False, norm=False, kernel_size=1):
    """A convolution "first" of 8 channels, then ReLU and the convolution "read"."""

    def body(hidden):
        hidden = keras.layers.ReLU()(hidden)
        hidden = keras.layers.Conv2D(5, kernel_size, use_bias=use_bias, name="read")(hidden)
        return keras.layers.BatchNormalization(name="norm")(hidden) if norm else hidden

    return randomize(classifier(keras, body))


def random_images(count=40):
    return np.random.default_rng(0).normal(0, 1, (count, 8, 8, 3)).astype(np.float32)


def outputs_of(model, name, images):
    return np.asarray(keras.Model(model.input, model.get_layer(name).output)(images, training=False))


def statistics_of(rows):
    covariance = np.cov(rows.T, bias=True)
    return InputStatistics(rows.mean(axis=0).astype(np.float32), covariance.astype(np.float32), len(rows))


def inputs_of_read(model, images):
    """What "read" sees where its kernel is 1x1: float64 [positions, 8]."""
    return np.maximum(outputs_of(model, "first", images), 0).reshape(-1, 8).astype(np.float64)


def calibrate_all(model, images):
    network = NetworkFunction(model)
    return network, calibrate(network, images, points_per_image=64)


def test_fit_with_a_bias_equals_least_squares_with_a_constant():
    model, images = reader(use_bias=True), random_images()
    kernel, bias = model.get_layer("read").get_weights()
    rows = inputs_of_read(model, images)
    wanted = rows @ kernel[0, 0] + bias
    expected, *_ = np.linalg.lstsq(np.c_[rows[:, KEPT], np.ones(len(rows))], wanted, rcond=None)

    fitted = Reconstructor(*calibrate_all(model, images), ridge=TINY)(PLAN)["read"]

    np.testing.assert_allclose(fitted["kernel"][0, 0], expected[:-1], atol=1e-4)
    np.testing.assert_allclose(fitted["bias"], expected[-1], atol=1e-4)


def test_fit_without_a_place_for_a_constant_equals_least_squares_through_the_origin():
    model, images = reader(), random_images()
    rows = inputs_of_read(model, images)
    wanted = rows @ model.get_layer("read").get_weights()[0][0, 0]
    expected, *_ = np.linalg.lstsq(rows[:, KEPT], wanted, rcond=None)

    fitted = Reconstructor(*calibrate_all(model, images), ridge=TINY)(PLAN)["read"]

    assert set(fitted) == {"kernel"}
    np.testing.assert_allclose(fitted["kernel"][0, 0], expected, atol=1e-4)


def test_constant_goes_into_the_mean_of_the_batch_norm_that_follows():
    model, images = reader(norm=True), random_images()
    rows = inputs_of_read(model, images)
    wanted = rows @ model.get_layer("read").get_weights()[0][0, 0]
    expected, *_ = np.linalg.lstsq(np.c_[rows[:, KEPT], np.ones(len(rows))], wanted, rcond=None)
    network, calibration = calibrate_all(model, images)

    fitted = Reconstructor(network, calibration, ridge=TINY)(PLAN)

    np.testing.assert_allclose(fitted["read"]["kernel"][0, 0], expected[:-1], atol=1e-4)
    np.testing.assert_allclose(
        fitted["norm"]["moving_mean"], network.weights["norm"]["moving_mean"] - expected[-1], atol=1e-4
    )
    for name in ("gamma", "beta", "moving_variance"):
        np.testing.assert_array_equal(fitted["norm"][name], network.weights["norm"][name])


def test_fit_of_a_wide_kernel_equals_least_squares_on_its_windows():
    model, images = reader(kernel_size=3), random_images()
    maps = np.maximum(outputs_of(model, "first", images), 0).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), axis=(1, 2))  # [40, 6, 6, 8, 3, 3]
    windows = windows.transpose(0, 1, 2, 4, 5, 3)
    wanted = windows.reshape(-1, 72) @ model.get_layer("read").get_weights()[0].reshape(72, 5)
    expected, *_ = np.linalg.lstsq(windows[..., KEPT].reshape(-1, 36), wanted, rcond=None)

    fitted = Reconstructor(*calibrate_all(model, images), ridge=TINY)(PLAN)["read"]["kernel"]

    assert fitted.shape == (3, 3, 4, 5)
    np.testing.assert_allclose(fitted.reshape(36, 5), expected, atol=1e-3)


def test_removed_channels_that_are_combinations_of_kept_ones_are_recovered_exactly():
    reading = keras.layers.Conv2D(5, 3, padding="same", use_bias=False, name="read")
    model = randomize(classifier(keras, reading))
    kernel, bias = model.get_layer("first").get_weights()
    mix = np.random.default_rng(1).normal(0, 0.5, (4, 4))
    removed = [channel for channel in range(8) if channel not in KEPT]
    kernel[..., removed], bias[removed] = kernel[..., KEPT] @ mix, bias[list(KEPT)] @ mix
    model.get_layer("first").set_weights([kernel, bias])
    images = random_images(200)
    network, calibration = calibrate_all(model, images)

    slim = Reconstructor(network, calibration, ridge=TINY)(PLAN)

    expected = np.asarray(model(images[:20]))
    np.testing.assert_allclose(network(images[:20], slim), expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(network(images[:20], network.slice(PLAN)) - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("options", [{}, {"use_bias": True}, {"norm": True}], ids=str)
def test_output_error_is_never_larger_than_without_reconstruction(ridge, options):
    model, images = reader(**options), random_images()
    network, calibration = calibrate_all(model, images)
    rows = inputs_of_read(model, images)
    kernel = network.weights["read"]["kernel"][0, 0]

    slim = Reconstructor(network, calibration, ridge=ridge)(PLAN)

    shift = slim["read"].get("bias", 0.0) - network.weights["read"].get("bias", 0.0)
    if options.get("norm"):
        shift = network.weights["norm"]["moving_mean"] - slim["norm"]["moving_mean"]
    with_it = rows @ kernel - (rows[:, KEPT] @ slim["read"]["kernel"][0, 0] + shift)
    without = rows @ kernel - rows[:, KEPT] @ kernel[list(KEPT)]
    assert np.square(with_it).sum() < np.square(without).sum()


def test_a_large_ridge_leaves_the_original_weights():
    model, images = reader(), random_images()
    network, calibration = calibrate_all(model, images)

    slim = Reconstructor(network, calibration, ridge=1e6)(PLAN)["read"]["kernel"]

    np.testing.assert_allclose(slim, network.slice(PLAN)["read"]["kernel"], atol=1e-4)


def test_outputs_that_are_removed_themselves_are_left_out():
    model, images = reader(use_bias=True), random_images()
    network, calibration = calibrate_all(model, images)
    both = PruningPlan({"first": KEPT, "read": (1, 4)}, {"first": 8, "read": 5})

    narrow = Reconstructor(network, calibration)(both)["read"]
    wide = Reconstructor(network, calibration)(PLAN)["read"]

    np.testing.assert_allclose(narrow["kernel"], wide["kernel"][..., [1, 4]], atol=1e-6)
    np.testing.assert_allclose(narrow["bias"], wide["bias"][[1, 4]], atol=1e-6)


def test_layers_that_lose_no_input_stay_as_they_are():
    network, calibration = calibrate_all(reader(use_bias=True), random_images())

    slim = Reconstructor(network, calibration)(PLAN)

    np.testing.assert_array_equal(slim["classes"]["kernel"], network.weights["classes"]["kernel"])
    np.testing.assert_array_equal(slim["classes"]["bias"], network.weights["classes"]["bias"])


def test_layers_without_statistics_are_only_cut():
    network = NetworkFunction(reader(use_bias=True))

    slim = Reconstructor(network, Calibration({}))(PLAN)

    np.testing.assert_array_equal(slim["read"]["kernel"], network.slice(PLAN)["read"]["kernel"])


@pytest.mark.parametrize("constant", [0.0, 6.0, 1e-3])
def test_inputs_that_never_change_become_a_constant(constant):
    model, images = reader(use_bias=True), random_images()
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([0 * kernel, 0 * bias + constant])
    network, calibration = calibrate_all(model, images)

    slim = Reconstructor(network, calibration)(PLAN)

    expected = np.asarray(model(images))
    np.testing.assert_allclose(network(images, slim), expected, atol=1e-4 * np.abs(expected).max())


def test_original_weights_are_not_changed():
    model, images = reader(norm=True), random_images()
    network, calibration = calibrate_all(model, images)
    before = {
        (path, name): array.copy() for path, item in network.weights.items() for name, array in item.items()
    }

    Reconstructor(network, calibration)(random_plan(network.graph))

    for (path, name), array in before.items():
        np.testing.assert_array_equal(network.weights[path][name], array)


def test_a_plain_separable_convolution_is_refitted_between_its_kernels():
    def body(hidden):
        hidden = keras.layers.ReLU()(hidden)
        return keras.layers.SeparableConv2D(6, 3, depth_multiplier=2, name="read")(hidden)

    model, images = randomize(classifier(keras, body)), random_images()
    network, calibration = calibrate_all(model, images)
    statistics = calibration.inputs["read"]
    kernel = network.weights["read"]["pointwise_kernel"][0, 0]
    kept = [2 * channel + copy for channel in KEPT for copy in (0, 1)]
    removed = [position for position in range(16) if position not in kept]
    moments = statistics.covariance.astype(np.float64)
    change = np.linalg.solve(moments[np.ix_(kept, kept)], moments[np.ix_(kept, removed)] @ kernel[removed])

    fitted = Reconstructor(network, calibration, ridge=TINY)(PLAN)["read"]

    np.testing.assert_allclose(fitted["pointwise_kernel"][0, 0], kernel[kept] + change, atol=1e-3)


@pytest.mark.parametrize("ridge", [0.0, -1.0])
def test_a_ridge_must_be_above_zero(ridge):
    with pytest.raises(SettingsError, match="must be above 0"):
        Reconstructor(NetworkFunction(reader()), Calibration({}), ridge=ridge)
