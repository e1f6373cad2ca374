"""A finished run as its folder holds it: the summary, the episodes, the plan."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from amc_tf.errors import MeasurementError, RunFolderError
from amc_tf.files import is_intact
from amc_tf.latency_facts import is_predicted

if TYPE_CHECKING:
    from amc_tf.device.table import LatencyTable
    from amc_tf.device.table_samples import TableSample

# Networks in the order of the table: key in summary.json, name, CSS class, key of what it is compared with.
NETWORKS = (
    ("baseline", "Original", "baseline", None),
    ("uniform", "Uniform", "uniform raw", "baseline"),
    ("uniform_finetuned", "Uniform, fine-tuned", "uniform", "baseline"),
    ("threshold", "One threshold", "threshold raw", "baseline"),
    ("pruned", "Found plan", "found raw", "baseline"),
    ("finetuned", "Found plan, fine-tuned", "found", "baseline"),
    ("finetuned_dense", "Found plan, stored densely", "found", "baseline"),
    ("int8_baseline", "Original, int8", "baseline int8", None),
    ("int8", "Found plan, int8", "found int8", "int8_baseline"),
    ("int8_qat", "Found plan, int8, trained", "found int8", "int8_baseline"),
)
# What a network became in fine-tuning.
TUNED = {"uniform": "uniform_finetuned", "pruned": "finetuned"}


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds, as read.

    Attributes:
        summary: summary.json.
        episodes: The lines of episodes.jsonl; of several stages one after the other, numbered through, each
            with its "stage", 1 for the first.
        groups: Kept channels and channels before pruning of each channel group, from plan.json; of single
            weights set to zero, kept and all weights of each layer.
    """

    summary: Mapping[str, Any]
    episodes: tuple[Mapping[str, Any], ...]
    groups: Mapping[str, tuple[int, int]]

    @property
    def keeps_channels(self) -> bool:
        """Whether channels were removed, instead of single weights set to zero."""
        return keeps_channels(self.summary)


def data_label(summary: Mapping[str, Any]) -> str | None:
    """Returns what a run's images are called, those without labels too; None if the summary does not tell."""
    data, num_unlabelled = summary.get("data"), summary.get("num_unlabelled_images", 0)
    return f"{data} and {num_unlabelled:,} images without labels" if data and num_unlabelled else data


def keeps_channels(summary: Mapping[str, Any]) -> bool:
    """Tells from summary.json whether channels were removed, instead of single weights set to zero."""
    return bool(summary.get("pruning") != "weights")


def read_run(folder: Path) -> RunRecord:
    """Reads what the report shows.

    Args:
        folder: The run folder.

    Returns:
        The contents of its files.

    Raises:
        RunFolderError: If a file is missing or is not what it should be, named in the message.
    """
    summary = read_summary(folder)
    plan = _read_json(folder / "plan.json")
    if not is_intact(plan):
        raise RunFolderError(f"{folder / 'plan.json'} is damaged: it is not what was written.")
    groups = _kept_in(plan, folder / "plan.json", channels=keeps_channels(summary))
    return RunRecord(summary, _read_all_episodes(folder, summary.get("stages") or []), groups)


def _kept_in(plan: Mapping[str, Any], path: Path, *, channels: bool) -> dict[str, tuple[int, int]]:
    """Returns how many channels of each group, or weights of each layer, a plan keeps, and of how many."""
    try:
        if channels:
            groups = plan["groups"].items()
            return {str(name): (len(group["kept"]), int(group["num_channels"])) for name, group in groups}
        layers = plan["layers"].items()
        return {str(name): (int(layer["kept"]), int(layer["num_weights"])) for name, layer in layers}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        needed = "each group needs 'kept' and 'num_channels'"
        if not channels:
            needed = "each layer needs 'kept' and 'num_weights'"
        raise RunFolderError(f"{path} is no pruning plan: {needed}.") from error


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads the summary of a run, which is what a finished one has.

    Args:
        folder: The run folder.

    Raises:
        RunFolderError: If it is missing or is not what it should be.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder; give the folder that `--out` named.")
    summary = _read_json(folder / "summary.json")
    if not isinstance(summary.get("baseline"), dict):
        raise RunFolderError(
            f"{folder / 'summary.json'} has no results of the original network ('baseline')."
        )
    return summary


