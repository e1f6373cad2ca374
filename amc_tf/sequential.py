"""Re-fits weights layer by layer from what the slim network itself computes, so that errors do not add up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.calibration import MAX_FEATURES, InputStatistics, MomentSums
from amc_tf.errors import SettingsError
from amc_tf.layers.base import LayerRule
from amc_tf.layers.weighted import scale_and_offset
from amc_tf.network import NetworkFunction, is_linear
from amc_tf.plan import PruningPlan
from amc_tf.reconstruct import shift_outputs, solve_ridge
from amc_tf.trace import Call
from amc_tf.weights import Weights
from amc_tf.windows import read_windows, sample_positions

_MAX_TENSOR_BYTES = 2**28


class SequentialReconstructor:
    """Finds kernels that reproduce the original outputs from the inputs that the slim network gives them.

    `amc_tf.reconstruct.Reconstructor` asks what a kernel makes of the original inputs: enough for a search,
    and one solve per layer; but behind a few pruned layers the inputs are others. Here both networks run side
    by side on the calibration images. Each reading layer in turn is fitted by least squares on the slim
    inputs to the original output, as He et al. (ICCV 2017) prune whole models. Where the output goes into a
    sum, what the other terms of the sum have lost is added to the target, so that a residual branch makes up
    for its shortcut, as they do for multi-branch networks. The ridge pulls towards the original kernel.

    It takes two inferences of all images, and the statistics for one solve per layer. It helps most where the
    layers still explain nearly all of their outputs, as in residual networks at half the operations; where
    they do not, least squares shrinks the outputs, and `Reconstructor` with batch-norm statistics measured
    again is better (MobileNet-V1 at half its operations): compare the two.

    Layers that are called more than once, or with too many inputs, keep their cut kernels.

    Args:
        network: the original network.
        images: float32 [images, height, width, channels] in the model's input range; of large images only as
            many are used as keep each feature map of all of them within 256 MiB.
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
        self._images = images[: _most_images(network)]
        self._points = points_per_image
        self._ridge = ridge
        self._batch_size = batch_size
        self._seed = seed

    def __call__(self, plan: PruningPlan) -> Weights:
        """Returns slim weights for a plan, readers of pruned channels re-fitted; float32."""
        walk = _Walk(self._network, plan, self._images, self._batch_size)
        calls, rules = self._network.graph.trace.calls, self._network.graph.rules
        for number, (call, rule) in enumerate(zip(calls, rules, strict=True)):
            if walk.can_refit(call, rule):
                self._refit(walk, call, rule, key=(self._seed, number))
            walk.compute(number)
        return walk.weights

    def _refit(self, walk: _Walk, call: Call, rule: LayerRule, *, key: tuple[int, int]) -> None:
        """Replaces the kernel of one layer in the slim weights."""
        name = (rule.reads or ("", 0))[0]
        kernel = walk.weights[call.path][name]
        start = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
        moments = self._moments(walk, call, rule, key)
        fitted, offset = _fit(moments, start, self._ridge, intercept=True)
        if not shift_outputs(self._network, walk.weights, call.path, offset):
            fitted, _ = _fit(moments, start, self._ridge, intercept=False)
        refitted: NDArray[np.float32] = fitted.astype(np.float32).reshape(kernel.shape)
        walk.weights[call.path] = {**walk.weights[call.path], name: refitted}

    def _moments(self, walk: _Walk, call: Call, rule: LayerRule, key: tuple[int, int]) -> InputStatistics:
        """Gathers the joint moments of the slim inputs and the wanted outputs (bias left out) of a layer."""
        name, axis = rule.reads or ("", 0)
        full = self._network.weights[call.path][name]
        columns = walk.kept(call.path, name, axis + 1)
        kernel = tf.constant(full.reshape(-1, full.shape[-1])[:, columns])
        shortfall = walk.shortfall(call, columns)
        sums = MomentSums(math.prod(walk.weights[call.path][name].shape[:-1]) + len(columns))
        for number, batch in enumerate(walk.batches):
            original, slim = (
                rule.reading(call, [tensors[call.inputs[0]][batch]], {name: weights[call.path][name]})
                for tensors, weights in ((walk.original, self._network.weights), (walk.slim, walk.weights))
            )
            positions = sample_positions(slim, self._points, tf.constant((key[0] + number, key[1])))
            wanted = read_windows(original, positions) @ kernel
            if shortfall is not None:
                wanted += _at(shortfall[batch], positions)
            sums.add(tf.concat([read_windows(slim, positions), wanted], axis=1), tf.constant(number))
        return sums.summarise()


