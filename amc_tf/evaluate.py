"""Accuracy of a network on labelled images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.clone import keras_of
from amc_tf.data import INPUT_RANGES, ImageData, to_input_range
from amc_tf.distillation import are_probabilities, soften
from amc_tf.errors import DataError, ModelError

BATCH_SIZE = 100
# A trained network must beat guessing by this part of what there is to gain, and by three standard errors.
_MIN_GAIN = 0.05
_NUM_STANDARD_ERRORS = 3.0
_SMALLEST_PROBABILITY = 1e-6  # in a divergence: int8 outputs round small ones to zero
_INT8_TOLERANCE = 0.5  # of sums: an int8 softmax of many classes rounds small probabilities to zero


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often a network is right.

    Attributes:
        top1: Fraction of images whose class has the highest score, in [0, 1].
        top5: Fraction of images whose class is among the five highest scores, in [0, 1]; 1 for five classes
            or fewer.
        probability: Mean probability that the network gives the true class, in [0, 1]: how often it would be
            right if its answers were drawn by its probabilities. Of as many images it tells more about a
            network than top-1, where most images say the same of all candidates.
        fidelity: exp(-D) for the mean divergence D = KL(original || network) of the outputs, in (0, 1]; None
            where the original's are not known. It needs no label, and counts what is said of all classes.
            (The predictive KL of Stanton et al., "Does Knowledge Distillation Really Work?", 2021.)
    """

    top1: float
    top5: float
    probability: float
    fidelity: float | None = None


def accuracy(
    predict: Callable[[NDArray[np.float32]], Any],
    data: ImageData,
    *,
    input_range: str,
    batch_size: int = BATCH_SIZE,
    reference: NDArray[np.float32] | None = None,
) -> Accuracy:
    """Measures the accuracy of a network, batch by batch.

    Args:
        predict: Takes float32 [B, H, W, C] in the model's input range and returns scores [B, classes] (logits
            or probabilities, told apart on the first batch): a keras.Model, or
            `lambda images: network(images, weights)`.
        data: Images and labels.
        input_range: How uint8 pixels are scaled, one of INPUT_RANGES.
        batch_size: Images per call; the last batch may be smaller.
        reference: The original's probabilities for these images, see `probabilities`, for the fidelity.

    Returns:
        The accuracy. Equal scores go to the lower class, as in argmax; an image with a NaN score counts as
        wrong, with a probability of 0.

    Raises:
        ModelError: The network does not return one row of scores per image.
        DataError: A label has no score.

    Example:
        >>> from amc_tf.data import ImageData
        >>> data = ImageData(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), 2)
        >>> accuracy(lambda images: np.array([[0.75, 0.25], [0.75, 0.25]]), data, input_range="0..1")
        Accuracy(top1=0.5, top5=1.0, probability=0.5, fidelity=None)
    """
    batches = batch_scores(predict, data, input_range=input_range, batch_size=batch_size)
    return accuracy_of(batches, data.labels, batch_size=batch_size, reference=reference)


def probabilities(
    predict: Callable[[NDArray[np.float32]], Any],
    data: ImageData,
    *,
    input_range: str,
    batch_size: int = BATCH_SIZE,
) -> NDArray[np.float32]:
    """Returns the probabilities [N, classes] that a network gives; the arguments are those of `accuracy`."""
    scores = np.concatenate(list(batch_scores(predict, data, input_range=input_range, batch_size=batch_size)))
    return soften(scores, 1.0, has_softmax=_have_softmax(scores))


def batch_scores(
    predict: Callable[[NDArray[np.float32]], Any],
    data: ImageData,
    *,
    input_range: str,
    batch_size: int = BATCH_SIZE,
) -> Iterator[NDArray[Any]]:
    """Yields the scores [B, classes] of each batch of images; the arguments are those of `accuracy`."""
    for start in range(0, len(data), batch_size):
        yield np.asarray(predict(to_input_range(data.images[start : start + batch_size], input_range)))


