"""Reading a folder of images, or of class folders, into memory."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amc_tf.errors import DataError
from amc_tf.image_data import ImageData, format_size, split_off_fraction

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VALIDATION_NAMES = ("val", "validation", "valid", "test")
VALIDATION_FRACTION = 0.2
_PART = re.compile(r"(train|val|valid|validation|test)([\W_\d].*)?")  # "test1", "val_images" too
# The rest is for the model, its training and the copies made on the way.
_MEMORY_SHARE = 0.5
_MODES = {1: "L", 3: "RGB"}


def load_folder(folder: Path, image_size: tuple[int, int, int], *, seed: int) -> tuple[ImageData, ImageData]:
    """Reads a folder of class folders.

    The folder either holds `train` and one of VALIDATION_NAMES with the class folders in them, or the class
    folders themselves, of which each then gives VALIDATION_FRACTION to validation. Classes are numbered in
    the order of their folder names. Images are resized so that they cover the size asked for, then cropped at
    the centre.

    Args:
        folder: The folder.
        image_size: (height, width, channels) of the images to make; 1 channel is grey, 3 are RGB.
        seed: Decides the split where the folder has none.

    Returns:
        Training and validation images, uint8.

    Raises:
        DataError: A folder is missing or empty, an image is unreadable, or they do not fit in memory.
    """
    train_folder = folder / "train"
    if not _is_split(folder):
        names = _class_names(folder)
        paths, labels = _list_images(folder, names)
        stay, split_off = split_off_fraction(labels, VALIDATION_FRACTION, np.random.default_rng(seed))
        if len(split_off) == 0:
            raise DataError(f"No class in {folder} has two images: one for training, one for validation.")
        images = read_images(paths, image_size)
        data = ImageData(images, labels, len(names), names)
        return data.take(stay), data.take(split_off)
    validation_folder = next((folder / name for name in VALIDATION_NAMES if (folder / name).is_dir()), None)
    if validation_folder is None:
        raise DataError(
            f"{folder} has a folder train but none of {', '.join(VALIDATION_NAMES)}: "
            "add one, or put the class folders directly into it to have them split."
        )
    names = _class_names(train_folder)
    return _load_part(train_folder, names, image_size), _load_part(validation_folder, names, image_size)


def _is_split(folder: Path) -> bool:
    """Tells whether a folder is split into parts, or has a class called "train" among others."""
    train = folder / "train"
    if not train.is_dir() or any(path.is_dir() for path in train.iterdir()):
        return train.is_dir()
    return all(_PART.fullmatch(name) for name in _class_names(folder))


def load_images(folder: Path, image_size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Reads all images of a folder and of the folders below it; what these are called does not matter.

    Args:
        folder: The folder.
        image_size: (height, width, channels), as of `read_images`.

    Returns:
        uint8 [N, height, width, channels], in the order of the files' paths.

    Raises:
        DataError: There are no images, or they cannot be read.
    """
    paths, _ = _find_images(folder)
    if not paths:
        raise DataError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return read_images(paths, image_size)


def read_images(paths: Sequence[Path], image_size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Reads image files, each scaled to cover the size and cropped at the centre.

    Args:
        paths: The files.
        image_size: (height, width, channels); 1 channel is grey, 3 are RGB.

    Returns:
        uint8 [len(paths), height, width, channels].

    Raises:
        DataError: A file is no readable image, the images do not fit in memory, or channels is not 1 or 3.
    """
    if image_size[2] not in _MODES:
        raise DataError(f"Image files can be read with 1 or 3 channels, but {image_size[2]} were asked for.")
    check_memory(len(paths) * math.prod(image_size), f"{len(paths)} images of {format_size(image_size)}")
    images = np.empty((len(paths), *image_size), np.uint8)

    def read(index: int) -> None:
        images[index] = _read_image(paths[index], image_size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, range(len(paths))):
            pass
    return images


def check_memory(num_bytes: int, what: str) -> None:
    """Raises DataError when images of so many bytes would take more than half of the free memory."""
    free_bytes = free_memory_bytes()
    if free_bytes is not None and num_bytes > _MEMORY_SHARE * free_bytes:
        raise DataError(
            f"There is too little memory for {what}: they take {num_bytes / 1e9:.1f} GB or more, but of the "
            f"{free_bytes / 1e9:.1f} GB that are free only half may be used: give fewer images, or smaller "
            "ones."
        )


def free_memory_bytes() -> int | None:
    """Returns the memory that can be used without swapping, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def cover_resize(image: Image.Image, image_size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Scales an image bilinearly to cover the size, then crops its centre; uint8 of that size."""
    height, width, channels = image_size
    scale = max(width / image.width, height / image.height)
    # The part of the original that is kept; Pillow refuses a box that rounding made too large.
    box_width, box_height = min(width / scale, image.width), min(height / scale, image.height)
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    resized = (
        _with_8_bits(image)
        .convert(_MODES[channels])
        .resize((width, height), Image.Resampling.BILINEAR, box=box)
    )
    return np.asarray(resized, np.uint8).reshape(image_size)


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Returns a grey image of 16 bits with the upper 8, which Pillow would cut off at white instead."""
    if not image.mode.startswith("I;16") and (image.mode, image.format) != ("I", "PPM"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _read_image(path: Path, image_size: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return cover_resize(image, image_size)
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}): replace or remove it.") from error


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(
        sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    )
    if not names:
        raise DataError(
            f"{folder} holds no class folders: put the images of each class into a folder of its own."
        )
    return names


def _list_images(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], NDArray[np.int64]]:
    """Returns the image files of all classes and their labels, int64 [N]."""
    extra = sorted({*_class_names(folder)} - {*names})
    if extra:
        raise DataError(f"{folder} has the class folder {extra[0]!r}, which the training images do not have.")
    paths: list[Path] = []
    counts = []
    for name in names:
        files, others = _find_images(folder / name)
        if others and not files:
            raise DataError(
                f"Of {folder / name} no file can be read, such as {others[0].name}: images end in "
                f"{', '.join(IMAGE_SUFFIXES)}. Convert them, or remove the folder."
            )
        paths += files
        counts.append(len(files))
    if not paths:
        raise DataError(f"The class folders of {folder} hold no images ({', '.join(IMAGE_SUFFIXES)}).")
    return paths, np.repeat(np.arange(len(names)), counts)


def _find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the image files below a folder, and its other files, both in order."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(folder).parts)
    )
    images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
    return images, [path for path in found if path.suffix.lower() not in IMAGE_SUFFIXES]


def _load_part(folder: Path, names: tuple[str, ...], image_size: tuple[int, int, int]) -> ImageData:
    paths, labels = _list_images(folder, names)
    return ImageData(read_images(paths, image_size), labels, len(names), names)
