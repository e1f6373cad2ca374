"""Compressions of one model to several budgets, and the front of accuracy against latency that they draw."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.budget import Budget
from amc_tf.data import ImageData, as_image_data
from amc_tf.errors import BudgetError, RunFolderError, SettingsError
from amc_tf.finetune import check_imitates
from amc_tf.front import FrontNetwork, collect_networks, front_axis
from amc_tf.front_page import front_chart, render_front, standalone_svg
from amc_tf.image_data import check_unlabelled
from amc_tf.latency_facts import unit_of
from amc_tf.progress import Progress
from amc_tf.run_folder import RunFolder, write_atomically
from amc_tf.run_record import data_label
from amc_tf.session import check_reward
from amc_tf.settings import FinetuneSettings, SearchSettings
from amc_tf.trials import OneByOne, Outcome, Trial, TrialRunner, make_trials

_CHART_WIDTH = 1104
_ORIGIN = "origin.sha256"  # of model and data


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """Outcome of a sweep.

    Attributes:
        networks: all networks, the original first (see `amc_tf.front.collect_networks`).
        failures: why a budget could not be met, by budget.
        summaries: what summary.json of each other budget holds, by budget.
        page: the HTML file.
    """

    networks: tuple[FrontNetwork, ...]
    failures: Mapping[str, str]
    summaries: Mapping[str, Mapping[str, Any]]
    page: Path

    def to_json(self) -> dict[str, Any]:
        """Returns what front.json holds."""
        return {
            "axis": front_axis(self.networks),
            "networks": [network.to_json() for network in self.networks],
            "failures": dict(self.failures),
        }


def sweep(  # noqa: PLR0913, the façade: each argument is a choice of the user
    model: Any,
    train: Any,
    validation: Any,
    *,
    budgets: Sequence[Budget],
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    labels: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (),
    runner: TrialRunner | None = None,
    **options: Any,
) -> SweepResult:
    """Compresses a model, or several, to each of several budgets, and compares all the networks.

    Each budget has a run folder of its own below `out`, named like the budget (macs=0.5; with several seeds
    macs=0.5-seed1; with several models in a folder of each); beside them are written front.json, front.svg,
    front.html and a digest of models and data. A budget that cannot be met is told, and the others go on.

    Args:
        model: as for `amc_tf.compress`, like the next two; or several models that take the same images, by
            their names.
        train: what to learn from.
        validation: what results are computed on.
        budgets: one or more, in the order in which they are tried.
        out: folder to fill.
        resume: go on with the sweep in that folder; runs that have finished are taken from their summaries.
        overwrite: delete the runs of an earlier sweep of these budgets in that folder.
        progress: told what happens.
        labels: as for `amc_tf.compress`.
        seeds: seeds of search and trainings, each of which every budget is compressed with; by default the
            one of the settings.
        runner: who runs the compressions, by default one after the other here; see
            `amc_tf.ray_trials.RayTrials`. One that is given opens the meter itself.
        **options: whatever else `amc_tf.compress` takes.

    Returns:
        The networks, which of them are on the front, and the budgets that could not be met.

    Raises:
        AmcError: one of its subclasses; `BudgetError` if no budget can be met.
    """
    options["labels"] = labels or {}
    runner = _choose_runner(runner, options)
    train, validation = as_image_data(train), as_image_data(validation)
    if (unlabelled := options.pop("unlabelled", None)) is not None:
        check_imitates(*_trainings(options))
        options["unlabelled"] = check_unlabelled(unlabelled, train, validation)
    models = model if isinstance(model, Mapping) else {"": model}
    trials = make_trials(list(models), budgets, seeds, Path(out), options)
    fingerprint = runner.fingerprint()
    reward = (options.get("settings") or SearchSettings()).reward
    for budget in budgets:
        check_reward(reward, budget, has_meter=fingerprint is not None)
    with contextlib.ExitStack() as claimed:  # an earlier run is refused before hours are spent on another
        for trial in trials:
            claimed.enter_context(RunFolder(trial.folder, resume=resume, overwrite=overwrite))
    origin = _fingerprint(models.values(), train, validation, unlabelled=options.get("unlabelled"))
    _claim(Path(out) / _ORIGIN, origin, resume=resume)
    finished = {trial.name: _read_finished(trial, fingerprint) for trial in trials}
    pending = [trial for trial in trials if finished[trial.name] is None]
    ended = runner.run(pending, models, train, validation, progress or Progress())
    outcomes: dict[str, Outcome | None] = {**finished, **{trial.name: outcome for trial, outcome in ended}}
    summaries = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Mapping)}
    failures = {name: str(outcome) for name, outcome in outcomes.items() if isinstance(outcome, BudgetError)}
    if not summaries:
        raise BudgetError(f"None of the budgets could be met. {failures[trials[0].name]}")
    result = SweepResult(collect_networks(summaries), failures, summaries, Path(out) / "front.html")
    _write(Path(out), result)
    return result


def _choose_runner(runner: TrialRunner | None, options: dict[str, Any]) -> TrialRunner:
    """Takes the meter out of the options, and returns who times with it.

    Raises:
        SettingsError: if there is a runner, which opens the meter itself, and a meter too.
    """
    meter, table = options.pop("meter", None), options.pop("table", None)
    if runner is None:
        return OneByOne(meter, table)
    if meter is not None or table is not None:
        raise SettingsError("A runner of trials opens the meter itself: give no meter and no table with it.")
    return runner


def _trainings(options: Mapping[str, Any]) -> list[FinetuneSettings]:
    """Returns the settings of all trainings that follow a search."""
    quantization = options.get("quantization")
    return [options.get("finetuning") or FinetuneSettings(), *([quantization] if quantization else [])]


def _fingerprint(models: Iterable[Any], *data: ImageData, unlabelled: NDArray | None) -> str:
    """Returns a digest of the weights of models and of images and labels."""
    digest = hashlib.sha256()
    for array in itertools.chain.from_iterable(model.get_weights() for model in models):
        digest.update(array.tobytes())
    for part in data:
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(part.labels.tobytes())
    if unlabelled is not None:
        digest.update(np.ascontiguousarray(unlabelled).data)
    return digest.hexdigest()


def _claim(path: Path, fingerprint: str, *, resume: bool) -> None:
    """Notes what a sweep is of; runs that have finished are not asked again.

    Raises:
        RunFolderError: if the folder to go on in is of another model or other data, or cannot be written.
    """
    if resume and path.exists() and path.read_text(encoding="utf-8").strip() != fingerprint:
        raise RunFolderError(
            f"{path.parent} holds a sweep of another model or other data: give the same ones to --resume, or "
            "start again with --overwrite."
        )
    write_atomically(path, lambda file: file.write(fingerprint.encode() + b"\n"))


def _read_finished(trial: Trial, fingerprint: str | None) -> Mapping[str, Any] | None:
    """Returns the summary of a run that has finished, None if it has not.

    Raises:
        RunFolderError: if it cannot be read, or is of a compression with other options.
    """
    path = trial.folder / "summary.json"
    if not path.exists():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        saved = _identity(summary)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged ({error!r}): start again with --overwrite.") from error
    for name, given in _asked_for(trial.options, fingerprint).items():
        if saved[name] != given:
            raise RunFolderError(
                f"{trial.folder} holds a finished run with another {name}: give the same options to "
                "--resume, or start again with --overwrite."
            )
    return summary


def _identity(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a summary says how the run was asked for."""
    meter, settings = summary["meter"], summary["settings"]
    identity = {
        "input_range": summary["input_range"],
        **{name: _source(summary[name]) for name in ("model", "data")},
        "budget": [summary["budget"]["kind"], summary["budget"]["value"]],
        "meter": None if meter is None else meter["fingerprint"],
        "search setting": SearchSettings.from_json(settings["search"]).to_json(),  # what it lacks is new
        "fine-tuning setting": FinetuneSettings.from_json(settings["finetune"]).to_json(),
        "quantisation setting": settings.get("quantization"),
        "number of stages": len(summary["stages"]),
        "choice of fine-tuning uniform": "uniform_finetuned" in summary,
        "number of images without labels": summary.get("num_unlabelled_images", 0),
    }
    return dict(json.loads(json.dumps(identity)))


