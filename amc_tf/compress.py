"""The main job: a model and its data in; a plan, a slim model, TFLite files and a report out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from amc_tf import summary_parts
from amc_tf.budget import Budget
from amc_tf.data import DataSplit, as_image_data, same_classes, split_data
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.store import MeasurementStore
from amc_tf.device.stored_meters import CachedMeter, RecordingMeter
from amc_tf.device.table import LatencyTable
from amc_tf.errors import MeasurementError, RunStoppedError
from amc_tf.executor import MakeExecutor
from amc_tf.finetune import check_imitates
from amc_tf.graph import count_cost
from amc_tf.hints import check_hints
from amc_tf.keras_callbacks import check_callbacks
from amc_tf.operator_rows import profile_operators
from amc_tf.plan import PruningPlan
from amc_tf.progress import Clock, Progress
from amc_tf.quantize import check_quantizable, most_accurate
from amc_tf.report import make_report
from amc_tf.results import NetworkResult, ResultMeasurer
from amc_tf.run_folder import RunFolder, write_keras_model
from amc_tf.session import starting_table
from amc_tf.settings import FinetuneSettings, SearchSettings
from amc_tf.stage_record import limit_to_json
from amc_tf.stages import Original, check_num_stages, run_only_stage, run_stages, whole_settings
from amc_tf.task import CompressionTask


@dataclasses.dataclass(frozen=True)
class CompressionResult:
    """Outcome of a compression.

    Attributes:
        model: the slim model, fine-tuned if that was asked for.
        plan: the channels that were kept.
        tflite: the converted networks by precision, "float32" and "int8"; with `quantization` the latter is
            the more accurate one of the networks quantised after and in training.
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
    unlabelled: ArrayLike | None = None,
    finetune_uniform: bool = False,
    stages: int = 1,
    quantization: FinetuneSettings | None = None,
    input_range: str = "-1..1",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    labels: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Any] = (),
    make_executor: MakeExecutor | None = None,
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
        unlabelled: more images, without labels, on which fine-tuning imitates the original, and
            quantisation-aware training the slim network: uint8 or float [N, height, width, channels] like
            those of `train`, and not among those of `validation`.
        finetune_uniform: fine-tune the uniform control alike, to compare with; in one go, for as many epochs
            as all stages have.
        stages: how often to search and fine-tune in turn, each time within a smaller limit (of n stages the
            k-th leaves ratio ** (k / n) of the original's cost); hard ratios need several. `settings` and
            `finetuning` hold in each stage, episodes and epochs too.
        quantization: settings of quantisation-aware training, which follows fine-tuning and makes a second
            int8 network (see `amc_tf.settings.quantization_settings`); None leaves it out. Of both the one
            that is right more often on the search images becomes `model_int8.tflite`; equally often, the
            one without that training.
        input_range: how uint8 images are scaled for the model, one of `amc_tf.data.INPUT_RANGES`; float
            images are in the model's range already.
        out: run folder to fill; None writes nothing.
        resume: go on with the run in that folder.
        overwrite: delete an earlier run in that folder.
        labels: entries for the summary that say where model and data came from ("model", "data", "command");
            by default the model's name, the number of images and the budget.
        progress: told what happens.
        callbacks: Keras callbacks that are told of the episodes of the search as of epochs, and may end it by
            `model.stop_training`; what was found so far is then fine-tuned, and `resume` plays the rest. Of
            several stages each has a beginning and an end of its own. See `amc_tf.keras_callbacks.listening`.
        make_executor: makes what runs the candidates of the search; by default they run here, with an
            `amc_tf.ray_evaluation.RayEvaluation` on the processors of a Ray cluster.

    Returns:
        The slim model and all about it.

    Raises:
        AmcError: one of its subclasses, with a sentence for the user; see `amc_tf.errors`.
    """
    check_num_stages(stages)
    check_callbacks(callbacks)
    if quantization is not None and quantization.epochs:
        check_quantizable(model)
    settings, finetuning = settings or SearchSettings(), finetuning or FinetuneSettings()
    check_hints(model, finetuning)
    if unlabelled is not None:
        check_imitates(finetuning, *([quantization] if quantization else []))
    split = _split(train, validation, settings, unlabelled)
    labels = {**_default_labels(model, budget, split), **(labels or {})}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunFolder(out, resume=resume, overwrite=overwrite)) if out else None
        store = stack.enter_context(MeasurementStore(folder.measurements if folder else None))
        task = CompressionTask(
            model,
            split,
            settings=settings,
            finetuning=finetuning,
            quantization=quantization if quantization and quantization.epochs else None,
            input_range=input_range,
            meter=CachedMeter(meter, store) if meter else None,
            table=_starting_table(folder, table, stages),
            progress=progress or Progress(),
            callbacks=tuple(callbacks),
            make_executor=make_executor,
        )
        job = _Compression(task, RecordingMeter(meter, store) if meter else None, folder, profiler=meter)
        return job.run(budget, num_stages=stages, finetune_uniform=finetune_uniform, labels=labels)


def _split(train: Any, validation: Any, settings: SearchSettings, unlabelled: ArrayLike | None) -> DataSplit:
    return split_data(
        *same_classes(as_image_data(train), as_image_data(validation)),
        num_calibration=settings.num_calibration_images,
        num_search=settings.num_search_images,
        seed=settings.seed,
        unlabelled=unlabelled,
    )


def _default_labels(model: Any, budget: Budget, split: DataSplit) -> dict[str, str]:
    """Says where model and data came from when the caller does not."""
    call = f"amc_tf.compress(model, train, validation, budget=amc_tf.Budget({budget}), ...)"
    data = f"{len(split.train)} training and {len(split.test)} validation images"
    return {"model": str(getattr(model, "name", "model")), "data": data, "command": call}


def _starting_table(
    folder: RunFolder | None, table: LatencyTable | None, num_stages: int
) -> LatencyTable | None:
    """Returns the table with which the search, or that of the first stage, began (see `starting_table`)."""
    if folder is None or num_stages == 1:
        return starting_table(folder, table)
    with folder.stage(1) as first:
        return starting_table(first, table)


class _Compression:
    """The steps of one compression in their order; `run` reads like the list of them."""

    def __init__(
        self,
        task: CompressionTask,
        meter: LatencyMeter | None,
        folder: RunFolder | None,
        *,
        profiler: LatencyMeter | None,
    ) -> None:
        """Takes what is to be done, what times the results, the folder, and what may profile operators."""
        self._task = task
        self._meter = meter
        self._profiler = profiler
        self._folder = folder
        self._clock = Clock(task.progress)
        self._measurer = ResultMeasurer(task.split.test, input_range=task.input_range, meter=meter)
        self._convert = functools.cache(self._convert_anew)

    def run(
        self, budget: Budget, *, num_stages: int, finetune_uniform: bool, labels: Mapping[str, Any]
    ) -> CompressionResult:
        """Runs all steps."""
        task, clock = self._task, self._clock
        clock.begin("calibrate")
        session = task.session(task.model, budget, settings=whole_settings(task.settings, num_stages))
        clock.begin("search" if num_stages == 1 else "uniform")
        self._original = Original.of(task.model, session)
        graph, uniform = session.graph, session.uniform()
        uniform_model, uniform_plan = task.build(session, task.model, uniform)
        models = {"uniform": uniform_model}
        if num_stages == 1:
            found = run_only_stage(task, session, self._folder, clock)
        else:
            del session  # with all that it has gathered of the original
            found = run_stages(task, self._original, num_stages=num_stages, folder=self._folder, clock=clock)
        models.update({"pruned": found.pruned, "finetuned": found.model})
        if finetune_uniform:
            # As many epochs as all the stages had.
            tuned, _ = task.finetune(uniform_model, uniform_plan, times=num_stages)
            models["uniform_finetuned"] = tuned
        clock.begin("convert")
        int8 = {"int8": self._convert(found.model, "int8"), **self._quantize(found.model)}
        written = most_accurate(int8, task.split.search, input_range=task.input_range)
        tflite = {"float32": self._convert(found.model, "float32"), "int8": int8[written]}
        verification = {
            precision: self._measurer.verify(found.model, content, precision=precision)
            for precision, content in tflite.items()
        }
        if self._folder is not None:
            _write_networks(self._folder, found.model, found.plan, tflite)
        clock.begin("measure")
        results = self._measure_or_stop(models, int8)
        operators = profile_operators(self._profiler, self._original.tflite, tflite["float32"])
        clock.begin("report")
        summary = {
            **labels,
            **{name: result.to_json() for name, result in results.items()},
            "plan_found_by": found.found_by,
            "stages": [record.to_json() for record in found.records],
            "operators": operators,
            "channels": summary_parts.channels(graph, found.plan.widths(graph), uniform.widths),
            "verification": verification,
            "int8_written": written,
            "budget": limit_to_json(self._original.limit),
            "meter": None if self._meter is None else summary_parts.meter(self._meter),
            **summary_parts.images(task.split.test, task.input_range),
            "num_unlabelled_images": task.split.num_unlabelled,
            "settings": task.settings_to_json(),
            "versions": summary_parts.versions(),
            "seconds": clock.seconds(),
        }
        if self._folder is not None:
            self._folder.write_json("summary.json", summary)
            make_report(self._folder.path)
        return CompressionResult(found.model, found.plan, tflite, summary)

    def _quantize(self, model: Any) -> dict[str, bytes]:
        """Returns the int8 network of quantisation-aware training by its name, if that is asked for."""
        settings = self._task.quantization
        if settings is None:
            return {}
        self._clock.begin("quantize")
        trained = self._task.quantize(model, settings)
        self._clock.begin("convert")
        return {"int8_qat": trained}

    def _measure_or_stop(
        self, models: Mapping[str, Any], int8: Mapping[str, bytes]
    ) -> dict[str, NetworkResult]:
        """Measures the networks; those of a phone that has gone by now are written already."""
        try:
            return self._measure(models, int8)
        except MeasurementError as error:
            if self._folder is None:
                raise
            raise RunStoppedError(
                f"The finished networks are in {self._folder.path}, but could not be timed: {error}"
            ) from error

    def _measure(self, models: Mapping[str, Any], int8: Mapping[str, bytes]) -> dict[str, NetworkResult]:
        """Measures the original and the slim models, each precision beside the original in that precision."""
        model, original, full = self._original.model, self._original.tflite, self._original.cost
        original_int8 = self._convert(model, "int8")
        measurer, slim = self._measurer, count_cost(models["finetuned"])
        results = {"baseline": measurer.measure_model(model, original, cost=full, reference=original)}
        measure = functools.cache(measurer.measure_model)  # without epochs two names are one network
        for name, model in models.items():
            content = self._convert(model, "float32")
            results[name] = measure(model, content, cost=count_cost(model), reference=original)
        for name, content in {"int8_baseline": original_int8, **int8}.items():
            cost = full if name == "int8_baseline" else slim
            results[name] = measurer.measure_tflite(content, cost=cost, reference=original_int8)
        return results

    def _convert_anew(self, model: Any, precision: str) -> bytes:
        return self._task.convert(model, precision, input_shape=self._original.input_shape)


def _write_networks(folder: RunFolder, model: Any, plan: PruningPlan, tflite: Mapping[str, bytes]) -> None:
    """Writes what was found; the summary comes later, so that it marks a whole run."""
    write_keras_model(model, folder.path / "model.keras")
    for precision, data in tflite.items():
        folder.write_bytes(f"model_{precision}.tflite", data)
    folder.write_json("plan.json", plan.to_json())
