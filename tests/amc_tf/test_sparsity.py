import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras

from amc_tf.clone import is_tf_keras, iterate_layers
from amc_tf.device.convert import to_tflite, verify
from amc_tf.errors import PlanError
from amc_tf.graph import ChannelGraph
from amc_tf.settings import FinetuneSettings
from amc_tf.sparse_layers import SparseLayers
from amc_tf.sparsity import apply_plan, finetune_sparse
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.twin import to_keras3
from tests.networks import classifier
from tests.trained import RANGE, make_classifier, make_split

SETTINGS = FinetuneSettings(epochs=5, batch_size=32, learning_rate=1e-3)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return make_classifier(keras)


@pytest.fixture(scope="module")
def split():
    return make_split()


def plan_of(model, ratio):
    layers = SparseLayers(ChannelGraph.from_model(model))
    return SparsityPlan.from_widths(layers, [max(1, int(ratio * size)) for size in layers.full_widths])


def removed(plan):
    return {path: plan.num_weights[path] - kept for path, kept in plan.kept.items()}


def count_zeros(model, plan):
    kernels = {path: layer.get_weights()[0] for path, layer in iterate_layers(model) if path in plan.kept}
    return {path: int((kernel == 0).sum()) for path, kernel in kernels.items()}


def outputs(model):
    return np.asarray(model(IMAGES, training=False))


def test_a_model_with_a_plan_applied_has_so_many_zeros_and_the_original_is_not_changed(model):
    plan, before = plan_of(model, 0.3), [array.copy() for array in model.get_weights()]
    sparse = apply_plan(model, plan)
    assert count_zeros(sparse, plan) == removed(plan)
    assert [path for path, _ in iterate_layers(sparse)] == [path for path, _ in iterate_layers(model)]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(outputs(apply_plan(model, plan_of(model, 1.0))), outputs(model))


def test_the_plan_of_another_model_is_refused(model):
    with pytest.raises(PlanError, match="prunes 'none', which 'tiny' does not have"):
        apply_plan(model, SparsityPlan({"none": 1}, {"none": 2}))


def test_without_training_the_wrappers_leave_the_network_with_the_plan_applied(model, split):
    plan = plan_of(model, 0.3)
    settings = FinetuneSettings(epochs=0)
    result = finetune_sparse(model, plan, split.train, split.search, settings=settings, input_range=RANGE)
    assert not is_tf_keras(result.model)
    assert count_zeros(result.model, plan) == removed(plan)
    np.testing.assert_allclose(outputs(result.model), outputs(apply_plan(model, plan)), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"feature_weight": 1.0, "freeze_batch_norm": True}])
def test_training_recovers_accuracy_and_what_is_zero_stays_zero(model, split, changes):
    plan = plan_of(model, 0.3)
    sparse = apply_plan(model, plan)
    zeros = sparse.get_layer("last").get_weights()[0] == 0
    settings = dataclasses.replace(SETTINGS, **changes)
    result = finetune_sparse(
        sparse, plan, split.train, split.search, settings=settings, input_range=RANGE, teacher=model
    )
    assert result.best_epoch > 0
    assert result.best_top1 > result.history[0].top1 + 0.1
    assert count_zeros(result.model, plan) == removed(plan)
    kernel = result.model.get_layer("last").get_weights()[0]
    np.testing.assert_array_equal(kernel == 0, zeros)
    assert np.abs(kernel - sparse.get_layer("last").get_weights()[0]).max() > 1e-4
    tflite = to_tflite(result.model, sparse=True)
    assert len(tflite) < 0.65 * len(to_tflite(result.model))
    agreement = verify(tflite, lambda images: result.model(images, training=False), IMAGES)
    assert agreement.max_abs_error < 1e-5


@pytest.mark.slow
def test_layers_of_nested_models_and_activations_of_keras_3_are_trained_alike(split):
    block = keras.Sequential(
        [keras.Input((8, 8, 8)), keras.layers.Conv2D(8, 1, activation="hard_silu", name="inner")],
        name="block",
    )
    model = classifier(keras, block)
    model = keras.Model(model.input, keras.layers.Softmax()(model.output), name="nested")
    plan = plan_of(model, 0.5)
    assert set(plan.kept) == {"first", "block/inner", "classes"}
    result = finetune_sparse(
        model,
        plan,
        split.train,
        split.search,
        settings=dataclasses.replace(SETTINGS, epochs=1),
        input_range=RANGE,
        teacher=model,
    )
    assert count_zeros(result.model, plan) == removed(plan)
    assert [path for path, _ in iterate_layers(result.model)] == [path for path, _ in iterate_layers(model)]


IMPORTS = """
import json, os, sys
{first}
import keras
from amc_tf.sparsity import _load_toolkit
_load_toolkit()
import tensorflow as tf
images = keras.Input((4, 4, 3))
model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(images)))
model.compile("sgd", "mse")
import numpy as np
loss = model.train_on_batch(np.ones((2, 4, 4, 3)), np.ones((2, 2)))
print(json.dumps([keras.__version__[0], type(model).__module__[:9], vars(tf)["keras"].__version__[0],
                  bool(np.isfinite(loss)), os.environ.get("TF_USE_LEGACY_KERAS")]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import tensorflow", "import tf_keras"])
def test_keras_3_works_after_the_toolkit_is_imported_whatever_came_first(first):
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    run = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(first=first)], capture_output=True, text=True, env=environment
    )
    assert json.loads(run.stdout.splitlines()[-1]) == ["3", "keras.src", "3", True, None], run.stderr


def test_a_tf_keras_model_is_taken_and_comes_back_as_keras_3():
    model = make_classifier(tf_keras)
    plan = plan_of(model, 0.5)
    sparse = apply_plan(model, plan)
    assert not is_tf_keras(sparse)
    assert count_zeros(sparse, plan) == removed(plan)
    assert type(to_keras3(model)) is type(sparse)
