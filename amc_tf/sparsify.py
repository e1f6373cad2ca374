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
from amc_tf.finetune import EpochRecord, check_imitates
from amc_tf.hints import check_hints
from amc_tf.keras_callbacks import check_callbacks, listening
from amc_tf.plan import PruningPlan
from amc_tf.progress import Clock, Progress
from amc_tf.rebuild import rebuild
from amc_tf.report import make_report
from amc_tf.results import ResultMeasurer
from amc_tf.run_folder import RunFolder, write_keras_model
from amc_tf.score import Score
from amc_tf.settings import MIN_KEEP_RATIO_DENSE, FinetuneSettings, SearchSettings
from amc_tf.sparse_session import SparsitySession
from amc_tf.sparsity import check_trainable, finetune_sparse
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.stage_record import limit_to_json
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
        finetune_uniform: fine-tune the uniform control alike, to compare with.
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
    progress = progress or Progress()
    clock = Clock(progress)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunFolder(out, resume=resume, overwrite=overwrite)) if out else None
        store = stack.enter_context(MeasurementStore(folder.measurements if folder else None))
        clock.begin("calibrate")
        session = SparsitySession(
            model,
            split,
            budget=budget,
            settings=settings,
            input_range=input_range,
            meter=CachedMeter(meter, store) if meter else None,
            min_keep_ratio_dense=min_keep_ratio_dense,
        )
        job = _Sparsification(
            model,
            session,
            finetuning,
            input_range=input_range,
            clock=clock,
            progress=progress,
            callbacks=callbacks,
        )
        recording = RecordingMeter(meter, store) if meter else None
        result = job.run(recording, folder, finetune_uniform=finetune_uniform)
        named = {"model": str(getattr(model, "name", "model")), **(labels or {})}
        summary = {**named, **result.summary}
        if folder is not None:
            folder.write_json("summary.json", summary)
            make_report(folder.path)
    return dataclasses.replace(result, summary=summary)


class _Sparsification:
    """The steps of fine-grained pruning in their order; `run` reads like the list of them."""

    def __init__(
        self,
        model: Any,
        session: SparsitySession,
        finetuning: FinetuneSettings,
        *,
        input_range: str,
        clock: Clock,
        progress: Progress,
        callbacks: Sequence[Any],
    ) -> None:
        self._model = model
        self._session = session
        self._finetuning = finetuning
        self._input_range = input_range
        self._clock = clock
        self._progress = progress
        self._callbacks = callbacks

    def run(
        self, meter: LatencyMeter | None, folder: RunFolder | None, *, finetune_uniform: bool
    ) -> SparsityResult:
        """Runs all steps; `meter` times the results."""
        session, clock = self._session, self._clock
        clock.begin("search")
        scores = {"uniform": session.uniform(), "threshold": session.global_threshold()}
        with listening(self._callbacks, self._progress, session.settings.episodes) as tell:
            found = session.search(folder, tell)
        choice = session.choose(scores["uniform"], found)
        scores["pruned"] = choice.best
        models = {name: self._build(score) for name, score in scores.items()}
        clock.begin("finetune")
        final = models["finetuned"] = self._finetune(models["pruned"], scores["pruned"])
        scores["finetuned"] = scores["pruned"]
        if finetune_uniform:
            models["uniform_finetuned"] = self._finetune(models["uniform"], scores["uniform"])
            scores["uniform_finetuned"] = scores["uniform"]
        clock.begin("convert")
        tflite, plan = self._convert(final), session.plan(scores["finetuned"])
        measurer = ResultMeasurer(session.split.test, input_range=self._input_range, meter=meter)
        verification = measurer.verify(final, tflite, precision="float32")
        if folder is not None:
            write_keras_model(final, folder.path / "model.keras")
            folder.write_bytes("model_float32.tflite", tflite)
            folder.write_json("plan.json", plan.to_json())
        clock.begin("measure")
        rows = self._measure_or_stop(measurer, models, scores, folder)
        clock.begin("report")
        summary = {
            "pruning": "weights",
            **rows,
            "plan_found_by": choice.found_by,
            "layers": self._layers(scores),
            "verification": {"float32": verification},
            "budget": limit_to_json(session.limit),
            "meter": None if meter is None else summary_parts.meter(meter),
            **summary_parts.images(session.split.test, self._input_range),
            "num_unlabelled_images": session.split.num_unlabelled,
            "settings": {"search": session.settings.to_json(), "finetune": self._finetuning.to_json()},
            "versions": summary_parts.versions(),
            "seconds": clock.seconds(),
        }
        return SparsityResult(final, plan, tflite, summary)

    def _build(self, score: Score) -> Any:
        """Returns the sparse network as a Keras 3 model, with the recovered statistics."""
        weights = self._session.recover(score.widths)
        return to_keras3(rebuild(self._model, PruningPlan({}, {}), weights))  # every channel stays

    def _finetune(self, sparse: Any, score: Score) -> Any:
        total, split = self._finetuning.epochs, self._session.split
        if total == 0:
            return sparse

        def report(record: EpochRecord) -> None:
            self._progress.epoch(record.epoch, total, record.top1)

        result = finetune_sparse(
            sparse,
            self._session.plan(score),
            split.train,
            split.search,
            settings=self._finetuning,
            input_range=self._input_range,
            teacher=self._model,
            unlabelled=split.unlabelled,
            on_epoch=report,
        )
        return result.model

    def _measure_or_stop(
        self,
        measurer: ResultMeasurer,
        models: Mapping[str, Any],
        scores: Mapping[str, Score],
        folder: RunFolder | None,
    ) -> dict[str, dict[str, Any]]:
        """Measures the networks; those of a phone that has gone by now are written already."""
        try:
            return self._measure(measurer, models, scores)
        except MeasurementError as error:
            if folder is None:
                raise
            raise RunStoppedError(
                f"The finished networks are in {folder.path}, but could not be timed: {error}"
            ) from error

    def _measure(
        self, measurer: ResultMeasurer, models: Mapping[str, Any], scores: Mapping[str, Score]
    ) -> dict[str, dict[str, Any]]:
        """Measures the original and the sparse networks, the final one stored densely too."""
        original, count = self._session.tflite, self._session.groups.count
        networks = {"baseline": (self._model, original, count())}
        for name, model in models.items():
            networks[name] = (model, self._convert(model), count(scores[name].widths))
        final, _, cost = networks["finetuned"]
        networks["finetuned_dense"] = (final, self._convert(final, sparse=False), cost)
        rows = {}
        measure = functools.cache(measurer.measure_model)  # without epochs two names are one network
        for name, (model, tflite, cost) in networks.items():
            result = measure(model, tflite, cost=cost, reference=original)
            sizes = {"bytes": cost.size_bytes, "deflated_bytes": len(zlib.compress(tflite, _DEFLATE_LEVEL))}
            rows[name] = {**result.to_json(), **sizes}
        return rows

    def _convert(self, model: Any, *, sparse: bool = True) -> bytes:
        return to_tflite(model, input_shape=self._session.network.input_shape, sparse=sparse)

    def _layers(self, scores: Mapping[str, Score]) -> list[dict[str, Any]]:
        """Returns how many weights each layer has and keeps, by the found plan and by the controls."""
        names = {"kept": "pruned", "uniform": "uniform", "threshold": "threshold"}
        return [
            {
                "layer": layer.path,
                "weights": layer.num_weights,
                **{entry: scores[name].widths[index] for entry, name in names.items()},
            }
            for index, layer in enumerate(self._session.groups.groups)
        ]
