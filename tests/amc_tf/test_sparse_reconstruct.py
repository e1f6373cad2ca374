import keras
import numpy as np
import pytest

from amc_tf.calibration import Calibration, calibrate
from amc_tf.errors import SettingsError
from amc_tf.network import NetworkFunction
from amc_tf.sparse_reconstruct import SparseReconstructor
from amc_tf.sparsity_plan import SparsityPlan
from tests.harness import randomize
from tests.networks import classifier

NUM_WEIGHTS = 8 * 5
PLAN = SparsityPlan({"read": 15}, {"read": NUM_WEIGHTS})
TINY = 1e-7
MANY_STEPS = 60


def reader(*, use_bias=False, norm=False):
    """A convolution "first" of 8 channels, then ReLU and the 1x1 convolution "read" of 5."""

    def body(hidden):
        hidden = keras.layers.ReLU()(hidden)
        hidden = keras.layers.Conv2D(5, 1, use_bias=use_bias, name="read")(hidden)
        return keras.layers.BatchNormalization(name="norm")(hidden) if norm else hidden

    return randomize(classifier(keras, body))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(0, 1, (40, 8, 8, 3)).astype(np.float32)


def refitted(model, images, *, plan=PLAN, **options):
    network = NetworkFunction(model)
    return SparseReconstructor(network, calibrate(network, images, points_per_image=64), **options)(plan)


def rows_of_read(model, images):
    """What "read" sees, float64 [positions, 8], and its kernel, [8, 5]."""
    view = keras.Model(model.input, model.get_layer("first").output)
    rows = np.maximum(np.asarray(view(images, training=False)), 0).reshape(-1, 8)
    return rows.astype(np.float64), model.get_layer("read").get_weights()[0][0, 0]


def least_squares(rows, kernel, mask, *, constant):
    """Solves every output by itself: the new kernel and the constants, the plain way."""
    fitted, constants = np.zeros_like(kernel), np.zeros(kernel.shape[1])
    for output in range(kernel.shape[1]):
        kept = mask[:, output]
        columns = np.c_[rows[:, kept], np.ones(len(rows))] if constant else rows[:, kept]
        solution, *_ = np.linalg.lstsq(columns, rows @ kernel[:, output], rcond=None)
        fitted[kept, output] = solution[: kept.sum()]
        constants[output] = solution[-1] if constant else 0.0
    return fitted, constants


def test_each_output_is_fitted_on_the_weights_that_it_keeps(images):
    model = reader(use_bias=True)
    rows, kernel = rows_of_read(model, images)
    mask = PLAN.mask("read", kernel)
    assert len({tuple(column) for column in mask.T}) > 1
    expected, constants = least_squares(rows, kernel, mask, constant=True)

    found = refitted(model, images, ridge=TINY, num_steps=MANY_STEPS)["read"]

    np.testing.assert_allclose(found["kernel"][0, 0], expected, atol=1e-3)
    np.testing.assert_allclose(found["bias"] - model.get_layer("read").get_weights()[1], constants, atol=1e-3)
    assert np.array_equal(found["kernel"][0, 0] != 0, mask)


def test_the_constant_goes_into_the_mean_of_the_batch_norm_that_follows(images):
    model = reader(norm=True)
    rows, kernel = rows_of_read(model, images)
    expected, constants = least_squares(rows, kernel, PLAN.mask("read", kernel), constant=True)
    mean = model.get_layer("norm").moving_mean.numpy()

    found = refitted(model, images, ridge=TINY, num_steps=MANY_STEPS)

    np.testing.assert_allclose(found["read"]["kernel"][0, 0], expected, atol=1e-3)
    np.testing.assert_allclose(found["norm"]["moving_mean"], mean - constants, atol=1e-3)


def test_without_a_place_for_a_constant_the_fit_goes_through_the_origin(images):
    model = reader()
    rows, kernel = rows_of_read(model, images)
    expected, _ = least_squares(rows, kernel, PLAN.mask("read", kernel), constant=False)
    found = refitted(model, images, ridge=TINY, num_steps=MANY_STEPS)["read"]
    np.testing.assert_allclose(found["kernel"][0, 0], expected, atol=1e-3)


def test_the_default_settings_come_near_to_the_best_that_the_kept_weights_can_do(images):
    model = reader(use_bias=True)
    rows, kernel = rows_of_read(model, images)
    bias = model.get_layer("read").get_weights()[1]
    mask = PLAN.mask("read", kernel)
    best, constants = least_squares(rows, kernel, mask, constant=True)

    found = refitted(model, images)["read"]

    def error(weights, constant):
        return np.mean((rows @ weights + constant - rows @ kernel - bias) ** 2)

    lowest = error(best, bias + constants)
    assert lowest < 0.7 * error(np.where(mask, kernel, 0.0), bias)
    assert error(found["kernel"][0, 0], found["bias"]) < 1.01 * lowest


def test_a_plan_that_keeps_all_changes_nothing(images):
    model = reader(use_bias=True)
    found = refitted(model, images, plan=SparsityPlan({"read": NUM_WEIGHTS}, {"read": NUM_WEIGHTS}))
    kernel, bias = model.get_layer("read").get_weights()
    assert np.array_equal(found["read"]["kernel"], kernel)
    assert np.array_equal(found["read"]["bias"], bias)


def test_a_layer_without_statistics_keeps_its_weights():
    network = NetworkFunction(reader())
    found = SparseReconstructor(network, Calibration({}))(PLAN)
    kernel = network.weights["read"]["kernel"]
    assert np.array_equal(found["read"]["kernel"], np.where(PLAN.mask("read", kernel), kernel, 0.0))


@pytest.mark.parametrize("wrong", [{"ridge": 0.0}, {"num_steps": 0}])
def test_settings_that_cannot_be_solved_with_are_refused(wrong):
    with pytest.raises(SettingsError, match="the ridge must be above 0, and there must be a step"):
        SparseReconstructor(NetworkFunction(reader()), Calibration({}), **wrong)
