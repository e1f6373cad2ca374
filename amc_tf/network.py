"""The network as one pure function of its weights, traced once for every pruning plan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from amc_tf.batch_normalize import normalize_by_batch
from amc_tf.clone import functional_of
from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph
from amc_tf.layers.weighted import BatchNormalizationRule, scale_and_offset
from amc_tf.plan import PruningPlan
from amc_tf.trace import Call, Trace
from amc_tf.weights import Weights, read_weights, slice_weights

Observer = Callable[[Call, list[Any]], None]


class NetworkFunction:
    """Runs a network with weights given from outside, whatever its channel counts.

    The computation is traced once with open channel dimensions; a pruned candidate is only another set of
    arrays, so it runs at its slimmed cost with no Keras model built. Batch normalisation that follows a
    convolution is folded into its kernel.

    Args:
        model: the Keras model; only read.
        graph: its channel graph, made here if not given.

    Attributes:
        graph: the channel graph.
        weights: the model's own weights by layer path and weight name, float32.
        input_shape: (height, width, channels) of one image.
        folded: path of the layer that each folded batch normalisation went into, by the latter's path.

    Raises:
        ModelError: if the model cannot be read, or has more than one input or output.
    """

    def __init__(self, model: Any, graph: ChannelGraph | None = None) -> None:
        self.graph = graph or ChannelGraph.from_model(model)
        _check_one_to_one(model, self.graph.trace)
        self.weights: Weights = read_weights(self.graph)
        self.input_shape: tuple[int, ...] = self.graph.trace.input_shapes[0]
        self.folded: dict[str, str] = _find_folds(self.graph)
        self._compiled: Any = None

    def slice(self, plan: PruningPlan, weights: Weights | None = None) -> Weights:
        """Cuts the channels that a plan removes out of full weights (the model's own by default)."""
        return slice_weights(self.graph, plan, self.weights if weights is None else weights)

    def __call__(self, images: Any, weights: Weights) -> Any:
        """Computes the outputs for a batch.

        Args:
            images: float32 [batch, height, width, channels] in the model's input range.
            weights: full or sliced weights.

        Returns:
            float32 [batch, classes] tensor.
        """
        return self.predictor(weights)(images)

    def predictor(self, weights: Weights) -> Callable[[Any], Any]:
        """Prepares weights once and returns the function images -> outputs for many batches."""
        prepared = to_tensors(self.fold(weights))
        compiled = self._compile(prepared)
        return lambda images: compiled(tf.convert_to_tensor(images, tf.float32), prepared)

    def bind(self, weights: Weights) -> Callable[[Any], Any]:
        """Returns the function images -> outputs with the weights as constants, for conversion to TFLite."""
        constants = self.fold(weights)
        return lambda images: self.run(images, constants)

    def fold(self, weights: Weights) -> Weights:
        """Folds batch normalisation into the convolution before it; arrays that do not change are shared."""
        layers = self.graph.layers()
        folded = {path: arrays for path, arrays in weights.items() if path not in self.folded}
        for path, target in self.folded.items():
            scale, offset = scale_and_offset(layers[path][0], weights[path])
            depthwise = layers[target][1].reads is None
            folded[target] = _scale_outputs(weights[target], scale, offset, depthwise=depthwise)
        return folded

    def run(
        self,
        images: Any,
        weights: Mapping[str, Mapping[str, Any]],
        *,
        observer: Observer | None = None,
        statistics: dict[str, list[tuple[Any, Any]]] | None = None,
    ) -> Any:
        """Computes the network call by call; for use inside a `tf.function`.

        Args:
            images: float32 [batch, height, width, channels] tensor.
            weights: arrays or tensors by layer path and weight name; a batch normalisation without weights
                counts as folded and is passed over.
            observer: called before each call of a layer with its input tensors.
            statistics: if given, every batch normalisation normalises by the batch and leaves its float32
                [channels] mean and variance here by its path, one pair for each call of it.

        Returns:
            float32 [batch, classes] tensor.
        """
        tensors = {self.graph.trace.inputs[0]: images}
        for call, rule in zip(self.graph.trace.calls, self.graph.rules, strict=True):
            inputs = [tensors[number] for number in call.inputs]
            if observer is not None:
                observer(call, inputs)
            given = weights.get(call.path, {})
            is_norm = isinstance(rule, BatchNormalizationRule)
            if is_norm and not given:
                outputs = [inputs[0]]
            elif is_norm and statistics is not None:
                outputs = [_normalize(call, inputs[0], given, statistics)]
            else:
                outputs = rule.apply(call, inputs, given)
            tensors.update(zip(call.outputs, outputs, strict=True))
        return tensors[self.graph.trace.outputs[0]]

    @functools.cached_property
    def batch_statistics(self) -> Callable[[Any, Any], dict[str, Any]]:
        """The compiled function (images, weights) -> what each batch normalisation sees, by its path.

        It takes tensors, as `run` does, and returns means and variances, float32 [calls, 2, channels]; each
        normalisation normalises by the batch.
        """

        def compute(images: Any, weights: Any) -> dict[str, Any]:
            statistics: dict[str, list[tuple[Any, Any]]] = {}
            self.run(images, weights, statistics=statistics)
            return {path: tf.stack([tf.stack(pair) for pair in pairs]) for path, pairs in statistics.items()}

        return self._function(compute, self.weights)

    def _compile(self, prepared: Mapping[str, Mapping[str, Any]]) -> Any:
        if self._compiled is None:
            self._compiled = self._function(self.run, prepared)
        return self._compiled

    def _function(self, compute: Callable[..., Any], weights: Mapping[str, Mapping[str, Any]]) -> Any:
        """Compiles a function of images and weights for any number of either; its Python is run as it is."""
        images = tf.TensorSpec((None, *self.input_shape), tf.float32)
        return tf.function(
            compute, input_signature=[images, self._weight_signature(weights)], autograph=False
        )

    def _weight_signature(
        self, weights: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, tf.TensorSpec]]:
        """Describes the weights with the axes left open along which channels run."""
        signature = {}
        for path, tensors in weights.items():
            axes = self.graph.axes[path]
            signature[path] = {
                name: tf.TensorSpec(
                    [
                        size if channel_map is None else None
                        for size, channel_map in zip(
                            tensor.shape, axes.get(name, (None,) * len(tensor.shape)), strict=True
                        )
                    ],
                    tf.float32,
                )
                for name, tensor in tensors.items()
            }
        return signature


