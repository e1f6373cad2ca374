"""Models as people build them: transfer learning, preprocessing inside, Sequential, mixed precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from amc_tf.budget import Budget
from amc_tf.clone import in_float32, iterate_layers
from amc_tf.compress import compress
from amc_tf.device.convert import to_tflite
from amc_tf.device.litert import TFLiteRunner
from amc_tf.graph import ChannelGraph
from amc_tf.network import NetworkFunction
from amc_tf.plan import uniform_plan
from amc_tf.rebuild import rebuild
from amc_tf.settings import AgentSettings, FinetuneSettings, SearchSettings
from tests.harness import randomize, relative_error
from tests.trained import NUM_CLASSES, make_data

SIZE = (8, 8, 3)
PIXELS = make_data(8, 0).images.astype(np.float32)
# What half precision may change, as a part of the largest output.
TOLERANCE = {"float32": 1e-5, "float16": 5e-3}


def backbone(library):
    layers = library.layers
    inputs = library.Input(SIZE)
    hidden = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    hidden = layers.ReLU(6.0)(layers.BatchNormalization(name="stem_norm")(hidden))
    hidden = layers.Add()([hidden, layers.DepthwiseConv2D(3, padding="same", name="depthwise")(hidden)])
    hidden = layers.Conv2D(24, 1, activation="relu", name="project")(hidden)
    return library.Model(inputs, hidden, name="backbone")


def augmented(library):
    """Keras' guide to transfer learning: augmentation, rescaling, a frozen backbone, a new classifier."""
    layers, frozen = library.layers, backbone(library)
    frozen.trainable = False
    images = library.Input(SIZE)
    hidden = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(images))
    hidden = frozen(layers.Rescaling(1 / 127.5, offset=-1)(hidden), training=False)
    hidden = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(hidden))
    return library.Model(images, layers.Dense(NUM_CLASSES, activation="softmax", name="classes")(hidden))


def sequential(library):
    layers = library.layers
    augmentation = [layers.RandomFlip(), layers.RandomZoom(0.1), layers.RandomContrast(0.1)]
    return library.Sequential(
        [
            library.Input(SIZE),
            library.Sequential(augmentation, name="augmentation"),
            layers.Rescaling(1 / 255),
            backbone(library),
            layers.GlobalAveragePooling2D(),
            layers.Dense(NUM_CLASSES, activation="softmax", name="classes"),
        ]
    )


def normalized(library):
    layers, normalization = library.layers, library.layers.Normalization()
    normalization.adapt(PIXELS)
    images = library.Input(SIZE)
    hidden = layers.GlobalAveragePooling2D()(backbone(library)(normalization(images)))
    return library.Model(images, layers.Dense(NUM_CLASSES, name="classes")(hidden))


def preprocessed(library):
    """With the operations of preprocess_input."""
    images = library.Input(SIZE)
    hidden = backbone(library)(library.applications.mobilenet_v2.preprocess_input(images))
    hidden = library.layers.GlobalAveragePooling2D()(hidden)
    return library.Model(images, library.layers.Dense(NUM_CLASSES, name="classes")(hidden))


def mixed_precision(library):
    policy = library.mixed_precision
    policy.set_global_policy("mixed_float16")
    try:
        model = augmented(library)
        outputs = library.layers.Activation("linear", dtype="float32")(model.output)
        return library.Model(model.input, outputs)
    finally:
        policy.set_global_policy("float32")


LIBRARIES = (pytest.param(keras, id="keras"), pytest.param(tf_keras, id="tf_keras", marks=pytest.mark.slow))
MODELS = (augmented, sequential, normalized, preprocessed, mixed_precision)


def kinds(model):
    layers = [(path, layer) for path, layer in iterate_layers(model) if layer.weights]
    return [(path, type(layer), layer.compute_dtype) for path, layer in layers]


def run(model):
    return np.asarray(model(PIXELS, training=False), np.float32)


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_models_are_rebuilt_run_and_converted_as_they_are(library, build):
    model = randomize(build(library))
    graph = ChannelGraph.from_model(model)
    tolerance = TOLERANCE["float16" if build is mixed_precision else "float32"]
    assert [group.name for group in graph.groups] == ["backbone/stem", "backbone/project"]

    same = rebuild(model, uniform_plan(graph, 1.0))
    np.testing.assert_array_equal(run(same), run(model))
    assert type(same) is type(model)
    assert kinds(same) == kinds(model)

    slim = rebuild(model, uniform_plan(graph, 0.5))
    network = NetworkFunction(model, graph)
    assert slim.get_layer("backbone").get_layer("stem").filters == 8
    assert kinds(slim) == kinds(model)
    assert relative_error(network(PIXELS, network.weights), run(model)) < tolerance
    sliced = network.slice(uniform_plan(graph, 0.5))
    assert relative_error(network(PIXELS, sliced), run(slim)) < tolerance
    tflite = to_tflite(network.bind(sliced), input_shape=SIZE)
    assert relative_error(TFLiteRunner(tflite).predict(PIXELS), run(slim)) < tolerance


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_mixed_precision_is_converted_as_what_it_is_in_float32(precision):
    model = randomize(mixed_precision(keras))
    converted = TFLiteRunner(to_tflite(model, precision=precision)).predict(PIXELS)
    assert relative_error(converted, run(in_float32(model))) < (1e-5 if precision == "float32" else 1e-2)


class Batches(keras.utils.PyDataset):
    """Validation images in batches, with one-hot labels."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    @property
    def num_batches(self):
        return len(self.data) // 20

    def __getitem__(self, index):
        part = slice(20 * index, 20 * index + 20)
        return self.data.images[part], np.eye(NUM_CLASSES)[self.data.labels[part]]


def trained(library, build):
    """Fits the classifier of a model with random features by least squares."""
    model, train = randomize(build(library)), make_data(240, 0)
    classes = model.get_layer("classes")
    features = library.Model(model.inputs, classes.input).predict(train.images.astype(np.float32), verbose=0)
    features = np.hstack([features.astype(np.float64), np.ones((len(features), 1))])
    solution = np.linalg.lstsq(features, 8.0 * np.eye(NUM_CLASSES)[train.labels], rcond=None)[0]
    classes.set_weights([solution[:-1], solution[-1]])
    return model


@pytest.mark.slow
@pytest.mark.parametrize("build", MODELS)
def test_models_are_compressed_with_the_data_sets_of_keras(library, build):
    train, validation = make_data(240, 0), make_data(100, 1)
    model = trained(library, build)
    result = compress(
        model,
        tf.data.Dataset.from_tensor_slices((train.images, train.labels)).batch(32),
        Batches(validation),
        budget=Budget(macs=0.6),
        settings=SearchSettings(
            episodes=4,
            warmup_episodes=2,
            round_to=4,
            num_calibration_images=64,
            num_search_images=100,
            agent=AgentSettings(hidden_units=(8, 8), batch_size=8),
        ),
        finetuning=FinetuneSettings(epochs=2, batch_size=32, augment="none"),
        input_range="0..255",
    )
    assert type(result.model) is type(model)
    assert kinds(result.model) == kinds(model)
    assert result.summary["finetuned"]["top1"] > result.summary["baseline"]["top1"] - 0.1
    assert result.summary["finetuned"]["macs"] <= 0.6 * result.summary["baseline"]["macs"]
    assert result.summary["verification"]["float32"]["top1_agreement"] > 0.97
