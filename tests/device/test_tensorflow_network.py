"""Facts about amc_tf/device/tensorflow_network.py: TensorFlow answers what LiteRT answers."""

import keras
import numpy as np
import pytest

from amc_tf.device.convert import to_tflite
from amc_tf.device.litert import TFLiteRunner
from amc_tf.device.tensorflow_network import (
    TensorFlowNetwork,
    check_device,
    compiles_with_xla,
    list_gpus,
    load_network,
)
from amc_tf.errors import MeasurementError, ModelError
from amc_tf.models.resnet import cifar_resnet
from tests.harness import randomize, relative_error
from tests.trained import make_classifier

layers = keras.layers


def squeeze(hidden):
    gate = layers.GlobalAveragePooling2D(keepdims=True)(hidden)
    return layers.Multiply()([hidden, layers.Conv2D(hidden.shape[-1], 1, activation="sigmoid")(gate)])


BODIES = {
    "depthwise": lambda hidden: layers.ReLU(6.0)(
        layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(hidden)
    ),
    "padded": lambda hidden: layers.Conv2D(5, 3, strides=2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(hidden)),
    "dilated": lambda hidden: layers.Conv2D(5, 3, dilation_rate=2, activation="relu")(hidden),
    "grouped": lambda hidden: layers.Conv2D(4, 3, groups=2)(hidden),
    "residual": lambda hidden: layers.Add()([hidden, layers.Conv2D(8, 3, padding="same")(hidden)]),
    "concatenated": lambda hidden: layers.Concatenate()([hidden, layers.Conv2D(4, 1)(hidden)]),
    "pooled": lambda hidden: layers.AveragePooling2D(3, 2, "same")(layers.MaxPooling2D(2)(hidden)),
    "squeeze and excite": squeeze,
    "hard swish": lambda hidden: layers.Activation("hard_swish")(hidden),
    "leaky": lambda hidden: layers.LeakyReLU(0.2)(hidden),
    "flattened": lambda hidden: layers.Dense(6, activation="tanh")(layers.Flatten()(hidden)),
    "rescaled": lambda hidden: layers.Rescaling(0.5, offset=0.1)(hidden),
}


def build(body):
    images = keras.Input((8, 8, 3))
    hidden = body(layers.Conv2D(8, 3, padding="same")(images))
    if len(hidden.shape) == 4:
        hidden = layers.GlobalAveragePooling2D()(hidden)
    return randomize(keras.Model(images, layers.Dense(4, activation="softmax")(hidden)))


def images_for(network, count=3):
    return np.random.default_rng(0).normal(size=(count, *network.input_shape)).astype(np.float32)


@pytest.mark.parametrize("name", BODIES)
def test_tensorflow_answers_what_litert_answers(name):
    tflite = to_tflite(build(BODIES[name]))
    network = TensorFlowNetwork(tflite)
    images = images_for(network)
    answers = network.compile("/CPU:0", xla=False)(images)
    assert relative_error(answers, TFLiteRunner(tflite).predict(images)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, classes=10),
        lambda: keras.applications.MobileNetV3Small((64, 64, 3), weights=None, classes=10),
        lambda: cifar_resnet(20),
    ],
    ids=["MobileNetV2", "MobileNetV3", "ResNet20"],
)
def test_whole_networks_answer_alike(make):
    tflite = to_tflite(randomize(make()))
    network = TensorFlowNetwork(tflite)
    images = images_for(network)
    answers = network.compile("/CPU:0", xla=False)(images)
    assert relative_error(answers, TFLiteRunner(tflite).predict(images)) < 1e-4


@pytest.mark.slow
def test_xla_changes_no_answer():
    assert compiles_with_xla("/CPU:0")
    tflite = to_tflite(make_classifier(keras))
    network = TensorFlowNetwork(tflite)
    images = images_for(network)
    plain, compiled = (network.compile("/CPU:0", xla=xla)(images) for xla in (False, True))
    assert relative_error(compiled, plain) < 1e-5


def test_a_loaded_network_runs_the_whole_batch():
    tflite = to_tflite(build(BODIES["pooled"]))
    assert load_network(tflite, device="/CPU:0", batch_size=5, xla=False)().shape == (5, 4)


def sparse_network():
    model = build(layers.Conv2D(32, 3, name="sparse"))
    kernel, bias = model.get_layer("sparse").get_weights()
    kernel[..., 1:] = 0.0
    model.get_layer("sparse").set_weights([kernel, bias])
    return to_tflite(model, sparse=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (sparse_network, "sparse kernels, which run in LiteRT only"),
        (lambda: b"", "no TFLite network"),
        (lambda: b"\0\0\0\0TFL3" + 40 * b"\xff", "cannot be read"),
        (lambda: to_tflite(build(BODIES["flattened"]), precision="dynamic"), "kernels that are not float32"),
        (
            lambda: to_tflite(
                build(BODIES["leaky"]),
                precision="int8",
                calibration_images=np.zeros((2, 8, 8, 3), np.float32),
            ),
            "takes int8 images; only float32 networks run here",
        ),
        (
            lambda: to_tflite(build(layers.UpSampling2D())),
            "operators that are not known here: TILE",
        ),
    ],
    ids=["sparse", "empty", "damaged", "dynamic", "int8", "operator"],
)
def test_what_cannot_run_becomes_a_sentence(make, words):
    with pytest.raises(ModelError, match=words):
        TensorFlowNetwork(make())


@pytest.mark.parametrize("device", ["/GPU:99", "/CPU:x", "gpu"])
def test_a_device_that_is_not_there_becomes_a_sentence(device):
    check_device("/CPU:0")
    with pytest.raises(MeasurementError, match=f"no device {device} here; there are /CPU:0"):
        check_device(device)


def test_gpus_are_named_as_tensorflow_names_them():
    assert list_gpus() == [f"/GPU:{number}" for number in range(len(list_gpus()))]
