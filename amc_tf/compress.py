"""The main job: a model and its data in; a plan, a slim model, TFLite files and a report out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

from amc_tf import summary_parts
from amc_tf.budget import Budget
from amc_tf.data import DataSplit, ImageData, as_image_data, same_classes, split_data, to_input_range
from amc_tf.device.convert import to_tflite
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.store import MeasurementStore
from amc_tf.device.stored_meters import CachedMeter, RecordingMeter
from amc_tf.device.table import LatencyTable
from amc_tf.errors import MeasurementError, RunStoppedError
from amc_tf.finetune import EpochRecord, finetune
from amc_tf.graph import count_cost
from amc_tf.plan import PruningPlan
from amc_tf.progress import Progress
from amc_tf.rebuild import rebuild
from amc_tf.report import make_report
from amc_tf.results import NetworkResult, ResultMeasurer
from amc_tf.run_folder import RunFolder, write_keras_model
from amc_tf.score import Score
from amc_tf.session import PruningSession, starting_table
from amc_tf.settings import FinetuneSettings, SearchSettings

_NUM_INT8_IMAGES = 100


@dataclasses.dataclass(frozen=True)
class CompressionResult:
    """Outcome of a compression.

    Attributes:
        model: the slim model, fine-tuned if that was asked for.
        plan: the channels that were kept.
        tflite: the converted networks by precision, "float32" and "int8".
        summary: what `summary.json` holds.
    """

    model: Any
    plan: PruningPlan
    tflite: Mapping[str, bytes]
    summary: Mapping[str, Any]


def compress(  # noqa: PLR0913, the façade: each argument is a choice of the user
    model: Any,
    train: Any,
    validation: Any,
    *,
    budget: Budget,
    meter: LatencyMeter | None = None,
    table: LatencyTable | None = None,
    settings: SearchSettings | None = None,
    finetuning: FinetuneSettings | None = None,
    finetune_uniform: bool = False,
    input_range: str = "-1..1",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    labels: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> CompressionResult:
    """Finds a pruning plan within a budget, fine-tunes the slim network, converts, times and reports it.

    Args:
        model: a built functional or Sequential classifier, Keras 3 or `tf_keras`; it is not changed.
        train: images and labels to learn from: `ImageData`, an (images, labels) pair of arrays, a
            `tf.data.Dataset` or a `keras.utils.PyDataset`. Calibration and search images are taken from it.
        validation: likewise; only the results are computed on it.
        budget: what the pruned network may cost.
        meter: times networks, for example `HostMeter()`; needed for a latency budget.
        table: what is known about the meter's device before the search, to keep the first networks within a
            latency budget.
        settings: of the search; the paper's numbers by default.
        finetuning: of the fine-tuning after the search; `epochs=0` leaves it out.
        finetune_uniform: fine-tune the uniform control alike, to compare with.
        input_range: how uint8 images are scaled for the model, one of `amc_tf.data.INPUT_RANGES`; float
            images are in the model's range already.
        out: run folder to fill; None writes nothing.
        resume: go on with the run in that folder.
        overwrite: delete an earlier run in that folder.
        labels: entries for the summary that say where model and data came from ("model", "data", "command");
            by default the model's name, the number of images and the budget.
        progress: told what happens.

    Returns:
        The slim model and all about it.

    Raises:
        AmcError: one of its subclasses, with a sentence for the user; see `amc_tf.errors`.
    """
    settings = settings or SearchSettings()
    split = _split(train, validation, settings)
    labels = {**_default_labels(model, budget, train=split.train, test=split.test), **(labels or {})}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunFolder(out, resume=resume, overwrite=overwrite)) if out else None
        store = stack.enter_context(MeasurementStore(folder.measurements if folder else None))
        job = _Compression(
            model,
            split,
            settings=settings,
            finetuning=finetuning or FinetuneSettings(),
            input_range=input_range,
            meter=RecordingMeter(meter, store) if meter else None,
            progress=progress or Progress(),
        )
        cached = CachedMeter(meter, store) if meter else None
        return job.run(
            budget,
            cached,
            folder,
            table=starting_table(folder, table),
            finetune_uniform=finetune_uniform,
            labels=labels,
        )


def _split(train: Any, validation: Any, settings: SearchSettings) -> DataSplit:
    return split_data(
        *same_classes(as_image_data(train), as_image_data(validation)),
        num_calibration=settings.num_calibration_images,
        num_search=settings.num_search_images,
        seed=settings.seed,
    )


def _default_labels(model: Any, budget: Budget, *, train: ImageData, test: ImageData) -> dict[str, str]:
    """Says where model and data came from when the caller does not."""
    call = f"amc_tf.compress(model, train, validation, budget=amc_tf.Budget({budget}), ...)"
    data = f"{len(train)} training and {len(test)} validation images"
    return {"model": str(getattr(model, "name", "model")), "data": data, "command": call}


class _Compression:
    """The stages of one compression in their order; `run` reads like the list of them."""

    _session: PruningSession

    def __init__(
        self,
        model: Any,
        split: DataSplit,
        *,
        settings: SearchSettings,
        finetuning: FinetuneSettings,
        input_range: str,
        meter: LatencyMeter | None,
        progress: Progress,
    ) -> None:
        self._model = model
        self._split = split
        self._settings = settings
        self._finetuning = finetuning
        self._input_range = input_range
        self._meter = meter
        self._progress = progress
        self._measurer = ResultMeasurer(split.test, input_range=input_range, meter=meter)
        self._stages: list[tuple[str, float]] = []

    def run(
        self,
        budget: Budget,
        cached: LatencyMeter | None,
        folder: RunFolder | None,
        *,
        table: LatencyTable | None,
        finetune_uniform: bool,
        labels: Mapping[str, Any],
    ) -> CompressionResult:
        """Runs all stages; `cached` times candidates, `table` steers, a folder gets the files."""
        self._stage("calibrate")
        self._session = PruningSession(
            self._model,
            self._split,
            budget=budget,
            settings=self._settings,
            input_range=self._input_range,
            meter=cached,
            table=table,
        )
        self._stage("search")
        uniform = self._session.uniform()
        score, found_by = self._search(uniform, folder)
        plan = self._session.builder.plan(score.widths)
        models = {"uniform": self._rebuild(uniform), "pruned": self._rebuild(score)}
        self._stage("finetune")
        final = models["finetuned"] = self._finetune(models["pruned"])
        if finetune_uniform:
            models["uniform_finetuned"] = self._finetune(models["uniform"])
        self._stage("convert")
        tflite = {precision: self._convert(final, precision) for precision in ("float32", "int8")}
        verification = {
            precision: self._measurer.verify(final, content, precision=precision)
            for precision, content in tflite.items()
        }
        if folder is not None:
            _write_networks(folder, final, plan, tflite)
        self._stage("measure")
        results = self._measure_or_stop(models, tflite["int8"], folder)
        self._stage("report")
        summary = {
            **labels,
            **{name: result.to_json() for name, result in results.items()},
            "plan_found_by": found_by,
            "channels": summary_parts.channels(self._session.graph, score.widths, uniform.widths),
            "verification": verification,
            "budget": summary_parts.budget(self._session.limit),
            "meter": None if self._meter is None else summary_parts.meter(self._meter),
            "input_range": self._input_range,
            "settings": {"search": self._settings.to_json(), "finetune": self._finetuning.to_json()},
            "versions": summary_parts.versions(),
            "seconds": self._seconds(),
        }
        if folder is not None:
            folder.write_json("summary.json", summary)
            make_report(folder.path)
        return CompressionResult(final, plan, tflite, summary)

    def _measure_or_stop(
        self, models: Mapping[str, Any], int8: bytes, folder: RunFolder | None
    ) -> dict[str, NetworkResult]:
        """Measures the networks; those of a phone that has gone by now are written already."""
        try:
            return self._measure(models, int8)
        except MeasurementError as error:
            if folder is None:
                raise
            raise RunStoppedError(
                f"The finished networks are in {folder.path}, but could not be timed: {error}"
            ) from error

    def _measure(self, models: Mapping[str, Any], int8: bytes) -> dict[str, NetworkResult]:
        """Measures the original and the slim models, each precision beside the original in that precision."""
        original, full = self._session.tflite, self._session.graph.count()
        original_int8 = self._convert(self._model, "int8")
        measurer, slim = self._measurer, count_cost(models["finetuned"])
        results = {"baseline": measurer.measure_model(self._model, original, cost=full, reference=original)}
        for name, model in models.items():
            content = self._convert(model, "float32")
            results[name] = measurer.measure_model(model, content, cost=count_cost(model), reference=original)
        for name, content, cost in (("int8_baseline", original_int8, full), ("int8", int8, slim)):
            results[name] = measurer.measure_tflite(content, cost=cost, reference=original_int8)
        return results

    def _stage(self, name: str) -> None:
        self._stages.append((name, time.perf_counter()))
        self._progress.stage(name)

    def _seconds(self) -> dict[str, float]:
        """Returns the seconds that each stage took that has ended, and all of them."""
        ends = self._stages[1:]
        seconds = {
            name: round(end - start, 2) for (name, start), (_, end) in zip(self._stages, ends, strict=False)
        }
        return {**seconds, "total": round(ends[-1][1] - self._stages[0][1], 2)}

    def _search(self, uniform: Score, folder: RunFolder | None) -> tuple[Score, str]:
        total = self._settings.episodes
        result = self._session.search(folder, lambda record: self._progress.episode(record, total))
        return self._session.choose(uniform, result)

    def _rebuild(self, score: Score) -> Any:
        builder = self._session.builder
        plan = builder.plan(score.widths)
        return rebuild(self._model, plan, builder.weights(plan))

    def _finetune(self, slim: Any) -> Any:
        if self._finetuning.epochs == 0:
            return slim
        total = self._finetuning.epochs

        def report(record: EpochRecord) -> None:
            self._progress.epoch(record.epoch, total, record.top1)

        result = finetune(
            slim,
            self._split.train,
            self._split.search,
            settings=self._finetuning,
            input_range=self._input_range,
            teacher=self._model,
            on_epoch=report,
        )
        return result.model

    def _convert(self, model: Any, precision: str) -> bytes:
        images = self._split.calibration.images[:_NUM_INT8_IMAGES]
        return to_tflite(
            model,
            precision=precision,
            calibration_images=to_input_range(images, self._input_range) if precision == "int8" else None,
            input_shape=self._session.network.input_shape,
        )


def _write_networks(folder: RunFolder, model: Any, plan: PruningPlan, tflite: Mapping[str, bytes]) -> None:
    """Writes what was found; the summary comes later, so that it marks a whole run."""
    write_keras_model(model, folder.path / "model.keras")
    for precision, data in tflite.items():
        folder.write_bytes(f"model_{precision}.tflite", data)
    folder.write_json("plan.json", plan.to_json())