def networks_of(summary: Mapping[str, Any]) -> tuple[tuple[str, str, str, str | None], ...]:
    """Lists the networks that a summary tells of, as in NETWORKS.

    Where nothing was fine-tuned, a network stands there once, and none is called fine-tuned.

    Args:
        summary: summary.json.
    """
    rows = [row for row in NETWORKS if summary.get(row[0])]
    if not is_untuned(summary):
        return tuple(rows)
    rows = [row for row in rows if not summary.get(TUNED.get(row[0], ""))]
    return tuple((key, name.replace(", fine-tuned", ""), kind, base) for key, name, kind, base in rows)


def is_untuned(summary: Mapping[str, Any]) -> bool:
    """Tells whether a run was made without fine-tuning."""
    return bool(((summary.get("settings") or {}).get("finetune") or {}).get("epochs") == 0)


def latency_of(summary: Mapping[str, Any], key: str) -> Mapping[str, float] | None:
    """Returns the latency of a network (median, p5, p95 in ms), or None if it was not measured."""
    return (summary.get(key) or {}).get("latency_ms")


def with_measured(summary: Mapping[str, Any], table: LatencyTable) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Puts measured latencies in the place of predicted and missing ones.

    A network is found in the table by its structure, which does not depend on the values of weights. What was
    timed in the run itself stays.

    Args:
        summary: summary.json.
        table: What has been timed on the device since.

    Returns:
        The summary with what the table knows, and the names of the networks whose latencies are new.

    Raises:
        MeasurementError: If latencies of two devices would stand side by side.
    """
    known: dict[Any, TableSample] = {sample.structure: sample for sample in table.samples}
    shown = {key: name for key, name, *_ in networks_of(summary)}
    updated, names, others = dict(summary), [], []
    for key, _, _, reference in NETWORKS:
        result, latency = summary.get(key) or {}, latency_of(summary, key)
        sample = known.get(result.get("structure"))
        if sample is not None and (latency is None or is_predicted(latency)):
            base = known.get((summary.get(reference or key) or {}).get("structure"))
            updated[key] = {**result, "latency_ms": _measured(sample, base, latency, table.name)}
            names += [shown[key]] if key in shown else []
        elif latency is not None and device_of(summary, latency) != _one_device(table.name):
            others += [shown[key]] if key in shown else []
    if names and others:
        raise MeasurementError(
            f"The latency table is of {table.name} and has timed {', '.join(names)}, but not "
            f"{', '.join(others)}, whose latencies are of another device; time these networks too."
        )
    return updated, tuple(names)


def _measured(
    sample: TableSample, base: TableSample | None, latency: Mapping[str, Any] | None, table: str
) -> dict[str, Any]:
    return {
        "median": sample.median_ms,
        "p5": sample.p5_ms,
        "p95": sample.p95_ms,
        "ratio": sample.median_ms / base.median_ms if base else None,
        "noise": None,
        "predicted": False,
        "num_runs": sample.num_runs,
        "conditions": {"table": table, "predicted_ms": latency["median"] if latency else None},
    }


def device_of(summary: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """Returns the name of what a latency was timed on or predicted for."""
    known = (latency.get("conditions") or {}).get("table") or (summary.get("meter") or {}).get("name")
    return _one_device(str(known).removeprefix("table:"))


def _one_device(name: str) -> str:
    """Returns the name of a meter over several phones of one model as that of one of them."""
    return re.sub(r"^\d+ x ", "", name)


def is_number(value: Any) -> TypeGuard[float]:
    """Tells whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_json(path: Path) -> dict[str, Any]:
    value = _parse(_read(path), str(path))
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds no JSON object; run the compression again.")
    return value


def _read_all_episodes(folder: Path, stages: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Reads the episodes of a run; a stage that began within its limit has none."""
    if len(stages) < 2:
        return _read_episodes(folder / "episodes.jsonl")
    episodes: list[Mapping[str, Any]] = []
    for number, stage in enumerate(stages, 1):
        if stage.get("plan_found_by"):
            start = len(episodes)
            read = _read_episodes(folder / f"stage{number}" / "episodes.jsonl")
            episodes += [{**line, "episode": start + line["episode"], "stage": number} for line in read]
    return tuple(episodes)


def _read_episodes(path: Path) -> tuple[Mapping[str, Any], ...]:
    lines = [(number, line) for number, line in enumerate(_read(path).splitlines(), 1) if line.strip()]
    episodes = [_parse(line, f"{path}, line {number},") for number, line in lines]
    for (number, _), episode in zip(lines, episodes, strict=True):
        if not isinstance(episode, dict) or not is_number(episode.get("episode")):
            raise RunFolderError(f"{path}, line {number}, is no record of an episode.")
    return tuple(episodes)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is missing; give the folder of a finished run.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}.") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{where} is not valid JSON ({error}); run the compression again.") from error
