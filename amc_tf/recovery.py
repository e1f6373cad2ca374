"""Finds good weights for the few networks that may be chosen, in more time than candidates get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.data import ImageData, to_input_range
from amc_tf.evaluate import Accuracy
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan
from amc_tf.score import Candidates
from amc_tf.sequential import SequentialReconstructor
from amc_tf.settings import SearchSettings
from amc_tf.weights import Weights

# The former is as good as any for ResNet-56 at half its MACs, the latter for MobileNets.
_RIDGES = (3.0, 30.0)


class Recovery:
    """Recovers a network in earnest, and remembers it.

    Batch-norm statistics are estimated from all calibration images. Re-fitting in network order (see
    `amc_tf.sequential`), from the kernels that candidates get, is better than these for some networks and
    worse for others, and so is a strong pull towards them. Of the weights that keep the accuracy that the
    budget asks for, those of the highest fidelity on the search images are returned: top-1 tells weights of
    one network hardly apart, and which of them it picks would be luck. So would the merit of finalists be,
    for their calibration images are known the better by heart the weaker the pull.

    The weights that a candidate was scored with are only taken where the others fall below the accuracy that
    the budget asks for: elsewhere they would win by luck, for the search has looked for networks that have it
    on these images.

    Args:
        network: the original network.
        builder: makes plan and weights of a candidate.
        calibration: images for statistics and re-fitting.
        accuracy: of weights on the search images, the one that scores have; with the fidelity.
        accuracy_floor: what the budget asks of that accuracy, 0 for nothing.
        settings: of the search: which recoveries are on, and the seed.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
    """

    def __init__(
        self,
        network: NetworkFunction,
        builder: Candidates,
        calibration: ImageData,
        *,
        accuracy: Callable[[Weights], Accuracy],
        accuracy_floor: float,
        settings: SearchSettings,
        input_range: str,
    ) -> None:
        self._network = network
        self._builder = builder
        self._calibration = calibration
        self._accuracy = accuracy
        self._settings = settings
        self._input_range = input_range
        self._accuracy_floor = accuracy_floor
        self._found: dict[tuple[int, ...], Weights] = {}

    def __call__(self, widths: Sequence[int]) -> Weights:
        """Returns the recovered weights of the network with these widths; the same ones for the next call."""
        key = tuple(widths)
        if key not in self._found:
            self._found[key] = self._recover(self._builder.plan(key))
        return self._found[key]

    def _recover(self, plan: Any) -> Weights:
        scored = self._builder.weights(plan)
        found = [scored]
        if self._settings.reestimate_batch_norm:
            # A sparsity plan removes no channels.
            found = [self._estimate(scored, plan if isinstance(plan, PruningPlan) else None)]
        if self._settings.reconstruct:
            in_order = SequentialReconstructor(self._network, self._images(), seed=self._settings.seed)
            found = [*in_order.with_ridges(plan, scored, _RIDGES), *found]
        best = found[0] if len(found) == 1 else max(found, key=self._rank)
        if self._accuracy_floor and self._rank(best) < (True, 0.0) <= self._rank(scored):
            return scored
        return best

    def _rank(self, weights: Weights) -> tuple[bool, float]:
        found = self._accuracy(weights)
        return found.top1 >= self._accuracy_floor, found.fidelity or 0.0

    @cached_property
    def _estimate(self) -> BatchNormEstimator:
        return BatchNormEstimator(self._network, self._images())

    def _images(self) -> NDArray[np.float32]:
        return to_input_range(self._calibration.images, self._input_range)
