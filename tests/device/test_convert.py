"""to_tflite and verify: every precision against Keras, both flavours, and what refusals say."""

import contextlib
import io
import logging
import pathlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from amc_tf.device.convert import LIMITS, PRECISIONS, Agreement, to_tflite, verify
from amc_tf.device.litert import load_interpreter
from amc_tf.device.operators import read_operators
from amc_tf.errors import ConversionError, ModelError, SettingsError

# Measured worst errors of the small classifier, with room: (max_abs_error, mean_abs_error, top1_agreement).
EXPECTED = {
    "float32": (1e-5, 1e-6, 1.0),
    "float16": (1e-2, 1e-3, 0.96),
    "dynamic": (0.3, 0.03, 0.85),
    "int8": (0.5, 0.05, 0.8),
}


def predictor(model: Any) -> Callable[[np.ndarray], Any]:
    return lambda batch: model(batch, training=False)


def operators(tflite: bytes) -> Counter[str]:
    names = (operator["op_name"] for operator in load_interpreter(tflite)._get_ops_details())
    return Counter(name for name in names if name != "DELEGATE")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_converted_network_computes_what_keras_computes(
    any_classifier: Any, images: np.ndarray, precision: str
) -> None:
    tflite = to_tflite(any_classifier, precision=precision, calibration_images=images)
    agreement = verify(tflite, predictor(any_classifier), images, precision=precision)
    max_abs_error, mean_abs_error, top1_agreement = EXPECTED[precision]
    assert agreement.max_abs_error <= max_abs_error
    assert agreement.mean_abs_error <= mean_abs_error
    assert agreement.top1_agreement >= top1_agreement
    assert 0.5 < agreement.output_scale <= 1.0
    assert (agreement.precision, agreement.num_images) == (precision, len(images))


def test_operators_are_those_of_from_keras_model_with_batch_norm_folded(classifier: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        expected = operators(tf.lite.TFLiteConverter.from_keras_model(classifier).convert())
    actual = operators(to_tflite(classifier))
    assert actual == expected
    assert actual == {
        "CONV_2D": 3, "DEPTHWISE_CONV_2D": 2, "MEAN": 1, "FULLY_CONNECTED": 1, "SOFTMAX": 1
    }  # fmt: skip


def test_equal_networks_give_equal_bytes(classifier: Any, images: np.ndarray) -> None:
    for precision in ("float32", "int8"):
        first, second = (
            to_tflite(classifier, precision=precision, calibration_images=images[:8]) for _ in range(2)
        )
        assert first == second


def test_smaller_precisions_are_smaller_files(images: np.ndarray) -> None:
    dense = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(64)])
    sizes = {
        precision: len(to_tflite(dense, precision=precision, calibration_images=images))
        for precision in PRECISIONS
    }
    assert sizes["float16"] < 0.55 * sizes["float32"]
    assert sizes["dynamic"] < 0.3 * sizes["float32"]
    assert sizes["int8"] < 0.3 * sizes["float32"]


def test_int8_network_is_integer_throughout_and_quantizes_convolutions_per_channel(
    classifier: Any, images: np.ndarray
) -> None:
    interpreter = load_interpreter(to_tflite(classifier, precision="int8", calibration_images=images))
    assert interpreter.get_input_details()[0]["dtype"] == np.int8
    assert interpreter.get_output_details()[0]["dtype"] == np.int8
    tensors = interpreter.get_tensor_details()
    assert not [tensor["name"] for tensor in tensors if tensor["dtype"] == np.float32]
    depthwise = [tensor for tensor in tensors if tuple(tensor["shape"]) == (1, 3, 3, 8)]
    assert [len(tensor["quantization_parameters"]["scales"]) for tensor in depthwise] == [8]


@pytest.mark.parametrize(
    ("precision", "last_in_xnnpack"), [("float32", "SOFTMAX"), ("int8", "FULLY_CONNECTED")]
)
def test_xnnpack_runs_everything_but_an_int8_softmax(
    classifier: Any, images: np.ndarray, precision: str, last_in_xnnpack: str
) -> None:
    tflite = to_tflite(classifier, precision=precision, calibration_images=images)
    *plain, delegate = load_interpreter(tflite)._get_ops_details()
    last = next(operator for operator in plain if operator["op_name"] == last_in_xnnpack)
    assert delegate["op_name"] == "DELEGATE"
    assert plain[0]["inputs"][0] in delegate["inputs"]
    assert list(delegate["outputs"]) == list(last["outputs"])


