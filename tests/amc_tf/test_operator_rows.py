"""Facts about amc_tf/operator_rows.py."""

import keras
import pytest

from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.convert import to_tflite
from amc_tf.device.operators import Operator, read_operators
from amc_tf.errors import PhoneError
from amc_tf.graph import ChannelGraph
from amc_tf.operator_rows import pair_operators, profile_operators
from amc_tf.plan import uniform_plan
from amc_tf.rebuild import rebuild
from tests.trained import ScriptedMeter, make_classifier


class Profiling(ScriptedMeter):
    """A meter that takes a microsecond for each 1000 multiply-accumulates, and one for each operator."""

    def profile(self, tflite):
        operators = read_operators(tflite)
        return [OperatorTime(it.kind, "", 0.001 + 1e-6 * it.macs, None, 0.1, 0.0, 1) for it in operators]


@pytest.fixture(scope="module")
def networks():
    model = make_classifier(keras)
    plan = uniform_plan(ChannelGraph.from_model(model), keep_ratio=0.5)
    return to_tflite(model), to_tflite(rebuild(model, plan))


def test_each_operator_has_its_times_before_and_after(networks):
    rows = profile_operators(Profiling(), *networks)["rows"]
    original, slim = (read_operators(tflite) for tflite in networks)
    weighted = [operator for operator in original if operator.num_weights]
    assert len(rows) >= len(weighted) > 2
    macs = sum(operator.macs for operator in original), sum(operator.macs for operator in slim)
    assert sum(row["before_ms"] for row in rows) == pytest.approx(0.001 * len(rows) + 1e-6 * macs[0])
    assert sum(row["after_ms"] for row in rows) == pytest.approx(0.001 * len(rows) + 1e-6 * macs[1])
    assert rows[0]["name"] == "1 conv 3×3 to 8×8"
    assert macs[0] > macs[1]


def test_a_meter_that_cannot_profile_gives_none(networks):
    assert profile_operators(ScriptedMeter(), *networks) is None
    assert profile_operators(None, *networks) is None


def test_a_profile_that_cannot_be_had_is_told_not_raised(networks):
    class Gone(Profiling):
        def profile(self, tflite):
            raise PhoneError("The phone is gone.")

    class Foreign(Profiling):
        def profile(self, tflite):
            return [OperatorTime("GPU", "", 1.0, None, 1.0, 0.0, 1)]

    assert profile_operators(Gone(), *networks) == {"error": "The phone is gone."}
    assert "of other operators" in profile_operators(Foreign(), *networks)["error"]


def test_operators_of_other_kinds_are_not_paired():
    one, other = Operator("CONV_2D", (8, 8, 3), (8, 8, 4)), Operator("MEAN", (8, 8, 4), (1, 1, 4))
    assert "none can be paired" in pair_operators([one, other], [1.0, 1.0], [one], [1.0])["error"]


def test_operators_without_a_time_are_left_out_and_the_rest_keep_their_numbers():
    operators = [Operator("PAD", (8, 8, 3), (9, 9, 3)), Operator("FULLY_CONNECTED", (1, 1, 9), (1, 1, 4))]
    found = pair_operators(operators, [None, 1.0], operators, [None, 0.5])
    assert found == {"rows": [{"name": "2 dense", "before_ms": 1.0, "after_ms": 0.5}]}
