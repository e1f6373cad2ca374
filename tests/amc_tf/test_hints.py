"""Facts about amc_tf/hints.py."""

import dataclasses

import keras
import numpy as np
import pytest
import tf_keras

from amc_tf.errors import ModelError, PlanError
from amc_tf.graph import ChannelGraph
from amc_tf.hints import check_hints, find_hints, kept_positions, position_weights, with_hints
from amc_tf.models.resnet import cifar_resnet
from amc_tf.plan import PruningPlan, uniform_plan
from amc_tf.rebuild import rebuild
from amc_tf.settings import FinetuneSettings
from amc_tf.trace import trace_model

NOTHING_REMOVED = PruningPlan({}, {})
IMAGES = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)


def mobilenet(flavour=keras):
    return flavour.applications.MobileNet((64, 64, 3), alpha=0.25, weights=None, classes=5)


@pytest.fixture(scope="module")
def original():
    return mobilenet()


@pytest.fixture(scope="module")
def plan(original):
    return uniform_plan(ChannelGraph.from_model(original), 0.5)


@pytest.fixture(scope="module")
def slim(original, plan):
    return rebuild(original, plan)


def test_the_last_layers_of_the_last_resolutions_are_hints(original, slim, plan):
    hints = find_hints(original, slim, plan)
    assert [hint.layer for hint in hints][:3] == ["conv_pw_5_relu", "conv_pw_11_relu", "conv_pw_13_relu"]
    assert hints[3].layer.startswith("global_average_pooling2d")
    assert [hint.kept.shape for hint in hints] == [(8, 8, 64), (4, 4, 128), (2, 2, 256), (1, 1, 256)]
    assert [hint.kept[0, 0].sum() for hint in hints] == [32, 64, 128, 128]


def test_a_residual_network_hints_at_the_end_of_each_stage():
    network = cifar_resnet(8)
    names = [hint.layer for hint in find_hints(network, network, NOTHING_REMOVED)]
    assert len(names) == 4
    shapes = [network.get_layer(name).output.shape[1:] for name in names]
    assert shapes == [(32, 32, 16), (16, 16, 32), (8, 8, 64), (64,)]


def test_a_slim_network_has_the_kept_outputs_of_its_original(original, plan):
    only = PruningPlan({"conv_pw_5": plan.kept["conv_pw_5"]}, {"conv_pw_5": plan.num_channels["conv_pw_5"]})
    hints = find_hints(original, rebuild(original, only), only)
    full, own = (
        with_hints(model, hints[:1]).predict_on_batch(IMAGES) for model in (original, rebuild(original, only))
    )
    np.testing.assert_allclose(full[:, 5:][:, kept_positions(hints[:1])], own[:, 5:], atol=1e-5)


def test_the_outputs_come_first(original, slim, plan):
    hints = find_hints(original, slim, plan)
    joined = with_hints(slim, hints).predict_on_batch(IMAGES)
    np.testing.assert_allclose(joined[:, :5], slim.predict_on_batch(IMAGES), atol=1e-6)
    assert joined.shape == (3, 5 + len(kept_positions(hints)))
    assert with_hints(slim, ()) is slim


def test_each_hint_counts_alike(original, slim, plan):
    hints = find_hints(original, slim, plan)
    sizes = [hint.kept.sum() for hint in hints]
    outputs = np.concatenate(
        [np.random.default_rng(0).normal(scale, 1, (2, size)) for scale, size in enumerate(sizes)], axis=1
    ).astype(np.float32)
    parts = np.split(position_weights(hints, outputs) * outputs**2, np.cumsum(sizes)[:-1], axis=1)
    np.testing.assert_allclose([part.sum(axis=1).mean() for part in parts], 1 / len(hints), rtol=1e-5)


def test_outputs_that_are_zero_weigh_a_finite_amount(original, slim, plan):
    hints = find_hints(original, slim, plan)
    zeros = np.zeros((2, len(kept_positions(hints))), np.float32)
    assert np.all(np.isfinite(position_weights(hints, zeros)))


def test_both_flavours_have_the_same_hints(original, slim, plan):
    old = mobilenet(tf_keras)
    hints = find_hints(original, slim, plan)
    of_old = find_hints(old, rebuild(old, plan), plan)
    assert [hint.layer for hint in of_old][:3] == [hint.layer for hint in hints][:3]
    assert with_hints(old, of_old).predict_on_batch(IMAGES).shape[1] == 5 + sum(
        hint.kept.size for hint in hints
    )


def test_a_model_of_another_plan_is_told_so(original, slim):
    with pytest.raises(ModelError, match=r"keeps outputs of the shape \(8, 8, 64\).*has \(8, 8, 32\)"):
        find_hints(original, slim, NOTHING_REMOVED)


def test_layers_that_were_called_in_another_model_first_are_found(original, slim, plan):
    inputs = keras.Input((64, 64, 3))
    tensor = inputs
    for layer in original.layers[1:]:
        tensor = layer(tensor)
    again = keras.Model(inputs, tensor)
    hints = find_hints(again, slim, plan)
    expected = with_hints(original, hints).predict_on_batch(IMAGES)
    np.testing.assert_allclose(with_hints(again, hints).predict_on_batch(IMAGES), expected, atol=1e-6)


def test_a_view_of_a_sequential_model_runs_each_layer_once():
    layers = [keras.layers.Conv2D(4, 3, strides=2, name=f"conv{index}") for index in range(3)]
    model = keras.Sequential(
        [keras.Input((64, 64, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(5)]
    )
    model = keras.Sequential.from_config(model.get_config())
    hints = find_hints(model, model, NOTHING_REMOVED)
    view = with_hints(model, hints)
    assert len(hints) == 3
    assert len(trace_model(view).calls) == len(model.layers) + len(hints) + 1


def test_images_of_any_size_are_told_so():
    network = keras.applications.MobileNetV3Small(weights=None, classes=5)
    with pytest.raises(ModelError, match=r"takes images of any size, .* for example keras.Input\(\(224"):
        check_hints(network, FinetuneSettings(feature_weight=1.0))


@pytest.mark.parametrize("changes", [{"feature_weight": 0.0}, {"epochs": 0}])
def test_nothing_is_checked_where_nothing_is_imitated(changes):
    network = keras.applications.MobileNetV3Small(weights=None, classes=5)
    check_hints(network, dataclasses.replace(FinetuneSettings(feature_weight=1.0), **changes))


def test_a_plan_of_another_original_is_told_so(original, slim):
    with pytest.raises(PlanError, match="which"):
        find_hints(original, slim, PruningPlan({"strange": (0,)}, {"strange": 2}))


def test_networks_without_a_layer_in_common_are_told_so(original):
    inputs = keras.Input((64, 64, 3), name="other")
    other = keras.Model(
        inputs, keras.layers.Dense(5, name="other_end")(keras.layers.Flatten(name="f")(inputs))
    )
    with pytest.raises(ModelError, match="no layer of one name"):
        find_hints(original, other, NOTHING_REMOVED)