class _Walk:
    """Original and slim network, computed side by side on all images, call by call.

    Attributes:
        original: tensors of the original network that are still read, by number, all images in each.
        slim: likewise of the slim one.
        weights: weights of the slim network.
        batches: parts of the images.
    """

    def __init__(
        self, network: NetworkFunction, plan: PruningPlan, images: NDArray[np.float32], batch_size: int
    ) -> None:
        self._network = network
        self._trace = network.graph.trace
        self._masks = plan.masks(network.graph)
        self.weights = network.slice(plan)
        self.original: dict[int, Any] = {self._trace.inputs[0]: tf.constant(images)}
        self.slim = dict(self.original)
        self.batches = [slice(first, first + batch_size) for first in range(0, len(images), batch_size)]
        self._readers: dict[int, list[Call]] = {}
        self._last_use: dict[int, int] = {}
        self._num_calls: dict[str, int] = {}
        for number, call in enumerate(self._trace.calls):
            self._num_calls[call.path] = self._num_calls.get(call.path, 0) + 1
            for tensor in call.inputs:
                self._readers.setdefault(tensor, []).append(call)
                self._last_use[tensor] = number

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

    def shortfall(self, call: Call, columns: NDArray[np.int64]) -> Any:
        """Returns what the other terms of the sum that a call's output goes into have lost so far.

        Args:
            call: of a reading layer.
            columns: the outputs of its layer that stay.

        Returns:
            float32 [images, rows, columns, outputs] in units of the call's own output, batch normalisation
            behind it undone; None if the output goes elsewhere, or another term is not known yet.
        """
        tensor, scale = call.outputs[0], np.ones(len(columns), np.float32)
        reader = self._only_reader(tensor)
        if reader is not None and self._network.folded.get(reader.path) == call.path:
            scale = scale_and_offset(reader.layer, self._network.weights[reader.path])[0][columns]
            tensor = reader.outputs[0]
            reader = self._only_reader(tensor)
        if reader is None or type(reader.layer).__name__ != "Add" or not is_linear(call.layer):
            return None
        others = [other for other in reader.inputs if other != tensor]
        if any(other not in self.slim for other in others) or len({*reader.input_shapes}) > 1:
            return None
        lost = sum(tf.gather(self.original[other], columns, axis=-1) - self.slim[other] for other in others)
        return lost * np.divide(1.0, scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-6)

    def compute(self, number: int) -> None:
        """Computes a call in both networks, and forgets what no later call reads."""
        call, rule = self._trace.calls[number], self._network.graph.rules[number]
        for tensors, weights in ((self.original, self._network.weights), (self.slim, self.weights)):
            tensors.update(zip(call.outputs, self._apply(call, rule, tensors, weights), strict=True))
            for tensor in {*call.inputs, *call.outputs}:
                if self._last_use.get(tensor, -1) <= number:
                    tensors.pop(tensor, None)

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


def _fit(
    moments: InputStatistics, start: NDArray[np.float64], ridge: float, *, intercept: bool
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Solves one layer.

    Args:
        moments: joint moments of inputs and wanted outputs, in that order.
        start: float64 [inputs, outputs], the kernel that the ridge pulls towards.
        ridge: as a share of the mean diagonal.
        intercept: whether a constant may be added to the outputs.

    Returns:
        The kernel, float64 [inputs, outputs], and the constant, float32 [outputs].
    """
    table = (moments.covariance if intercept else moments.second_moment).astype(np.float64)
    size = len(start)
    among, wanted = table[:size, :size], table[:size, size:]
    missing = wanted - among @ start
    change = solve_ridge(among.copy(), missing, ridge=ridge, mean_square=moments.mean_square[:size])
    kernel = start + change
    offset = moments.mean[size:] - moments.mean[:size] @ kernel
    return kernel, offset.astype(np.float32)


def _at(tensor: Any, positions: Any) -> Any:
    """Picks positions: float32 [batch, rows, columns, channels] -> [batch * positions, channels]."""
    channels = tensor.shape[-1]
    flat = tf.reshape(tensor, (tensor.shape[0], -1, channels))
    return tf.reshape(tf.gather(flat, positions, axis=1), (-1, channels))


def _most_images(network: NetworkFunction) -> int:
    """Returns of how many images the largest feature maps stay within the limit."""
    calls = network.graph.trace.calls
    largest = max(math.prod(shape) for call in calls for shape in (*call.input_shapes, *call.output_shapes))
    return max(1, _MAX_TENSOR_BYTES // (4 * largest))
