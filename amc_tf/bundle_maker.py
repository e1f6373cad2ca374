"""Chooses the networks of a run that are worth timing on a phone, builds them and packs them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amc_tf import __version__
from amc_tf.bundle import ORIGINAL, BundledNetwork, Manifest, write_bundle
from amc_tf.device.convert import to_tflite
from amc_tf.device.operators import read_operators, structure
from amc_tf.errors import ModelError, RunFolderError, SettingsError
from amc_tf.graph import ChannelGraph
from amc_tf.model_file import load_model
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan, widths_to_plan
from amc_tf.run_folder import RunFolder
from amc_tf.score import Score
from amc_tf.search import saved_identity

_NUM_CALIBRATION_IMAGES = 4

NetworkCallback = Callable[[int, int], None]


def make_bundle(
    run: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    top: int = 20,
    model: Any = None,
    on_network: NetworkCallback | None = None,
) -> Manifest:
    """Packs the original, the uniform network, what a run found, and its best episodes.

    Of a run in stages, the episodes are those of the last stage that has any. Networks of episodes are built
    by slicing the original, because their time follows from their widths and not from their weights. A search
    without fine-tuning tells of no uniform network and has no file of what it found; that network is sliced
    too.

    Args:
        run: folder of the run, which may still be going on.
        path: the ZIP file to write; replaced if it exists.
        top: how many networks of episodes to take, best first; those within the budget come before others.
        model: the original, as a Keras model or as `amc_tf.model_file.load_model` takes it; by default what
            the summary of the run names.
        on_network: called with the number of networks that are packed and their total.

    Returns:
        The manifest of the bundle.

    Raises:
        RunFolderError: if the folder holds no run, a file of it is damaged, or the bundle cannot be written.
        ModelError: if the original cannot be loaded.
        PlanError: if the run is of another model.
        SettingsError: if `top` is negative.
    """
    if top < 0:
        raise SettingsError(f"{top} networks of episodes were asked for; give 0 or more.")
    record = _read_run(Path(run))
    network = NetworkFunction(_load_original(record, model))
    choices = _choose(record, network.graph, top)
    label = record.summary["model"] if model is None else model
    manifest = Manifest(
        run=Path(run).resolve().name,
        model=label if isinstance(label, str) else label.name,
        meter=(record.summary.get("meter") or {}).get("name"),
        created_with=__version__,
    )
    report = on_network or (lambda done, total: None)

    def build() -> Iterator[tuple[BundledNetwork, bytes]]:
        for number, choice in enumerate(choices, 1):
            tflite = choice.file.read_bytes() if choice.file else _slice(network, choice)
            yield choice.bundled(tflite), tflite
            report(number, len(choices))

    return write_bundle(path, manifest, build())


@dataclasses.dataclass(frozen=True)
class _Run:
    """What there is of a run: a search has no summary, one that still goes on or was stopped no plan.

    Attributes:
        folder: its folder.
        plan: the plan that was found.
        summary: its summary, empty without one.
        episodes: the scores of the episodes that were not dropped, in their order, by episode.
        stage: which stage they are of, 0 in a run of one.
        precision: in which they were timed.
    """

    folder: Path
    plan: PruningPlan | None
    summary: Mapping[str, Any]
    episodes: Mapping[int, Score]
    stage: int
    precision: str


@dataclasses.dataclass
class _Choice:
    """A network to pack: read from a file of the run, or sliced to its widths and converted."""

    widths: tuple[int, ...]
    roles: list[str]
    expected_ms: float | None = None
    precision: str = "float32"
    file: Path | None = None
    score: Score | None = None

    def bundled(self, tflite: bytes) -> BundledNetwork:
        return BundledNetwork(
            sha256=hashlib.sha256(tflite).hexdigest(),
            roles=tuple(self.roles),
            structure=structure(read_operators(tflite)),
            widths=self.widths,
            reward=self.score.reward if self.score else None,
            top1=self.score.top1 if self.score else None,
            expected_ms=self.expected_ms,
        )


def _read_run(folder: Path) -> _Run:
    plan = folder / "plan.json"
    stage, episodes = _last_episodes(folder)
    searched = RunFolder(folder / f"stage{stage}" if stage else folder)
    summary = _read_summary(folder / "summary.json")
    settings = (summary.get("settings") or {}).get("search") or saved_identity(searched)
    run = _Run(
        folder,
        PruningPlan.load(plan) if plan.exists() else None,
        summary,
        episodes,
        stage,
        str(settings.get("latency_precision", "float32")),
    )
    if not run.plan and not run.episodes:
        raise RunFolderError(
            f"{folder} holds no run: it has neither plan.json nor episodes; give the folder that --out named."
        )
    return run


def _read_summary(path: Path) -> dict[str, Any]:
    return _parse(path.read_bytes(), str(path)) if path.exists() else {}


def _last_episodes(folder: Path) -> tuple[int, dict[int, Score]]:
    """Returns the number of the last stage that has scored episodes, and these; 0 for a run of one stage."""
    matches = [re.fullmatch(r"stage(\d+)", path.parent.name) for path in folder.glob("stage*/episodes.jsonl")]
    for stage in sorted((int(match[1]) for match in matches if match), reverse=True):
        episodes = _read_episodes(folder / f"stage{stage}" / "episodes.jsonl")
        if episodes:
            return stage, episodes
    return 0, _read_episodes(folder / "episodes.jsonl")


def _read_episodes(path: Path) -> dict[int, Score]:
    text = path.read_bytes() if path.exists() else b""
    lines = text[: text.rfind(b"\n") + 1].splitlines()  # a run that goes on or was killed may end in a half
    records = [_parse(line, f"{path}, line {number},") for number, line in enumerate(lines, 1)]
    try:
        return {record["episode"]: Score.from_json(record) for record in records if record.get("widths")}
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is damaged ({error!r}): it cannot be bundled.") from error


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunFolderError(f"{where} is no JSON ({error}): it cannot be bundled.") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{where} holds no JSON object: it cannot be bundled.")
    return value


def _load_original(run: _Run, model: Any) -> Any:
    if model is not None:
        return load_model(model) if isinstance(model, str) else model
    name = run.summary.get("model")
    if name is None:
        raise ModelError(f"{run.folder} does not tell which model was pruned: give it with --model.")
    try:
        return load_model(str(name))
    except ModelError as error:
        raise ModelError(f"The model of the run cannot be loaded, give it with --model: {error}") from error


def _choose(run: _Run, graph: ChannelGraph, top: int) -> list[_Choice]:
    """Lists what to pack, the original first; networks of equal widths and precision are one."""
    original = tuple(group.num_channels for group in graph.groups)
    choices = [_Choice(original, [ORIGINAL], _expected_ms(run, "baseline"))]
    if run.plan:
        run.plan.validate(graph)
        choices += _found(run, run.plan.widths(graph), original)
    if run.summary.get("channels"):
        uniform = tuple(group["uniform"] for group in run.summary["channels"])
        choices.append(_Choice(uniform, ["uniform"], _expected_ms(run, "uniform")))
    stage = f"stage {run.stage} " if run.stage else ""
    for number, score in _best(run.episodes, top):
        role = f"{stage}episode {number}"
        choices.append(_Choice(score.widths, [role], score.latency_ms, run.precision, score=score))
    return _merge(choices)


def _found(run: _Run, widths: tuple[int, ...], original: tuple[int, ...]) -> Iterator[_Choice]:
    """Yields what was found, and if it was quantized too, that beside the quantized original."""
    yield _Choice(
        widths, ["found"], _expected_ms(run, "finetuned"), file=_existing(run.folder / "model_float32.tflite")
    )
    int8 = _existing(run.folder / "model_int8.tflite")
    if int8:
        baseline_ms = _expected_ms(run, "int8_baseline")
        yield _Choice(original, [f"{ORIGINAL} int8"], baseline_ms, precision="int8")
        yield _Choice(widths, ["found int8"], _expected_ms(run, "int8"), precision="int8", file=int8)


def _best(episodes: Mapping[int, Score], top: int) -> list[tuple[int, Score]]:
    """Returns the best episodes of different widths: those within the budget first, then by rank."""
    ordered = sorted(episodes.items(), key=lambda item: (item[1].feasible, item[1].rank), reverse=True)
    distinct: dict[tuple[int, ...], tuple[int, Score]] = {}
    for number, score in ordered:
        distinct.setdefault(score.widths, (number, score))
    return list(distinct.values())[:top]


def _merge(wanted: Iterable[_Choice]) -> list[_Choice]:
    """Makes one of equal networks: with all their roles, and what the first one knows."""
    merged: dict[tuple[Any, ...], _Choice] = {}
    for choice in wanted:
        first = merged.setdefault((choice.widths, choice.precision), choice)
        if first is not choice:
            first.roles += choice.roles
            first.score = first.score or choice.score
            first.expected_ms = choice.expected_ms if first.expected_ms is None else first.expected_ms
    return list(merged.values())


def _expected_ms(run: _Run, key: str) -> float | None:
    """Returns the median latency of a network of the summary, None if it has none."""
    return ((run.summary.get(key) or {}).get("latency_ms") or {}).get("median")


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _slice(network: NetworkFunction, choice: _Choice) -> bytes:
    """Converts the original with channels cut off; what an int8 network is calibrated on changes no time."""
    weights = network.slice(widths_to_plan(network.graph, choice.widths))
    shape = (_NUM_CALIBRATION_IMAGES, *network.input_shape)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    return to_tflite(
        network.bind(weights),
        precision=choice.precision,
        calibration_images=images if choice.precision == "int8" else None,
        input_shape=network.input_shape,
    )
