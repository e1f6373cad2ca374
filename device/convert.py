"""Converts classifiers to TFLite in four precisions and checks the result against the original."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from amc_tf.clone import in_float32
from amc_tf.device.litert import TFLiteRunner, capture_stderr, last_words
from amc_tf.errors import ConversionError, ModelError, SettingsError

__all__ = ["LIMITS", "PRECISIONS", "Agreement", "Limit", "TFLiteRunner", "to_tflite", "verify"]

PRECISIONS = ("float32", "float16", "dynamic", "int8")


@dataclasses.dataclass(frozen=True)
class Limit:
    """How far a converted network's outputs may lie from the original's, as fractions of the output scale.

    One step of a quantized output is allowed on top: nothing finer can be told.

    Attributes:
        typical: Largest allowed mean, over images, of an image's worst output error.
        worst: Largest allowed error of any output of any image.
    """

    typical: float
    worst: float


# These catch a wrong conversion, not a loss of accuracy, reported by itself. Trained MobileNet-V1 and
# V2 have typical errors of 1e-6, 2e-3, 0.04 and 0.06 on 100 photos; a network that answers at random comes
# near 1. float32 leaves room for a Keras side that runs in TF32 on a GPU. A quantized network may be wrong on
# single images, so its worst error is not limited.
LIMITS = {
    "float32": Limit(typical=1e-3, worst=1e-2),
    "float16": Limit(typical=1e-2, worst=1e-1),
    "dynamic": Limit(typical=0.2, worst=float("inf")),
    "int8": Limit(typical=0.35, worst=float("inf")),
}


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well a TFLite network agrees with the network it was converted from.

    Attributes:
        precision: One of `PRECISIONS`.
        num_images: Images compared.
        max_abs_error: Largest difference of any output, in output units.
        mean_abs_error: Mean difference over all outputs, in output units.
        typical_abs_error: Mean over images of the image's largest difference, in output units.
        output_scale: Largest magnitude among the original's outputs, at most 1 for probabilities.
        output_step: Step between two values of a quantized output, in output units; 0 for a float output.
        top1_agreement: Fraction of images where both name the same class, 0 to 1.
    """

    precision: str
    num_images: int
    max_abs_error: float
    mean_abs_error: float
    typical_abs_error: float
    output_scale: float
    output_step: float
    top1_agreement: float

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return dataclasses.asdict(self)


