"""Turns numbers of weights into a sparse network: which weights stay, and the statistics behind them."""

from __future__ import annotations

from collections.abc import Sequence

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.cost import Cost
from amc_tf.network import NetworkFunction
from amc_tf.sparse_layers import SparseLayers
from amc_tf.sparse_reconstruct import SparseReconstructor
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.weights import Weights


class SparseCandidateBuilder:
    """Builds the sparse network for any numbers of weights; the same numbers always give the same network.

    The largest weights of each kernel stay, re-fitted by least squares to make up for the others, and
    batch-norm statistics are estimated again.

    Args:
        network: the original network.
        layers: its layers.
        reconstructor: re-fits the weights that stay, None to keep them as they are.
        batch_norm: estimator of the batch-norm statistics, None to keep the original's.
    """

    def __init__(
        self,
        network: NetworkFunction,
        layers: SparseLayers,
        *,
        reconstructor: SparseReconstructor | None = None,
        batch_norm: BatchNormEstimator | None = None,
    ) -> None:
        self._network = network
        self._layers = layers
        self._reconstructor = reconstructor
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
        """Returns the masked weights of a plan after the recoveries that are on."""
        weights = self._reconstructor(plan) if self._reconstructor else self.cut(plan)
        return self._batch_norm(weights) if self._batch_norm else weights
