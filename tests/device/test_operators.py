"""Facts about device/operators.py."""

import keras
import numpy as np
import pytest

from amc_tf.device.convert import to_tflite
from amc_tf.device.operators import Operator, assign_times, read_operators, structure
from amc_tf.errors import MeasurementError, ModelError


@pytest.fixture(scope="module")
def tflite(classifier):
    return to_tflite(classifier)


def test_every_operator_is_read_with_its_sizes(tflite):
    operators = read_operators(tflite)
    assert operators[0] == Operator("CONV_2D", (16, 16, 3), (8, 8, 8), (3, 3), (2, 2))
    assert operators[1] == Operator("DEPTHWISE_CONV_2D", (8, 8, 8), (8, 8, 8), (3, 3))
    assert operators[2] == Operator("CONV_2D", (8, 8, 8), (8, 8, 16))
    assert operators[3] == Operator("DEPTHWISE_CONV_2D", (8, 8, 16), (4, 4, 16), (3, 3), (2, 2))
    kinds = [operator.kind for operator in operators[5:]]
    assert kinds == ["MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    assert operators[6].input == (1, 1, 24) and operators[6].output == (1, 1, 5)


def test_multiply_accumulates_equal_a_hand_count(tflite):
    macs = [operator.macs for operator in read_operators(tflite)]
    assert macs == [8 * 8 * 27 * 8, 8 * 8 * 9 * 8, 8 * 8 * 8 * 16, 4 * 4 * 9 * 16, 4 * 4 * 16 * 24, 0, 120, 0]


def test_grouped_pooled_and_transposed_layers_are_read():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(8, 3, groups=2, padding="same"),
            layers.AveragePooling2D((4, 2), strides=2),
            layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    operators = {operator.kind: operator for operator in read_operators(to_tflite(model))}
    assert operators["CONV_2D"].groups == 2
    assert operators["CONV_2D"].macs == 8 * 8 * 9 * 2 * 8
    assert operators["AVERAGE_POOL_2D"].kernel == (4, 2) and operators["AVERAGE_POOL_2D"].stride == (2, 2)
    transposed = operators["TRANSPOSE_CONV"]
    assert transposed.input == (3, 4, 8)
    assert transposed.macs == 3 * 4 * 9 * 8 * 6
    assert operators["FULLY_CONNECTED"].macs == 6 * 8 * 6 * 5


def test_the_precision_is_that_of_the_arithmetic_and_the_weights(classifier, images):
    names = {
        precision: read_operators(to_tflite(classifier, precision=precision, calibration_images=images))
        for precision in ("float32", "float16", "int8")
    }
    assert {name: operators[2].precision for name, operators in names.items()} == {
        "float32": "float32",
        "float16": "float16",
        "int8": "int8",
    }
    assert [operator.kind for operator in names["float16"]] == [item.kind for item in names["float32"]]


def test_the_structure_ignores_the_values_of_weights_only(classifier, tflite):
    other = keras.models.clone_model(classifier)
    digest = structure(read_operators(tflite))
    assert structure(read_operators(to_tflite(other))) == digest
    operators = read_operators(tflite)
    assert structure(operators[:-1]) != digest


def test_rows_survive_a_round_trip(tflite):
    operators = read_operators(tflite)
    assert tuple(Operator.from_row(operator.to_row()) for operator in operators) == operators


@pytest.mark.parametrize(
    "row",
    [None, [], ["CONV_2D"], ["CONV_2D", *[1] * 10, 0, "float32"], ["CONV_2D", *[1] * 10, 1.5, "float32"],
     ["CONV_2D", *[1] * 10, 1 << 40, "float32"], [3, *[1] * 11, "float32"], ["CONV_2D", *[True] * 11, "f"]],
)  # fmt: skip
def test_rows_that_no_operator_has_are_refused(row):
    with pytest.raises(MeasurementError, match="is no operator: expected kind, 11 sizes"):
        Operator.from_row(row)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x00\x00\x00\x00TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 60]
)
def test_bytes_that_are_no_network_are_refused(content):
    with pytest.raises(ModelError, match="no TFLite network|cannot be read"):
        read_operators(content)


def test_damaged_networks_raise_nothing_but_the_projects_own_error(tflite):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(tflite[: rng.integers(40, len(tflite))] if rng.random() < 0.2 else tflite)
        for place in rng.integers(8, len(damaged), size=rng.integers(1, 40)):
            damaged[place] = rng.integers(256)
        try:
            assert all(operator.macs >= 0 for operator in read_operators(bytes(damaged)))
        except ModelError as error:
            refused += "cannot be read" in str(error)
    assert refused > 100


MOBILE = (
    Operator("CONV_2D", (8, 8, 3), (8, 8, 8), (3, 3)),
    Operator("DEPTHWISE_CONV_2D", (8, 8, 8), (8, 8, 8), (3, 3)),
    Operator("CONV_2D", (8, 8, 8), (8, 8, 16)),
    Operator("MEAN", (8, 8, 16), (1, 1, 16)),
    Operator("FULLY_CONNECTED", (1, 1, 16), (1, 1, 4)),
    Operator("SOFTMAX", (1, 1, 4), (1, 1, 4)),
)


def test_a_profile_of_xnnpack_is_assigned_to_the_operators():
    profile = [
        ("Convolution (NHWC, F32) IGEMM", 0.7),
        ("Convolution (NHWC, F32) DWConv", 0.3),
        ("Fully Connected (NC, F32) GEMM", 0.5),
        ("Mean (ND) Reduce2", 0.01),
        ("Fully Connected (NC, F32) GEMM", 0.2),
        ("Copy (NC, X32)", 0.001),
        ("Softmax (NC, F32)", 0.002),
    ]
    assert assign_times(MOBILE, profile) == (0.7, 0.3, 0.5, 0.01, 0.2, 0.002)


def test_a_profile_of_tflite_kernels_is_assigned_where_an_operator_is_missing():
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED", "SOFTMAX")
    times = assign_times(MOBILE, [(kind, 1.0 + index) for index, kind in enumerate(kinds)])
    assert times == (1.0, 2.0, 3.0, None, 4.0, 5.0)


def test_a_profile_of_other_work_is_not_assigned():
    assert assign_times(MOBILE, [("TfLiteXNNPackDelegate", 1.7)]) is None
    assert assign_times(MOBILE, [(item.kind, 1.0) for item in (*MOBILE, MOBILE[0])]) is None
