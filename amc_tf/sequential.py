"""Re-fits weights layer by layer from what the slim network itself computes, so that errors do not add up."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.activation_fit import Range, Samples, fit, linear_range
from amc_tf.calibration import MAX_FEATURES
from amc_tf.errors import SettingsError
from amc_tf.layers.base import LayerRule, Reading
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
    lets through counts (see `amc_tf.activation_fit`). The ridge pulls towards the kernel it starts from, the
    more the fewer samples a layer has for each of its inputs: a hundred in a CIFAR ResNet, and one in the
    last layer of a MobileNet, which would otherwise learn its calibration images by heart.

    It takes a few inferences of all images, and the statistics for one solve per layer. Where layers no
    longer explain nearly all of their outputs it needs a good start: that of `Reconstructor`.

    Layers that are called more than once, or with too many inputs, keep their cut kernels.

    Args:
        network: the original network.
        images: float32 [images, height, width, channels] in the model's input range; each layer is fitted on
            as many of them as keep every feature map from there on within 256 MiB.
        points_per_image: output positions sampled per image and layer.
        ridge: as a share of the mean diagonal of the moments, for each input that a layer has per sample;
            above 0.
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
        ridge: float = 10.0,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        _check_ridge(ridge)
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
        return self.with_ridges(plan, start, [self._ridge])[0]

    def with_ridges(
        self, plan: PruningPlan | SparsityPlan, start: Weights | None, ridges: Sequence[float]
    ) -> list[Weights]:
        """Returns what a call with each of several ridges does; the original network is computed once.

        Args:
            plan: as of a call.
            start: as of a call.
            ridges: each above 0.

        Raises:
            SettingsError: if a ridge is not above 0.
        """
        for ridge in ridges:
            _check_ridge(ridge)
        walk = _Walk(self._network, plan, self._images, self._batch_size, num_slims=len(ridges))
        calls, rules = self._network.graph.trace.calls, self._network.graph.rules
        for number, (call, rule) in enumerate(zip(calls, rules, strict=True)):
            walk.take_in(number)
            if walk.can_refit(call, rule):
                self._refit(walk, call, rule, start, ridges, key=(self._seed, number))
            walk.compute(number)
        return [slim.weights for slim in walk.slims]

    def _refit(
        self,
        walk: _Walk,
        call: Call,
        rule: LayerRule,
        start: Weights | None,
        ridges: Sequence[float],
        *,
        key: tuple[int, int],
    ) -> None:
        """Replaces the kernel of one layer in the weights of each slim network."""
        name, axis = rule.reads or ("", 0)
        columns = walk.kept(call.path, name, axis + 1)
        behind = walk.behind(call, columns)
        wanted = self._wanted(walk, call, rule, behind, columns, key)
        # In units of the sum that the activation sees; outputs without a scale there keep their kernel.
        counts = np.abs(behind.scale) > _SMALLEST_SCALE
        scale = np.where(counts, behind.scale, 1.0)
        for slim, others, ridge in zip(walk.slims, behind.slim_others, ridges, strict=True):
            kernel = (start or slim.weights)[call.path][name]
            before = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
            samples = _sample(slim, call, rule, wanted, others)
            fitted = functools.partial(
                fit,
                samples,
                before * scale,
                ridge=ridge * len(before) / len(samples.inputs),
                linear=behind.linear,
                kept=walk.kept_weights(call.path),
            )
            found, constant = fitted(intercept=True)
            shift = np.where(counts, (constant - behind.offset) / scale, 0.0)
            if not shift_outputs(self._network, slim.weights, call.path, shift.astype(np.float32)):
                found, _ = fitted(intercept=False)
            refitted = np.where(counts, found / scale, before).astype(np.float32).reshape(kernel.shape)
            slim.weights[call.path] = {**slim.weights[call.path], name: refitted}

    def _wanted(
        self,
        walk: _Walk,
        call: Call,
        rule: LayerRule,
        behind: _Behind,
        columns: NDArray[np.int64],
        key: tuple[int, int],
    ) -> list[_Wanted]:
        """Samples positions, and gathers what the sum behind the layer should be there."""
        name = (rule.reads or ("", 0))[0]
        full = self._network.weights[call.path][name]
        kernel = tf.constant(full.reshape(-1, full.shape[-1])[:, columns] * behind.scale)
        num_inputs = math.prod(walk.slims[0].weights[call.path][name].shape[:-1])
        most = max(1, _MAX_SAMPLE_BYTES // (4 * num_inputs * walk.num_images))
        parts = []
        for number, batch in enumerate(walk.batches):
            reading = _reading(call, rule, walk.original, self._network.weights, batch)
            positions = sample_positions(
                reading, min(self._points, most), tf.constant((key[0] + number, key[1]))
            )
            sums = read_windows(reading, positions) @ kernel + behind.offset.astype(np.float32)
            if behind.others is not None:
                sums += _at(behind.others[batch], positions)
            parts.append(_Wanted(batch, positions, sums))
        return parts


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """What the sum behind a layer should be at sampled positions of a batch.

    Attributes:
        batch: the images, as a part of all.
        positions: int32 [positions], the same ones in each image.
        sums: float32 [batch * positions, outputs].
    """

    batch: slice
    positions: Any
    sums: Any


@dataclasses.dataclass(frozen=True)
class _Behind:
    """What becomes of the kept outputs x of a layer, bias left out: activation(scale * x + offset + others).

    Attributes:
        scale: float32 [outputs], of the batch normalisation.
        offset: float32 [outputs], of bias and batch normalisation, in the original network.
        others: the other terms of the sum in the original, float32 [images, rows, columns, outputs]; None
            without a sum, or where a term is not known yet.
        slim_others: likewise, in each of the slim networks.
        linear: where the activation is the identity; None where there is none, or it is nowhere flat.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    others: Any
    slim_others: Sequence[Any]
    linear: Range | None


