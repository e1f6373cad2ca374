"""Facts about device/tflite_file.py."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.operators import read_operators
from amc_tf.device.tflite_file import pack, unpack


@pytest.fixture(scope="module", params=["float32", "int8", "sparse"])
def tflite(request, classifier, images):
    if request.param == "sparse":
        weights = classifier.get_weights()
        classifier.set_weights([np.where(abs(w) > 0.5, w, 0) if w.ndim == 4 else w for w in weights])
        content = to_tflite(classifier, sparse=True)
        classifier.set_weights(weights)
        return content
    return to_tflite(
        classifier,
        precision=request.param,
        calibration_images=images if request.param == "int8" else None,
    )


def constants(tflite):
    """Returns where each constant of a file begins, and its bytes."""
    model = schema.Model.GetRootAs(tflite, 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    return [
        (buffer._tab.Vector(buffer._tab.Offset(4)), buffer.DataAsNumpy().tobytes())
        for buffer in buffers
        if buffer.DataLength()
    ]


def test_what_is_unpacked_and_packed_is_the_same_network(tflite, images):
    written = bytes(pack(unpack(tflite)))
    assert [content for _, content in constants(written)] == [content for _, content in constants(tflite)]
    assert read_operators(written) == read_operators(tflite)
    np.testing.assert_array_equal(TFLiteRunner(written).predict(images), TFLiteRunner(tflite).predict(images))


def test_constants_are_aligned(tflite):
    starts = [start for start, _ in constants(bytes(pack(unpack(tflite))))]
    assert len(starts) > 6
    assert all(start % 16 == 0 for start in starts)


def test_packing_does_not_change_the_model(tflite):
    model = unpack(tflite)
    assert pack(model) == pack(model)
