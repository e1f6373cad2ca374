"""Re-fits weights layer by layer from what the slim network itself computes, so that errors do not add up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.activation_fit import Range, Samples, fit, linear_range
from amc_tf.calibration import MAX_FEATURES
from amc_tf.errors import SettingsError
from amc_tf.layers.base import LayerRule
from amc_tf.layers.weighted import scale_and_offset
from amc_tf.network import NetworkFunction, is_linear
from amc_tf.plan import PruningPlan
from amc_tf.reconstruct import shift_outputs
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.trace import Call
from amc_tf.weights import Weights
from amc_tf.windows import read_windows, sample_positions

_MAX_TENSOR_BYTES = 2**28
_MAX_SAMPLE_BYTES = 2**28
_GROWTH = 1.5  # by which images have to become more before more are taken in
_ACTIVATIONS = ("ReLU", "Activation")
_SMALLEST_SCALE = 1e-6  # of a batch normalisation whose outputs still depend on its inputs


class SequentialReconstructor:
    """Finds kernels that reproduce the original outputs from the inputs that the slim network gives them.

    `amc_tf.reconstruct.Reconstructor` asks what a kernel makes of the original inputs: enough for a search,
    and one solve per layer; but behind a few pruned layers the inputs are others. Here both networks run side
    by side on the calibration images. Each reading layer in turn is fitted by least squares on the slim
    inputs to the original output, as He et al. (ICCV 2017) prune whole models. Where the output goes into a
    sum, what the other terms of the sum have lost is added to the target, so that a residual branch makes up
    for its shortcut, as they do for multi-branch networks. Where it goes into a ReLU or ReLU6, only what that
    lets through counts (see `amc_tf.activation_fit`). The ridge pulls towards the kernel it starts from.

    It takes a few inferences of all images, and the statistics for one solve per layer. It helps most where
    the layers still explain nearly all of their outputs, as in residual networks at half the operations.
    Where they do not, and images are few for so many channels, it needs a good start and a strong ridge: a
    MobileNet-V1 at 224x224, uniform at half its operations, has 48.8 % top-1 by `Reconstructor` with
    batch-norm statistics measured again, 44.3 % from the cut kernels with a ridge of 0.01, and 50.8 % from
    those of `Reconstructor` with 1 (500 images).

    Layers that are called more than once, or with too many inputs, keep their cut kernels.

    Args:
        network: the original network.
        images: float32 [images, height, width, channels] in the model's input range; each layer is fitted on
            as many of them as keep every feature map from there on within 256 MiB.
        points_per_image: output positions sampled per image and layer.
        ridge: as a share of the mean diagonal of the moments, above 0.
        batch_size: images computed at a time.
        seed: seed of the positions.

    Raises:
        SettingsError: if the ridge is not above 0.
    """

    def __init__(
        self,
        network: NetworkFunction,
        images: NDArray[np.float32],
        *,
        points_per_image: int = 64,
        ridge: float = 1e-2,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        if ridge <= 0:
            raise SettingsError(f"ridge={ridge} was given: it must be above 0.")
        self._network = network
        self._images = images
        self._points = points_per_image
        self._ridge = ridge
        self._batch_size = batch_size
        self._seed = seed

    def __call__(self, plan: PruningPlan | SparsityPlan, start: Weights | None = None) -> Weights:
        """Returns the weights for a plan, readers of prunable channels re-fitted; float32.

        Of a sparsity plan all channels stay, and what it sets to zero stays zero.

        Args:
            plan: what is kept.
            start: slim weights, whose kernels are what the ridge pulls towards; the original's by default.
        """
        walk = _Walk(self._network, plan, self._images, self._batch_size)
        calls, rules = self._network.graph.trace.calls, self._network.graph.rules
        for number, (call, rule) in enumerate(zip(calls, rules, strict=True)):
            walk.take_in(number)
            if walk.can_refit(call, rule):
                self._refit(walk, call, rule, start or walk.weights, key=(self._seed, number))
            walk.compute(number)
        return walk.weights

    def _refit(
        self, walk: _Walk, call: Call, rule: LayerRule, start_from: Weights, *, key: tuple[int, int]
    ) -> None:
        """Replaces the kernel of one layer in the slim weights."""
        name, axis = rule.reads or ("", 0)
        kernel = start_from[call.path][name]
        columns = walk.kept(call.path, name, axis + 1)
        behind = walk.behind(call, columns)
        samples = self._sample(walk, call, rule, behind, columns, key)
        # In units of the sum that the activation sees; outputs without a scale there keep their kernel.
        counts = np.abs(behind.scale) > _SMALLEST_SCALE
        scale = np.where(counts, behind.scale, 1.0)
        start = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)

        def fitted(*, intercept: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            return fit(
                samples,
                start * scale,
                ridge=self._ridge,
                intercept=intercept,
                linear=behind.linear,
                kept=walk.kept_weights(call.path),
            )

        found, constant = fitted(intercept=True)
        shift = np.where(counts, (constant - behind.offset) / scale, 0.0)
        if not shift_outputs(self._network, walk.weights, call.path, shift.astype(np.float32)):
            found, _ = fitted(intercept=False)
        refitted = np.where(counts, found / scale, start).astype(np.float32).reshape(kernel.shape)
        walk.weights[call.path] = {**walk.weights[call.path], name: refitted}

    def _sample(
        self,
        walk: _Walk,
        call: Call,
        rule: LayerRule,
        behind: _Behind,
        columns: NDArray[np.int64],
        key: tuple[int, int],
    ) -> Samples:
        """Gathers slim inputs, and what the sum behind the layer should be, at sampled positions."""
        name = (rule.reads or ("", 0))[0]
        full = self._network.weights[call.path][name]
        kernel = tf.constant(full.reshape(-1, full.shape[-1])[:, columns] * behind.scale)
        num_inputs = math.prod(walk.weights[call.path][name].shape[:-1])
        most = max(1, _MAX_SAMPLE_BYTES // (4 * num_inputs * walk.num_images))
        parts = []
        for number, batch in enumerate(walk.batches):
            original, slim = (
                rule.reading(call, [tensors[call.inputs[0]][batch]], weights[call.path])
                for tensors, weights in walk.both()
            )
            positions = sample_positions(
                slim, min(self._points, most), tf.constant((key[0] + number, key[1]))
            )
            wanted = read_windows(original, positions) @ kernel + behind.offset.astype(np.float32)
            beside = tf.zeros_like(wanted)
            if behind.others is not None:
                wanted += _at(behind.others[0][batch], positions)
                beside = _at(behind.others[1][batch], positions)
            parts.append((read_windows(slim, positions), wanted, beside))
        return Samples(*(tf.concat(part, axis=0) for part in zip(*parts, strict=True)))


@dataclasses.dataclass(frozen=True)
class _Behind:
    """What becomes of the kept outputs x of a layer, bias left out: activation(scale * x + offset + others).

    Attributes:
        scale: float32 [outputs], of the batch normalisation.
        offset: float32 [outputs], of bias and batch normalisation, in the original network.
        others: the other terms of the sum in the original and in the slim network, float32 [images, rows,
            columns, outputs]; None without a sum, or where a term is not known yet.
        linear: where the activation is the identity; None where there is none, or it is nowhere flat.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    others: tuple[Any, Any] | None
    linear: Range | None


