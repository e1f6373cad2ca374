"""Facts about amc_tf/keras_data.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import amc_tf
from amc_tf.errors import DataError
from amc_tf.image_data import ImageData
from amc_tf.keras_data import as_image_data

IMAGES = np.arange(60, dtype=np.uint8).reshape(10, 2, 3, 1)
LABELS = np.tile([0, 1, 2, 3, 1], 2)
ONE_HOT = np.eye(5, dtype=np.float32)[LABELS]


def batch_of(index, labels=LABELS):
    return IMAGES[4 * index : 4 * index + 4], labels[4 * index : 4 * index + 4]


class Batches(keras.utils.PyDataset):
    def __init__(self, labels=LABELS):
        super().__init__()
        self.labels = labels

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return batch_of(index, self.labels)


class NumberedBatches(keras.utils.PyDataset):
    """Says how many batches it has as Keras asks for it; None: it never ends."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    @property
    def num_batches(self):
        return self.number

    def __getitem__(self, index):
        return batch_of(index)


class Sequence(tf_keras.utils.Sequence):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return batch_of(index)


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts)


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS),
        [list(IMAGES), LABELS.tolist()],
        (tf.constant(IMAGES), tf.constant(LABELS)),
        (IMAGES, LABELS[:, None].astype(float)),
        dataset(IMAGES, LABELS),
        dataset(IMAGES, LABELS).batch(4),
        dataset(IMAGES, LABELS).batch(4).filter(lambda images, labels: True),  # of unknown length
        dataset(IMAGES, LABELS[:, None]).batch(4),
        Batches(),
        NumberedBatches(3),
        Sequence(),
    ],
    ids="tuple list tensors column single batched filtered columns PyDataset num_batches Sequence".split(),
)
def test_what_keras_users_train_with_becomes_the_same_data(data):
    converted = as_image_data(data)
    np.testing.assert_array_equal(converted.images, IMAGES)
    np.testing.assert_array_equal(converted.labels, LABELS)
    assert converted.num_classes == 4


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, ONE_HOT),
        (IMAGES, ONE_HOT.astype(bool)),
        dataset(IMAGES, ONE_HOT),
        dataset(IMAGES, ONE_HOT.astype(int)).batch(4),
        Batches(ONE_HOT),
    ],
    ids="floats booleans single batched PyDataset".split(),
)
def test_one_hot_labels_become_numbers_and_tell_how_many_classes_there_are(data):
    converted = as_image_data(data)
    np.testing.assert_array_equal(converted.labels, LABELS)
    np.testing.assert_array_equal(converted.images, IMAGES)
    assert converted.num_classes == 5, "the last class has no image"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_stay_what_they_are(dtype):
    converted = as_image_data(dataset((IMAGES / 128 - 1).astype(dtype), LABELS).batch(4))
    assert converted.images.dtype == np.float32
    np.testing.assert_allclose(converted.images, IMAGES / 128 - 1, atol=1e-3)


def test_image_data_is_passed_through_and_classes_can_be_given():
    data = ImageData(IMAGES, LABELS, 4)
    assert as_image_data(data) is data
    assert as_image_data((IMAGES, LABELS), num_classes=7).num_classes == 7
    assert as_image_data((IMAGES, ONE_HOT), num_classes=7).num_classes == 7


def test_the_function_is_public():
    assert amc_tf.as_image_data((IMAGES, LABELS)).image_size == (2, 3, 1)


SMOOTH = 0.9 * ONE_HOT + 0.02
RAGGED = tf.data.Dataset.from_tensors((tf.ragged.constant([[1, 2], [3]]), [0, 1]))
UNEVEN = tf.data.Dataset.from_generator(
    lambda: ((np.zeros((size, 2, 1), np.uint8), 0) for size in (2, 3)),
    output_signature=(tf.TensorSpec((None, 2, 1), tf.uint8), tf.TensorSpec((), tf.int64)),
)
RAGGED_IMAGES = UNEVEN.ragged_batch(2)
GREY = IMAGES[..., 0]


class UnevenBatches(Batches):
    def __getitem__(self, index):
        return [np.zeros((2, 2, 1)), np.zeros((3, 2, 1))], [0, 1]


class FailingBatches(Batches):
    def __getitem__(self, index):
        if index == 1:
            raise OSError("the disk is gone")
        return batch_of(index)


def fail_after_one():
    yield IMAGES[0], 0
    raise OSError("the disk is gone")


FAILING = tf.data.Dataset.from_generator(
    fail_after_one, output_signature=(tf.TensorSpec((2, 3, 1), tf.uint8), tf.TensorSpec((), tf.int64))
)


@pytest.mark.parametrize(
    ("data", "error"),
    [(FailingBatches(), "OSError"), (FAILING, "UnknownError")],
    ids=["PyDataset", "tf.data"],
)
def test_a_batch_that_cannot_be_read_is_named_with_its_reason(data, error):
    with pytest.raises(
        DataError, match=rf"Batch 1 of the data set failed with {error}: (?s:.*)the disk is gone"
    ):
        as_image_data(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("photos", r"cannot be made of a str: give an ImageData, a pair"),
        ((batch for batch in ()), "cannot be made of a generator"),
        (keras.Sequential(), "cannot be made of a Sequential"),
        (tf_keras.Sequential(), "cannot be made of a Sequential"),
        ((IMAGES, LABELS, LABELS), r"tuple of 3 \(sample weights are not used"),
        (dataset(IMAGES, LABELS).repeat(), r"never ends: leave out \.repeat\(\)"),
        (NumberedBatches(None), "NumberedBatches never ends"),
        (tf.data.Dataset.from_tensor_slices(IMAGES), "must yield pairs"),
        (dataset(IMAGES, LABELS).take(0), "is empty"),
        (dataset(IMAGES, LABELS, LABELS).batch(4), r"sample weights .*\.map\(lambda image, label, weight"),
        (
            tf.data.Dataset.from_tensor_slices({"image": IMAGES, "label": LABELS}),
            r"dictionaries of image, label, but .* \(row\['image'\]",
        ),
        (tf.data.Dataset.from_tensor_slices(({"a": IMAGES}, LABELS)), "images .* are dictionaries of a"),
        (RAGGED, r"images of the data set are ragged, .* before \.batch\(\)"),
        (RAGGED_IMAGES, "images of the data set are ragged"),
        (UnevenBatches(), "images of the data set are ragged"),
        (UNEVEN, r"images of \(2, 2, 1\) and \(3, 2, 1\)"),
        (dataset(GREY, LABELS), r"shape \(2, 3\) with labels of the shape \(\), but .* 1 channel"),
        (dataset(GREY, LABELS).batch(4), r"shape \(4, 2, 3\) with labels of the shape \(4,\), but"),
        (dataset(GREY, ONE_HOT).batch(4), r"shape \(4, 2, 3\) with labels of the shape \(4, 5\), but"),
        (dataset(IMAGES, LABELS).batch(4).batch(2), r"shape \(2, 4, 2, 3, 1\) with labels"),
        ((IMAGES, SMOOTH), r"shape \(10, 5\), but are not one-hot: .* label smoothing"),
        ((IMAGES, 1 - ONE_HOT), "not one-hot"),
        ((IMAGES, LABELS.astype(str)), "labels are text"),
        (dataset(IMAGES, LABELS.astype(str)).batch(4), "labels are text"),
        ((IMAGES, LABELS[:3]), "10 images but 3 labels"),
    ],
)
def test_what_is_no_image_data_is_refused_with_what_to_do(data, words):
    with pytest.raises(DataError, match=words):
        as_image_data(data)