def _check_one_to_one(model: Any, trace: Trace) -> None:
    if isinstance(getattr(functional_of(model), "output", None), Mapping):
        raise ModelError(
            f"'{trace.name}' returns a dictionary, but one output was expected: make such a model with "
            "keras.Model(model.inputs[0], model.outputs[0])."
        )
    if len(trace.inputs) != 1 or len(trace.outputs) != 1:
        raise ModelError(
            f"'{trace.name}' has {len(trace.inputs)} inputs and {len(trace.outputs)} outputs: one image "
            "batch and one output were expected; make such a model with keras.Model(inputs, outputs)."
        )


def _find_folds(graph: ChannelGraph) -> dict[str, str]:
    """Finds batch normalisations that are the only reader of a linear layer, neither of them shared."""
    made_by = {number: call for call in graph.trace.calls for number in call.outputs}
    readers: dict[int, int] = dict.fromkeys(graph.trace.outputs, 1)
    calls: dict[str, int] = {}
    for call in graph.trace.calls:
        calls[call.path] = calls.get(call.path, 0) + 1
        for number in call.inputs:
            readers[number] = readers.get(number, 0) + 1
    folds = {}
    for call, rule in zip(graph.trace.calls, graph.rules, strict=True):
        source = made_by.get(call.inputs[0]) if isinstance(rule, BatchNormalizationRule) else None
        if source is None or readers[call.inputs[0]] > 1 or calls[source.path] > 1 or calls[call.path] > 1:
            continue
        if "kernel" in graph.axes[source.path] and is_linear(source.layer):
            folds[call.path] = source.path
    return folds


def is_linear(layer: Any) -> bool:
    """Tells whether a layer with weights has no activation built in."""
    return getattr(layer.activation, "__name__", None) in {None, "linear"}


def _scale_outputs(arrays: Mapping[str, Any], scale: Any, offset: Any, *, depthwise: bool) -> dict[str, Any]:
    """Multiplies the outputs of a layer by `scale` and adds `offset`; float32 [channels] each."""
    kernel = arrays["kernel"]
    factor = scale.reshape(kernel.shape[2:]) if depthwise else scale
    bias = arrays["bias"] * scale if "bias" in arrays else 0.0
    return {"kernel": kernel * factor, "bias": (bias + offset).astype(np.float32)}


def _normalize(
    call: Call, inputs: Any, weights: Mapping[str, Any], statistics: dict[str, list[tuple[Any, Any]]]
) -> Any:
    """Normalises by the batch and leaves its statistics."""
    channels = tf.shape(weights["moving_mean"])
    outputs, mean, variance = normalize_by_batch(
        inputs,
        weights["gamma"] if "gamma" in weights else tf.ones(channels),
        weights["beta"] if "beta" in weights else tf.zeros(channels),
        epsilon=call.layer.epsilon,
    )
    statistics.setdefault(call.path, []).append((mean, variance))
    return outputs


def to_tensors(weights: Weights) -> dict[str, dict[str, Any]]:
    """Returns weights as tensors, which compiled functions refer to instead of holding copies."""
    return {
        path: {name: tf.convert_to_tensor(array, tf.float32) for name, array in arrays.items()}
        for path, arrays in weights.items()
    }