@dataclasses.dataclass
class _Slim:
    """A slim network on its way through a walk.

    Attributes:
        weights: its weights, float32.
        tensors: its tensors that are still read, by number, all images in each.
    """

    weights: Weights
    tensors: dict[int, Any] = dataclasses.field(default_factory=dict)


class _Walk:
    """Original and slim networks of one plan, computed side by side on many images, call by call.

    Feature maps of all images would not fit into memory where they are large. There few images will do, for
    every one has many positions, and layers few channels; further on, where maps are small and layers are
    wide, more images are taken in.

    Attributes:
        original: tensors of the original network that are still read, by number, all images in each.
        slims: the slim networks.
        num_images: images taken in so far.
        batches: parts of these.
    """

    def __init__(
        self,
        network: NetworkFunction,
        plan: PruningPlan | SparsityPlan,
        images: NDArray[np.float32],
        batch_size: int,
        *,
        num_slims: int,
    ) -> None:
        self._network = network
        self._trace = network.graph.trace
        self._sparsity = plan if isinstance(plan, SparsityPlan) else None
        channels = PruningPlan({}, {}) if isinstance(plan, SparsityPlan) else plan
        self._masks = channels.masks(network.graph)
        weights = network.slice(channels)
        if self._sparsity is not None:
            weights = self._sparsity.apply(weights)
        self.slims = [_Slim(dict(weights)) for _ in range(num_slims)]
        self._images = images
        self._batch_size = batch_size
        self.num_images = 0
        self.batches: list[slice] = []
        self.original: dict[int, Any] = {}
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
        for tensors, weights in self._networks():
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

    def _networks(self) -> list[tuple[dict[int, Any], Weights]]:
        """Returns tensors and weights of the original and of the slim networks."""
        slims = [(slim.tensors, slim.weights) for slim in self.slims]
        return [(self.original, self._network.weights), *slims]

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
        return math.prod(self.slims[0].weights[call.path][name].shape[:-1]) <= MAX_FEATURES

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
        no_others = [None] * len(self.slims)
        scale = np.ones(len(columns), np.float32)
        offset = arrays["bias"][columns] if "bias" in arrays else np.zeros(len(columns), np.float32)
        if not is_linear(call.layer):
            return _Behind(scale, offset, None, no_others, linear_range(call.layer))
        tensor = call.outputs[0]
        reader = self._only_reader(tensor)
        if reader is not None and self._network.folded.get(reader.path) == call.path:
            folded = scale_and_offset(reader.layer, self._network.weights[reader.path])
            scale, shift = (part[columns] for part in folded)
            offset = offset * scale + shift
            tensor = reader.outputs[0]
            reader = self._only_reader(tensor)
        if reader is None or type(reader.layer).__name__ != "Add":
            return _Behind(scale, offset, None, no_others, _range_of(reader))
        others = self._other_terms(reader, tensor, columns)
        if others is None:
            return _Behind(scale, offset, None, no_others, None)
        return _Behind(scale, offset, *others, _range_of(self._only_reader(reader.outputs[0])))

    def _other_terms(
        self, reader: Call, tensor: int, columns: NDArray[np.int64]
    ) -> tuple[Any, Sequence[Any]] | None:
        """Returns what a sum adds to a tensor, originally and in each slim network; None if not known yet."""
        others = [other for other in reader.inputs if other != tensor]
        if any(other not in self.original for other in others) or len({*reader.input_shapes}) > 1:
            return None
        original = sum(tf.gather(self.original[other], columns, axis=-1) for other in others)
        return original, [sum(slim.tensors[other] for other in others) for slim in self.slims]

    def compute(self, number: int) -> None:
        """Computes a call in all networks, and forgets what no later call reads."""
        call, rule = self._trace.calls[number], self._network.graph.rules[number]
        for tensors, weights in self._networks():
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


def _check_ridge(ridge: float) -> None:
    if ridge <= 0:
        raise SettingsError(f"ridge={ridge} was given: it must be above 0.")


def _reading(
    call: Call, rule: LayerRule, tensors: Mapping[int, Any], weights: Weights, batch: slice
) -> Reading:
    """Tells what a reading layer sees of a batch in the network that tensors and weights belong to."""
    return rule.reading(call, [tensors[call.inputs[0]][batch]], weights[call.path])


def _sample(slim: _Slim, call: Call, rule: LayerRule, wanted: Sequence[_Wanted], others: Any) -> Samples:
    """Gathers what a layer of a slim network reads where it is known what it should put out."""
    parts = []
    for part in wanted:
        reading = _reading(call, rule, slim.tensors, slim.weights, part.batch)
        inputs = read_windows(reading, part.positions)
        beside = tf.zeros_like(part.sums) if others is None else _at(others[part.batch], part.positions)
        parts.append((inputs, part.sums, beside))
    return Samples(*(tf.concat(part, axis=0) for part in zip(*parts, strict=True)))


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