class _Walk:
    """Original and slim network, computed side by side on many images, call by call.

    Feature maps of all images would not fit into memory where they are large. There few images will do, for
    every one has many positions, and layers few channels; further on, where maps are small and layers are
    wide, more images are taken in.

    Attributes:
        original: tensors of the original network that are still read, by number, all images in each.
        slim: likewise of the slim one.
        weights: weights of the slim network.
        num_images: images taken in so far.
        batches: parts of these.
    """

    def __init__(
        self,
        network: NetworkFunction,
        plan: PruningPlan | SparsityPlan,
        images: NDArray[np.float32],
        batch_size: int,
    ) -> None:
        self._network = network
        self._trace = network.graph.trace
        self._sparsity = plan if isinstance(plan, SparsityPlan) else None
        channels = PruningPlan({}, {}) if isinstance(plan, SparsityPlan) else plan
        self._masks = channels.masks(network.graph)
        self.weights = network.slice(channels)
        if self._sparsity is not None:
            self.weights = self._sparsity.apply(self.weights)
        self._images = images
        self._batch_size = batch_size
        self.num_images = 0
        self.batches: list[slice] = []
        self.original: dict[int, Any] = {}
        self.slim: dict[int, Any] = {}
        self._readers: dict[int, list[Call]] = {}
        self._last_use: dict[int, int] = {}
        self._num_calls: dict[str, int] = {}
        for number, call in enumerate(self._trace.calls):
            self._num_calls[call.path] = self._num_calls.get(call.path, 0) + 1
            for tensor in call.inputs:
                self._readers.setdefault(tensor, []).append(call)
                self._last_use[tensor] = number

    def take_in(self, number: int) -> None:
        """Takes in as many images as there is room for from a call on, if these are many more."""
        wanted = min(len(self._images), self._trace.most_images(_MAX_TENSOR_BYTES, start=number))
        if wanted < _GROWTH * self.num_images:
            return
        starts = range(self.num_images, wanted, self._batch_size)
        batches = [slice(first, min(first + self._batch_size, wanted)) for first in starts]
        for tensors, weights in self.both():
            parts = [self._compute_up_to(number, self._images[batch], weights) for batch in batches]
            for tensor in parts[0]:
                known = [tensors[tensor]] if tensor in tensors else []
                tensors[tensor] = tf.concat([*known, *(part[tensor] for part in parts)], axis=0)
        self.num_images = wanted
        self.batches += batches

    def _compute_up_to(self, number: int, images: NDArray[np.float32], weights: Weights) -> dict[int, Any]:
        """Computes the calls before one in one network, and returns what it and later ones read."""
        tensors: dict[int, Any] = {self._trace.inputs[0]: tf.constant(images)}
        calls, rules = self._trace.calls[:number], self._network.graph.rules
        for position, (call, rule) in enumerate(zip(calls, rules, strict=False)):
            outputs = rule.apply(call, [tensors[item] for item in call.inputs], weights.get(call.path, {}))
            tensors.update(zip(call.outputs, outputs, strict=True))
            self._forget(tensors, call, position)
        return tensors

    def both(self) -> tuple[tuple[dict[int, Any], Weights], ...]:
        """Returns tensors and weights of the original and of the slim network."""
        return (self.original, self._network.weights), (self.slim, self.weights)

    def _forget(self, tensors: dict[int, Any], call: Call, number: int) -> None:
        """Drops the inputs and outputs of a call that no later one reads."""
        for tensor in {*call.inputs, *call.outputs}:
            if self._last_use.get(tensor, -1) <= number:
                tensors.pop(tensor, None)

    def can_refit(self, call: Call, rule: LayerRule) -> bool:
        """Tells whether a call reads prunable channels with a kernel that is its own and not too large."""
        if rule.reads is None or self._num_calls[call.path] > 1:
            return False
        name, axis = rule.reads
        axes = self._network.graph.axes.get(call.path, {}).get(name)
        if axes is None or axes[axis] is None:
            return False
        return math.prod(self.weights[call.path][name].shape[:-1]) <= MAX_FEATURES

    def kept(self, path: str, name: str, axis: int) -> NDArray[np.int64]:
        """Returns the positions of a weight axis that stay, int64."""
        channel_map = self._network.graph.axes[path][name][axis]
        if channel_map is None:
            return np.arange(self._network.weights[path][name].shape[axis])
        return np.flatnonzero(channel_map.kept(self._masks))

    def kept_weights(self, path: str) -> NDArray[np.bool_] | None:
        """Tells which weights of a layer may differ from 0, bool [inputs, outputs]; None for all."""
        if self._sparsity is None or path not in self._sparsity.kept:
            return None
        kernel = self._network.weights[path]["kernel"]
        return self._sparsity.mask(path, kernel).reshape(-1, kernel.shape[-1])

    def behind(self, call: Call, columns: NDArray[np.int64]) -> _Behind:
        """Returns what becomes of the outputs of a reading layer that stay (`columns`)."""
        arrays = self._network.weights[call.path]
        scale = np.ones(len(columns), np.float32)
        offset = arrays["bias"][columns] if "bias" in arrays else np.zeros(len(columns), np.float32)
        if not is_linear(call.layer):
            return _Behind(scale, offset, None, linear_range(call.layer))
        tensor = call.outputs[0]
        reader = self._only_reader(tensor)
        if reader is not None and self._network.folded.get(reader.path) == call.path:
            folded = scale_and_offset(reader.layer, self._network.weights[reader.path])
            scale, shift = (part[columns] for part in folded)
            offset = offset * scale + shift
            tensor = reader.outputs[0]
            reader = self._only_reader(tensor)
        others = None
        if reader is not None and type(reader.layer).__name__ == "Add":
            others = self._other_terms(reader, tensor, columns)
            if others is None:
                return _Behind(scale, offset, None, None)
            reader = self._only_reader(reader.outputs[0])
        return _Behind(scale, offset, others, _range_of(reader))

    def _other_terms(self, reader: Call, tensor: int, columns: NDArray[np.int64]) -> tuple[Any, Any] | None:
        """Returns what a sum adds to a tensor, originally and now; None if that is not known yet."""
        others = [other for other in reader.inputs if other != tensor]
        if any(other not in self.slim for other in others) or len({*reader.input_shapes}) > 1:
            return None
        original = sum(tf.gather(self.original[other], columns, axis=-1) for other in others)
        return original, sum(self.slim[other] for other in others)

    def compute(self, number: int) -> None:
        """Computes a call in both networks, and forgets what no later call reads."""
        call, rule = self._trace.calls[number], self._network.graph.rules[number]
        for tensors, weights in self.both():
            tensors.update(zip(call.outputs, self._apply(call, rule, tensors, weights), strict=True))
            self._forget(tensors, call, number)

    def _apply(self, call: Call, rule: LayerRule, tensors: Mapping[int, Any], weights: Weights) -> list[Any]:
        given = weights.get(call.path, {})
        parts = [
            rule.apply(call, [tensors[tensor][batch] for tensor in call.inputs], given)
            for batch in self.batches
        ]
        return [tf.concat(part, axis=0) for part in zip(*parts, strict=True)]

    def _only_reader(self, tensor: int) -> Call | None:
        readers = self._readers.get(tensor, [])
        return readers[0] if len(readers) == 1 else None


def _range_of(reader: Call | None) -> Range | None:
    """Returns the linear range of the only reader where that is an activation, with nothing before it."""
    if reader is None or type(reader.layer).__name__ not in _ACTIVATIONS:
        return None
    return linear_range(reader.layer)


def _at(tensor: Any, positions: Any) -> Any:
    """Picks positions: float32 [batch, rows, columns, channels] -> [batch * positions, channels]."""
    channels = tensor.shape[-1]
    flat = tf.reshape(tensor, (tensor.shape[0], -1, channels))
    return tf.reshape(tf.gather(flat, positions, axis=1), (-1, channels))
