"""Random changes to training images, made on uint8 or float32 batches before these are scaled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amc_tf.errors import SettingsError
from amc_tf.image_data import ImageData

_SHIFT_PART = 16  # "shift" moves an image by up to 1/16 of its size
_CROP_PART = 8  # "crop_flip" pads by 1/8 and crops back: 4 pixels of 32, the usual CIFAR recipe
_NUM_GREY_PROBES = 64


def flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors each image left to right with probability 0.5.

    Args:
        images: [B, H, W, C], any dtype.
        rng: Source of the draws.

    Returns:
        A new array of the same shape and dtype.
    """
    mirrored = rng.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def shift(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves each image by up to 1/16 of its size in both directions and repeats its edge.

    Args:
        images: [B, H, W, C], any dtype.
        rng: Source of the draws.

    Returns:
        A new array of the same shape and dtype.
    """
    return _random_crop(images, rng, part=_SHIFT_PART, mode="edge")


def crop_flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Crops each image at random from its reflected surroundings (1/8 on each side) and mirrors half of them.

    Args:
        images: [B, H, W, C], any dtype.
        rng: Source of the draws.

    Returns:
        A new array of the same shape and dtype.
    """
    return flip(_random_crop(images, rng, part=_CROP_PART, mode="reflect"), rng)


Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "flip": flip,
    "shift": shift,
    "crop_flip": crop_flip,
}


def choose_augmentation(data: ImageData) -> str:
    """Names the augmentation that suits the data.

    Grey images and classes named by single characters are taken for writing, or for pictures where left and
    right differ: they are only shifted. All others count as natural images.

    Args:
        data: The training images.

    Returns:
        "shift" or "crop_flip".
    """
    names = data.class_names
    is_writing = bool(names) and all(len(name) == 1 for name in names or ())
    return "shift" if is_writing or _is_grey(data) else "crop_flip"


def augmentation(name: str, data: ImageData) -> Augmentation | None:
    """Looks an augmentation up by name; "auto" chooses by the data.

    Args:
        name: "auto", "none", "flip", "shift" or "crop_flip".
        data: The training images, read for "auto" only.

    Returns:
        A function of images [B, H, W, C] and a Generator, or None where nothing is to be changed.

    Raises:
        SettingsError: If there is no such augmentation.
    """
    chosen = choose_augmentation(data) if name == "auto" else name
    if chosen not in _AUGMENTATIONS:
        raise SettingsError(f"augment is {name!r}; choose one of auto, {', '.join(_AUGMENTATIONS)}.")
    return _AUGMENTATIONS[chosen]


def _is_grey(data: ImageData) -> bool:
    step = max(1, len(data) // _NUM_GREY_PROBES)
    probes = np.asarray(data.images[::step][:_NUM_GREY_PROBES])
    return bool(np.all(probes == probes[..., :1]))


def _random_crop(images: np.ndarray, rng: np.random.Generator, *, part: int, mode: str) -> np.ndarray:
    height, width = images.shape[1:3]
    pad_y, pad_x = (min(max(1, size // part), size - 1) for size in (height, width))
    margins = ((0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0))
    padded = np.pad(images, margins, mode=mode)  # type: ignore[call-overload]  # numpy types each mode apart
    top = rng.integers(0, 2 * pad_y + 1, len(images))
    left = rng.integers(0, 2 * pad_x + 1, len(images))
    crops = (image[y : y + height, x : x + width] for image, y, x in zip(padded, top, left, strict=True))
    return np.stack(list(crops))