def accuracy_of(
    batches: Iterable[NDArray[Any]],
    labels: NDArray[np.int64],
    *,
    batch_size: int = BATCH_SIZE,
    reference: NDArray[np.float32] | None = None,
) -> Accuracy:
    """Returns the accuracy that the scores of a network amount to.

    Args:
        batches: Scores [B, classes] of one batch after the other, logits or probabilities.
        labels: int64 [N], the true classes of all images in that order.
        batch_size: Images of each batch; the last may be smaller.
        reference: As of `accuracy`.

    Raises:
        ModelError: The scores are not one row for each image.
        DataError: A label has no score.
    """
    ranks, true, divergences = [], [], []
    has_softmax: bool | None = None
    for start, scores in zip(range(0, len(labels), batch_size), batches, strict=True):
        own = labels[start : start + batch_size]
        ranks.append(_ranks(scores, own))
        if has_softmax is None:
            has_softmax = _have_softmax(scores)
        softmax = np.nan_to_num(soften(scores, 1.0, has_softmax=has_softmax))
        true.append(softmax[np.arange(len(own)), own])
        if reference is not None:
            divergences.append(_divergence(reference[start : start + batch_size], softmax))
    rank = np.concatenate(ranks)  # [N]
    return Accuracy(
        top1=float(np.mean(rank < 1)),
        top5=float(np.mean(rank < 5)),
        probability=float(np.mean(np.concatenate(true), dtype=np.float64)),
        fidelity=math.exp(-np.mean(np.concatenate(divergences))) if divergences else None,
    )


def _have_softmax(scores: NDArray[Any]) -> bool:
    return are_probabilities(scores[~np.isnan(scores).any(axis=1)], tolerance=_INT8_TOLERANCE)


def _divergence(original: NDArray[np.float32], network: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns KL(original || network) of each image, float64 [B]."""
    p, q = (np.maximum(part.astype(np.float64), _SMALLEST_PROBABILITY) for part in (original, network))
    return np.sum(p * np.log(p / q), axis=1)


def compiled(model: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Returns the function images -> outputs of a model in inference, compiled; the model is left alone.

    A call of the model itself keeps every intermediate result until it ends: 10 GB for 100 images in
    MobileNetV2 at 224.

    Args:
        model: A built functional or Sequential model with one output, Keras 3 or `tf_keras`.
    """
    view = keras_of(model).Model(model.inputs, model.outputs)  # where what Keras compiles is kept

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = view.predict_on_batch(images)
        return np.asarray(outputs[0] if isinstance(outputs, list) else outputs, np.float32)

    return predict


def check_not_chance(
    top1: float,
    num_classes: int,
    *,
    num_images: int,
    input_range: str,
    float_range: tuple[float, float] | None = None,
) -> None:
    """Raises DataError when an untouched model only guesses, as it does on wrongly prepared images.

    The model must be better than guessing by 5 % of what there is to gain (14.5 % with 10 classes, 5.1 % with
    1000), and by three standard errors of guessing on so many images.

    Args:
        top1: The model's top-1 accuracy, in [0, 1].
        num_classes: Number of classes, at least 1.
        num_images: Number of images it was measured on, at least 1.
        input_range: How they were scaled, for the message.
        float_range: Lowest and highest number of float images, which are not scaled; None for uint8.

    Raises:
        DataError: The accuracy cannot be told from guessing.
    """
    chance = 1 / num_classes
    standard_error = math.sqrt(chance * (1 - chance) / num_images)
    if (
        top1 > chance + max(_MIN_GAIN * (1 - chance), _NUM_STANDARD_ERRORS * standard_error)
        or num_classes == 1
    ):
        return
    if float_range is None:
        others = ", ".join(name for name in INPUT_RANGES if name != input_range)
        how = f"The input range is {input_range}; try another (input_range, --input-range): {others}."
    else:
        lowest, highest = float_range
        how = (
            f"They are floats from {lowest:g} to {highest:g} and go to the model as they are: prepare them "
            "as in its training, or give uint8 pixels 0..255 and their input_range."
        )
    raise DataError(
        f"The untouched model is right on {top1:.1%} of {num_images} images, near the {chance:.1%} of "
        f"guessing among {num_classes} classes: its images are probably prepared in another way than in its "
        f"training. {how} Check, too, that the classes are in the order of the model's outputs."
    )


def _ranks(table: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns how many classes come before the true one, int64 [B], from scores [B, classes]."""
    if table.ndim != 2 or len(table) != len(labels):
        raise ModelError(
            f"The network returned the shape {table.shape} for {len(labels)} images, but a classifier "
            "returns one row of scores per image."
        )
    num_outputs = table.shape[1]
    if labels.max() >= num_outputs:
        raise DataError(
            f"The labels go up to {labels.max()}, but the model has {num_outputs} outputs: "
            "use the data the model was trained on."
        )
    own = table[np.arange(len(labels)), labels][:, np.newaxis]  # [B, 1]
    before = (table > own) | ((table == own) & (np.arange(num_outputs) < labels[:, np.newaxis]))
    return np.where(np.isnan(table).any(axis=1), num_outputs + 5, before.sum(axis=1))
