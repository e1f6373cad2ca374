"""Facts about amc_tf/quantize.py: what quantisation-aware training leaves, and what it leaves alone."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.litert import load_interpreter
from amc_tf.device.operators import read_operators
from amc_tf.errors import ModelError
from amc_tf.evaluate import accuracy
from amc_tf.graph import ChannelGraph
from amc_tf.image_data import ImageData, to_input_range
from amc_tf.models.mobilenet import mobilenet_v1
from amc_tf.models.resnet import cifar_resnet
from amc_tf.plan import uniform_plan
from amc_tf.quantize import check_quantizable, most_accurate, quantize_aware
from amc_tf.rebuild import rebuild
from amc_tf.settings import FinetuneSettings
from tests.harness import randomize
from tests.networks import classifier
from tests.trained import RANGE, make_classifier, make_data

SETTINGS = FinetuneSettings(epochs=1, batch_size=16, learning_rate=0.002, augment="none")
TRAIN, VALIDATION = make_data(240, 0), make_data(100, 1)


def top1(predict):
    return accuracy(predict, VALIDATION, input_range=RANGE).top1


class Run:
    """One quantisation-aware training, which several tests look at."""

    def __init__(self):
        self.given = make_classifier(keras)
        self.before = self.given.get_weights()
        self.legacy_keras = os.environ.get("TF_USE_LEGACY_KERAS")
        self.records = []
        self.result = quantize_aware(
            self.given,
            TRAIN,
            VALIDATION,
            settings=SETTINGS,
            input_range=RANGE,
            teacher=self.given,
            on_epoch=self.records.append,
        )
        self.images = to_input_range(VALIDATION.images, RANGE)


@pytest.fixture(scope="module")
def run():
    return Run()


def test_the_int8_network_is_integer_throughout(run):
    operators = read_operators(run.result.tflite)
    assert {item.precision for item in operators} == {"int8"}
    kinds = ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    assert [item.kind for item in operators] == kinds
    interpreter = load_interpreter(run.result.tflite)
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert [end["dtype"] for end in ends] == [np.int8, np.int8]


def test_the_int8_network_computes_what_was_trained(run):
    expected = np.asarray(run.result.finetuned.model(run.images, training=False))
    actual = TFLiteRunner(run.result.tflite).predict(run.images)
    assert np.abs(actual - expected).mean() < 0.01
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.97
    assert top1(TFLiteRunner(run.result.tflite).predict) >= run.result.finetuned.best_top1 - 0.02


def test_training_starts_from_the_ranges_of_the_float_network(run):
    # With the toolkit's own -6..6 the input alone, of -1..1, would be left a sixth of its steps.
    before = top1(lambda images: run.given(images, training=False))
    assert abs(run.records[0].top1 - before) <= 0.05
    assert [record.epoch for record in run.records] == [0, 1]
    assert run.records == list(run.result.finetuned.history)


def test_a_depthwise_kernel_has_a_scale_for_each_channel(run):
    details = load_interpreter(run.result.tflite).get_tensor_details()
    scales = [
        item["quantization_parameters"]["scales"] for item in details if list(item["shape"]) == [1, 3, 3, 16]
    ]
    assert [len(item) for item in scales] == [16]
    assert len(set(scales[0].tolist())) > 8


def test_the_given_model_is_not_changed(run):
    for old, new in zip(run.before, run.given.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_keras_3_works_on_in_the_same_process(run):
    assert os.environ.get("TF_USE_LEGACY_KERAS") == run.legacy_keras
    model = make_classifier(keras)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    assert np.isfinite(model.train_on_batch(run.images, VALIDATION.labels))
    assert to_tflite(model)[4:8] == b"TFL3"


@pytest.mark.slow
@pytest.mark.parametrize("first", ["tf_keras", "amc_tf.quantize"])
def test_tf_keras_of_tensorflow_stays_what_it_was_whatever_is_imported_first(first):
    code = (
        f"import {first}, keras, tensorflow as tf\n"
        "from amc_tf.quantize import _load_toolkit\n"
        "_load_toolkit()\n"
        "print(vars(tf)['keras'].__version__ == keras.__version__, keras.Sequential([keras.layers.Dense(2)])"
        "(tf.zeros((1, 3))).shape)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
    )
    assert result.stdout == "True (1, 2)\n", result.stderr


def batch_norm_after_add(library):
    def body(hidden):
        hidden = library.layers.Add()([hidden, hidden])
        return library.layers.BatchNormalization(name="alone")(hidden)

    return classifier(library, body)


def used_twice(library):
    layer = library.layers.Conv2D(8, 1, name="again")
    return classifier(library, lambda hidden: layer(layer(hidden)))


def activation_without_int8(library):
    return classifier(library, library.layers.Conv2D(4, 1, activation="elu", name="curved"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (activation_without_int8, r"'curved' \(Activation\) .*: its activation elu has no int8 counterpart"),
        (batch_norm_after_add, r"'alone' \(BatchNormalization\) cannot be trained for int8: it has no int8"),
        (used_twice, r"'again' \(Conv2D\) cannot be trained for int8: it is used more than once"),
    ],
)
def test_a_layer_without_an_int8_counterpart_is_named(make, words):
    with pytest.raises(ModelError, match=words + r".*Quantise after training"):
        quantize_aware(make(tf_keras), TRAIN, VALIDATION, settings=SETTINGS, input_range=RANGE)


def test_whether_a_network_can_be_trained_is_known_before(run):
    check_quantizable(run.given)
    for make, name in ((batch_norm_after_add, "'alone'"), (activation_without_int8, "'curved'")):
        with pytest.raises(ModelError, match=name):
            check_quantizable(make(keras))


def test_the_most_accurate_network_is_chosen_and_of_equal_ones_the_first(run):
    shuffled = make_classifier(keras)
    shuffled.layers[-1].set_weights([array[..., ::-1] for array in shuffled.layers[-1].get_weights()])
    wrong, right = to_tflite(shuffled), run.result.tflite
    assert most_accurate({"a": wrong, "b": right}, VALIDATION, input_range=RANGE) == "b"
    assert most_accurate({"a": right, "b": right, "c": wrong}, VALIDATION, input_range=RANGE) == "a"


def small_mobilenet_v2():
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)


def few_blocks():
    return mobilenet_v1((32, 32, 3), 10, alpha=0.25, stem_stride=1, block_strides=(1, 2, 1, 1))


def nested_mobilenet():
    images = keras.Input((32, 32, 3))
    backbone = keras.applications.MobileNet(
        (32, 32, 3), alpha=0.25, weights=None, include_top=False, pooling="avg"
    )
    return keras.Model(images, keras.layers.Dense(10, activation="softmax")(backbone(images)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [few_blocks, small_mobilenet_v2, lambda: cifar_resnet(20), nested_mobilenet],
    ids=["few blocks", "mobilenet_v2", "resnet20", "nested mobilenet"],
)
def test_pruned_networks_become_integer_networks_with_equal_answers(make):
    model = randomize(make())
    slim = rebuild(model, uniform_plan(ChannelGraph.from_model(model), 0.5))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype(np.uint8)
    data = ImageData(pixels, np.arange(32) % 10, 10)
    settings = FinetuneSettings(epochs=0, batch_size=16, augment="none")
    result = quantize_aware(slim, data, data, settings=settings, input_range=RANGE)

    images = to_input_range(pixels, RANGE)
    expected = np.asarray(result.finetuned.model(images, training=False))
    actual = TFLiteRunner(result.tflite).predict(images)
    assert {item.precision for item in read_operators(result.tflite)} == {"int8"}
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9
    full = np.asarray(slim(images, training=False))
    assert (actual.argmax(axis=1) == full.argmax(axis=1)).mean() >= 0.7
    assert tf.executing_eagerly()
