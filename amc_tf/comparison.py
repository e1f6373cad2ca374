"""Several runs side by side: which of their numbers may be compared, and in what their settings differ."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from amc_tf import page
from amc_tf.latency_facts import is_predicted, unit_of
from amc_tf.run_record import RunRecord, device_of, is_number, latency_of

# What of a meter's fingerprint says how long and beside what it timed, not on what.
_NOT_THE_DEVICE = ("reference", "timing", "num_runs")
_FEWEST_RUNS = 2


@dataclass(frozen=True)
class Meter:
    """What timed the networks of one or more runs.

    Attributes:
        name: For people; two meters of a comparison have different ones.
        details: What tells it from another meter that calls itself the same; "" where none does.
    """

    name: str
    details: str = ""


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        number: 1 for the first.
        name: The last parts of the path of its folder, as many as tell it from the other runs.
        folder: Its folder.
        record: What the folder holds.
        original: Which of the originals it prunes, counted from 0.
        meter: Which of the meters timed it, counted from 0.
    """

    number: int
    name: str
    folder: Path
    record: RunRecord
    original: int
    meter: int

    @property
    def summary(self) -> Mapping[str, Any]:
        """What summary.json holds."""
        return self.record.summary

    @property
    def final_key(self) -> str:
        """The key of the network that the run ended in."""
        return "finetuned" if self.summary.get("finetuned") else "pruned"

    @property
    def int8_key(self) -> str | None:
        """The key of the int8 network that was written, None for none."""
        written = self.summary.get("int8_written", "int8")
        return written if self.summary.get(written) else None


@dataclass(frozen=True)
class Comparison:
    """Several runs, and what of them may be compared.

    Attributes:
        runs: In the order given; two or more.
        original_differences: In what their originals differ ("model", "data", ...); empty where all runs
            prune one original, as far as their records tell.
        meters: Those of the runs, each once; a run without latencies has one that is called "not timed".
    """

    runs: tuple[ComparedRun, ...]
    original_differences: tuple[str, ...]
    meters: tuple[Meter, ...]

    @property
    def originals(self) -> tuple[ComparedRun, ...]:
        """The first run of each original."""
        first = {run.original: run for run in reversed(self.runs)}
        return tuple(first[index] for index in sorted(first))

    @property
    def compares_latency(self) -> bool:
        """Whether all networks were timed, and on the same device."""
        return len(self.meters) == 1 and all(_is_timed(run) for run in self.runs)

    def latency_ms(self, run: ComparedRun, key: str, reference: str) -> float | None:
        """Returns the latency of a network, drift of the device between the runs taken out.

        Each run times its networks beside the original; what counts is that ratio, given in units of one
        timing of the original, that of the first run that has it.

        Args:
            run: Where the network is from.
            key: Of the network.
            reference: Of what it was timed beside, "baseline" or "int8_baseline".
        """
        latency = latency_of(run.summary, key)
        if latency is None:
            return None
        unit = latency_of(self.originals[run.original].summary, reference)
        ratio = latency.get("ratio")
        if unit is None or not is_number(ratio) or key == reference:
            return float(latency["median"])
        return ratio * float(unit["median"])


def compare(records: Mapping[Path, RunRecord]) -> Comparison:
    """Puts runs side by side.

    Args:
        records: By folder, two or more.

    Raises:
        ValueError: If there are fewer.
        KeyError: If a summary lacks an entry.
    """
    if len(records) < _FEWEST_RUNS:
        raise ValueError(f"A comparison needs two runs or more, not {len(records)}.")
    facts = [_original_facts(record.summary) for record in records.values()]
    kinds: list[dict[str, Any]] = []
    for fact in facts:
        if fact not in kinds:
            kinds.append(fact)
    meters = {_meter_identity(record.summary): _meter_name(record.summary) for record in records.values()}
    order, names = list(meters), unique_names(list(records))
    runs = tuple(
        ComparedRun(
            number,
            names[folder],
            folder,
            record,
            original=kinds.index(fact),
            meter=order.index(_meter_identity(record.summary)),
        )
        for number, ((folder, record), fact) in enumerate(zip(records.items(), facts, strict=True), 1)
    )
    differences = tuple(name for name in kinds[0] if any(kind[name] != kinds[0][name] for kind in kinds))
    return Comparison(runs, differences, _named_apart(meters))


