"""Images in memory, with labels or without: the value, how it is checked, scaled for a model, and split."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amc_tf.errors import DataError, SettingsError

INPUT_RANGES = ("-1..1", "0..1", "0..255", "imagenet")
# Statistics of ImageNet's training images over 0..1, as torchvision and Keras' "torch" mode use them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_LEAST_SPREAD = 0.02  # of unlabelled images beside others: pixels of 0..1 beside those of 0..255 have 0.004

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images of one size.

    Attributes:
        images: uint8 or float32 [N, height, width, channels]. uint8 holds raw pixels 0..255, which
            `to_input_range` scales for the model; float32 is taken to be in the model's range already.
        labels: int64 [N], each in 0..num_classes-1.
        num_classes: Number of classes the labels are drawn from, present or not.
        class_names: The name of each class in the order of the labels, or None.

    Raises:
        DataError: The arrays do not fit one another or hold what no image or label can be.
    """

    images: NDArray
    labels: NDArray[np.int64]
    num_classes: int
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images = _checked_images(self.images)
        labels = _checked_labels(self.labels)
        if len(images) != len(labels):
            raise DataError(
                f"There are {len(images)} images but {len(labels)} labels: give each image its label."
            )
        if self.num_classes < 1:
            raise DataError(f"The number of classes is {self.num_classes}, but must be at least 1.")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise DataError(
                f"The labels run from {labels.min()} to {labels.max()}, but with {self.num_classes} classes "
                f"they must be whole numbers from 0 to {self.num_classes - 1}: renumber them."
            )
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise DataError(
                f"There are {len(self.class_names)} class names for {self.num_classes} classes: give one for "
                "each."
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def float_range(self) -> tuple[float, float] | None:
        """Lowest and highest number of float images; None for uint8 ones."""
        if self.images.dtype == np.uint8:
            return None
        return float(self.images.min()), float(self.images.max())

    def take(self, indices: ArrayLike) -> ImageData:
        """Returns the images at some indices (int [M]), in their order."""
        chosen = np.asarray(indices, np.int64)
        return dataclasses.replace(self, images=self.images[chosen], labels=self.labels[chosen])


@dataclasses.dataclass(frozen=True, eq=False)
class DataSplit:
    """The parts of the data that a compression works with.

    Attributes:
        train: What fine-tuning learns from; holds the calibration images, not the search images.
        calibration: Feature statistics, batch-norm statistics and int8 ranges come from these.
        search: Held out of train; the reward is the accuracy on these.
        test: The validation images, which no decision is made on; the reported accuracy is theirs.
        unlabelled: More images like those of train, on which fine-tuning imitates the original, or None.
    """

    train: ImageData
    calibration: ImageData
    search: ImageData
    test: ImageData
    unlabelled: NDArray | None = None

    @property
    def num_unlabelled(self) -> int:
        """Number of images without labels."""
        return 0 if self.unlabelled is None else len(self.unlabelled)


def to_input_range(images: NDArray, input_range: str) -> NDArray[np.float32]:
    """Scales raw pixels to the range a model expects.

    Args:
        images: uint8 [..., channels], raw pixels 0..255; or floats, returned unchanged as float32 because
            they are in the model's range already.
        input_range: One of INPUT_RANGES; `imagenet` subtracts IMAGENET_MEAN and divides by IMAGENET_STD.

    Returns:
        float32 array of the same shape.

    Raises:
        SettingsError: The range is not one of INPUT_RANGES.
        DataError: `imagenet` is asked of images that do not have three channels.

    Example:
        >>> to_input_range(np.array([0, 255], np.uint8), "-1..1")
        array([-1.,  1.], dtype=float32)
    """
    _check_range(input_range)
    if np.issubdtype(images.dtype, np.floating):
        return np.asarray(images, np.float32)
    pixels = images.astype(np.float32)
    if input_range == "0..255":
        return pixels
    # In place: the images of a search take hundreds of megabytes.
    pixels /= np.float32(127.5 if input_range == "-1..1" else 255)
    if input_range == "-1..1":
        pixels -= np.float32(1)
    elif input_range == "imagenet":
        _check_colour(images.shape[-1])
        pixels -= np.array(IMAGENET_MEAN, np.float32)
        pixels /= np.array(IMAGENET_STD, np.float32)
    return pixels


def pixel_statistics(input_range: str, num_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns an input range as the mean and standard deviation by which applications normalize pixels.

    Args:
        input_range: One of INPUT_RANGES.
        num_channels: Of the images.

    Returns:
        Mean and standard deviation of each channel, in pixels 0..255: (pixel - mean) / std is what
        `to_input_range` makes of a pixel.

    Raises:
        SettingsError: The range is not one of INPUT_RANGES.
        DataError: `imagenet` is asked of images that do not have three channels.

    Example:
        >>> pixel_statistics("-1..1", 1)
        ((127.5,), (127.5,))
    """
    _check_range(input_range)
    if input_range == "imagenet":
        _check_colour(num_channels)
        return tuple(255 * mean for mean in IMAGENET_MEAN), tuple(255 * std for std in IMAGENET_STD)
    mean, std = {"-1..1": (127.5, 127.5), "0..1": (0.0, 255.0), "0..255": (0.0, 1.0)}[input_range]
    return (mean,) * num_channels, (std,) * num_channels


def even_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Orders examples so that every beginning of the order holds the classes as evenly as possible.

    Args:
        labels: int64 [N].
        rng: Decides which example of a class comes first, and the order of the classes.

    Returns:
        int64 [N], a permutation of the indices.
    """
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    turn = np.concatenate([np.arange(count) for count in counts])  # the how-maniest of its class, [N]
    return by_class[np.lexsort((rng.random(len(labels)), turn))]


def split_off_fraction(
    labels: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits indices in two so that each class gives the same fraction to the second part.

    Args:
        labels: int64 [N].
        fraction: Part of each class to split off, between 0 and 1; a class of two or more gives at least one.
        rng: Decides which examples go.

    Returns:
        The ascending indices (int64) that stay and those split off.
    """
    split_off = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = round(fraction * len(members)) or min(1, len(members) - 1)
        split_off.append(members[:count])
    second = np.sort(np.concatenate(split_off))
    return np.setdiff1d(np.arange(len(labels)), second), second


def split_data(
    train: ImageData,
    validation: ImageData,
    *,
    num_calibration: int,
    num_search: int,
    seed: int,
    unlabelled: ArrayLike | None = None,
) -> DataSplit:
    """Splits training data into what is learned from and what the search is judged on.

    Calibration and search images are drawn without overlap, as even per class as possible. At most half of
    the training images are held out for the search; small data sets give fewer images than asked for.

    Args:
        train: The training images.
        validation: The images that results are reported on.
        num_calibration: Images for feature statistics, at least 1.
        num_search: Images for the reward, at least 1.
        seed: Same seed, same split.
        unlabelled: More images for fine-tuning, as `check_unlabelled` takes them, or None.

    Returns:
        The split; its parts say how many images they really have.

    Raises:
        SettingsError: A number of images is below 1.
        DataError: There are fewer than two training images or classes among them, or train, validation and
            unlabelled images do not belong together.
    """
    if num_calibration < 1 or num_search < 1:
        raise SettingsError(
            f"{num_calibration} calibration and {num_search} search images were asked for: at least 1 of "
            "each."
        )
    check_pair(train, validation)
    if len(train) < 2:
        raise DataError("There is only one training image: calibration and search need one each.")
    if train.labels.min() == train.labels.max():
        raise DataError(
            f"All {len(train)} training images are of the class {train.labels[0]}: a network that always "
            "says so would be right, so nothing can be judged on them. Give images of all classes."
        )
    order = even_order(train.labels, np.random.default_rng(seed))
    num_held_out = min(num_search, len(train) // 2)
    search, rest = order[:num_held_out], order[num_held_out:]
    if num_held_out < num_search or len(rest) < num_calibration:
        _LOGGER.warning(
            "Only %d search and %d calibration images can be taken from %d training images.",
            num_held_out,
            min(num_calibration, len(rest)),
            len(train),
        )
    if unlabelled is not None:
        unlabelled = check_unlabelled(unlabelled, train, validation)
    return DataSplit(
        train=train.take(np.sort(rest)),
        calibration=train.take(rest[:num_calibration]),
        search=train.take(search),
        test=validation,
        unlabelled=unlabelled,
    )


def check_pair(train: ImageData, validation: ImageData) -> None:
    """Raises DataError unless training and validation images have one size and one number of classes."""
    if train.image_size != validation.image_size:
        raise DataError(
            f"The training images are {format_size(train.image_size)}, but the validation images are "
            f"{format_size(validation.image_size)}: both must have one size."
        )
    if (train.num_classes, train.class_names) != (validation.num_classes, validation.class_names):
        raise DataError(
            f"The training data has {train.num_classes} classes and the validation data "
            f"{validation.num_classes}, or they are named differently: both must have the same classes in "
            "the same order."
        )


def check_unlabelled(images: Any, train: ImageData, validation: ImageData) -> NDArray:
    """Checks images without labels that are to be trained on beside others.

    Args:
        images: uint8 or float [N, height, width, channels], like those of `ImageData`.
        train: The training images, search images included.
        validation: The validation images.

    Returns:
        The images, uint8 or float32.

    Raises:
        DataError: They are no images, are of another size or scale than the others, or among the others:
            networks are judged on some of those.
    """
    try:
        array = np.asarray(images)
    except ValueError:  # arrays of several shapes
        array = np.array(None)
    if array.dtype.kind == "O":
        raise DataError(
            "Images without labels must be one array [number, height, width, channels], not a "
            f"{type(images).__name__}."
        )
    checked = _checked_images(array)
    if checked.shape[1:] != train.image_size:
        raise DataError(
            f"The training images are {format_size(train.image_size)}, but the unlabelled ones are "
            f"{format_size(checked.shape[1:])}: both must have one size."
        )
    if checked.dtype != train.images.dtype:
        raise DataError(
            f"The training images are {train.images.dtype}, but the unlabelled ones are {checked.dtype}: "
            "both must be uint8 pixels 0..255, or both floats in the model's input range."
        )
    _check_scale(checked, train.float_range)
    known = {_digest(image) for data in (train, validation) for image in data.images}
    num_known = sum(_digest(image) in known for image in checked)
    if num_known:
        raise DataError(
            f"Of the images without labels {num_known} are among the training and validation images, and a "
            "network that was trained on those that it is judged on would look better than it is: leave them "
            "out."
        )
    return checked


def _digest(image: NDArray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def _check_scale(images: NDArray, float_range: tuple[float, float] | None) -> None:
    """Raises DataError if the range of float images is far from that of others, or a small part of it."""
    if float_range is None:
        return
    (lowest, highest), spread = float_range, float_range[1] - float_range[0]
    is_beyond = images.min() < lowest - spread or images.max() > highest + spread
    if is_beyond or images.max() - images.min() < _LEAST_SPREAD * spread:
        raise DataError(
            f"The training images run from {lowest:g} to {highest:g}, but the unlabelled ones from "
            f"{images.min():g} to {images.max():g}: scale both alike."
        )


def check_data_fits(model_input_shape: Sequence[int | None], num_outputs: int, data: ImageData) -> None:
    """Checks that a model can read these images and knows these labels.

    Args:
        model_input_shape: (height, width, channels) of the model's input; None stands for any.
        num_outputs: Number of classes the model tells apart.
        data: What it will be run on.

    Raises:
        DataError: The images have another size or number of channels, or the labels are not the model's.
    """
    expected = tuple(model_input_shape)
    if any(want not in (None, have) for want, have in zip(expected, data.image_size, strict=True)):
        raise DataError(
            f"The model takes images of {format_size(expected)}, but the data has "
            f"{format_size(data.image_size)}: resize the images to the model's input size."
        )
    if num_outputs == 1 and data.labels.max() == 1:
        raise DataError(
            "The model has one output, the probability of the second of two classes, but one output for each "
            "class is needed: end it in Dense(2, 'softmax') with the weights numpy.hstack([0 * kernel, "
            "kernel]) and [0, bias], which computes the same."
        )
    if data.labels.max() >= num_outputs:
        raise DataError(
            f"The labels go up to {data.labels.max()}, but the model has {num_outputs} outputs and knows "
            f"only the labels 0 to {num_outputs - 1}: use the data the model was trained on."
        )
    if data.class_names is not None and data.num_classes != num_outputs:
        names = ", ".join(data.class_names[:3]) + (", ..." if data.num_classes > 3 else "")
        raise DataError(
            f"The data has {data.num_classes} classes ({names}), but the model has {num_outputs} outputs: "
            "the classes must be those the model was trained on, in the order of its outputs."
        )


def _check_range(input_range: str) -> None:
    if input_range not in INPUT_RANGES:
        raise SettingsError(
            f"The input range is {input_range!r}, but must be one of {', '.join(INPUT_RANGES)}."
        )


def _check_colour(num_channels: int) -> None:
    if num_channels != len(IMAGENET_MEAN):
        raise DataError(
            f"The input range imagenet is for colour images, but these have {num_channels} channel(s): "
            "choose one of -1..1, 0..1, 0..255."
        )


def format_size(size: Sequence[int | None]) -> str:
    """Writes (height, width, channels) as 224x224x3, with ? for any."""
    return "x".join("?" if axis is None else str(axis) for axis in size)


def _checked_images(images: ArrayLike) -> NDArray:
    """Returns images as uint8 or float32 [N, H, W, C] or raises DataError."""
    array = np.asarray(images)
    if array.dtype.kind not in "uif":
        raise DataError(
            f"The images have the type {array.dtype}, but must be uint8 pixels 0..255 or float32."
        )
    if array.ndim != 4:
        raise DataError(
            f"The images have the shape {array.shape}, but must have 4 axes: number of images, height, "
            "width, channels (grey images have 1 channel: add it with images[..., None])."
        )
    if array.size == 0:
        raise DataError(f"There are no images (shape {array.shape}): at least one is needed.")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "ui":
        if array.min() < 0 or array.max() > 255:
            raise DataError(
                f"Whole-number images must hold pixels 0..255, but these run from {array.min()} to "
                f"{array.max()}: scale them, or give float32 images in the model's input range."
            )
        return array.astype(np.uint8, copy=False)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).reshape(len(array), -1).all(axis=1)).argmax())
        raise DataError(f"Image {bad} holds NaN or infinite values: remove it or repair how it is made.")
    return array.astype(np.float32, copy=False)


def _checked_labels(labels: ArrayLike) -> NDArray[np.int64]:
    """Returns labels as int64 [N] or raises DataError."""
    array = np.asarray(labels)
    if array.dtype.kind in "USO":
        raise DataError(
            f"The labels are text or objects (as {array.ravel()[:1].tolist()}), but must be whole numbers "
            "from 0: number the classes, for example with numpy.unique(labels, return_inverse=True)[1]."
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"The labels have the shape {array.shape}, but must be one whole number per image: "
            "turn one-hot labels into numbers with labels.argmax(axis=1)."
        )
    if array.dtype.kind not in "uib" and not (
        array.dtype.kind == "f" and np.array_equal(array, np.round(array))
    ):
        raise DataError(f"The labels have the type {array.dtype}, but must be whole numbers from 0.")
    return array.astype(np.int64)
