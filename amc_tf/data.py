"""Image data by name, from a folder, a file or a function."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amc_tf.errors import DataError
from amc_tf.image_data import (
    INPUT_RANGES,
    DataSplit,
    ImageData,
    check_data_fits,
    check_pair,
    format_size,
    split_data,
    split_off_fraction,
    to_input_range,
)
from amc_tf.image_folder import VALIDATION_FRACTION, check_memory, cover_resize, load_folder, load_images
from amc_tf.keras_data import as_image_data, from_arrays
from amc_tf.named_function import find_function, is_named_function

__all__ = [
    "INPUT_RANGES",
    "DataSplit",
    "ImageData",
    "as_image_data",
    "check_data_fits",
    "load_data",
    "load_unlabelled",
    "same_classes",
    "split_data",
    "to_input_range",
]

DEFAULT_DIGITS_SIZE = (64, 64, 3)
DEFAULT_FOLDER_SIZE = (224, 224, 3)
CIFAR_SIZE = (32, 32, 3)
CIFAR10_NAMES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
# One split for every seed: the shipped network has learned from the training part.
_DIGITS_SPLIT_SEED = 0
_EXPECTED_SOURCES = (
    "digits, cifar10, cifar100, a folder of class folders, an .npz file, or module:function (a function that "
    "takes nothing and returns training and validation data)"
)


def load_data(
    source: str, image_size: tuple[int, int, int] | None = None, seed: int = 0
) -> tuple[ImageData, ImageData]:
    """Loads training and validation images.

    Args:
        source: `digits` (scikit-learn's handwritten digits, enlarged), `cifar10`, `cifar100`; a folder of
            class folders (see `amc_tf.image_folder.load_folder`); an .npz file with x_train, y_train and
            x_test, y_test (or x_val, y_val), or with images and labels, which are split; or
            `module:function`, which is called without arguments and returns a pair of what `as_image_data`
            takes.
        image_size: (height, width, channels) the model takes. Images of named data sets and folders are
            resized to it; files and functions must hold this size. None: the size they have (digits 64x64x3,
            folders 224x224x3).
        seed: Decides the split where the source has none; the digits are split in one way for every seed.

    Returns:
        Training and validation data of one image size and the same classes.

    Raises:
        DataError: The source does not exist, cannot be read, or holds what no classifier can use.

    Example:
        >>> train, validation = load_data("digits", (16, 16, 1))
        >>> len(train), len(validation), train.image_size
        (1438, 359, (16, 16, 1))
    """
    if image_size is not None and None in image_size:
        raise DataError(
            f"The model takes images of any size ({format_size(image_size)}): give the one to read them in, "
            "such as (224, 224, 3)."
        )
    train, validation = _load_source(source, image_size, seed)
    check_pair(train, validation)
    if image_size is not None and train.image_size != tuple(image_size):
        raise DataError(
            f"The images of {source} are {format_size(train.image_size)}, but the model takes "
            f"{format_size(image_size)}: resize them."
        )
    return train, validation


def _load_source(
    source: str, image_size: tuple[int, int, int] | None, seed: int
) -> tuple[ImageData, ImageData]:
    if source == "digits":
        return _load_digits(image_size or DEFAULT_DIGITS_SIZE)
    if source in ("cifar10", "cifar100"):
        return _load_cifar(source, image_size)
    path = Path(source).expanduser()
    if path.is_dir():
        return load_folder(path, image_size or DEFAULT_FOLDER_SIZE, seed=seed)
    if path.suffix == ".npz":
        return _load_npz(path, seed)
    if is_named_function(source):
        return _load_function(source)
    raise DataError(f"There is no data {source!r}: expected {_EXPECTED_SOURCES}.")


def _load_digits(image_size: tuple[int, int, int]) -> tuple[ImageData, ImageData]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255, [1797, 8, 8]
    data = ImageData(_resize(pixels, image_size), digits.target, 10, tuple("0123456789"))
    rng = np.random.default_rng(_DIGITS_SPLIT_SEED)
    train, validation = split_off_fraction(data.labels, VALIDATION_FRACTION, rng)
    return data.take(train), data.take(validation)


def _load_cifar(name: str, image_size: tuple[int, int, int] | None) -> tuple[ImageData, ImageData]:
    import keras

    try:
        # Keras reports downloads on stdout, which belongs to results.
        with contextlib.redirect_stdout(sys.stderr):
            parts = getattr(keras.datasets, name).load_data()
    # Keras raises a bare Exception when the download fails.
    except Exception as error:
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets"
        raise DataError(
            f"{name} is not in {folder}, where keras.datasets keeps it, and could not be downloaded "
            f"({error}): connect to the network once, copy that folder from another machine, or give an .npz "
            "file."
        ) from error
    num_classes, names = (10, CIFAR10_NAMES) if name == "cifar10" else (100, None)
    train, validation = (
        ImageData(_resize(images, image_size or CIFAR_SIZE), labels, num_classes, names)
        for images, labels in parts
    )
    return train, validation


def _resize(images: NDArray[np.uint8], image_size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Resizes uint8 [N, H, W] or [N, H, W, 3] to image_size, grey to colour or back where needed."""
    if image_size[2] not in (1, 3):
        raise DataError(
            f"Images can be made with 1 or 3 channels, but the model takes {format_size(image_size)}."
        )
    if images.shape[1:] == image_size:
        return images
    check_memory(len(images) * math.prod(image_size), f"{len(images)} images of {format_size(image_size)}")
    return np.stack([cover_resize(Image.fromarray(image), image_size) for image in images])


def load_unlabelled(source: str, image_size: tuple[int, int, int]) -> NDArray:
    """Loads images without labels, on which fine-tuning imitates the original.

    Args:
        source: A folder, of which all images are read, those of the folders below it too; or an .npz file
            with an array `images`.
        image_size: (height, width, channels) that the images of a folder are resized to.

    Returns:
        uint8 [N, height, width, channels], or what the file holds.

    Raises:
        DataError: The source does not exist, cannot be read, or holds no images.
    """
    path = Path(source).expanduser()
    if source and path.is_dir():
        return load_images(path, image_size)
    if path.suffix != ".npz":
        raise DataError(
            f"There are no images {source!r}: give a folder of images, or an .npz file with an array images."
        )
    arrays = _read_npz(path)
    if "images" not in arrays:
        raise DataError(f"{path} holds the arrays {', '.join(arrays) or '(none)'}, but images is needed.")
    return arrays["images"]


def _read_npz(path: Path) -> dict[str, NDArray]:
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz file of plain arrays ({error}).") from error


def _load_npz(path: Path, seed: int) -> tuple[ImageData, ImageData]:
    arrays = _read_npz(path)
    for part in ("test", "val", "validation", "valid"):
        if {"x_train", "y_train", f"x_{part}", f"y_{part}"} <= arrays.keys():
            return same_classes(
                from_arrays(arrays["x_train"], arrays["y_train"]),
                from_arrays(arrays[f"x_{part}"], arrays[f"y_{part}"]),
            )
    if {"images", "labels"} <= arrays.keys():
        return _split_whole(from_arrays(arrays["images"], arrays["labels"]), seed)
    raise DataError(
        f"{path} holds the arrays {', '.join(arrays) or '(none)'}, but x_train, y_train, x_test and y_test "
        "(or x_val and y_val), or images and labels, are needed."
    )


def _split_whole(data: ImageData, seed: int) -> tuple[ImageData, ImageData]:
    stay, split_off = split_off_fraction(data.labels, VALIDATION_FRACTION, np.random.default_rng(seed))
    if len(split_off) == 0:
        raise DataError("No class has two images: one for training, one for validation.")
    return data.take(stay), data.take(split_off)


def _load_function(name: str) -> tuple[ImageData, ImageData]:
    result = find_function(name, error=DataError, expected=_EXPECTED_SOURCES)()
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise DataError(
            f"{name} returned a {type(result).__name__}, but must return a pair of training and validation "
            "data."
        )
    return same_classes(as_image_data(result[0]), as_image_data(result[1]))


def same_classes(train: ImageData, validation: ImageData) -> tuple[ImageData, ImageData]:
    """Gives both parts the larger number of unnamed classes: one of them may miss the last class.

    Args:
        train: training data.
        validation: validation data.

    Returns:
        The same images and labels; unchanged where classes have names.
    """
    if train.class_names is not None or validation.class_names is not None:
        return train, validation
    num_classes = max(train.num_classes, validation.num_classes)
    return (
        ImageData(train.images, train.labels, num_classes),
        ImageData(validation.images, validation.labels, num_classes),
    )
