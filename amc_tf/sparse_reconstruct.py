"""Re-fits the weights that a sparsity plan keeps by least squares, from statistics gathered once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from amc_tf.blas import one_thread
from amc_tf.calibration import Calibration, InputStatistics, add_ridge
from amc_tf.errors import SettingsError
from amc_tf.masked_solve import NUM_STEPS, solve_masked
from amc_tf.network import NetworkFunction
from amc_tf.reconstruct import shift_outputs
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.weights import Weights


class SparseReconstructor:
    """Finds, for any sparsity plan, the kept weights that reproduce the original outputs best.

    For each output o of a layer with kernel W, of whose inputs the plan keeps S(o) and removes R(o), it
    solves (G + λI)_SS Δ = G_SR W_R, where G are the second moments of the inputs, and sets W_S + Δ: the
    least squares that AMC (section 3.3) has for channels, with a ridge λ that pulls towards the original
    weights. Every output keeps inputs of its own, a thousand systems for one layer; conjugate gradients solve
    them side by side, one product with G for each step. An intercept takes up the mean of what was removed,
    as in `amc_tf.reconstruct`.

    Args:
        network: the original network.
        calibration: its input statistics; layers without any keep their weights.
        ridge: λ as a share of the mean diagonal of G, above 0.
        num_steps: of the conjugate gradients, which start at the original weights; 1 or more.

    Raises:
        SettingsError: if the ridge is not above 0, or there is no step.
    """

    def __init__(
        self,
        network: NetworkFunction,
        calibration: Calibration,
        *,
        ridge: float = 1e-2,
        num_steps: int = NUM_STEPS,
    ) -> None:
        if ridge <= 0 or num_steps < 1:
            raise SettingsError(
                f"ridge={ridge} and num_steps={num_steps} were given: the ridge must be above 0, and there "
                "must be a step."
            )
        self._network = network
        self._calibration = calibration
        self._ridge = ridge
        self._num_steps = num_steps

    def __call__(self, plan: SparsityPlan) -> Weights:
        """Returns the weights for a plan, zero where it removes them and re-fitted elsewhere; float32."""
        weights = dict(plan.apply(self._network.weights))
        with one_thread():
            for path in plan.kept:
                if path in self._calibration.inputs:
                    self._refit(weights, path, self._calibration.inputs[path], plan)
        return weights

    def _refit(self, weights: Weights, path: str, statistics: InputStatistics, plan: SparsityPlan) -> None:
        """Re-fits the kernel of one layer in `weights`."""
        full = self._network.weights[path]["kernel"]
        target = full.reshape(-1, full.shape[-1])
        kept = plan.mask(path, full).reshape(target.shape)
        if kept.all():
            return
        fitted = self._fit(statistics.covariance, statistics, target, kept)
        offset = statistics.mean @ (target - fitted)
        if not shift_outputs(self._network, weights, path, offset):
            fitted = self._fit(statistics.second_moment, statistics, target, kept)
        weights[path] = {**weights[path], "kernel": fitted.reshape(full.shape)}

    def _fit(
        self,
        moments: NDArray[np.float32],
        statistics: InputStatistics,
        target: NDArray[np.float32],
        kept: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Solves one layer: kernel and mask are [inputs, outputs], the new kernel is float32."""
        ridged = moments.copy()
        add_ridge(ridged, statistics.mean_square, ridge=self._ridge)
        wanted = moments @ np.where(kept, 0.0, target)
        change = solve_masked(ridged, np.where(kept, wanted, 0.0), kept, num_steps=self._num_steps)
        return np.where(kept, target + change, 0.0).astype(np.float32)
