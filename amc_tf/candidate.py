"""Turns widths into a pruned network: which channels stay, and with which weights."""

from __future__ import annotations

from collections.abc import Sequence

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.calibration import Calibration
from amc_tf.cost import Cost
from amc_tf.importance import find_importance
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan, widths_to_plan
from amc_tf.reconstruct import Reconstructor
from amc_tf.sequential import SequentialReconstructor
from amc_tf.weights import Weights


class CandidateBuilder:
    """Builds the pruned network for any widths; the same widths always give the same network.

    Args:
        network: the original network.
        calibration: its input statistics.
        importance: name of the channel importance (see `amc_tf.importance`); kernels are scored with the
            batch normalisation behind them folded in, so that the scale of an output counts.
        reconstruct: whether kernels that read pruned channels are re-fitted by least squares.
        batch_norm: estimator of the batch-norm statistics, None to keep the original's.
        in_order: re-fits all layers in network order after that.

    Raises:
        SettingsError: if there is no such importance.
    """

    def __init__(
        self,
        network: NetworkFunction,
        calibration: Calibration,
        *,
        importance: str,
        reconstruct: bool = True,
        batch_norm: BatchNormEstimator | None = None,
        in_order: SequentialReconstructor | None = None,
    ) -> None:
        folded = network.fold(network.weights)
        self._scores = find_importance(importance)(network.graph, folded, calibration)
        self._network = network
        self._reconstructor = Reconstructor(network, calibration) if reconstruct else None
        self._batch_norm = batch_norm
        self._in_order = in_order

    def count(self, widths: Sequence[int]) -> Cost:
        """Counts the exact cost of the network with these widths."""
        return self._network.graph.count(widths)

    def plan(self, widths: Sequence[int]) -> PruningPlan:
        """Keeps the most important channels of each group."""
        return widths_to_plan(self._network.graph, widths, scores=self._scores)

    def cut(self, plan: PruningPlan) -> Weights:
        """Returns the slim weights of a plan without any recovery: enough to time the network."""
        return self._network.slice(plan)

    def weights(self, plan: PruningPlan) -> Weights:
        """Returns the slim weights of a plan after the recoveries that are on."""
        weights = self._reconstructor(plan) if self._reconstructor else self._network.slice(plan)
        if self._batch_norm:
            weights = self._batch_norm(weights, plan)
        return self._in_order(plan, weights) if self._in_order else weights
