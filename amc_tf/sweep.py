"""Compressions of one model to several budgets, and the front of accuracy against latency that they draw."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amc_tf.budget import Budget
from amc_tf.compress import compress
from amc_tf.data import ImageData, as_image_data
from amc_tf.errors import BudgetError, RunFolderError, SettingsError
from amc_tf.front import FrontNetwork, collect_networks, front_axis
from amc_tf.front_page import front_chart, render_front, standalone_svg
from amc_tf.latency_facts import unit_of
from amc_tf.progress import Progress
from amc_tf.run_folder import RunFolder, write_atomically
from amc_tf.session import check_reward
from amc_tf.settings import FinetuneSettings, SearchSettings

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
    **options: Any,
) -> SweepResult:
    """Compresses a model to each of several budgets, and compares all the networks.

    Each budget has a run folder of its own below `out`, named like the budget; beside them are written
    front.json, front.svg, front.html and a digest of model and data. A budget that cannot be met is told, and
    the others go on.

    Args:
        model: as for `amc_tf.compress`, like the next two.
        train: what to learn from.
        validation: what results are computed on.
        budgets: one or more, in the order in which they are tried.
        out: folder to fill.
        resume: go on with the sweep in that folder; runs that have finished are taken from their summaries.
        overwrite: delete the runs of an earlier sweep of these budgets in that folder.
        progress: told what happens.
        labels: as for `amc_tf.compress`.
        **options: whatever else `amc_tf.compress` takes.

    Returns:
        The networks, which of them are on the front, and the budgets that could not be met.

    Raises:
        AmcError: one of its subclasses; `BudgetError` if no budget can be met.
    """
    names = _folder_names(budgets)
    reward = (options.get("settings") or SearchSettings()).reward
    for budget in budgets:
        check_reward(reward, budget, options.get("meter"))
    listener, labels = progress or Progress(), labels or {}
    folders = {name: Path(out) / name for name in names}
    with contextlib.ExitStack() as claimed:  # an earlier run is refused before hours are spent on another
        for folder in folders.values():
            claimed.enter_context(RunFolder(folder, resume=resume, overwrite=overwrite))
    train, validation = as_image_data(train), as_image_data(validation)
    _claim(Path(out) / _ORIGIN, _fingerprint(model, train, validation), resume=resume)
    summaries: dict[str, Mapping[str, Any]] = {}
    failures: dict[str, str] = {}
    for number, (name, budget) in enumerate(zip(names, budgets, strict=True), 1):
        listener.compression(name, number, len(names))
        summary = _read_finished(folders[name], budget, labels=labels, options=options)
        given = {"budget": budget, "out": folders[name], "resume": True, "labels": labels, **options}
        try:
            if summary is None:
                summary = compress(model, train, validation, progress=listener, **given).summary
            summaries[name] = summary
        except BudgetError as error:
            failures[name] = str(error)
    if not summaries:
        raise BudgetError(f"None of the budgets could be met. {failures[names[0]]}")
    result = SweepResult(collect_networks(summaries), failures, summaries, Path(out) / "front.html")
    _write(Path(out), result)
    return result


def _fingerprint(model: Any, *data: ImageData) -> str:
    """Returns a digest of the weights of a model and of images and labels."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(array.tobytes())
    for part in data:
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(part.labels.tobytes())
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


def _folder_names(budgets: Sequence[Budget]) -> list[str]:
    """Returns the folder of each budget: how it is written, and whether a small value is absolute.

    Raises:
        SettingsError: if there is no budget, or two have one name.
    """
    names = [f"{budget}{'-absolute' if budget.absolute and budget.value <= 1 else ''}" for budget in budgets]
    if not names:
        raise SettingsError("A sweep needs one budget or more, such as macs=0.7 and macs=0.5.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SettingsError(f"The budget {twice[0]} is given twice: give each once.")
    return names


def _read_finished(
    folder: Path, budget: Budget, *, labels: Mapping[str, Any], options: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Returns the summary of a run that has finished, None if it has not.

    Raises:
        RunFolderError: if it cannot be read, or is of a compression with other options.
    """
    path = folder / "summary.json"
    if not path.exists():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        saved = _identity(summary)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged ({error!r}): start again with --overwrite.") from error
    for name, given in _asked_for(budget, labels, options).items():
        if saved[name] != given:
            raise RunFolderError(
                f"{folder} holds a finished run with another {name}: give the same options to --resume, or "
                "start again with --overwrite."
            )
    return summary


def _identity(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a summary says how the run was asked for."""
    meter = summary["meter"]
    return {
        **{name: summary[name] for name in ("model", "data", "input_range")},
        "budget": [summary["budget"]["kind"], summary["budget"]["value"]],
        "meter": None if meter is None else meter["fingerprint"],
        "search setting": summary["settings"]["search"],
        "fine-tuning setting": summary["settings"]["finetune"],
        "quantisation setting": summary["settings"].get("quantization"),
        "number of stages": len(summary["stages"]),
        "choice of fine-tuning uniform": "uniform_finetuned" in summary,
    }


def _asked_for(budget: Budget, labels: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a finished run must agree with, as `_identity` tells it of that run."""
    meter, quantization = options.get("meter"), options.get("quantization")
    asked = {
        "budget": [budget.kind, budget.value],
        "meter": None if meter is None else meter.fingerprint(),
        "input_range": options.get("input_range", "-1..1"),
        "search setting": (options.get("settings") or SearchSettings()).to_json(),
        "fine-tuning setting": (options.get("finetuning") or FinetuneSettings()).to_json(),
        "quantisation setting": quantization.to_json() if quantization and quantization.epochs else None,
        "number of stages": options.get("stages", 1),
        "choice of fine-tuning uniform": options.get("finetune_uniform", False),
        **{name: labels[name] for name in ("model", "data") if name in labels},
    }
    return dict(json.loads(json.dumps(asked)))


def _write(out: Path, result: SweepResult) -> None:
    """Writes front.json, front.svg and front.html."""
    first = next(iter(result.summaries.values()))
    command = first["command"]
    facts = {
        "model": first["model"],
        "data": first["data"],
        "meter": None if first["meter"] is None else first["meter"]["name"],
        "time_unit": unit_of(first["meter"]),
        "command": command if isinstance(command, str) else shlex.join(map(str, command)),
        "folders": {name: name for name in result.summaries},
    }
    document = {**{name: facts[name] for name in ("model", "data", "meter")}, **result.to_json()}
    contents = {
        "front.json": (json.dumps(document, indent=1) + "\n").encode(),
        "front.svg": standalone_svg(
            front_chart(result.networks, width=_CHART_WIDTH, time_unit=facts["time_unit"])
        ),
        "front.html": render_front(result.networks, result.failures, facts).encode(),
    }
    for name, content in contents.items():
        write_atomically(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
