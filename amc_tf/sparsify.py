"""Fine-grained pruning as a job: a model and its data in; a sparsity plan, a sparse model and TFLite out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from amc_tf import summary_parts
from amc_tf.budget import Budget
from amc_tf.clone import in_float32
from amc_tf.data import as_image_data, same_classes, split_data
from amc_tf.device.convert import to_tflite
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.store import MeasurementStore
from amc_tf.device.stored_meters import CachedMeter, RecordingMeter
from amc_tf.errors import MeasurementError, RunStoppedError
from amc_tf.finetune import check_imitates
from amc_tf.hints import check_hints
from amc_tf.keras_callbacks import check_callbacks
from amc_tf.progress import Clock, Progress
from amc_tf.report import make_report
from amc_tf.results import ResultMeasurer
from amc_tf.run_folder import RunFolder, write_keras_model
from amc_tf.settings import MIN_KEEP_RATIO_DENSE, FinetuneSettings, SearchSettings
from amc_tf.sparse_task import SparsityTask
from amc_tf.sparsity import check_trainable
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.stage_record import limit_to_json
from amc_tf.stages import Original, check_num_stages, run_only_stage, run_stages
from amc_tf.twin import to_keras3

_DEFLATE_LEVEL = 9


@dataclasses.dataclass(frozen=True)
class SparsityResult:
    """Outcome of fine-grained pruning.

    Attributes:
        model: the sparse model, a Keras 3 model with exact zeros, fine-tuned if that was asked for.
        plan: how many weights each layer keeps.
        tflite: the same network as float32 TFLite bytes, its kernels stored as sparse ones.
        summary: what `summary.json` holds.
    """

    model: Any
    plan: SparsityPlan
    tflite: bytes
    summary: Mapping[str, Any]


def sparsify(  # noqa: PLR0913, the façade: each argument is a choice of the user
    model: Any,
    train: Any,
    validation: Any,
    *,
    budget: Budget,
    meter: LatencyMeter | None = None,
    settings: SearchSettings | None = None,
    finetuning: FinetuneSettings | None = None,
    unlabelled: ArrayLike | None = None,
    finetune_uniform: bool = False,
    stages: int = 1,
    min_keep_ratio_dense: float = MIN_KEEP_RATIO_DENSE,
    input_range: str = "-1..1",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    labels: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Any] = (),
) -> SparsityResult:
    """Finds how many weights each layer needs within a budget, trains those, converts and measures.

    Weights are set to zero one by one: the file shrinks, the shape of the network does not. How much faster
    it gets depends on kernels for sparse weights on the device; where speed is what counts, remove channels
    with `compress`.

    Args:
        model: a built functional or Sequential classifier, Keras 3 or `tf_keras`; it is not changed. The
            sparse network of one of mixed precision is in float32.
        train: images and labels to learn from, as of `compress`.
        validation: likewise; only the results are computed on it.
        budget: what the sparse network may cost. "params" and "macs" count what is not zero, "bytes" the
            weights as float32 with one bit for each place that tells whether a weight stands there.
        meter: times networks, for example `HostMeter()`; needed for a latency budget.
        settings: of the search; `min_keep_ratio` is that of convolutions (see `SparsitySession`).
        finetuning: of the fine-tuning after the search; `epochs=0` leaves it out.
        unlabelled: more images, without labels, on which fine-tuning imitates the original, as of `compress`.
        finetune_uniform: fine-tune the uniform control alike, to compare with; in one go, for as many epochs
            as all stages have.
        stages: how often to search and fine-tune in turn, each time within a smaller limit, as of `compress`;
            which weights are small is told anew by those that fine-tuning has made. The smallest parts that
            are kept are those of the original's weights, in each stage.
        min_keep_ratio_dense: smallest part of the weights of a Dense layer that is kept.
        input_range: how uint8 images are scaled for the model, one of `amc_tf.data.INPUT_RANGES`.
        out: run folder to fill; None writes nothing.
        resume: go on with the run in that folder.
        overwrite: delete an earlier run in that folder.
        labels: entries for the summary that say where model and data came from.
        progress: told what happens.
        callbacks: Keras callbacks that are told of the episodes, as of `compress`.

    Returns:
        The sparse model and all about it.

    Raises:
        AmcError: one of its subclasses, with a sentence for the user; see `amc_tf.errors`.
    """
    settings, finetuning = settings or SearchSettings(), finetuning or FinetuneSettings()
    check_num_stages(stages)
    check_callbacks(callbacks)
    model = in_float32(to_keras3(model))  # so that plan and sparse network name the layers alike
    if finetuning.epochs:
        check_trainable(model)
    check_hints(model, finetuning)
    if unlabelled is not None:
        check_imitates(finetuning)
    split = split_data(
        *same_classes(as_image_data(train), as_image_data(validation)),
        num_calibration=settings.num_calibration_images,
        num_search=settings.num_search_images,
        seed=settings.seed,
        unlabelled=unlabelled,
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunFolder(out, resume=resume, overwrite=overwrite)) if out else None
        store = stack.enter_context(MeasurementStore(folder.measurements if folder else None))
        task = SparsityTask(
            model,
            split,
            settings=settings,
            finetuning=finetuning,
            input_range=input_range,
            meter=CachedMeter(meter, store) if meter else None,
            min_keep_ratio_dense=min_keep_ratio_dense,
            progress=progress or Progress(),
            callbacks=tuple(callbacks),
        )
        job = _Sparsification(task, RecordingMeter(meter, store) if meter else None, folder)
        result = job.run(budget, num_stages=stages, finetune_uniform=finetune_uniform)
        named = {"model": str(getattr(model, "name", "model")), **(labels or {})}
        summary = {**named, **result.summary}
        if folder is not None:
            folder.write_json("summary.json", summary)
            make_report(folder.path)
    return dataclasses.replace(result, summary=summary)


class _Sparsification:
    """The steps of fine-grained pruning in their order; `run` reads like the list of them."""

    def __init__(self, task: SparsityTask, meter: LatencyMeter | None, folder: RunFolder | None) -> None:
        """Takes what is to be done, what times the results, and the folder."""
        self._task = task
        self._meter = meter
        self._folder = folder
        self._clock = Clock(task.progress)
        self._measurer = ResultMeasurer(task.split.test, input_range=task.input_range, meter=meter)

    def run(self, budget: Budget, *, num_stages: int, finetune_uniform: bool) -> SparsityResult:
        """Runs all steps."""
        task, clock = self._task, self._clock
        clock.begin("calibrate")
        session = task.session(task.model, budget)
        clock.begin("search" if num_stages == 1 else "controls")
        self._groups, self._original = session.groups, Original.of(task.model, session)
        controls = {"uniform": session.uniform(), "threshold": session.global_threshold()}
        networks = {name: task.build(session, task.model, score) for name, score in controls.items()}
        if num_stages == 1:
            found = run_only_stage(task, session, self._folder, clock)
        else:
            del session  # with all that it has gathered of the original
            found = run_stages(task, self._original, num_stages=num_stages, folder=self._folder, clock=clock)
        networks |= {"pruned": (found.pruned, found.plan), "finetuned": (found.model, found.plan)}
        if finetune_uniform:
            model, plan = networks["uniform"]
            # As many epochs as all the stages had.
            networks["uniform_finetuned"] = (task.finetune(model, plan, times=num_stages)[0], plan)
        clock.begin("convert")
        tflite = self._convert(found.model)
        verification = self._measurer.verify(found.model, tflite, precision="float32")
        if self._folder is not None:
            write_keras_model(found.model, self._folder.path / "model.keras")
            self._folder.write_bytes("model_float32.tflite", tflite)
            self._folder.write_json("plan.json", found.plan.to_json())
        clock.begin("measure")
        rows = self._measure_or_stop(networks)
        clock.begin("report")
        summary = {
            "pruning": "weights",
            **rows,
            "plan_found_by": found.found_by,
            "stages": [record.to_json() for record in found.records],
            "layers": self._layers({name: plan for name, (_, plan) in networks.items()}),
            "verification": {"float32": verification},
            "budget": limit_to_json(self._original.limit),
            "meter": None if self._meter is None else summary_parts.meter(self._meter),
            **summary_parts.images(task.split.test, task.input_range),
            "num_unlabelled_images": task.split.num_unlabelled,
            "settings": {"search": task.settings.to_json(), "finetune": task.finetuning.to_json()},
            "versions": summary_parts.versions(),
            "seconds": clock.seconds(),
        }
        return SparsityResult(found.model, found.plan, tflite, summary)

    def _measure_or_stop(self, networks: Mapping[str, tuple[Any, SparsityPlan]]) -> dict[str, dict[str, Any]]:
        """Measures the networks; those of a phone that has gone by now are written already."""
        try:
            return self._measure(networks)
        except MeasurementError as error:
            if self._folder is None:
                raise
            raise RunStoppedError(
                f"The finished networks are in {self._folder.path}, but could not be timed: {error}"
            ) from error

    def _measure(self, networks: Mapping[str, tuple[Any, SparsityPlan]]) -> dict[str, dict[str, Any]]:
        """Measures the original and the sparse networks, the final one stored densely too."""
        original, groups = self._original, self._groups
        rows = {"baseline": (original.model, original.tflite, original.cost)}
        for name, (model, plan) in networks.items():
            rows[name] = (model, self._convert(model), groups.count(plan.widths(groups)))
        final, _, cost = rows["finetuned"]
        rows["finetuned_dense"] = (final, self._convert(final, sparse=False), cost)
        measure = functools.cache(self._measurer.measure_model)  # without epochs two names are one network
        measured = {}
        for name, (model, tflite, cost) in rows.items():
            result = measure(model, tflite, cost=cost, reference=original.tflite)
            sizes = {"bytes": cost.size_bytes, "deflated_bytes": len(zlib.compress(tflite, _DEFLATE_LEVEL))}
            measured[name] = {**result.to_json(), **sizes}
        return measured

    def _convert(self, model: Any, *, sparse: bool = True) -> bytes:
        return to_tflite(model, input_shape=self._original.input_shape, sparse=sparse)

    def _layers(self, plans: Mapping[str, SparsityPlan]) -> list[dict[str, Any]]:
        """Returns how many weights each layer has and keeps, by the found plan and by the controls."""
        names = {"kept": "pruned", "uniform": "uniform", "threshold": "threshold"}
        return [
            {
                "layer": path,
                "weights": num_weights,
                **{entry: plans[name].kept[path] for entry, name in names.items()},
            }
            for path, num_weights in plans["pruned"].num_weights.items()
        ]
