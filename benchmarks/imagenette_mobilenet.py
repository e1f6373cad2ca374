"""MobileNet-V1 at 160x160 on ten ImageNet classes: half the latency on this machine, fine-tuned; int8 too.

    python -m benchmarks.imagenette_mobilenet --budget latency=0.5 --seeds 0 1 2 --out runs/imagenette

The network has the published ImageNet weights, of its last layer those of the ten classes. Beside the agent
stand the original, the widest uniform network within the budget, and width multiplier 0.70 of the same
weights; all are fine-tuned alike, with the original as teacher, for the first seed. The same command given
again goes on with the searches and the fine-tuned networks it finds. The run begins with searches and ends
with measuring: both time networks, and want a quiet machine; fine-tuning in between does not. `--finetune
NAME ...` does no more than that for some of the networks, so that processes can share the work.
`--finetune original` and then, in another folder, `--original OUT/finetuned/original.keras` prune a network
that was trained on the ten classes, as that of a user has been. `--unlabelled FOLDER` imitates the original
on the images of that folder too.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from numpy.typing import NDArray

from amc_tf.budget import Budget
from amc_tf.data import DataSplit, ImageData, load_data, load_unlabelled, split_data, to_input_range
from amc_tf.device.convert import to_tflite
from amc_tf.device.host_meter import HostMeter
from amc_tf.errors import RunFolderError
from amc_tf.finetune import finetune
from amc_tf.graph import count_cost
from amc_tf.plan import PruningPlan
from amc_tf.rebuild import rebuild
from amc_tf.results import ResultMeasurer
from amc_tf.run_folder import RunFolder, write_keras_model
from amc_tf.session import PruningSession
from amc_tf.settings import FinetuneSettings, SearchSettings
from benchmarks.finetune_options import add_finetune_options, finetune_settings
from benchmarks.log_progress import LogProgress
from benchmarks.shared_data import data_dir

INPUT_RANGE = "-1..1"
NETWORKS = ("original", "agent", "uniform", "width 0.70")
WIDTH_MULTIPLIER = 0.70
_IMAGE_SIZE = (160, 160, 3)
_NUM_INT8_IMAGES = 100
_PRECISIONS = ("float32", "int8")
_SEARCH_OPTIONS = ("original", "budget", "episodes", "accuracy_metric", "round_to")
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Slim:
    """A slim network and the plan that made it of the original."""

    model: keras.Model
    plan: PruningPlan

    @classmethod
    def load(cls, folder: Path, name: str) -> Slim:
        """Reads what `searched` wrote."""
        model = keras.models.load_model(folder / f"{name}.keras", compile=False)
        return cls(model, PruningPlan.load(folder / f"{name}.plan.json"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches with every seed, fine-tunes the networks of the first, measures all; writes one JSON file."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = data_dir(given.data_dir)
    train, test = load_data(str(folder / "imagenette160"), _IMAGE_SIZE)
    unlabelled = load_unlabelled(given.unlabelled, _IMAGE_SIZE) if given.unlabelled else None
    original = (
        keras.models.load_model(given.original, compile=False)
        if given.original
        else ten_class_mobilenet(folder, train.class_names or ())
    )
    given.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"command": sys.argv, "seeds": {}}
    before: dict[int, Mapping[str, Slim]] = {}
    for seed in seeds_to_search(given):
        before[seed], report["seeds"][seed] = searched(
            original, split_of(train, test, seed, unlabelled), seed, given
        )
    first = given.seeds[0]
    split = split_of(train, test, first, unlabelled)
    untouched = Slim(original, PruningPlan({}, {}))
    after = {
        name: tuned(network, original, split, given.out / "finetuned" / f"{name}.keras", given)
        for name, network in {"original": untouched, **before.get(first, {})}.items()
        if given.finetune is None or name in given.finetune
    }
    if given.finetune is not None:
        return 0
    report["original"] = measure(original, original, split)
    report["finetuned"] = {name: measure(network, original, split) for name, network in after.items()}
    for seed, networks in before.items():
        rows = {name: measure(network.model, original, split) for name, network in networks.items()}
        report["seeds"][seed]["networks"] = rows
        (given.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


def seeds_to_search(given: argparse.Namespace) -> Sequence[int]:
    """Returns the seeds whose networks are asked for; the original needs no search."""
    if given.finetune is None:
        return given.seeds
    return given.seeds[:1] if set(given.finetune) - {"original"} else []


def split_of(train: ImageData, test: ImageData, seed: int, unlabelled: NDArray | None = None) -> DataSplit:
    """Splits the images as the search with this seed has them."""
    settings = SearchSettings()
    return split_data(
        train,
        test,
        num_calibration=settings.num_calibration_images,
        num_search=settings.num_search_images,
        seed=seed,
        unlabelled=unlabelled,
    )


def ten_class_mobilenet(folder: Path, class_ids: Sequence[str]) -> keras.Model:
    """Builds the network for images of 160x160, with the outputs of the given classes only.

    Args:
        folder: the data folder, with ``weights/`` and ``imagenet_classes.csv`` (label, wnid, name).
        class_ids: WordNet ids, in the order of the labels.
    """
    with (folder / "imagenet_classes.csv").open(newline="") as stream:
        label_of = {row["wnid"]: int(row["label"]) for row in csv.DictReader(stream)}
    labels = [label_of[class_id] for class_id in class_ids]
    full = keras.applications.MobileNet(weights=None)
    full.load_weights(folder / "weights" / "mobilenet_v1_1.0_224.weights.h5")
    model = keras.applications.MobileNet(_IMAGE_SIZE, weights=None, classes=len(labels))
    for layer in model.layers:
        if layer.weights:
            weights = full.get_layer(layer.name).get_weights()
            is_last = layer.name == "conv_preds"
            layer.set_weights([array[..., labels] for array in weights] if is_last else weights)
    return model


def searched(
    model: keras.Model, split: DataSplit, seed: int, given: argparse.Namespace
) -> tuple[Mapping[str, Slim], dict[str, Any]]:
    """Returns the slim networks before fine-tuning, and what is to be told of the search.

    What is in their folder is not searched for again: another timing of the uniform network would choose
    another one, which would no longer be that which was fine-tuned.

    Raises:
        RunFolderError: if the folder holds networks of another search.
    """
    folder = given.out / "before" / f"seed{seed}"
    told = folder / "search.json"
    asked = {name: getattr(given, name) for name in _SEARCH_OPTIONS}
    if not told.exists():
        networks, row = search(model, split, seed, given)
        folder.mkdir(parents=True, exist_ok=True)
        for name, network in networks.items():
            write_keras_model(network.model, folder / f"{name}.keras")
            network.plan.save(folder / f"{name}.plan.json")
        told.write_text(json.dumps({**asked, **row}) + "\n")
    row = json.loads(told.read_text())
    if {name: row.get(name) for name in asked} != asked:
        raise RunFolderError(f"{folder} holds networks of another search than {asked}: give another --out.")
    return {name: Slim.load(folder, name) for name in row["widths"]}, row


def search(
    model: keras.Model, split: DataSplit, seed: int, given: argparse.Namespace
) -> tuple[Mapping[str, Slim], dict[str, Any]]:
    """Searches; returns the slim networks before fine-tuning, and what is to be told of the search."""
    started = time.perf_counter()
    settings = SearchSettings(
        episodes=given.episodes,
        warmup_episodes=given.episodes // 4,
        seed=seed,
        accuracy_metric=given.accuracy_metric,
        round_to=given.round_to,
    )
    session = PruningSession(
        model,
        split,
        budget=Budget.parse(given.budget),
        settings=settings,
        input_range=INPUT_RANGE,
        meter=HostMeter(),
    )
    progress = LogProgress()
    with RunFolder(given.out / f"seed{seed}", resume=True) as folder:
        result = session.search(folder, lambda record: progress.episode(record, settings.episodes))
    uniform = session.uniform()
    choice = session.choose(uniform, result)
    widths = {
        "agent": choice.best.widths,
        "uniform": uniform.widths,
        "width 0.70": tuple(int(WIDTH_MULTIPLIER * group.num_channels) for group in session.graph.groups),
    }
    row = {
        "widths": {name: list(kept) for name, kept in widths.items()},
        "agent_found_by": choice.found_by,
        "search_seconds": round(time.perf_counter() - started, 1),
    }
    _LOGGER.info("seed %d: %s", seed, json.dumps(row))
    plans = {name: session.builder.plan(kept) for name, kept in widths.items()}
    return {
        name: Slim(rebuild(model, plan, session.recover(widths[name])), plan) for name, plan in plans.items()
    }, row


def tuned(
    network: Slim, original: keras.Model, split: DataSplit, file: Path, given: argparse.Namespace
) -> keras.Model:
    """Fine-tunes a network into a file, or loads it from there."""
    if not file.exists():
        result = finetune(
            network.model,
            split.train,
            split.search,
            settings=finetune_settings(given, augment="auto", seed=0),
            input_range=INPUT_RANGE,
            teacher=original,
            plan=network.plan,
            unlabelled=split.unlabelled,
            on_epoch=lambda record: _LOGGER.info("%s: %s", file.stem, record),
        )
        file.parent.mkdir(exist_ok=True)
        write_keras_model(result.model, file)
    return keras.models.load_model(file, compile=False)


def measure(network: keras.Model, original: keras.Model, split: DataSplit) -> dict[str, Any]:
    """Measures a network in both precisions, beside the original in the same one."""
    measurer = ResultMeasurer(split.test, input_range=INPUT_RANGE, meter=HostMeter())
    calibration = to_input_range(split.calibration.images[:_NUM_INT8_IMAGES], INPUT_RANGE)
    row = {}
    for precision in _PRECISIONS:
        tflite, reference = (
            to_tflite(
                model,
                precision=precision,
                calibration_images=calibration if precision == "int8" else None,
                input_shape=_IMAGE_SIZE,
            )
            for model in (network, original)
        )
        found = measurer.measure_tflite(tflite, cost=count_cost(network), reference=reference)
        row[precision] = found.to_json()
    _LOGGER.info("%s", json.dumps(row))
    return row


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument(
        "--original", metavar="FILE", help="a .keras file to prune, in place of the ImageNet weights"
    )
    parser.add_argument("--budget", default="latency=0.5")
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--accuracy-metric", default=SearchSettings().accuracy_metric)
    parser.add_argument("--round-to", type=int, default=SearchSettings().round_to)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_finetune_options(parser, FinetuneSettings(epochs=4))
    parser.add_argument(
        "--unlabelled", metavar="FOLDER", help="of images without labels, to fine-tune on too"
    )
    parser.add_argument(
        "--finetune",
        nargs="+",
        choices=NETWORKS,
        metavar="NAME",
        help="only fine-tune these: original, agent, uniform, 'width 0.70'",
    )
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