def test_a_function_with_constants_converts(classifier: Any, images: np.ndarray) -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)

    def network(image: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.nn.relu6(tf.nn.conv2d(image, kernel, strides=1, padding="SAME")), axis=[1, 2]
        )

    tflite = to_tflite(network, input_shape=(16, 16, 3))
    assert operators(tflite) == {"CONV_2D": 1, "MEAN": 1}
    assert verify(tflite, network, images).max_abs_error < 1e-5


def test_a_model_without_a_fixed_size_takes_the_given_one(images: np.ndarray) -> None:
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, x)
    with pytest.raises(ModelError, match=r"input is \[None, None, 3\]; pass input_shape"):
        to_tflite(model)
    tflite = to_tflite(model, input_shape=(16, 16, 3))
    assert verify(tflite, predictor(model), images).max_abs_error < 1e-5


def test_dropout_is_off_in_the_converted_network(images: np.ndarray) -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Dropout(0.9), keras.layers.Flatten()])
    assert verify(to_tflite(model), predictor(model), images).max_abs_error == 0.0


def test_conversion_leaves_the_model_unchanged(classifier: Any, images: np.ndarray) -> None:
    before = [weight.copy() for weight in classifier.get_weights()]
    to_tflite(classifier, precision="int8", calibration_images=images)
    assert all(np.array_equal(a, b) for a, b in zip(before, classifier.get_weights(), strict=True))


def test_converter_chatter_goes_to_the_logger_and_not_to_the_terminal(
    classifier: Any, images: np.ndarray, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="amc_tf.device.litert")
    levels = logging.getLogger("absl").level, logging.getLogger("tensorflow").level
    to_tflite(classifier, precision="int8", calibration_images=images)
    assert capfd.readouterr() == ("", "")
    assert any("fully_quantize" in message for message in caplog.messages)
    assert (logging.getLogger("absl").level, logging.getLogger("tensorflow").level) == levels


def test_a_network_the_converter_refuses_is_a_conversion_error_in_its_words() -> None:
    def network(image: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.strings.length(tf.strings.as_string(image)), tf.float32)

    with pytest.raises(
        ConversionError,
        match=r"cannot be converted to float32 TFLite: 'tf\.AsString' op is neither .*; 'tf\.StringLength'",
    ):
        to_tflite(network, input_shape=(4, 4, 1))


def test_a_network_that_cannot_be_traced_is_a_conversion_error() -> None:
    with pytest.raises(ConversionError, match=r"cannot be converted .*no such layer"):
        to_tflite(raising_network, input_shape=(4, 4, 1))


def raising_network(image: tf.Tensor) -> tf.Tensor:
    raise ValueError("no such layer")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int4"}, "Unknown precision 'int4'; choose one of float32, float16, dynamic, int8"),
        ({"precision": "int8"}, "int8 needs calibration_images"),
        ({"precision": "int8", "calibration_images": np.zeros((0, 16, 16, 3), np.float32)}, "int8 needs"),
        (
            {"precision": "int8", "calibration_images": np.zeros((2, 16, 16, 3), np.uint8)},
            r"must be float32 \[N, 16, 16, 3\] .* but are uint8 \[2, 16, 16, 3\]",
        ),
        (
            {"precision": "int8", "calibration_images": np.zeros((2, 8, 8, 3), np.float32)},
            r"but are float32 \[2, 8, 8, 3\]",
        ),
        (
            {
                "precision": "int8",
                "quantization_aware": True,
                "calibration_images": np.zeros((2, 16, 16, 3), np.float32),
            },
            "holds the ranges of its activations; leave calibration_images out",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(classifier: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        to_tflite(classifier, **options)


def test_a_function_needs_an_input_shape() -> None:
    with pytest.raises(SettingsError, match="pass input_shape"):
        to_tflite(raising_network)


def test_a_model_with_two_inputs_is_refused() -> None:
    first, second = keras.Input((4, 4, 1)), keras.Input((4, 4, 1))
    with pytest.raises(ModelError, match="exactly one input"):
        to_tflite(keras.Model([first, second], keras.layers.Add()([first, second])))


def test_verify_counts_agreement_and_errors_by_hand(images: np.ndarray) -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten()])
    tflite = to_tflite(model)
    expected = images.reshape(len(images), -1)
    changed = expected.copy()
    changed[0, 7] = -0.999  # a value near the largest magnitude, so that the classes still agree
    agreement = verify(tflite, lambda batch: changed, images, precision="dynamic")
    error = abs(float(expected[0, 7]) + 0.999)
    assert agreement == Agreement(
        precision="dynamic",
        num_images=64,
        max_abs_error=pytest.approx(error),
        mean_abs_error=pytest.approx(error / expected.size),
        typical_abs_error=pytest.approx(error / 64),
        output_scale=pytest.approx(float(np.abs(changed).max())),
        output_step=0.0,
        top1_agreement=1.0,
    )
    with pytest.raises(ConversionError, match=r"float32 network disagrees .*64 images; check that images"):
        verify(tflite, lambda batch: changed, images, precision="float32")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_another_network_never_passes_for_the_original(
    classifier: Any, images: np.ndarray, precision: str
) -> None:
    tflite = to_tflite(classifier, precision=precision, calibration_images=images)

    def shifted(batch: np.ndarray) -> np.ndarray:
        return np.roll(np.asarray(classifier(batch)), 1, axis=1)

    with pytest.raises(ConversionError, match=f"The {precision} network disagrees"):
        verify(tflite, shifted, images, precision=precision)


