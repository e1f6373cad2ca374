"""The main job: a model and its data in; a plan, a slim model, TFLite files and a report out."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.budget import Budget
from amc_tf.cost import Cost
from amc_tf.data import DataSplit, as_image_data, split_data, to_input_range
from amc_tf.device.convert import TFLiteRunner, to_tflite, verify
from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.device.store import CachedMeter, MeasurementStore
from amc_tf.errors import ConversionError
from amc_tf.evaluate import accuracy
from amc_tf.finetune import EpochRecord, finetune
from amc_tf.graph import count_cost
from amc_tf.plan import PruningPlan
from amc_tf.progress import Progress
from amc_tf.rebuild import rebuild
from amc_tf.report import make_report
from amc_tf.run_folder import RunFolder, write_keras_model
from amc_tf.score import Score
from amc_tf.session import PruningSession
from amc_tf.settings import FinetuneSettings, SearchSettings

_NUM_VERIFICATION_IMAGES = 64
_NUM_FINAL_TIMINGS = 3
_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy")


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """What the summary tells of one network.

    Attributes:
        top1: accuracy on the validation images, in [0, 1].
        top5: likewise.
        cost: exact cost.
        tflite_bytes: size of its TFLite file.
        latency: how long it takes, None without a meter.
    """

    top1: float
    top5: float
    cost: Cost
    tflite_bytes: int
    latency: Latency | None

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `summary.json`."""
        latency = None
        if self.latency is not None:
            latency = {
                "median": self.latency.median_ms,
                "p5": self.latency.p5_ms,
                "p95": self.latency.p95_ms,
                "ratio": self.latency.ratio,
            }
        return {
            "top1": self.top1,
            "top5": self.top5,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "tflite_bytes": self.tflite_bytes,
            "latency_ms": latency,
        }


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


