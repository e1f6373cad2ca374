"""Reads the data folder of the benchmarks: packed CIFAR-10 and two folders of ImageNet pictures.

The folder is named by ``--data-dir`` or the environment variable ``AMC_DATA_DIR``. Expected in it:
``cifar10/{split}_{NN}.webp`` (2,500 lossless 32x32 tiles each, 25 per row) with ``{split}_labels.npy``;
``imagenet_samples/{class:04d}.jpg``; ``imagenet_test/NNNN.jpg`` with ``labels.csv``;
``weights/cifar10_resnet{20,56}.npz``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from amc_tf.data import CIFAR10_NAMES, ImageData
from amc_tf.errors import DataError
from amc_tf.models.resnet import cifar_resnet, load_weights

DATA_DIR_VARIABLE = "AMC_DATA_DIR"
CIFAR_IMAGE_SIZE = 32
CIFAR_TILES_PER_ROW = 25
IMAGENET_IMAGE_SIZE = 224
NUM_IMAGENET_CLASSES = 1000
_RESNETS = {"resnet20": 20, "resnet56": 56}


def data_dir(given: str | os.PathLike[str] | None = None) -> Path:
    """Returns the data folder: the one given, else the one named by ``AMC_DATA_DIR``.

    Raises:
        DataError: if neither names an existing folder.
    """
    name = given or os.environ.get(DATA_DIR_VARIABLE)
    if not name:
        raise DataError(f"No data folder was given; pass --data-dir or set {DATA_DIR_VARIABLE}.")
    if not Path(name).is_dir():
        raise DataError(f"The data folder {name} does not exist; pass --data-dir or set {DATA_DIR_VARIABLE}.")
    return Path(name)


def load_cifar10(folder: Path | None = None) -> tuple[ImageData, ImageData]:
    """Reads CIFAR-10 in its canonical order; ``--data benchmarks.shared_data:load_cifar10``.

    Args:
        folder: the data folder; None takes what ``data_dir`` returns.

    Returns:
        Training and test data: uint8 [50000 and 10000, 32, 32, 3].

    Raises:
        DataError: if a file is missing or the images do not match the labels.
    """
    folder = folder or data_dir()
    return _load_cifar_split(folder / "cifar10", "train"), _load_cifar_split(folder / "cifar10", "test")


def load_cifar_network(name: str, folder: Path) -> keras.Model:
    """Builds a published residual network with its weights, or loads a .keras file.

    Args:
        name: ``resnet20``, ``resnet56`` or the path of a .keras file.
        folder: the data folder, as returned by ``data_dir``.

    Raises:
        DataError: if there is no such file.
    """
    if name in _RESNETS:
        model = cifar_resnet(_RESNETS[name])
        load_weights(model, folder / "weights" / f"cifar10_{name}.npz")
        return model
    if not Path(name).is_file():
        raise DataError(f"{name} is no file; give one of {', '.join(_RESNETS)} or the path of a .keras file.")
    return keras.models.load_model(name, compile=False)


def load_imagenet_samples(folder: Path) -> ImageData:
    """Reads one training-like picture per ImageNet class, for calibration and search only.

    Args:
        folder: the data folder, as returned by ``data_dir``.

    Returns:
        uint8 [1000, 224, 224, 3] in class order.

    Raises:
        DataError: if there is no picture.
    """
    files = sorted((folder / "imagenet_samples").glob("*.jpg"))
    return _read_pictures(files, [int(file.stem) for file in files], folder / "imagenet_samples")


def load_imagenet_test(folder: Path) -> ImageData:
    """Reads the independent ImageNet-labelled test pictures.

    Args:
        folder: the data folder, as returned by ``data_dir``.

    Returns:
        uint8 [1000, 224, 224, 3] in the order of labels.csv.

    Raises:
        DataError: if labels.csv or a picture is missing.
    """
    table = folder / "imagenet_test" / "labels.csv"
    if not table.is_file():
        raise DataError(f"{table} is missing; the test pictures need their labels.")
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    files = [table.parent / row["file"] for row in rows]
    return _read_pictures(files, [int(row["label"]) for row in rows], table.parent)


def untile(sheet: np.ndarray, tile: int, tiles_per_row: int) -> np.ndarray:
    """Cuts a sheet of row-major tiles.

    Args:
        sheet: uint8 [rows * tile, tiles_per_row * tile, C].
        tile: Edge of a tile in pixels.
        tiles_per_row: Tiles side by side.

    Returns:
        uint8 [rows * tiles_per_row, tile, tile, C].

    Raises:
        DataError: If the sheet is of another size.
    """
    height, width, channels = sheet.shape
    if width != tile * tiles_per_row or height % tile:
        raise DataError(
            f"A sheet of {width}x{height} pixels does not hold rows of {tiles_per_row} {tile}-pixel tiles."
        )
    grid = sheet.reshape(height // tile, tile, tiles_per_row, tile, channels)
    return np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(-1, tile, tile, channels)


def _load_cifar_split(folder: Path, split: str) -> ImageData:
    labels_file = folder / f"{split}_labels.npy"
    sheets = sorted(folder.glob(f"{split}_[0-9][0-9].webp"))
    if not labels_file.is_file() or not sheets:
        raise DataError(
            f"{folder} holds no packed CIFAR-10 {split} split ({split}_NN.webp, {split}_labels.npy)."
        )
    images = np.concatenate([untile(_read_rgb(s), CIFAR_IMAGE_SIZE, CIFAR_TILES_PER_ROW) for s in sheets])
    return ImageData(images, np.load(labels_file, allow_pickle=False), 10, CIFAR10_NAMES)


def _read_pictures(files: Sequence[Path], labels: Sequence[int], folder: Path) -> ImageData:
    if not files:
        raise DataError(f"{folder} holds no .jpg pictures.")
    images = np.stack([centre_crop(_read_rgb(file), IMAGENET_IMAGE_SIZE) for file in files])
    return ImageData(images, np.array(labels, np.int64), NUM_IMAGENET_CLASSES)


def centre_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """Cuts the central square: uint8 [H, W, C] -> uint8 [size, size, C]."""
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise DataError(f"A picture of {width}x{height} pixels is smaller than the {size}-pixel crop.")
    top, left = (height - size) // 2, (width - size) // 2
    return picture[top : top + size, left : left + size]


def _read_rgb(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"{file} cannot be read as a picture: {error}.") from error
