"""Quantisation-aware training: fine-tunes a network as the int8 network that it is to become.

Post-training quantisation (`to_tflite(precision="int8")`) takes a finished network as it is. Here
tensorflow-model-optimization rounds weights and activations in every forward pass as the int8 network will,
so that training can make up for it (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018). Three things differ from the toolkit's own recipe:

- The ranges of all activations start as they are found on training images. The toolkit starts them at -6..6
  and moves them by a thousandth in each step, for which a short training has not the time.
- Kernels of depthwise convolutions have a range for each channel, as in post-training quantisation, and not
  one for all: before any training MobileNetV2 (ImageNet, 160 pixels, 200 photos) is right on 72 % instead of
  11 %; on 73.5 % in float32.
- Networks may be nested, and layers may end in an activation that only stands alone in int8: both are taken
  apart first.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.operators import read_operators
from amc_tf.errors import ConversionError, ModelError
from amc_tf.evaluate import accuracy
from amc_tf.finetune import EpochRecord, FinetuneResult, finetune
from amc_tf.image_data import ImageData, to_input_range
from amc_tf.keras_data import as_image_data
from amc_tf.settings import FinetuneSettings
from amc_tf.trace import Call, trace_model
from amc_tf.twin import keeping_keras3, to_tf_keras

_NUM_RANGE_IMAGES = 100
# Activations that a convolution runs by itself; any other becomes a layer of its own.
_FUSED = ("linear", "relu")
# Layers that the toolkit leaves out although there are int8 operators for them; their output has a range.
_OUTPUT_ONLY = ("Multiply", "Subtract", "Maximum", "Minimum")


@dataclasses.dataclass(frozen=True)
class QuantizedNetwork:
    """What quantisation-aware training made.

    Attributes:
        finetuned: how the training went; its `model` is a `tf_keras` network that computes in float what the
            int8 network computes, batch normalisation not folded yet.
        tflite: the int8 network, integers throughout, int8 input and output.
    """

    finetuned: FinetuneResult
    tflite: bytes


def quantize_aware(  # noqa: PLR0913, those of `finetune`
    model: Any,
    train: Any,
    validation: Any,
    *,
    settings: FinetuneSettings,
    input_range: str,
    teacher: Any = None,
    unlabelled: ArrayLike | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> QuantizedNetwork:
    """Trains a copy of a network as an int8 network, and converts it.

    Args:
        model: a trained functional or Sequential classifier, Keras 3 or `tf_keras`; it is not changed.
        train: images to train on, as of `finetune`; some of them set the first ranges of the activations.
        validation: images that decide which epoch is best, likewise.
        settings: of the training; those of `quantization_settings` suit a trained network.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
        teacher: the float network that is imitated, usually `model` itself; None trains on labels alone.
        unlabelled: images without labels to imitate it on, as of `finetune`.
        on_epoch: called after each epoch, and before the first, with its record.

    Returns:
        The trained network and its int8 TFLite bytes.

    Raises:
        ModelError: if a layer has no int8 counterpart; the message names it.
        ConversionError: if the converter refuses the network, or leaves operators in float.
        DataError: if labels do not fit the outputs.
        SettingsError: if the training diverges.
    """
    toolkit, train = _load_toolkit(), as_image_data(train)
    flat = _flatten(to_tf_keras(model))
    scheme, objects = _make_scheme(toolkit)
    with toolkit.quantize_scope({**objects, **_activations(flat)}):
        aware = _make_aware(flat, scheme, toolkit)
        _set_ranges(aware, flat, to_input_range(_spread(train.images), input_range))
        finetuned = finetune(
            aware,
            train,
            validation,
            settings=settings,
            input_range=input_range,
            teacher=teacher,
            unlabelled=unlabelled,
            on_epoch=on_epoch,
        )
    tflite = to_tflite(finetuned.model, precision="int8", quantization_aware=True)
    _check_integer(tflite, model.name)
    return QuantizedNetwork(finetuned, tflite)


def check_quantizable(model: Any) -> None:
    """Checks, before any long work, that `quantize_aware` can train a network or a pruned one like it.

    Args:
        model: as of `quantize_aware`.

    Raises:
        ModelError: if a layer has no int8 counterpart; the message names it.
    """
    scheme, _ = _make_scheme(_load_toolkit())
    _check_layers(_flatten(to_tf_keras(model)), scheme)


def most_accurate(networks: Mapping[str, bytes], data: ImageData, *, input_range: str) -> str:
    """Returns the name of the TFLite network that is right most often; of equal ones the first.

    Args:
        networks: TFLite networks by name, at least one.
        data: images to run them on; not those that results are told on.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
    """
    if len(networks) == 1:
        return next(iter(networks))
    num_threads = os.cpu_count() or 1
    top1 = {
        name: accuracy(
            TFLiteRunner(tflite, num_threads=num_threads).predict, data, input_range=input_range
        ).top1
        for name, tflite in networks.items()
    }
    return max(top1, key=lambda name: top1[name])


def _load_toolkit() -> Any:
    with keeping_keras3():
        import tensorflow_model_optimization as toolkit
    return toolkit.quantization.keras


def _flatten(model: Any) -> Any:
    """Returns a `tf_keras` model as one level of layers, each with at most one task.

    Nested models are entered, and an activation that no int8 convolution runs by itself becomes a layer.

    Raises:
        ModelError: if a layer is called more than once.
    """
    import tf_keras

    trace = trace_model(model)
    images = tf_keras.Input(trace.input_shapes[0], name="image")
    tensors = {trace.inputs[0]: images}
    seen: set[str] = set()
    for call in trace.calls:
        if type(call.layer).__name__ == "InputLayer":
            outputs = [tensors[call.inputs[0]]]
        else:
            if call.path in seen:
                raise _unsupported(call.path, call.layer, "it is used more than once")
            seen.add(call.path)
            outputs = _repeat(call, [tensors[number] for number in call.inputs], tf_keras)
        tensors.update(zip(call.outputs, outputs, strict=True))
    return tf_keras.Model(images, tensors[trace.outputs[0]], name=model.name)


def _repeat(call: Call, inputs: list[Any], library: ModuleType) -> list[Any]:
    """Calls a copy of a layer on other tensors, its activation apart from it."""
    config = call.layer.get_config()
    config["name"] = call.path.replace("/", "__")
    activation = getattr(call.layer, "activation", None)
    is_layer_of_its_own = type(call.layer).__name__ == "Activation"
    splits = callable(activation) and not is_layer_of_its_own and _name_of(activation) not in _FUSED
    if callable(activation):
        config["activation"] = "linear" if splits else activation
    layer = type(call.layer).from_config(config)
    outputs = call.replay(inputs, layer)
    if call.layer.weights:
        layer.set_weights(call.layer.get_weights())
    if not splits:
        return outputs
    return [library.layers.Activation(activation, name=f"{layer.name}__activation")(outputs[0])]


def _make_aware(flat: Any, scheme: Any, toolkit: Any) -> Any:
    """Returns the network with rounding to int8 built in, batch normalisation folded as in the converter."""
    _check_layers(flat, scheme)
    return toolkit.quantize_apply(toolkit.quantize_annotate_model(flat), scheme)


def _check_layers(flat: Any, scheme: Any) -> None:
    registry = scheme.get_quantize_registry()
    for layer in flat.layers:
        if not (type(layer).__name__ == "InputLayer" or registry.supports(layer) or _is_folded(layer)):
            raise _unsupported(layer.name.replace("__", "/"), layer, "it has no int8 counterpart")
        if type(layer).__name__ == "Activation":
            _check_activation(layer, registry.get_quantize_config(layer))


def _check_activation(layer: Any, config: Any) -> None:
    try:
        config.get_output_quantizers(layer)
    except ValueError as error:
        name = _name_of(layer.activation)
        path = layer.name.removesuffix("__activation").replace("__", "/")
        raise _unsupported(path, layer, f"its activation {name} has no int8 counterpart") from error


def _is_folded(layer: Any) -> bool:
    """Tells whether a layer is a batch normalisation that is the only reader of a layer with weights."""
    if type(layer).__name__ != "BatchNormalization":
        return False
    source = layer.inbound_nodes[0].inbound_layers
    kinds = ("Conv2D", "DepthwiseConv2D", "Dense")
    return (
        type(source).__name__ in kinds
        and _name_of(source.activation) == "linear"
        and len(source.outbound_nodes) == 1
    )


def _make_scheme(toolkit: Any) -> tuple[Any, dict[str, type]]:
    """Returns the toolkit's 8-bit scheme with what is changed of it, and the new classes by name."""
    import tensorflow as tf
    import tf_keras

    base = toolkit.default_8bit.Default8BitQuantizeScheme()
    base_registry = base.get_quantize_registry()
    depthwise = base_registry.get_quantize_config(tf_keras.layers.DepthwiseConv2D(1))
    output_only = type(base_registry.get_quantize_config(tf_keras.layers.Add()))

    class PerChannelQuantizer(toolkit.quantizers.LastValueQuantizer):
        """Rounds a depthwise kernel [rows, columns, channels, multiplier] with a range for each channel."""

        def __init__(self) -> None:
            super().__init__(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)

        def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
            """Adds the variables of the ranges, [channels * multiplier] each."""
            return self._add_range_weights(layer, name, True, [tensor_shape[2] * tensor_shape[3]])

        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            rows, columns, channels, multiplier = inputs.shape
            flat = tf.reshape(inputs, [rows, columns, 1, channels * multiplier])
            return tf.reshape(super().__call__(flat, training, weights, **kwargs), inputs.shape)

    class DepthwiseConfig(type(depthwise)):  # type: ignore[misc]
        """Rounds depthwise convolutions channel by channel."""

        def __init__(self, weight_attrs: Any, activation_attrs: Any, quantize_output: bool) -> None:
            super().__init__(weight_attrs, activation_attrs, quantize_output)
            self.weight_quantizer = PerChannelQuantizer()

    class Registry:
        """Says how each layer is rounded."""

        def supports(self, layer: Any) -> bool:
            """Tells whether there is a way."""
            return type(layer).__name__ in _OUTPUT_ONLY or base_registry.supports(layer)

        def get_quantize_config(self, layer: Any) -> Any:
            """Returns the way."""
            if type(layer).__name__ == "DepthwiseConv2D":
                return DepthwiseConfig.from_config(depthwise.get_config())
            if type(layer).__name__ in _OUTPUT_ONLY:
                return output_only([], [], True)
            return base_registry.get_quantize_config(layer)

    class Scheme(type(base)):  # type: ignore[misc]
        """The toolkit's scheme with that registry."""

        def get_quantize_registry(self) -> Any:
            """Returns the registry."""
            return Registry()

    return Scheme(), {"DepthwiseConfig": DepthwiseConfig}


