import numpy as np
import pytest

from amc_tf.errors import ModelError, PlanError
from amc_tf.graph import ChannelGraph
from amc_tf.plan import PruningPlan
from amc_tf.weights import read_weights, slice_weights
from tests.harness import randomize
from tests.networks import classifier


@pytest.fixture
def model(library):
    def body(hidden):
        hidden = library.layers.BatchNormalization(name="norm")(hidden)
        hidden = library.layers.DepthwiseConv2D(3, name="depthwise")(hidden)
        return library.layers.Conv2D(6, 1, name="second")(hidden)

    return randomize(classifier(library, body))


def test_weights_are_read_by_path_and_name(model):
    weights = read_weights(ChannelGraph.from_model(model))

    assert {path: list(arrays) for path, arrays in weights.items()} == {
        "first": ["kernel", "bias"],
        "norm": ["gamma", "beta", "moving_mean", "moving_variance"],
        "depthwise": ["kernel", "bias"],
        "second": ["kernel", "bias"],
        "classes": ["kernel", "bias"],
    }
    for path, arrays in weights.items():
        for array, expected in zip(arrays.values(), model.get_layer(path).get_weights(), strict=True):
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, expected)


def test_what_is_read_is_a_copy(model):
    before = model.get_layer("first").get_weights()[0]
    read_weights(ChannelGraph.from_model(model))["first"]["kernel"][:] = 0
    np.testing.assert_array_equal(model.get_layer("first").get_weights()[0], before)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_weight_that_is_no_number_names_its_layer(model, number):
    kernel, bias = model.get_layer("depthwise").get_weights()
    kernel[0, 1, 2, 0] = number
    model.get_layer("depthwise").set_weights([kernel, bias])
    with pytest.raises(ModelError, match="layer depthwise has NaN or infinite numbers in its kernel"):
        read_weights(ChannelGraph.from_model(model))


def test_slicing_cuts_every_axis_that_holds_the_channels(model):
    graph = ChannelGraph.from_model(model)
    weights = read_weights(graph)
    first, second = [0, 3, 7], [1, 4]
    plan = PruningPlan({"first": tuple(first), "second": tuple(second)}, {"first": 8, "second": 6})
    slim = slice_weights(graph, plan, weights)

    np.testing.assert_array_equal(slim["first"]["kernel"], weights["first"]["kernel"][..., first])
    np.testing.assert_array_equal(slim["first"]["bias"], weights["first"]["bias"][first])
    np.testing.assert_array_equal(slim["norm"]["moving_variance"], weights["norm"]["moving_variance"][first])
    np.testing.assert_array_equal(slim["depthwise"]["kernel"], weights["depthwise"]["kernel"][:, :, first])
    np.testing.assert_array_equal(
        slim["second"]["kernel"], weights["second"]["kernel"][:, :, first][..., second]
    )
    np.testing.assert_array_equal(slim["classes"]["kernel"], weights["classes"]["kernel"][second])
    np.testing.assert_array_equal(slim["classes"]["bias"], weights["classes"]["bias"])


def test_a_plan_of_another_model_is_refused(model):
    graph = ChannelGraph.from_model(model)
    with pytest.raises(PlanError, match="another model"):
        slice_weights(graph, PruningPlan({"other": (0,)}, {"other": 2}), read_weights(graph))
