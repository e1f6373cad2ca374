"""Trains the network that ships with the toolkit, on scikit-learn's handwritten digits.

    python -m benchmarks.train_demo --out models/demo_mobilenet.keras --overwrite

The validation images are only looked at when training has ended.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import keras

from amc_tf.data import load_data
from amc_tf.evaluate import accuracy
from amc_tf.models.mobilenet import demo_mobilenet
from benchmarks.training import Recipe, train

RECIPE = Recipe(epochs=20, warmup_epochs=2, batch_size=32, learning_rate=0.05, norm_momentum=0.9)
logger = logging.getLogger("benchmarks.train_demo")


def main(argv: list[str] | None = None) -> int:
    """Trains and writes the network; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the .keras file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace the file named by --out")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if arguments.out.exists() and not arguments.overwrite:
        logger.error("%s exists; pass --overwrite to replace it.", arguments.out)
        return 1

    keras.utils.set_random_seed(arguments.seed)
    model = demo_mobilenet()
    training, validation = load_data("digits", model.input_shape[1:], seed=arguments.seed)
    train(model, training, recipe=RECIPE, seed=arguments.seed,
          on_epoch=lambda epoch, loss: logger.info("epoch %d: loss %.4f", epoch, loss))  # fmt: skip
    score = accuracy(model.predict_on_batch, validation, input_range=RECIPE.input_range)
    logger.info("validation top-1 %.4f of %d images", score.top1, len(validation))
    model.save(arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