def compress(
    model: Any,
    train: Any,
    validation: Any,
    *,
    budget: Budget,
    meter: LatencyMeter | None = None,
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
        settings: of the search; the paper's numbers by default.
        finetuning: of the fine-tuning after the search; `epochs=0` leaves it out.
        finetune_uniform: fine-tune the uniform control alike, to compare with.
        input_range: how uint8 images are scaled for the model, one of `amc_tf.data.INPUT_RANGES`; float
            images are in the model's range already.
        out: run folder to fill; None writes nothing.
        resume: go on with the run in that folder.
        overwrite: delete an earlier run in that folder.
        labels: entries for the summary that say where model and data came from ("model", "data", "command").
        progress: told what happens.

    Returns:
        The slim model and all about it.

    Raises:
        AmcError: one of its subclasses, with a sentence for the user; see `amc_tf.errors`.
    """
    settings = settings or SearchSettings()
    finetuning = finetuning or FinetuneSettings()
    progress = progress or Progress()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunFolder(out, resume=resume, overwrite=overwrite)) if out else None
        store = stack.enter_context(MeasurementStore(folder.measurements if folder else None))
        job = _Compression(
            model,
            _split(train, validation, settings),
            settings=settings,
            finetuning=finetuning,
            input_range=input_range,
            meter=meter,
            progress=progress,
        )
        cached = CachedMeter(meter, store) if meter else None
        return job.run(budget, cached, folder, finetune_uniform=finetune_uniform, labels=labels or {})


def _split(train: Any, validation: Any, settings: SearchSettings) -> DataSplit:
    return split_data(
        as_image_data(train),
        as_image_data(validation),
        num_calibration=settings.num_calibration_images,
        num_search=settings.num_search_images,
        seed=settings.seed,
    )


class _Compression:
    """The stages of one compression in their order; `run` reads like the list of them."""

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
        self._stages: list[tuple[str, float]] = []

    def run(
        self,
        budget: Budget,
        cached: LatencyMeter | None,
        folder: RunFolder | None,
        *,
        finetune_uniform: bool,
        labels: Mapping[str, Any],
    ) -> CompressionResult:
        """Runs all stages and, with a folder, writes its files; `cached` times the candidates of the search."""
        self._stage("calibrate")
        session = self._session = PruningSession(
            self._model,
            self._split,
            budget=budget,
            settings=self._settings,
            input_range=self._input_range,
            meter=cached,
        )
        self._stage("search")
        uniform = session.uniform()
        score, found_by = self._search(uniform, folder)
        plan = session.builder.plan(score.widths)
        slim, slim_uniform = self._rebuild(score), self._rebuild(uniform)
        self._stage("finetune")
        final = self._finetune(slim)
        tuned_uniform = self._finetune(slim_uniform) if finetune_uniform else None
        self._stage("convert")
        tflite = {precision: self._convert(final, precision) for precision in ("float32", "int8")}
        originals = {"float32": session.tflite, "int8": self._convert(self._model, "int8")}
        verification = {precision: self._verify(final, tflite[precision], precision) for precision in tflite}
        self._stage("measure")
        original_cost, slim_cost = session.graph.count(), score.cost
        results = {
            "baseline": self._describe(originals["float32"], original_cost, originals["float32"], self._model),
            "uniform": self._describe_model(slim_uniform, originals["float32"]),
            "pruned": self._describe_model(slim, originals["float32"]),
            "finetuned": self._describe(tflite["float32"], slim_cost, originals["float32"], final),
            "int8_baseline": self._describe(originals["int8"], original_cost, originals["int8"]),
            "int8": self._describe(tflite["int8"], slim_cost, originals["int8"]),
        }
        if tuned_uniform is not None:
            results["uniform_finetuned"] = self._describe_model(tuned_uniform, originals["float32"])
        self._stage("report")
        summary = {
            **labels,
            **{name: result.to_json() for name, result in results.items()},
            "plan_found_by": found_by,
            "channels": _channels(session, score, uniform),
            "verification": verification,
            **self._settings_summary(session),
        }
        if folder is not None:
            _write(folder, final, plan, tflite, summary)
        return CompressionResult(final, plan, tflite, summary)

    def _stage(self, name: str) -> None:
        self._stages.append((name, time.perf_counter()))
        self._progress.stage(name)

    def _seconds(self) -> dict[str, float]:
        """Returns the seconds that each stage took that has ended, and all of them."""
        ends = self._stages[1:]
        seconds = {
            name: round(end - start, 2)
            for (name, start), (_, end) in zip(self._stages, ends, strict=False)
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
        images = self._calibration_images() if precision == "int8" else None
        return to_tflite(
            model,
            precision=precision,
            calibration_images=images,
            input_shape=self._session.network.input_shape,
        )

    def _calibration_images(self) -> NDArray[np.float32]:
        return to_input_range(self._split.calibration.images[:100], self._input_range)

    def _verify(self, model: Any, tflite: bytes, precision: str) -> dict[str, Any]:
        """Compares a converted network with Keras; int8 that strays is told in the summary, not raised."""
        images = to_input_range(self._split.test.images[:_NUM_VERIFICATION_IMAGES], self._input_range)
        try:
            agreement = verify(
                tflite, lambda batch: np.asarray(model(batch, training=False)), images, precision=precision
            )
        except ConversionError as error:
            if precision == "float32":
                raise
            return {"error": str(error)}
        return agreement.to_json()

    def _describe_model(self, model: Any, reference: bytes) -> NetworkResult:
        return self._describe(self._convert(model, "float32"), count_cost(model), reference, model)

    def _describe(
        self, tflite: bytes, cost: Cost, reference: bytes, model: Any | None = None
    ) -> NetworkResult:
        """Measures a network on the validation images: by Keras if `model` is given, else by running TFLite."""
        if model is not None:
            found = accuracy(
                lambda images: np.asarray(model(images, training=False)),
                self._split.test,
                input_range=self._input_range,
            )
        else:
            runner = TFLiteRunner(tflite, num_threads=os.cpu_count() or 1)
            found = accuracy(runner.predict, self._split.test, input_range=self._input_range)
        return NetworkResult(found.top1, found.top5, cost, len(tflite), self._time(tflite, reference))

    def _time(self, tflite: bytes, reference: bytes) -> Latency | None:
        """Times a network beside its reference several times and returns the middle timing."""
        if self._meter is None:
            return None
        meter = self._meter.with_reference(reference)
        timings = [meter.measure(tflite) for _ in range(_NUM_FINAL_TIMINGS)]
        return sorted(timings, key=lambda latency: latency.ratio or latency.median_ms)[len(timings) // 2]

    def _settings_summary(self, session: PruningSession) -> dict[str, Any]:
        limit = session.limit
        meter = None
        if self._meter is not None:
            meter = {"name": self._meter.name, "fingerprint": self._meter.fingerprint()}
        return {
            "budget": {
                "kind": limit.kind,
                "value": limit.budget.value,
                "limit": None if np.isinf(limit.limit) else limit.limit,
                "unit": limit.unit,
            },
            "meter": meter,
            "input_range": self._input_range,
            "settings": {"search": self._settings.to_json(), "finetune": self._finetuning.to_json()},
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _PACKAGES},
            },
            "seconds": self._seconds(),
        }


def _channels(session: PruningSession, score: Score, uniform: Score) -> list[dict[str, Any]]:
    return [
        {
            "group": group.name,
            "layer": group.producers[0],
            "before": group.num_channels,
            "after": width,
            "uniform": uniform_width,
        }
        for group, width, uniform_width in zip(
            session.graph.groups, score.widths, uniform.widths, strict=True
        )
    ]


def _write(
    folder: RunFolder, model: Any, plan: PruningPlan, tflite: Mapping[str, bytes], summary: Mapping[str, Any]
) -> None:
    """Writes the files of a run; the summary last but for the report, so that it marks a whole run."""
    write_keras_model(model, folder.path / "model.keras")
    for precision, data in tflite.items():
        folder.write_bytes(f"model_{precision}.tflite", data)
    folder.write_json("plan.json", plan.to_json())
    folder.write_json("summary.json", summary)
    make_report(folder.path)
