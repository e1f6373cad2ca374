"""Trained networks by name, as the command line takes them in place of a file."""

from __future__ import annotations

from pathlib import Path

import keras

from amc_tf.errors import ModelError

_FILES = {"demo": "demo_mobilenet.keras", "plain20": "plain20.keras"}


def list_zoo() -> tuple[str, ...]:
    """Returns the names that `load_zoo_model` knows, in alphabetical order."""
    return tuple(sorted(_FILES))


def load_zoo_model(name: str) -> keras.Model:
    """Loads a trained network that ships with the toolkit.

    Args:
        name: One of `list_zoo()`. `demo` is a MobileNet-V1 of eight blocks for handwritten digits: images of
            64x64x3 in -1..1, data `digits`. `plain20` is the Plain-20 of the AMC paper: images of 32x32x3 in
            the input range `imagenet`, data `cifar10`, 90.6 % top-1 on its test images.

    Returns:
        The model, not compiled.

    Raises:
        ModelError: If no network has this name, or its file is missing or damaged.

    Example:
        >>> load_zoo_model("demo").input_shape
        (None, 64, 64, 3)
    """
    if name not in _FILES:
        raise ModelError(
            f"There is no network {name!r}; give a .keras or .h5 file or one of: {', '.join(list_zoo())}."
        )
    file = Path(__file__).parent / _FILES[name]
    try:
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is missing or damaged ({error}); install the package again.") from error