def _source(label: Any) -> str:
    """Returns what a model or data is called, the same for "photos" and "./photos/"."""
    return str(PurePath(str(label)))


def _asked_for(options: Mapping[str, Any], fingerprint: str | None) -> dict[str, Any]:
    """Returns what a finished run must agree with, as `_identity` tells it of that run."""
    budget, labels, quantization = options["budget"], options["labels"], options.get("quantization")
    asked = {
        "budget": [budget.kind, budget.value],
        "meter": fingerprint,
        "input_range": options.get("input_range", "-1..1"),
        "search setting": (options.get("settings") or SearchSettings()).to_json(),
        "fine-tuning setting": (options.get("finetuning") or FinetuneSettings()).to_json(),
        "quantisation setting": quantization.to_json() if quantization and quantization.epochs else None,
        "number of stages": options.get("stages", 1),
        "choice of fine-tuning uniform": options.get("finetune_uniform", False),
        "number of images without labels": len(options.get("unlabelled", ())),
        **{name: _source(labels[name]) for name in ("model", "data") if name in labels},
    }
    return dict(json.loads(json.dumps(asked)))


def _write(out: Path, result: SweepResult) -> None:
    """Writes front.json, front.svg and front.html."""
    first = next(iter(result.summaries.values()))
    command = first["command"]
    facts: dict[str, Any] = {
        "model": ", ".join(dict.fromkeys(str(summary["model"]) for summary in result.summaries.values())),
        "data": data_label(first),
        "meter": None if first["meter"] is None else first["meter"]["name"],
        "time_unit": unit_of(first["meter"]),
        "command": command if isinstance(command, str) else shlex.join(map(str, command)),
        "folders": {name: name for name in result.summaries},
    }
    document = {
        "model": facts["model"],
        "data": first["data"],
        "num_unlabelled_images": first.get("num_unlabelled_images", 0),
        "meter": facts["meter"],
        **result.to_json(),
    }
    contents = {
        "front.json": (json.dumps(document, indent=1) + "\n").encode(),
        "front.svg": standalone_svg(
            front_chart(result.networks, width=_CHART_WIDTH, time_unit=facts["time_unit"])
        ),
        "front.html": render_front(result.networks, result.failures, facts).encode(),
    }
    for name, content in contents.items():
        write_atomically(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
