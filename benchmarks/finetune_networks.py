"""Fine-tunes slim CIFAR-10 networks, all with one schedule, and prints the test accuracy before and after.

    python -m benchmarks.finetune_networks runs/plain20/seed0/*.keras --epochs 4 --out runs/finetuned

Pure Keras 3: KERAS_BACKEND=jax or torch runs it on a GPU where there is one. The last epoch counts,
whatever the test images say; the networks that come out are saved in the folder, with finetuned.json.
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

from amc_tf.data import ImageData
from amc_tf.evaluate import accuracy
from benchmarks.shared_data import data_dir, load_cifar10
from benchmarks.training import Recipe, train

_LOGGER = logging.getLogger(__name__)
_EVALUATION_BATCH = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Fine-tunes every network in turn, and writes the results after each."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    training, test = load_cifar10(data_dir(given.data_dir))
    recipe = Recipe(
        epochs=given.epochs,
        warmup_epochs=given.warmup_epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        weight_decay=given.weight_decay,
        norm_momentum=0.9,
        augment="crop_flip",
        input_range=given.input_range,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Mapping[str, Any]] = {}
    for file in given.networks:
        rows[str(file)] = finetune(file, training, test, recipe, given)
        report = {"command": sys.argv, "backend": keras.backend.backend(), "networks": rows}
        (given.out / "finetuned.json").write_text(json.dumps(report, indent=1) + "\n")
        _LOGGER.info("%s: %s", file, rows[str(file)])
    return 0


def finetune(
    file: Path, training: ImageData, test: ImageData, recipe: Recipe, given: argparse.Namespace
) -> Mapping[str, Any]:
    """Fine-tunes one network, saves it, and returns its row."""
    model = keras.models.load_model(file, compile=False)
    before = _top1(model, test, recipe)
    started = time.perf_counter()
    train(
        model,
        training,
        recipe=recipe,
        seed=given.seed,
        on_epoch=lambda epoch, loss: _LOGGER.info("%s epoch %d: loss %.4f", file.stem, epoch, loss),
    )
    seconds = time.perf_counter() - started
    model.save(given.out / file.name)
    return {"before": before, "after": _top1(model, test, recipe), "seconds": round(seconds, 1)}


def _top1(model: keras.Model, data: ImageData, recipe: Recipe) -> float:
    found = accuracy(
        model.predict_on_batch, data, input_range=recipe.input_range, batch_size=_EVALUATION_BATCH
    )
    return found.top1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", type=Path, nargs="+", help=".keras files of different names")
    parser.add_argument("--data-dir")
    parser.add_argument("--input-range", default="imagenet")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--warmup-epochs", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.02, help="peak of the cosine schedule")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the networks that come out")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
