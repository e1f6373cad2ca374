"""Trains Plain-20 for CIFAR-10 from ResNet-20, whose shortcuts fade out while it trains.

    python -m benchmarks.train_plain20 --data-dir DIR --out runs/plain20.keras

A plain network trained from scratch needs many epochs; the residual one with the same layers is a good place
to start, and to take its shortcuts away slowly keeps what they carry. The test images are only looked at for
the log.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import keras

from amc_tf.errors import AmcError
from amc_tf.evaluate import accuracy
from amc_tf.models.resnet import cifar_plain, cifar_resnet, load_weights
from benchmarks.shared_data import data_dir, load_cifar10
from benchmarks.training import Recipe, train

logger = logging.getLogger("benchmarks.train_plain20")
DEPTH = 20


class FadingAdd(keras.layers.Layer):
    """Adds the second input, the shortcut, times a share that falls from 1 to 0, to the first one."""

    def build(self, input_shape: Any) -> None:
        """Makes the share."""
        self.share = self.add_weight(name="share", shape=(), initializer="ones", trainable=False)

    def call(self, inputs: Any) -> Any:
        """Returns residual + share * shortcut."""
        residual, shortcut = inputs
        return residual + self.share * shortcut


class Fade(keras.callbacks.Callback):
    """Lowers the share of all shortcuts linearly, step by step, to 0.

    Args:
        num_steps: training steps until they are gone.
    """

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self._num_steps = num_steps
        self._step = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sets the share of this step."""
        self._step += 1
        share = max(0.0, 1.0 - self._step / self._num_steps)
        for layer in self.model.layers:
            if isinstance(layer, FadingAdd):
                layer.share.assign(share)


def main(argv: list[str] | None = None) -> int:
    """Trains and writes the network; returns the exit code."""
    arguments = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        if arguments.out.exists() and not arguments.overwrite:
            raise AmcError(f"{arguments.out} exists; pass --overwrite to replace it.")
        folder = data_dir(arguments.data_dir)
        training, test = load_cifar10(folder)
        fading = fading_resnet(folder / "weights" / f"cifar10_resnet{DEPTH}.npz")
    except AmcError as error:
        logger.error("%s", error)
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        epochs=arguments.epochs,
        warmup_epochs=1,
        batch_size=128,
        learning_rate=arguments.learning_rate,
        norm_momentum=0.9,
        augment="crop_flip",
        input_range="imagenet",
    )
    plain = cifar_plain(DEPTH)

    def save_and_log(epoch: int, loss: float) -> None:
        take_over(fading, plain)
        plain.save(arguments.out)
        found = accuracy(plain.predict_on_batch, test, input_range=recipe.input_range, batch_size=500)
        logger.info("epoch %d: loss %.4f, test top-1 without shortcuts %.4f", epoch, loss, found.top1)

    fade = Fade(arguments.fading_epochs * (len(training) // recipe.batch_size))
    train(fading, training, recipe=recipe, seed=arguments.seed, on_epoch=save_and_log, callbacks=[fade])
    return 0


def fading_resnet(weights: Path) -> keras.Model:
    """Returns the trained ResNet-20 with shortcuts that can fade."""
    model = cifar_resnet(DEPTH)
    load_weights(model, weights)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.Add):
            return FadingAdd(name=layer.name)
        return type(layer).from_config(layer.get_config())

    fading = keras.models.clone_model(model, clone_function=clone)
    for layer in model.layers:
        if layer.weights:
            fading.get_layer(layer.name).set_weights(layer.get_weights())
    return fading


def take_over(fading: keras.Model, plain: keras.Model) -> None:
    """Copies the weights of the layers that a plain network has too."""
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(fading.get_layer(layer.name).get_weights())


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-dir", help="folder that holds cifar10/ and weights/ (default: $AMC_DATA_DIR)")
    parser.add_argument("--out", type=Path, required=True, help="the .keras file to write")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--fading-epochs", type=int, default=6, help="epochs in which the shortcuts fade")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="peak of the schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace the file named by --out")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
