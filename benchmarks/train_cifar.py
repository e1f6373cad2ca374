"""Trains the CIFAR-10 networks that the benchmarks compress, where no published weights are at hand.

    python -m benchmarks.train_cifar mobilenet --data-dir DIR --out runs/cifar_mobilenet.keras
    python -m benchmarks.train_cifar vgg16_bn --alpha 0.5 --data-dir DIR --out runs/vgg16.keras

The test images are only looked at for the log. The file holds a plain Keras model without optimizer state.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import keras

from amc_tf.data import ImageData
from amc_tf.errors import AmcError
from amc_tf.evaluate import accuracy
from amc_tf.models.mobilenet import cifar_mobilenet
from amc_tf.models.vgg import cifar_vgg16
from benchmarks.shared_data import data_dir, load_cifar10
from benchmarks.training import Recipe, train

logger = logging.getLogger("benchmarks.train_cifar")
_INPUT_RANGE = "-1..1"
_NETWORKS = {"mobilenet": cifar_mobilenet, "vgg16_bn": cifar_vgg16}


def main(argv: list[str] | None = None) -> int:
    """Trains and writes the network; returns the exit code."""
    arguments = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        if arguments.out.exists() and not arguments.overwrite:
            raise AmcError(f"{arguments.out} exists; pass --overwrite to replace it.")
        training, test = load_cifar10(data_dir(arguments.data_dir))
    except AmcError as error:
        logger.error("%s", error)
        return 1

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    model = _NETWORKS[arguments.network](alpha=arguments.alpha)
    recipe = Recipe(
        epochs=arguments.epochs,
        warmup_epochs=arguments.warmup_epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        augment="crop_flip",
        input_range=_INPUT_RANGE,
    )

    def save_and_log(epoch: int, loss: float) -> None:
        logger.info("epoch %d: loss %.4f", epoch, loss)
        if epoch % arguments.save_every == 0 or epoch == recipe.epochs:
            model.save(arguments.out)
            logger.info("epoch %d: test top-1 %.4f, saved", epoch, _top1(model, test))

    train(model, training, recipe=recipe, seed=arguments.seed, on_epoch=save_and_log)
    return 0


def _top1(model: keras.Model, data: ImageData) -> float:
    return accuracy(model.predict_on_batch, data, input_range=_INPUT_RANGE, batch_size=500).top1


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("network", choices=_NETWORKS)
    parser.add_argument("--data-dir", help="folder that holds cifar10/ (default: $AMC_DATA_DIR)")
    parser.add_argument("--out", type=Path, required=True, help="the .keras file to write")
    parser.add_argument("--alpha", type=float, default=0.5, help="width multiplier")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--warmup-epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1, help="peak of the schedule")
    parser.add_argument("--save-every", type=int, default=3, help="epochs between files and test accuracies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace the file named by --out")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
