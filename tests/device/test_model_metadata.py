"""Facts about device/model_metadata.py and device/metadata_schema.py."""

import dataclasses

import keras
import numpy as np
import pytest

from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.model_metadata import ClassifierMetadata, add_metadata, read_shape
from amc_tf.device.operators import read_operators
from amc_tf.device.tflite_file import unpack
from amc_tf.errors import ModelError
from tests.metadata_reader import metadata_buffer, packed_files, read_metadata
from tests.tflite_files import chain

LABELS = ("cat", "dog", "Häher", "a b", "5")
METADATA = ClassifierMetadata("small", "Tells five.", (127.5, 120.0, 110.5), (127.5, 60.0, 61.0), LABELS)


@pytest.fixture(scope="module", params=["float32", "int8"])
def tflite(request, classifier, images):
    return to_tflite(
        classifier,
        precision=request.param,
        calibration_images=images if request.param == "int8" else None,
    )


def test_the_metadata_read_back(tflite):
    found = read_metadata(add_metadata(tflite, METADATA))
    expected = {
        "name": "small",
        "description": "Tells five.",
        "min_parser_version": "1.0.0",
        "color_space": 1,
        "width": 16,
        "height": 16,
        "mean": [127.5, 120.0, 110.5],
        "std": [127.5, 60.0, 61.0],
        "output": "probability",
        "labels_file": "labels.txt",
        "labels_type": 2,
    }
    assert {name: found[name] for name in expected} == expected


def test_stats_are_what_black_and_white_pixels_become_in_the_tensor(tflite):
    written = add_metadata(tflite, METADATA)
    details = TFLiteRunner(tflite)._interpreters[0].get_input_details()[0]
    values = (np.array([[0.0], [255.0]]) - METADATA.mean) / METADATA.std
    if details["dtype"] == np.int8:
        scale, zero_point = details["quantization"]
        values = np.clip(np.rint(values / scale) + zero_point, -128, 127)
        assert values[:, 0].tolist() == [-128, 127]
    found = read_metadata(written)
    np.testing.assert_allclose([found["min"], found["max"]], values, rtol=1e-6)


def test_labels_are_packed_into_the_file(tflite):
    written = add_metadata(tflite, METADATA)
    assert packed_files(written) == {"labels.txt": "cat\ndog\nHäher\na b\n5\n".encode()}


def test_the_network_stays_as_it_is(tflite, images):
    written = add_metadata(tflite, METADATA)
    assert read_operators(written) == read_operators(tflite)
    np.testing.assert_array_equal(TFLiteRunner(written).predict(images), TFLiteRunner(tflite).predict(images))
    names = [entry.name for entry in unpack(tflite).metadata]
    assert [entry.name for entry in unpack(written).metadata] == [*names, b"TFLITE_METADATA"]


def test_metadata_are_replaced_and_equal_networks_make_equal_files(tflite):
    written = add_metadata(tflite, METADATA)
    assert add_metadata(tflite, METADATA) == written
    again = add_metadata(written, dataclasses.replace(METADATA, name="other", labels=tuple("abcde")))
    assert read_metadata(again)["name"] == "other"
    assert packed_files(again) == {"labels.txt": b"a\nb\nc\nd\ne\n"}
    assert metadata_buffer(again) != metadata_buffer(written)


def test_a_grey_network_without_softmax_says_so():
    image = keras.Input((6, 8, 1))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(image))
    tflite = to_tflite(keras.Model(image, outputs))
    assert read_shape(tflite).image_size == (6, 8, 1)
    found = read_metadata(add_metadata(tflite, ClassifierMetadata("grey", "Two.", (0,), (255,), ("a", "b"))))
    assert (found["color_space"], found["width"], found["height"]) == (2, 8, 6)
    assert found["output"] == "score"
    assert (found["mean"], found["std"], found["min"], found["max"]) == ([0], [255], [0], [1])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"labels": LABELS[:4]}, "There are 4 labels, but the TFLite network has 5 classes"),
        ({"mean": (0.0,)}, "of 1 and 3 channels, but the images of the TFLite network have 3"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(tflite, changed, words):
    with pytest.raises(ModelError, match=words):
        add_metadata(tflite, dataclasses.replace(METADATA, **changed))


def test_what_is_no_image_classifier_is_refused():
    image = keras.Input((8, 8, 4))
    features = keras.layers.Conv2D(2, 3)(image)
    with pytest.raises(ModelError, match=r"takes \[1, 8, 8, 4\] and gives \[1, 6, 6, 2\], but a classifier"):
        read_shape(to_tflite(keras.Model(image, features)))


def test_a_damaged_file_is_refused():
    whole = chain([8, 5])
    for length in (10, 200, len(whole) // 2):
        with pytest.raises(ModelError, match=r"no TFLite network|is damaged|are damaged|cannot be read"):
            add_metadata(whole[:length], METADATA)
