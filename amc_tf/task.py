"""What all stages of a compression share, and the steps that each of them takes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.budget import Budget
from amc_tf.data import DataSplit, to_input_range
from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.table import LatencyTable
from amc_tf.evaluate import accuracy
from amc_tf.executor import MakeExecutor
from amc_tf.finetune import finetune
from amc_tf.plan import PruningPlan, compose
from amc_tf.progress import Progress
from amc_tf.quantize import quantize_aware
from amc_tf.rebuild import rebuild
from amc_tf.score import Score
from amc_tf.session import NUM_INT8_CANDIDATE_IMAGES, PruningSession
from amc_tf.settings import FinetuneSettings, SearchSettings, flat_settings

_NUM_INT8_IMAGES = 100


@dataclasses.dataclass(frozen=True)
class CompressionTask:
    """One model, its data and how it is to be compressed.

    Attributes:
        model: the original.
        split: the data.
        settings: of each search.
        finetuning: of each fine-tuning.
        quantization: of the quantisation-aware training of the last network; None leaves it out.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
        meter: times candidates; None to leave latency out.
        table: what is known about the meter's device before the first search, or None.
        progress: told of episodes and epochs.
        callbacks: Keras callbacks that are told of the episodes of each search.
        make_executor: makes what runs candidates; None for one that runs them here.
    """

    model: Any
    split: DataSplit
    settings: SearchSettings
    finetuning: FinetuneSettings
    quantization: FinetuneSettings | None
    input_range: str
    meter: LatencyMeter | None
    table: LatencyTable | None
    progress: Progress
    callbacks: tuple[Any, ...] = ()
    make_executor: MakeExecutor | None = None

    def session(
        self, model: Any, budget: Budget, *, settings: SearchSettings | None = None
    ) -> PruningSession:
        """Prepares the search of a network: the original, or one that an earlier stage has made of it."""
        return PruningSession(
            model,
            self.split,
            budget=budget,
            settings=settings or self.settings,
            input_range=self.input_range,
            meter=self.meter,
            table=self.table,
            make_executor=self.make_executor,
        )

    def build(self, session: PruningSession, model: Any, score: Score) -> tuple[Any, PruningPlan]:
        """Builds the slim network of a score, recovered as well as can be without training.

        Args:
            session: that scored it.
            model: what the session is about.
            score: of the network.

        Returns:
            The network, and the channels of the model that it has kept.
        """
        plan = session.builder.plan(score.widths)
        return rebuild(model, plan, session.recover(score.widths)), plan

    def compose(self, before: PruningPlan | None, step: PruningPlan) -> PruningPlan:
        """Returns what is left of the original, of what was before a stage and what that kept of it."""
        return step if before is None else compose(before, step)

    def restore(self, model: Path, plan: Path) -> tuple[Any, PruningPlan]:
        """Reads the network of a finished stage, and its plan."""
        kept = PruningPlan.load(plan)
        slim = rebuild(self.model, kept)
        slim.load_weights(model)
        return slim, kept

    def latency_ratio(
        self, slim: Any, original_ms: float | None, *, input_shape: tuple[int, ...]
    ) -> float | None:
        """Times a slim network beside the original.

        Args:
            slim: the network.
            original_ms: latency of the original; None without a meter.
            input_shape: (height, width, channels) of the images.

        Returns:
            Its latency / the original's; None without a meter.

        Raises:
            MeasurementError: if it cannot be timed.
        """
        if self.meter is None or original_ms is None:
            return None
        precision = self.settings.latency_precision
        tflite, reference = (
            self.convert(model, precision, input_shape=input_shape) for model in (slim, self.model)
        )
        latency = self.meter.with_reference(reference).measure(tflite)
        return latency.median_ms / original_ms if latency.ratio is None else latency.ratio

    def finetune(self, slim: Any, plan: PruningPlan, *, times: int = 1) -> tuple[Any, float | None]:
        """Trains a slim network with distillation from the original.

        Args:
            slim: the network; it is not changed.
            plan: the original's channels that it has kept.
            times: as many times the epochs of the settings.

        Returns:
            The trained network and its top-1 on the search images, as the search of a next stage finds it: as
            int8 TFLite where that is what counts. Without epochs the network as it was, and None.
        """
        total = times * self.finetuning.epochs
        if total == 0:
            return slim, None
        result = finetune(
            slim,
            self.split.train,
            self.split.search,
            settings=dataclasses.replace(self.finetuning, epochs=total),
            input_range=self.input_range,
            teacher=self.model,
            plan=plan,
            unlabelled=self.split.unlabelled,
            on_epoch=lambda record: self.progress.epoch(record.epoch, total, record.top1),
        )
        if self.settings.int8_accuracy:
            return result.model, self._int8_top1(result.model)
        return result.model, result.best_top1

    def quantize(self, slim: Any, settings: FinetuneSettings) -> bytes:
        """Trains a network as an int8 network that imitates it, and returns that as TFLite."""
        result = quantize_aware(
            slim,
            self.split.train,
            self.split.search,
            settings=settings,
            input_range=self.input_range,
            teacher=slim,
            unlabelled=self.split.unlabelled,
            on_epoch=lambda record: self.progress.epoch(record.epoch, settings.epochs, record.top1),
        )
        return result.tflite

    def convert(self, model: Any, precision: str, *, input_shape: tuple[int, ...]) -> bytes:
        """Converts a network to TFLite; int8 is calibrated on images of the split."""
        images = self.split.calibration.images[:_NUM_INT8_IMAGES]
        return to_tflite(
            model,
            precision=precision,
            calibration_images=to_input_range(images, self.input_range) if precision == "int8" else None,
            input_shape=input_shape,
        )

    def _int8_top1(self, model: Any) -> float:
        search = self.split.search
        images = self.split.calibration.images[:NUM_INT8_CANDIDATE_IMAGES]
        tflite = to_tflite(
            model,
            precision="int8",
            calibration_images=to_input_range(images, self.input_range),
            input_shape=search.images.shape[1:],
        )
        runner = TFLiteRunner(tflite, num_threads=os.cpu_count() or 1)
        return accuracy(runner.predict, search, input_range=self.input_range).top1

    def settings_to_json(self) -> dict[str, Any]:
        """Returns the settings of search, fine-tuning and, if there is one, quantisation-aware training."""
        settings = {"search": self.settings.to_json(), "finetune": self.finetuning.to_json()}
        return (
            settings
            if self.quantization is None
            else {**settings, "quantization": self.quantization.to_json()}
        )

    def identity(self, model: bytes) -> Mapping[str, Any]:
        """Returns JSON values that a finished stage must agree with to be gone on from.

        Args:
            model: the original as TFLite bytes.
        """
        return stage_identity(self, model)


def stage_identity(task: Any, model: bytes) -> dict[str, Any]:
    """Returns JSON values that a finished stage must agree with to be gone on from.

    Args:
        task: with settings, finetuning, split, input_range and meter, such as a `CompressionTask`.
        model: the original as TFLite bytes.
    """
    settings = flat_settings(task.settings, task.finetuning)
    for name in ("search checkpoint_every", "search max_dropped_in_a_row"):
        del settings[name]
    labelled = (task.split.train, task.split.calibration, task.split.search)
    images = [array for part in labelled for array in (part.images, part.labels)]
    if task.split.unlabelled is not None:
        images.append(task.split.unlabelled)
    meter = task.meter
    return {
        **settings,
        "model": _digest(model),
        "images": _digest(*images),
        "input_range": task.input_range,
        "meter": meter and f"{meter.name} ({_digest(meter.fingerprint().encode())})",
    }


def _digest(*contents: bytes | NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content if isinstance(content, bytes) else np.ascontiguousarray(content).data)
    return digest.hexdigest()[:16]