def _set_ranges(aware: Any, flat: Any, images: np.ndarray) -> None:
    """Sets the range of every weight and activation to what it is in the float network on some images."""
    import tf_keras

    names = {layer.name: layer for layer in flat.layers}
    outputs, ranges = [], []
    for layer in aware.layers:
        variables = {_short_name(variable): variable for variable in layer.weights}
        for name in [name.removesuffix("_min") for name in variables if name.endswith("_min")]:
            pair = variables[f"{name}_min"], variables[f"{name}_max"]
            if name in variables:
                _set_kernel_range(np.asarray(variables[name]), *pair)
                continue
            source = names.get(layer.name.removeprefix("quant_"))
            outputs.append(flat.input if source is None else source.output)
            ranges.append(pair)
    values = tf_keras.Model(flat.inputs, outputs).predict_on_batch(images)
    for value, (lowest, highest) in zip(values, ranges, strict=True):
        lowest.assign(min(float(np.min(value)), 0.0))
        highest.assign(max(float(np.max(value)), 0.0))


def _set_kernel_range(kernel: np.ndarray, lowest: Any, highest: Any) -> None:
    """Sets a symmetric range: one for all of a kernel, or one for each output channel."""
    if lowest.shape.rank == 0:
        largest = np.abs(kernel).max()
    else:
        largest = np.abs(kernel).reshape(-1, lowest.shape[0]).max(axis=0)
    lowest.assign(-largest)
    highest.assign(largest)