def unique_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Names each folder by the last parts of its path, as many as tell all of them apart."""
    parts = {folder: _parts(PurePath(folder.resolve())) for folder in folders}
    for count in range(1, 1 + max(1, *map(len, parts.values()))):
        names = {folder: "/".join(path[-count:]) for folder, path in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _parts(path: PurePath) -> tuple[str, ...]:
    """Returns the parts of a path, of the drive that it is on what may stand in a name."""
    drive = re.sub(r"\W+", "", path.drive)
    return (drive, *path.parts[1:]) if drive else path.parts[1:]


def different_settings(runs: Sequence[ComparedRun]) -> list[tuple[str, tuple[str, ...]]]:
    """Lists the settings that are not the same in all runs.

    Args:
        runs: To look at.

    Returns:
        The name of each setting and its values in the order of the runs, "—" where a run has none.
    """
    flat = [page.flatten(_settings(run.summary)) for run in runs]
    names = dict.fromkeys(name for values in flat for name in values)
    rows = [(name, tuple(values.get(name, "—") for values in flat)) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _settings(summary: Mapping[str, Any]) -> dict[str, Any]:
    budget = {name: (summary.get("budget") or {}).get(name) for name in ("kind", "value")}
    return {
        **{name: summary.get(name) for name in ("model", "data", "input_range")},
        "budget": budget,
        "images without labels": summary.get("num_unlabelled_images", 0),
        "stages": len(summary.get("stages") or [None]),
        "meter": _meter_name(summary),
        **(summary.get("settings") or {}),
        "versions": summary.get("versions") or {},
    }


def _original_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tells one original from another; the last two tell weights and validation images apart."""
    original = summary["baseline"]
    return {
        "model": PurePath(str(summary.get("model"))).name,
        "data": str(PurePath(str(summary.get("data")))),
        "structure": (original.get("structure"), original["macs"], original["params"]),
        "top-1": original["top1"],
        "top-5": original["top5"],
    }


def _is_timed(run: ComparedRun) -> bool:
    return all(latency_of(run.summary, key) for key in ("baseline", run.final_key))


def _meter_name(summary: Mapping[str, Any]) -> str:
    latency = latency_of(summary, "baseline")
    if not latency:
        return "not timed"
    name = device_of(summary, latency)
    return f"{name}, predicted" if is_predicted(latency) else name


def _meter_identity(summary: Mapping[str, Any]) -> str:
    """Returns what two runs must share for their latencies to be of one kind."""
    meter = summary.get("meter") or {}
    try:
        fingerprint = json.loads(meter["fingerprint"])
        device = {name: value for name, value in fingerprint.items() if name not in _NOT_THE_DEVICE}
    except (KeyError, TypeError, ValueError, AttributeError):
        device = {"fingerprint": meter.get("fingerprint")}
    return json.dumps([_meter_name(summary), unit_of(meter), device], sort_keys=True)


def _named_apart(meters: Mapping[str, str]) -> tuple[Meter, ...]:
    """Names meters, given by identity; those of one name get a letter, and what tells them apart."""
    facts = {identity: page.flatten(json.loads(identity)[-1]) for identity in meters}
    named = []
    for identity, name in meters.items():
        alike = [other for other in meters if meters[other] == name]
        if len(alike) == 1:
            named.append(Meter(name))
            continue
        own = [
            f"{fact} {value}"
            for fact, value in facts[identity].items()
            if len({facts[other].get(fact) for other in alike}) > 1
        ]
        letter = string.ascii_uppercase[alike.index(identity) % len(string.ascii_uppercase)]
        named.append(Meter(f"{name} ({letter})", ", ".join(own)))
    return tuple(named)
