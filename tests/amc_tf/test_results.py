import keras
import pytest

from amc_tf.device.convert import to_tflite
from amc_tf.device.latency import Latency
from amc_tf.device.operators import read_operators, structure
from amc_tf.errors import MeasurementError, PhoneError
from amc_tf.graph import count_cost
from amc_tf.image_data import to_input_range
from amc_tf.results import ResultMeasurer
from tests.trained import RANGE, ScriptedMeter, make_classifier, make_data

DATA = make_data(40, 1)


class Refusing(ScriptedMeter):
    """Times no network beside another, and says why."""

    def with_reference(self, tflite):
        raise MeasurementError("The table has timed float32 networks only.")


class Gone(ScriptedMeter):
    def measure(self, tflite):
        raise PhoneError("The phone is gone.")


class Predicting(ScriptedMeter):
    def measure(self, tflite):
        return Latency(2.0, 1.8, 2.4, 0.1, 1, noise=0.02, predicted=True, conditions={"battery_c": 30.0})


@pytest.fixture(scope="module")
def int8():
    return to_tflite(
        make_classifier(keras),
        precision="int8",
        calibration_images=to_input_range(DATA.images, RANGE),
        input_shape=(8, 8, 3),
    )


def measure(int8, meter):
    measurer = ResultMeasurer(DATA, input_range=RANGE, meter=meter)
    return measurer.measure_tflite(int8, cost=count_cost(make_classifier(keras)), reference=int8)


def test_a_precision_that_cannot_be_timed_is_told_and_not_raised(int8):
    value = measure(int8, Refusing()).to_json()
    assert value["latency_ms"] is None
    assert value["not_timed"] == "The table has timed float32 networks only."
    assert value["top1"] > 0.7
    assert value["structure"] == structure(read_operators(int8))


def test_a_phone_that_is_gone_is_raised(int8):
    with pytest.raises(PhoneError, match="gone"):
        measure(int8, Gone())


def test_a_prediction_and_the_conditions_of_a_latency_are_told(int8):
    value = measure(int8, Predicting()).to_json()
    assert "not_timed" not in value
    assert value["latency_ms"] == {
        "median": 2.0, "p5": 1.8, "p95": 2.4, "ratio": None, "noise": 0.02, "predicted": True, "num_runs": 1,
        "conditions": {"battery_c": 30.0},
    }  # fmt: skip
