import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras

from amc_tf.errors import PlanError
from amc_tf.graph import ChannelGraph, count_cost
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan, uniform_plan
from amc_tf.rebuild import rebuild
from tests.harness import check_network, random_plan, randomize, relative_error
from tests.networks import classifier

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
LOADER = """
import sys
import numpy as np
folder = sys.argv[1]
images = np.load(f"{folder}/images.npy")
for name, library in (("keras", __import__("keras")), ("tf_keras", __import__("tf_keras"))):
    expected = np.load(f"{folder}/{name}.npy")
    for suffix in ("keras", "h5"):
        model = library.models.load_model(f"{folder}/{name}.{suffix}")
        np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-5, atol=1e-6)
assert "amc_tf" not in sys.modules
"""


def mixed_network(library):
    """Residual, squeeze-and-excite, separable, nested and flattened parts in one network."""
    layers = library.layers
    inputs = library.Input((8, 8, 8))
    nested = library.Model(
        inputs, layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(8, 1)(inputs)), name="nested"
    )

    def body(hidden):
        hidden = layers.Add()([hidden, nested(hidden)])
        gate = layers.Dense(6, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D()(hidden))
        gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid", name="excite")(gate))
        hidden = layers.Multiply()([hidden, gate])
        hidden = layers.SeparableConv2D(10, 3, strides=2, padding="same", name="separable")(hidden)
        hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
        return layers.Dense(7, activation="relu", name="dense")(layers.Flatten()(hidden))

    return randomize(classifier(library, body))


def test_the_mixed_network_passes_the_harness(library):
    assert len(check_network(mixed_network(library)).groups) == 4


def test_slim_models_load_where_this_package_was_never_imported(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    for library in (keras, tf_keras):
        model = mixed_network(library)
        slim = rebuild(model, random_plan(ChannelGraph.from_model(model)))
        np.save(tmp_path / f"{library.__name__}.npy", slim(IMAGES, training=False))
        for suffix in ("keras", "h5"):
            slim.save(tmp_path / f"{library.__name__}.{suffix}")
    result = subprocess.run(
        [sys.executable, "-I", "-c", LOADER, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_slim_model_is_of_the_same_flavour_and_kind(library):
    model = mixed_network(library)
    slim = rebuild(model, random_plan(ChannelGraph.from_model(model)))
    assert type(slim) is type(model)
    assert slim.name == model.name
    assert [layer.name for layer in slim.layers] == [layer.name for layer in model.layers]
    assert slim.output_shape == model.output_shape


def test_a_compiled_and_trained_original_is_untouched(library):
    model = mixed_network(library)
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(IMAGES, np.zeros((2, 4)), verbose=0)
    config, iterations = model.get_config(), int(model.optimizer.iterations)
    before = [array.copy() for array in model.get_weights()]
    slim = rebuild(model, random_plan(ChannelGraph.from_model(model)))

    assert model.get_config() == config
    assert int(model.optimizer.iterations) == iterations
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    slim.compile("adam", "mse", run_eagerly=True)
    slim.fit(IMAGES, np.zeros((2, 4)), verbose=0)


def test_an_empty_plan_copies_the_model(library):
    model = mixed_network(library)
    slim = rebuild(model, PruningPlan({}, {}))
    np.testing.assert_allclose(slim(IMAGES, training=False), model(IMAGES, training=False), rtol=1e-5)
    assert count_cost(slim) == count_cost(model)


def test_given_weights_are_used(library):
    model = mixed_network(library)
    network = NetworkFunction(model)
    plan = random_plan(network.graph)
    weights = network.slice(plan)
    weights["classes"]["bias"] = weights["classes"]["bias"] + 1.0
    shifted = rebuild(model, plan, weights)(IMAGES, training=False)
    assert relative_error(shifted, np.asarray(rebuild(model, plan)(IMAGES, training=False)) + 1.0) < 1e-5


def test_weights_of_another_shape_are_refused(library):
    model = mixed_network(library)
    network = NetworkFunction(model)
    plan = uniform_plan(network.graph, 0.5, round_to=1)
    with pytest.raises(PlanError, match="weights for '.*' have the shapes .* but the plan needs"):
        rebuild(model, plan, network.weights)


@pytest.mark.parametrize("given", [False, True])
def test_the_plan_of_another_model_is_refused(library, given):
    model = mixed_network(library)
    plan = PruningPlan({"other": (0,)}, {"other": 2})
    with pytest.raises(PlanError, match="it is the plan of another model"):
        rebuild(model, plan, NetworkFunction(model).weights if given else None)


def test_rebuilding_twice_prunes_further(library):
    model = mixed_network(library)
    once = rebuild(model, uniform_plan(ChannelGraph.from_model(model), 0.75, round_to=1))
    twice = rebuild(once, uniform_plan(ChannelGraph.from_model(once), 0.5, round_to=1))
    assert count_cost(twice).macs < count_cost(once).macs < count_cost(model).macs


def test_a_model_for_images_of_any_size_stays_one():
    images = keras.Input((None, None, 3))
    hidden = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2, name="first")(images))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(hidden))
    model = randomize(keras.Model(images, keras.layers.Dense(4)(hidden)))
    slim = rebuild(model, PruningPlan({"first": (1, 4)}, {"first": 8}))

    assert slim.input_shape == (None, None, None, 3)
    kernel = model.get_layer("first").get_weights()[0]
    np.testing.assert_array_equal(slim.get_layer("first").get_weights()[0], kernel[..., [1, 4]])


def test_mixed_precision_policies_are_kept(library):
    conv = library.layers.Conv2D(6, 3, dtype="mixed_float16", activation="relu", name="half")
    model = randomize(classifier(library, conv))
    slim = rebuild(model, uniform_plan(ChannelGraph.from_model(model), 0.5, round_to=1))
    assert slim.get_layer("half").compute_dtype == "float16"
    assert slim.get_layer("half").kernel.dtype == "float32"