def to_tflite(
    source: Any,
    *,
    precision: str = "float32",
    calibration_images: Any = None,
    quantization_aware: bool = False,
    input_shape: Sequence[int] | None = None,
    sparse: bool = False,
) -> bytes:
    """Converts a classifier to a TFLite network of batch size 1.

    The network is traced at [1, H, W, C] and its variables are frozen into that one function, without a
    SavedModel in between: the operators are those of `TFLiteConverter.from_keras_model` less the
    shape arithmetic of an unknown batch size, in a fraction of its time.

    - "float32": weights and arithmetic as in Keras; layers of mixed precision compute in float32.
    - "float16": weights stored in half the space; CPUs unpack them and compute in float32, GPUs in float16.
    - "dynamic": int8 weights; activations are quantized on the fly. Inputs and outputs stay float32.
    - "int8": integers throughout, convolution weights per channel, int8 input and output, as accelerators
      without floating point need it. Outputs count steps of their scale (`TFLiteRunner` multiplies back);
      a softmax has 256 steps of 1/256, so close classes can tie.

    Args:
        source: A `keras.Model` or `tf_keras.Model` with one image input, or a Python function of one float32
            tensor [1, H, W, C] that computes with TensorFlow (`NetworkFunction.bind(...)`).
        precision: One of `PRECISIONS`.
        calibration_images: float32 [N, H, W, C] in the model's own input range, for "int8" only: they set the
            ranges of the activations. 100 to 500 typical images do.
        quantization_aware: Whether the network holds these ranges itself, as quantisation-aware training
            leaves them (see `amc_tf/quantize.py`); "int8" then takes no calibration images.
        input_shape: (H, W, C); needed for a function and for a model without a fixed input size.
        sparse: Whether kernels that are zero for the most part are stored as their weights and where these
            stand, for "float32" only: a smaller file, whose kernels are unpacked when it is loaded, and which
            XNNPACK may run with sparse kernels.

    Returns:
        The contents of a `.tflite` file; equal for equal networks.

    Raises:
        ConversionError: The converter refuses the network; the message ends with the converter's words.
        ModelError: The model has not one input of a known shape.
        SettingsError: The precision is unknown, or "int8" lacks calibration images of the right shape, or is
            given some that it does not heed.
    """
    if precision not in PRECISIONS:
        raise SettingsError(f"Unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    if sparse and precision != "float32":
        raise SettingsError(f"Sparse kernels are stored in float32 networks only, not in {precision} ones.")
    shape = _input_shape(source, input_shape)
    images = None
    if precision == "int8" and quantization_aware:
        _check_no_calibration(calibration_images)
    elif precision == "int8":
        images = _check_calibration(calibration_images, shape)
    import tensorflow as tf

    model = in_float32(source) if hasattr(source, "layers") else None
    function = source if model is None else lambda image: model(image, training=False)
    with _quiet() as chatter:
        try:
            spec = tf.TensorSpec([1, *shape], tf.float32, name="image")
            concrete = tf.function(function, autograph=False).get_concrete_function(spec)
            # A `trackable_obj` would send the converter through a SavedModel, where Keras 3 variables stay
            # variables (236 operators instead of 15); without it they are frozen.
            converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
            _set_precision(converter, precision, images)
            if sparse:
                converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
            return bytes(converter.convert())
        except Exception as error:  # the converter raises bare Exception subclasses of many modules
            failure = error
    raise ConversionError(
        f"The network cannot be converted to {precision} TFLite: {last_words(failure, chatter)}."
    ) from failure


def verify(
    tflite: bytes,
    predict: Callable[[np.ndarray], Any],
    images: Any,
    *,
    precision: str = "float32",
    num_threads: int = 1,
) -> Agreement:
    """Runs a TFLite network beside the network it came from.

    Args:
        tflite: The contents of a `.tflite` file.
        predict: The original: float32 [B, H, W, C] -> [B, classes], logits or probabilities as converted.
        images: float32 [N, H, W, C] in the model's own input range, N of 1 or more.
        precision: What the network was converted to; selects the limit.
        num_threads: Images that run side by side.

    Returns:
        The agreement, within `LIMITS[precision]`.

    Raises:
        ConversionError: The network does not load, or disagrees beyond the limit.
        SettingsError: The precision is unknown or there are no images.
    """
    if precision not in LIMITS:
        raise SettingsError(f"Unknown precision {precision!r}; choose one of {', '.join(LIMITS)}.")
    images = np.asarray(images, np.float32)
    if len(images) == 0:
        raise SettingsError(
            "A converted network is verified on images, but none were given; pass at least one."
        )
    try:
        runner = TFLiteRunner(tflite, num_threads=num_threads)
        actual = runner.predict(images)
    except ModelError as error:
        raise ConversionError(f"The {precision} network was converted but does not run: {error}") from error
    expected = np.asarray(predict(images), np.float32)
    if actual.shape != expected.shape:
        raise ConversionError(
            f"The {precision} network answers with shape {list(actual.shape)}, "
            f"the original with {list(expected.shape)}."
        )
    agreement = _compare(actual, expected, precision, runner.output_step)
    _check_limit(agreement)
    return agreement


def _input_shape(source: Any, input_shape: Sequence[int] | None) -> tuple[int, ...]:
    if input_shape is not None:
        shape: Any = tuple(input_shape)
    elif hasattr(source, "layers"):
        if len(getattr(source, "inputs", None) or ()) != 1:
            raise ModelError(
                "Only a built model with exactly one input can be converted; build it, or pass input_shape."
            )
        shape = tuple(source.inputs[0].shape[1:])
    else:
        raise SettingsError("A function has no input shape of its own; pass input_shape=(H, W, C).")
    if not all(isinstance(size, (int, np.integer)) and size >= 1 for size in shape):
        raise ModelError(
            f"TFLite needs a fixed input size, but the input is {list(shape)}; pass input_shape=(H, W, C)."
        )
    return tuple(int(size) for size in shape)


def _check_calibration(images: Any, shape: tuple[int, ...]) -> np.ndarray:
    if images is None or len(images) == 0:
        raise SettingsError(
            "int8 needs calibration_images to find the ranges of the activations; "
            "pass 100 or more typical images, float32, in the model's own input range."
        )
    images = np.asarray(images)
    if images.dtype != np.float32 or images.shape[1:] != shape:
        raise SettingsError(
            f"calibration_images must be float32 [N, {', '.join(map(str, shape))}] in the model's own input "
            f"range, but are {images.dtype} {list(images.shape)}."
        )
    return images


def _check_no_calibration(images: Any) -> None:
    if images is not None:
        raise SettingsError(
            "A network that was trained with quantisation in mind holds the ranges of its activations; leave "
            "calibration_images out."
        )


def _set_precision(converter: Any, precision: str, images: np.ndarray | None) -> None:
    import tensorflow as tf

    if precision == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if images is not None:
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if precision == "int8":
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8


def _compare(actual: np.ndarray, expected: np.ndarray, precision: str, output_step: float) -> Agreement:
    errors = np.abs(actual - expected).reshape(len(expected), -1)
    same = actual.argmax(axis=-1) == expected.argmax(axis=-1)
    return Agreement(
        precision=precision,
        num_images=len(expected),
        max_abs_error=float(errors.max()),
        mean_abs_error=float(errors.mean()),
        typical_abs_error=float(errors.max(axis=1).mean()),
        output_scale=float(np.abs(expected).max()),
        output_step=output_step,
        top1_agreement=float(same.mean()),
    )


def _check_limit(agreement: Agreement) -> None:
    limit = LIMITS[agreement.precision]
    typical = limit.typical * agreement.output_scale + agreement.output_step
    worst = limit.worst * agreement.output_scale + agreement.output_step
    # Written so that NaN fails.
    if agreement.typical_abs_error <= typical and agreement.max_abs_error <= worst:
        return
    raise ConversionError(
        f"The {agreement.precision} network disagrees with the original: each image's largest error is "
        f"{agreement.typical_abs_error:.3g} on average (limit {typical:.3g}), {agreement.max_abs_error:.3g} "
        f"at worst (limit {worst:.3g}), outputs reach {agreement.output_scale:.3g}, and top-1 agrees on "
        f"{agreement.top1_agreement:.1%} of {agreement.num_images} images; check that images and calibration "
        "images are in the model's input range."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keeps the converter's remarks off the terminal; errors pass, and yielded lines tell what was said."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), capture_stderr() as chatter:
            warnings.simplefilter("ignore")
            yield chatter
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