def _check_integer(tflite: bytes, name: str) -> None:
    left = sorted({item.kind for item in read_operators(tflite) if item.precision not in ("int8", "int32")})
    if left:
        raise ConversionError(
            f"'{name}' was trained for int8, but the converter leaves {', '.join(left)} in float: quantise "
            "after training, without epochs of quantisation-aware training."
        )


def _unsupported(path: str, layer: Any, reason: str) -> ModelError:
    return ModelError(
        f"'{path}' ({type(layer).__name__}) cannot be trained for int8: {reason}. Quantise after training, "
        "without epochs of quantisation-aware training, or replace the layer."
    )


def _activations(flat: Any) -> dict[str, Any]:
    """Returns by name the activations that are functions of this package."""
    used = [getattr(layer, "activation", None) for layer in flat.layers]
    return {_name_of(item): item for item in used if getattr(item, "__module__", "").startswith("amc_tf.")}


def _spread(images: np.ndarray) -> np.ndarray:
    """Returns some of the images, from the first to the last."""
    return images[:: max(1, len(images) // _NUM_RANGE_IMAGES)][:_NUM_RANGE_IMAGES]


def _name_of(activation: Any) -> str:
    return str(getattr(activation, "__name__", activation))


def _short_name(variable: Any) -> str:
    """Returns the name of a variable without those of its layers: "kernel_min" of "a/kernel_min:0"."""
    return str(variable.name).partition(":")[0].rpartition("/")[2]