def test_calibration_in_another_range_is_caught(classifier: Any, images: np.ndarray) -> None:
    tflite = to_tflite(classifier, precision="int8", calibration_images=images * np.float32(0.01))
    with pytest.raises(ConversionError, match="calibration images are in the model's input range"):
        verify(tflite, predictor(classifier), images, precision="int8")


def test_outputs_that_are_not_numbers_are_caught(images: np.ndarray) -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten()])
    with pytest.raises(ConversionError, match="disagrees"):
        verify(to_tflite(model), lambda batch: np.full((len(batch), 768), np.nan), images, precision="int8")


def test_verify_names_damage_other_shapes_and_missing_images(classifier: Any, images: np.ndarray) -> None:
    tflite = to_tflite(classifier)
    with pytest.raises(ConversionError, match=r"converted but does not run: .*not a valid Flatbuffer"):
        verify(tflite[: len(tflite) // 2], predictor(classifier), images)
    with pytest.raises(ConversionError, match=r"shape \[64, 5\], the original with \[64, 3\]"):
        verify(tflite, lambda batch: np.zeros((len(batch), 3)), images)
    with pytest.raises(SettingsError, match="none were given"):
        verify(tflite, predictor(classifier), images[:0])
    with pytest.raises(SettingsError, match="Unknown precision"):
        verify(tflite, predictor(classifier), images, precision="int4")


def test_every_precision_has_a_limit() -> None:
    assert tuple(LIMITS) == PRECISIONS


def test_converted_bytes_survive_a_file(classifier: Any, images: np.ndarray, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(to_tflite(classifier))
    assert verify(path.read_bytes(), predictor(classifier), images).top1_agreement == 1.0


def half_empty_classifier() -> Any:
    """A MobileNet-like network whose pointwise kernels are zero in nine places of ten."""
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    hidden = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    hidden = layers.DepthwiseConv2D(3, padding="same", activation="relu")(hidden)
    hidden = layers.Conv2D(128, 1, activation="relu", name="pointwise")(hidden)
    hidden = layers.Conv2D(64, 1, activation="relu", name="narrow")(hidden)
    model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(hidden)))
    for name in ("pointwise", "narrow"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel *= np.random.default_rng(0).random(kernel.shape) < 0.1
        model.get_layer(name).set_weights([kernel, bias])
    return model


def test_sparse_kernels_are_stored_as_such_and_compute_the_same() -> None:
    model = half_empty_classifier()
    images = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
    dense, sparse = to_tflite(model), to_tflite(model, sparse=True)
    kinds = Counter(operator.kind for operator in read_operators(sparse))

    assert kinds == {
        "CONV_2D": 3, "DEPTHWISE_CONV_2D": 1, "DENSIFY": 2, "MEAN": 1, "FULLY_CONNECTED": 1
    }  # fmt: skip
    assert "DENSIFY" not in {operator.kind for operator in read_operators(dense)}
    assert len(dense) - len(sparse) > 0.75 * 4 * (32 * 128 + 128 * 64)
    assert verify(sparse, predictor(model), images).max_abs_error < 1e-6


def test_a_dense_network_is_stored_densely_even_if_asked_otherwise(classifier: Any) -> None:
    kinds = {operator.kind for operator in read_operators(to_tflite(classifier, sparse=True))}
    assert "DENSIFY" not in kinds


def test_sparse_kernels_are_for_float32_only(classifier: Any, images: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="float32 networks only, not in int8"):
        to_tflite(classifier, precision="int8", calibration_images=images, sparse=True)
