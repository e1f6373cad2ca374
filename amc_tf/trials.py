"""The compressions that a sweep consists of, and who runs them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from amc_tf.budget import Budget
from amc_tf.compress import compress
from amc_tf.data import ImageData
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.table import LatencyTable
from amc_tf.errors import BudgetError, SettingsError
from amc_tf.progress import Progress
from amc_tf.settings import FinetuneSettings, SearchSettings

Outcome = Mapping[str, Any] | BudgetError  # summary.json, or why the budget could not be met


@dataclasses.dataclass(frozen=True)
class Trial:
    """One compression of a sweep.

    Attributes:
        name: its budget, with the model before and the seed behind where there are several.
        number: 1 for the first of the sweep.
        total: how many the sweep has.
        folder: its run folder; what is in it is gone on with.
        options: what `amc_tf.compress` is given besides, but for what times networks.
        model: the name of its model.
    """

    name: str
    number: int
    total: int
    folder: Path
    options: Mapping[str, Any]
    model: str


class TrialRunner(Protocol):
    """Runs the compressions of a sweep, each in its folder, and times their networks."""

    def fingerprint(self) -> str | None:
        """Returns the fingerprint of what times networks, None where nothing does."""

    def run(
        self,
        trials: Sequence[Trial],
        models: Mapping[str, Any],
        train: ImageData,
        validation: ImageData,
        progress: Progress,
    ) -> Iterator[tuple[Trial, Outcome]]:
        """Yields each trial with its outcome when it has ended, in any order."""


class OneByOne:
    """A `TrialRunner` that runs one trial after the other, here.

    Args:
        meter: times networks; None to leave latency out.
        table: what is known about the meter's device beforehand, or None.
    """

    def __init__(self, meter: LatencyMeter | None = None, table: LatencyTable | None = None) -> None:
        self._meter = meter
        self._table = table

    def fingerprint(self) -> str | None:
        """Returns the fingerprint of the meter."""
        return None if self._meter is None else self._meter.fingerprint()

    def run(
        self,
        trials: Sequence[Trial],
        models: Mapping[str, Any],
        train: ImageData,
        validation: ImageData,
        progress: Progress,
    ) -> Iterator[tuple[Trial, Outcome]]:
        """Runs the trials in their order; a failure that is not about a budget ends them."""
        for trial in trials:
            progress.compression(trial.name, trial.number, trial.total)
            options = {"meter": self._meter, "table": self._table, "progress": progress}
            yield trial, run_trial(trial, models[trial.model], train, validation, **options)


def run_trial(trial: Trial, model: Any, train: Any, validation: Any, **options: Any) -> Outcome:
    """Compresses, or goes on with it, and returns the summary or why the budget could not be met."""
    try:
        given = {**trial.options, **options}
        return compress(model, train, validation, out=trial.folder, resume=True, **given).summary
    except BudgetError as error:
        return error


def make_trials(
    models: Sequence[str],
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    out: Path,
    options: Mapping[str, Any],
) -> list[Trial]:
    """Makes a trial of each model and budget, and of each seed where any is given.

    Args:
        models: names of the models, each of which has a folder of its own where there are several.
        budgets: one or more.
        seeds: of search and trainings, in place of the seed of the settings; empty to keep that.
        out: the folder above those of the trials.
        options: what `amc_tf.compress` is given besides.

    Raises:
        SettingsError: if there is no budget, or two trials have one name.
    """
    if not budgets:
        raise SettingsError("A sweep needs one budget or more, such as macs=0.7 and macs=0.5.")
    named = {"budget": [_folder_name(budget) for budget in budgets], "seed": [str(seed) for seed in seeds]}
    for what, values in named.items():
        for value in values:
            if values.count(value) > 1:
                raise SettingsError(f"The {what} {value} is given twice: give each once.")
    trials: list[Trial] = []
    own: Sequence[int | None] = seeds or [None]
    total = len(models) * len(budgets) * max(1, len(seeds))
    for model, budget, seed in itertools.product(models, budgets, own):
        name = _folder_name(budget) if seed is None else f"{_folder_name(budget)}-seed{seed}"
        given = {**(options if seed is None else _seeded(options, seed)), "budget": budget}
        if len(models) > 1:
            name, given["labels"] = f"{model}/{name}", {**options["labels"], "model": model}
        trials.append(Trial(name, len(trials) + 1, total, out / name, given, model))
    return trials


def _folder_name(budget: Budget) -> str:
    """Returns how a budget is written, and whether a small value is absolute."""
    return f"{budget}{'-absolute' if budget.absolute and budget.value <= 1 else ''}"


def _seeded(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Returns the options with another seed of search and trainings."""
    usual = {"settings": SearchSettings(), "finetuning": FinetuneSettings()}
    given = {**options, **{name: options.get(name) or default for name, default in usual.items()}}
    names = ("settings", "finetuning", "quantization")
    return {
        name: dataclasses.replace(value, seed=seed) if name in names and value is not None else value
        for name, value in given.items()
    }
