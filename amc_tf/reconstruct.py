"""Re-fits the weights that read pruned channels by least squares, from statistics gathered once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from amc_tf.blas import one_thread
from amc_tf.calibration import Calibration, InputStatistics, add_ridge
from amc_tf.errors import SettingsError
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan
from amc_tf.weights import Weights


class Reconstructor:
    """Finds, for any plan, the kernels that reproduce the original outputs best from the kept channels.

    For kept inputs S of a layer with kernel W it solves (G + λI)_SS ΔW = G_SR W_R, where R are the removed
    inputs and G their second moments, and sets W_S + ΔW: the least-squares solution of AMC section 3.3 (after
    He et al., ICCV 2017), with a ridge λ that pulls towards the original weights rather than towards zero.
    An intercept takes up the mean of what was removed; it goes into the bias, or into the mean of the batch
    normalisation that follows.

    Args:
        network: the original network.
        calibration: its input statistics.
        ridge: λ as a share of the mean diagonal of G, above 0.

    Raises:
        SettingsError: if the ridge is not above 0.
    """

    def __init__(self, network: NetworkFunction, calibration: Calibration, *, ridge: float = 1e-2) -> None:
        if ridge <= 0:
            raise SettingsError(f"ridge={ridge} was given: it must be above 0.")
        self._network = network
        self._calibration = calibration
        self._ridge = ridge
        self._reads = {path: rule.reads for path, (_, rule) in network.graph.layers().items() if rule.reads}

    def __call__(self, plan: PruningPlan) -> Weights:
        """Returns slim weights for a plan, readers of pruned channels re-fitted; float32."""
        weights = self._network.slice(plan)
        masks = plan.masks(self._network.graph)
        with one_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
            refits = [
                pool.submit(self._refit, weights, path, statistics, masks)
                for path, statistics in self._calibration.inputs.items()
            ]
            for refit in refits:
                refit.result()
        return weights

    def _refit(
        self, weights: Weights, path: str, statistics: InputStatistics, masks: list[NDArray[np.bool_]]
    ) -> None:
        """Re-fits the kernel of one layer in `weights`, if it loses inputs."""
        name, axis = self._reads[path]
        full = self._network.weights[path][name]
        kept, columns = (
            np.ones(size, bool) if channel_map is None else channel_map.kept(masks)
            for size, channel_map in zip(
                full.shape[axis:], self._network.graph.axes[path][name][axis:], strict=True
            )
        )
        if kept.all():
            return
        target = full.reshape(-1, full.shape[axis + 1])[:, columns]
        inputs = np.tile(kept, len(target) // len(kept))
        fitted, offset = _fit(statistics, target, inputs, self._ridge)
        if not shift_outputs(self._network, weights, path, offset):
            fitted, _ = _fit(statistics, target, inputs, self._ridge, intercept=False)
        weights[path] = {**weights[path], name: fitted.reshape(weights[path][name].shape)}


def shift_outputs(network: NetworkFunction, weights: Weights, path: str, offset: NDArray[np.float32]) -> bool:
    """Adds a constant to the outputs of a layer: to its bias, or the mean of the batch normalisation behind.

    Args:
        network: the network.
        weights: its weights, whose entries are replaced.
        path: of the layer.
        offset: float32 [outputs].

    Returns:
        False if there is no place for it.
    """
    norms = [norm for norm, target in network.folded.items() if target == path]
    if "bias" in weights[path]:
        weights[path] = {**weights[path], "bias": weights[path]["bias"] + offset}
    elif norms:
        mean = weights[norms[0]]["moving_mean"] - offset
        weights[norms[0]] = {**weights[norms[0]], "moving_mean": mean}
    else:
        return False
    return True


def _fit(
    statistics: InputStatistics,
    target: NDArray[np.float32],
    kept: NDArray[np.bool_],
    ridge: float,
    *,
    intercept: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Solves one layer.

    Args:
        statistics: moments of its inputs.
        target: float32 [inputs, outputs], the original kernel.
        kept: bool [inputs].
        ridge: as a share of the mean diagonal.
        intercept: whether a constant may be added to the outputs; inputs then count from their mean.

    Returns:
        The new kernel, float32 [kept inputs, outputs], and the intercept, float32 [outputs].
    """
    moments = statistics.covariance if intercept else statistics.second_moment
    rows = moments.compress(kept, axis=0)  # an order of magnitude faster than an index of both axes
    among_kept = rows.compress(kept, axis=1)
    with_lost = rows.compress(~kept, axis=1)
    add_ridge(among_kept, statistics.mean_square[kept], ridge=ridge)
    factor = scipy.linalg.cho_factor(among_kept, overwrite_a=True)
    lost = target[~kept]
    if len(lost) < lost.shape[1]:  # the product before or after: solving is for as few columns as may be
        change = scipy.linalg.cho_solve(factor, with_lost, overwrite_b=True) @ lost
    else:
        change = scipy.linalg.cho_solve(factor, with_lost @ lost, overwrite_b=True)
    offset = statistics.mean[~kept] @ lost - statistics.mean[kept] @ change
    return target[kept] + change, offset if intercept else np.zeros_like(offset)
