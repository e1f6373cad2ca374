"""Reads what Keras users train with into images in memory: arrays, a tf.data.Dataset, a PyDataset."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.clone import is_tf_keras
from amc_tf.errors import DataError
from amc_tf.image_data import ImageData
from amc_tf.image_folder import check_memory

_IMAGE_NDIM = 3
_EXPECTED = (
    "give an ImageData, a pair (images, labels) of arrays, a tf.data.Dataset or a keras.utils.PyDataset of "
    "such pairs"
)


def as_image_data(data: Any, *, num_classes: int | None = None) -> ImageData:
    """Turns what Keras users train with into ImageData.

    `amc_tf.compress`, `sweep`, `sparsify` and `finetune` take such data and call this themselves. Images are
    uint8 pixels 0..255, which are scaled to the model's input range later, or floats, which go to the model
    as they are: those of `image_dataset_from_directory` fit a model that rescales them itself, those that
    were mapped through `preprocess_input` fit the model that they were prepared for.

    A data set is read once, to its end, in the order in which it comes. One that shuffles or augments gives
    other calibration and search images each time: a run can then only be resumed where shuffling has a seed
    and is at its beginning.

    Args:
        data: An ImageData; a pair of arrays (images, labels); a finite tf.data.Dataset of such pairs, batched
            or not; a keras.utils.PyDataset or tf_keras.utils.Sequence. Labels are whole numbers from 0, or
            one-hot.
        num_classes: Number of classes; by default the width of one-hot labels, or the largest label plus one.

    Returns:
        The data in memory.

    Raises:
        DataError: The data is of another kind, never ends, has sample weights, images of several sizes or of
            another rank, or holds what ImageData refuses.

    Example:
        >>> import tensorflow as tf
        >>> pairs = tf.data.Dataset.from_tensor_slices((np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2))
        >>> data = as_image_data(pairs.batch(4))
        >>> len(data), data.image_size, data.num_classes
        (6, (8, 8, 3), 2)
    """
    if isinstance(data, ImageData):
        return data
    if isinstance(data, tuple | list):
        if len(data) != 2:
            raise DataError(
                f"Image data cannot be made of a {type(data).__name__} of {len(data)} (sample weights are "
                f"not used): {_EXPECTED}."
            )
        return from_arrays(data[0], data[1], num_classes)
    return from_arrays(*_concatenate(_batches(data)), num_classes)


def from_arrays(images: Any, labels: Any, num_classes: int | None = None) -> ImageData:
    """Makes ImageData of two arrays.

    Args:
        images: uint8 or float [N, height, width, channels].
        labels: whole numbers [N] or [N, 1], or one-hot [N, classes].
        num_classes: as for `as_image_data`.

    Raises:
        DataError: as for `as_image_data`.
    """
    numbers, width = _class_numbers(np.asarray(labels))
    countable = numbers.dtype.kind in "uif" and numbers.size > 0 and np.isfinite(numbers).all()
    return ImageData(
        np.asarray(images), numbers, num_classes or width or (int(numbers.max()) + 1 if countable else 1)
    )


def _batches(data: Any) -> Iterator[Any]:
    """Yields what a data set holds, once."""
    import keras
    import tensorflow as tf

    if isinstance(data, tf.data.Dataset):
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise DataError(
                "The tf.data.Dataset never ends: leave out .repeat() or add .take(number of batches)."
            )
        return iter(data.as_numpy_iterator())
    if isinstance(data, keras.utils.PyDataset):
        num_batches = data.num_batches
    elif is_tf_keras(data) and hasattr(data, "__getitem__"):
        num_batches = len(data)
    else:
        raise DataError(f"Image data cannot be made of a {type(data).__name__}: {_EXPECTED}.")
    if num_batches is None:
        raise DataError(f"The {type(data).__name__} never ends: let its num_batches be a number.")
    return (data[index] for index in range(num_batches))


def _telling_where(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields batches; whatever the user's code raises becomes an error that says at which batch."""
    iterator = iter(batches)
    for number in itertools.count():
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(
                f"Batch {number} of the data set failed with {type(error).__name__}: {error}"
            ) from error
        yield batch


