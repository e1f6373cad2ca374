"""Turns numbers of weights into a sparse network: which weights stay, and the statistics behind them."""

from __future__ import annotations

from collections.abc import Sequence

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.cost import Cost
from amc_tf.network import NetworkFunction
from amc_tf.sparse_layers import SparseLayers
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.weights import Weights


class SparseCandidateBuilder:
    """Builds the sparse network for any numbers of weights; the same numbers always give the same network.

    The largest weights of each kernel stay as they are. Re-fitting them by least squares, as channel pruning
    does, would be one system for each output channel, whose weights stand in places of their own: a thousand
    solves for a layer instead of one. Batch-norm statistics are estimated again.

    Args:
        network: the original network.
        layers: its layers.
        batch_norm: estimator of the batch-norm statistics, None to keep the original's.
    """

    def __init__(
        self, network: NetworkFunction, layers: SparseLayers, *, batch_norm: BatchNormEstimator | None = None
    ) -> None:
        self._network = network
        self._layers = layers
        self._batch_norm = batch_norm

    def count(self, widths: Sequence[int]) -> Cost:
        """Counts the exact cost of the network whose layers keep so many weights."""
        return self._layers.count(widths)

    def plan(self, widths: Sequence[int]) -> SparsityPlan:
        """Returns the plan of the network whose layers keep so many weights."""
        return SparsityPlan.from_widths(self._layers, widths)

    def cut(self, plan: SparsityPlan) -> Weights:
        """Returns the masked weights of a plan without any recovery: enough to time the network."""
        return plan.apply(self._network.weights)

    def weights(self, plan: SparsityPlan) -> Weights:
        """Returns the masked weights of a plan after the recovery that is on."""
        weights = self.cut(plan)
        return self._batch_norm(weights) if self._batch_norm else weights
