"""Fine-tunes slim CIFAR-10 networks, all with one schedule, and tests them before and after.

    python -m benchmarks.finetune_networks runs/resnet56/seed0/*.keras --teacher resnet56 --epochs 6 \
        --out runs/resnet56/finetuned

Pure Keras 3: KERAS_BACKEND=jax or torch runs it on a GPU where there is one. The epoch that counts is chosen
on training images that are held out; the networks that come out are saved in the folder, with finetuned.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from amc_tf.data import DataSplit, ImageData, split_data
from amc_tf.evaluate import accuracy
from amc_tf.finetune import finetune
from amc_tf.plan import PruningPlan
from amc_tf.settings import FinetuneSettings
from benchmarks.finetune_options import add_finetune_options, finetune_settings
from benchmarks.shared_data import data_dir, load_cifar10, load_cifar_network

_LOGGER = logging.getLogger(__name__)
_EVALUATION_BATCH = 500
_USUAL = FinetuneSettings(epochs=4, batch_size=128, optimizer="sgd", weight_decay=5e-3, warmup_epochs=0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fine-tunes every network in turn, and writes the results after each."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = data_dir(given.data_dir)
    teacher = load_cifar_network(given.teacher, folder) if given.teacher else None
    split = split_data(
        *load_cifar10(folder), num_calibration=1, num_search=given.validation_images, seed=given.seed
    )
    settings = finetune_settings(given, augment="crop_flip", seed=given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Mapping[str, Any]] = {}
    for file in given.networks:
        rows[str(file)] = finetune_file(file, split, settings, teacher, given)
        report = {"command": sys.argv, "backend": keras.backend.backend(), "networks": rows}
        (given.out / "finetuned.json").write_text(json.dumps(report, indent=1) + "\n")
        _LOGGER.info("%s: %s", file, rows[str(file)])
    return 0


def finetune_file(
    file: Path,
    split: DataSplit,
    settings: FinetuneSettings,
    teacher: keras.Model | None,
    given: argparse.Namespace,
) -> Mapping[str, Any]:
    """Fine-tunes one network, saves it, and returns its row."""
    model = keras.models.load_model(file, compile=False)
    plan = PruningPlan.load(file.with_suffix(".plan.json")) if teacher and settings.feature_weight else None
    before = _top1(model, split.test, given.input_range)
    started = time.perf_counter()
    result = finetune(
        model,
        split.train,
        split.search,
        settings=settings,
        input_range=given.input_range,
        teacher=teacher,
        plan=plan,
        on_epoch=lambda record: _LOGGER.info("%s %s", file.stem, record),
    )
    seconds = time.perf_counter() - started
    result.model.save(given.out / file.name)
    return {
        "before": before,
        "after": _top1(result.model, split.test, given.input_range),
        "epoch": result.best_epoch,
        "seconds": round(seconds, 1),
    }


def _top1(model: keras.Model, data: ImageData, input_range: str) -> float:
    return accuracy(model.predict_on_batch, data, input_range=input_range, batch_size=_EVALUATION_BATCH).top1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", type=Path, nargs="+", help=".keras files of different names")
    parser.add_argument("--data-dir")
    parser.add_argument("--input-range", default="imagenet")
    parser.add_argument("--teacher", help="the original: resnet20, resnet56 or a .keras file")
    parser.add_argument("--validation-images", type=int, default=1000)
    add_finetune_options(parser, _USUAL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the networks that come out")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