def _concatenate(batches: Iterable[Any]) -> tuple[NDArray, NDArray]:
    """Joins the (images, labels) pairs of an iterable of batches or of single examples."""
    all_images, all_labels = [], []
    num_bytes = 0
    for batch in _telling_where(batches):
        images, labels = _read_pair(batch)
        num_bytes += images.nbytes
        check_memory(num_bytes, "the images of the data set (one that never ends needs .take(number))")
        all_images.append(images)
        all_labels.append(labels)
    if not all_images:
        raise DataError("The data set is empty: at least one pair (images, labels) is needed.")
    sizes = sorted({images.shape[1:] for images in all_images})
    if len(sizes) > 1:
        raise DataError(
            f"The data set yields images of {' and '.join(map(str, sizes[:2]))}: all must have one size."
        )
    return np.concatenate(all_images), np.concatenate(all_labels)


def _read_pair(batch: Any) -> tuple[NDArray, NDArray]:
    """Returns images [B, H, W, C] and labels [B] or [B, classes] of a batch or of a single example."""
    if isinstance(batch, Mapping):
        raise DataError(
            f"The data set yields dictionaries of {', '.join(map(str, batch))}, but must yield pairs "
            "(images, labels): add .map(lambda row: (row['image'], row['label'])) with the names of yours."
        )
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise DataError(
            f"The data set yields a {type(batch).__name__}, but must yield pairs (images, labels)."
        )
    if len(batch) == 3 and batch[2] is not None:
        raise DataError(
            "The data set yields sample weights as a third part, which are not used here: add "
            ".map(lambda image, label, weight: (image, label))."
        )
    images, labels = _array(batch[0], "images"), _array(batch[1], "labels")
    is_single_label = labels.shape in ((), (1,)) or (labels.ndim == 1 and _is_one_hot(labels))
    if images.ndim == _IMAGE_NDIM and is_single_label:
        return images[np.newaxis], labels[np.newaxis]
    if images.ndim == _IMAGE_NDIM + 1 and labels.ndim > 0:
        return images, labels
    raise DataError(
        f"The data set yields images of the shape {images.shape} with labels of the shape {labels.shape}, "
        "but must yield one image [height, width, channels] with its label, or batches [number, height, "
        "width, channels] (grey images have 1 channel: add it with image[..., None])."
    )


def _array(values: Any, what: str) -> NDArray:
    if isinstance(values, Mapping):
        raise DataError(
            f"The {what} of the data set are dictionaries of {', '.join(map(str, values))}, but must be one "
            "array: add .map(...) that picks it."
        )
    try:
        array = np.asarray(values)
    except ValueError:  # arrays of several shapes
        array = np.array(None)
    if array.dtype.kind == "O" and not all(isinstance(value, str | bytes) for value in array.flat):
        raise DataError(
            f"The {what} of the data set are ragged, but all must have one size: resize them before .batch()."
        )
    return array


def _class_numbers(labels: NDArray) -> tuple[NDArray, int | None]:
    """Returns labels as numbers, and the width of one-hot ones."""
    if labels.ndim != 2 or labels.shape[1] == 1:
        return labels, None
    if not _is_one_hot(labels):
        raise DataError(
            f"The labels have the shape {labels.shape}, but are not one-hot: one class must have 1 and all "
            "others 0 in each row. Leave out label smoothing and mixed images here."
        )
    return labels.argmax(axis=1), labels.shape[1]


def _is_one_hot(labels: NDArray) -> bool:
    """Tells whether the last axis holds a single 1 and otherwise zeros."""
    if labels.ndim == 0 or labels.dtype.kind not in "uifb":
        return False
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all())
