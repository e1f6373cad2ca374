"""What all stages of fine-grained pruning share, and the steps that each of them takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc_tf.budget import Budget
from amc_tf.data import DataSplit
from amc_tf.device.latency import LatencyMeter
from amc_tf.plan import PruningPlan
from amc_tf.progress import Progress
from amc_tf.rebuild import rebuild
from amc_tf.score import Score
from amc_tf.settings import FinetuneSettings, SearchSettings
from amc_tf.sparse_session import SparsitySession
from amc_tf.sparsity import finetune_sparse
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.task import stage_identity
from amc_tf.twin import to_keras3


@dataclasses.dataclass(frozen=True)
class SparsityTask:
    """One model, its data and how its weights are to be pruned.

    Attributes:
        model: the original, a Keras 3 model in float32.
        split: the data.
        settings: of each search; `min_keep_ratio` is a part of the original's weights, in each stage.
        finetuning: of each fine-tuning.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
        meter: times candidates; None to leave latency out.
        min_keep_ratio_dense: smallest part of the weights of a Dense layer that is kept.
        progress: told of episodes and epochs.
        callbacks: Keras callbacks that are told of the episodes of each search.
    """

    model: Any
    split: DataSplit
    settings: SearchSettings
    finetuning: FinetuneSettings
    input_range: str
    meter: LatencyMeter | None
    min_keep_ratio_dense: float
    progress: Progress
    callbacks: tuple[Any, ...] = ()

    def session(self, model: Any, budget: Budget) -> SparsitySession:
        """Prepares the search of a network: the original, or one that an earlier stage has made of it."""
        return SparsitySession(
            model,
            self.split,
            budget=budget,
            settings=self.settings,
            input_range=self.input_range,
            meter=self.meter,
            min_keep_ratio_dense=self.min_keep_ratio_dense,
        )

    def build(self, session: SparsitySession, model: Any, score: Score) -> tuple[Any, SparsityPlan]:
        """Builds the sparse network of a score, recovered as well as can be without training, and its plan.

        Args:
            session: that scored it.
            model: what the session is about.
            score: of the network.
        """
        weights = session.recover(score.widths)
        return to_keras3(rebuild(model, PruningPlan({}, {}), weights)), session.plan(score)

    def compose(self, before: SparsityPlan | None, step: SparsityPlan) -> SparsityPlan:
        """Returns the plan of the later stage: it counts the weights of the original's layers."""
        return step

    def restore(self, model: Path, plan: Path) -> tuple[Any, SparsityPlan]:
        """Reads the network of a finished stage, and its plan."""
        sparse = rebuild(self.model, PruningPlan({}, {}))
        sparse.load_weights(model)
        return sparse, SparsityPlan.load(plan)

    def latency_ratio(
        self, slim: Any, original_ms: float | None, *, input_shape: tuple[int, ...]
    ) -> float | None:
        """Returns None: the next session times the network stored densely, as slow as the original."""
        return None

    def finetune(self, slim: Any, plan: SparsityPlan, *, times: int = 1) -> tuple[Any, float | None]:
        """Trains what a plan keeps of a network, with distillation from the original.

        Args:
            slim: the network; it is not changed.
            plan: how many weights its layers keep.
            times: as many times the epochs of the settings.

        Returns:
            The trained network and its top-1 on the search images; without epochs the network as it was, and
            None.
        """
        total = times * self.finetuning.epochs
        if total == 0:
            return slim, None
        result = finetune_sparse(
            slim,
            plan,
            self.split.train,
            self.split.search,
            settings=dataclasses.replace(self.finetuning, epochs=total),
            input_range=self.input_range,
            teacher=self.model,
            unlabelled=self.split.unlabelled,
            on_epoch=lambda record: self.progress.epoch(record.epoch, total, record.top1),
        )
        return result.model, result.best_top1

    def identity(self, model: bytes) -> Mapping[str, Any]:
        """Returns JSON values that a finished stage must agree with to be gone on from.

        Args:
            model: the original as TFLite bytes.
        """
        return {**stage_identity(self, model), "min_keep_ratio_dense": self.min_keep_ratio_dense}
