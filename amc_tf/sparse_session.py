"""Sets up a search for a sparsity plan: the search of `amc_tf.session` over the weights of layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from amc_tf import controls
from amc_tf.budget import Bounds, Budget
from amc_tf.calibration import calibrate
from amc_tf.data import DataSplit, to_input_range
from amc_tf.device.latency import LatencyMeter
from amc_tf.errors import SettingsError
from amc_tf.finalists import Choice
from amc_tf.score import Candidates, Score
from amc_tf.search import SearchResult
from amc_tf.session import PruningSession
from amc_tf.settings import MIN_KEEP_RATIO_DENSE, SearchSettings
from amc_tf.sparse_candidate import SparseCandidateBuilder
from amc_tf.sparse_layers import SparseLayers
from amc_tf.sparse_reconstruct import SparseReconstructor
from amc_tf.sparsity_plan import SparsityPlan


class SparsitySession(PruningSession):
    """One model, its data and its budget, ready to be searched for a sparsity plan.

    Data, timing, reward, agent, controls and resuming are those of channel pruning; what is decided on is how
    many weights each layer keeps (`SparseLayers`). Under a budget of parameters the bounds are Algorithm 1 of
    the AMC paper word for word, which is written for this case: what a layer must lose is what is to go in
    all, less what went before it and what can go behind it.

    In a network that is sparse already, as later stages start from, a zero counts as a weight that may be
    kept: a layer that is given more weights than it has left gets some back, which the least squares fit.

    Of the settings, `min_keep_ratio` holds for convolutions (0.2 is the paper's cap of 0.8); `round_to` and
    `importance` are about channels and do nothing here. Candidates are timed as
    TFLite networks whose kernels are stored as sparse ones.

    Args:
        model: a built functional or Sequential classifier, Keras 3 or `tf_keras`; it is not changed.
        split: the data.
        budget: what the sparse network may cost; its costs are those of the weights that are not zero.
        settings: of the search.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
        meter: times candidates; needed for a latency budget or reward, otherwise None to leave latency out.
        min_keep_ratio_dense: smallest part of the weights of a Dense layer that is kept.

    Attributes:
        groups: the layers.

    Raises:
        AmcError: as `PruningSession`, and SettingsError if candidates should be int8 networks.
    """

    groups: SparseLayers
    _is_sparse = True

    def __init__(
        self,
        model: Any,
        split: DataSplit,
        *,
        budget: Budget,
        settings: SearchSettings,
        input_range: str,
        meter: LatencyMeter | None = None,
        min_keep_ratio_dense: float = MIN_KEEP_RATIO_DENSE,
    ) -> None:
        if settings.int8_accuracy or settings.latency_precision != "float32":
            raise SettingsError(
                "A sparse network is scored and timed as a float32 network: leave latency_precision and "
                "int8_accuracy as they are."
            )
        if settings.num_in_order_images:
            raise SettingsError(
                "A sparse network is not re-fitted in network order: leave num_in_order_images at 0."
            )
        self._min_keep_ratio_dense = min_keep_ratio_dense
        super().__init__(model, split, budget=budget, settings=settings, input_range=input_range, meter=meter)

    def global_threshold(self) -> Score:
        """Scores the control that keeps what lies above one threshold in all layers."""
        return self.scorer(self._above_threshold())

    def choose(self, uniform: Score, result: SearchResult) -> Choice:
        """Chooses as `PruningSession.choose`, and tells where the control of one threshold was the best."""
        choice = super().choose(uniform, result)
        is_control = choice.found_by == "agent" and choice.best.widths == self._above_threshold()
        return dataclasses.replace(choice, found_by="threshold") if is_control else choice

    def _other_controls(self) -> list[Score]:
        return [self.global_threshold()]

    def plan(self, score: Score) -> SparsityPlan:
        """Returns the plan of a scored network."""
        return SparsityPlan.from_widths(self.groups, score.widths)

    def _above_threshold(self) -> tuple[int, ...]:
        kernels = [abs(self.network.weights[layer.path]["kernel"]) for layer in self.groups.groups]
        return controls.global_threshold(self.bounds, kernels)

    def _starts(self) -> list[tuple[int, ...]]:
        return [*super()._starts(), self._above_threshold()]

    def _make_groups(self) -> SparseLayers:
        return SparseLayers(self.graph)

    def _make_builder(self) -> Candidates:
        return SparseCandidateBuilder(
            self.network,
            self.groups,
            reconstructor=self._make_reconstructor(),
            batch_norm=self._make_batch_norm(),
        )

    def _make_reconstructor(self) -> SparseReconstructor | None:
        if not self.settings.reconstruct:
            return None
        images = to_input_range(self.split.calibration.images, self._input_range)
        return SparseReconstructor(self.network, calibrate(self.network, images, seed=self.settings.seed))

    def _probe(self) -> None:
        """Times uniform networks, so that the first bounds rest on more than the original."""
        if self._timing is None or self.limit.kind != "latency":
            return
        for ratio in (0.5, 0.0):
            wanted = [ratio * layer.num_weights for layer in self.groups.groups]
            self.scorer(
                tuple(
                    min(counts, key=lambda count, target=target: abs(count - target))  # type: ignore[misc]
                    for counts, target in zip(self._allowed(), wanted, strict=True)
                )
            )

    def _make_bounds(self) -> Bounds:
        ratio, dense = self.settings.min_keep_ratio, self._min_keep_ratio_dense
        return Bounds(
            self.groups,
            self.limit,
            allowed=self._allowed(),
            min_use=self.settings.min_budget_use,
            predictor=self._timing.predictor if self._timing else None,
            margin=self._margin(),
            advice=f"lower min_keep_ratio ({ratio:g}) or min_keep_ratio_dense ({dense:g})",
        )

    def _allowed(self) -> tuple[tuple[int, ...], ...]:
        return self.groups.allowed(
            min_keep_ratio=self.settings.min_keep_ratio, min_keep_ratio_dense=self._min_keep_ratio_dense
        )

    def _identity(self) -> Mapping[str, Any]:
        return {
            **super()._identity(),
            "pruning": "weights",
            "min_keep_ratio_dense": self._min_keep_ratio_dense,
        }
