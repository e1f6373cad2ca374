import dataclasses
import json
import threading
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from amc_tf import executor as executor_module
from amc_tf.budget import Budget
from amc_tf.calibration import Calibration
from amc_tf.candidate import CandidateBuilder
from amc_tf.cost import Cost
from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.latency import Latency
from amc_tf.device.operators import read_operators
from amc_tf.errors import MeasurementError, ModelError, PhoneError, SettingsError
from amc_tf.evaluate import accuracy, probabilities
from amc_tf.executor import Executor
from amc_tf.image_data import to_input_range
from amc_tf.latency_model import LatencyPredictor
from amc_tf.network import NetworkFunction
from amc_tf.score import Objective, Score, Scorer, Timing
from tests.trained import RANGE, ScriptedMeter, make_classifier, make_split

FULL, HALF = (16, 24, 16), (8, 12, 8)


@pytest.fixture(scope="module")
def network():
    return NetworkFunction(make_classifier(keras))


@pytest.fixture(scope="module")
def builder(network):
    return CandidateBuilder(network, Calibration({}), importance="l2_consumer", reconstruct=False)


@pytest.fixture(scope="module")
def data():
    return make_split().search


class FixedMeter:
    """Answers with the same latency, and counts."""

    name = "fixed"
    runs_elsewhere = False

    def __init__(self, latency):
        self.latency = latency
        self.num_measured = 0

    def measure(self, tflite):
        self.num_measured += 1
        return self.latency


def fixed_timing(network, median_ms, *, baseline_ms=10.0, **reference):
    meter = FixedMeter(Latency.from_samples([median_ms], **reference))
    return Timing(meter, baseline_ms, LatencyPredictor(network.graph, baseline_ms))


def make_scorer(network, builder, data, budget, *, reward="error", timing=None, baseline_ms=10.0, **options):
    limit = budget.resolve(network.graph.count(), baseline_ms)
    objective = Objective(reward, limit, **options)
    return Scorer(
        Executor(network),
        builder,
        data,
        input_range=RANGE,
        objective=objective,
        timing=timing,
        calibration_images=calibration_images(),
    )


def calibration_images():
    return to_input_range(make_split().calibration.images[:32], RANGE)


def test_a_score_tells_accuracy_and_exact_cost(network, builder, data):
    score = make_scorer(network, builder, data, Budget(macs=0.5))(HALF)

    weights = builder.weights(builder.plan(HALF))
    expected = accuracy(network.predictor(weights), data, input_range=RANGE)
    assert (score.top1, score.top5) == (expected.top1, expected.top5)
    assert score.reward == pytest.approx(expected.top1 - 1.0)
    assert score.probability == pytest.approx(expected.probability, abs=1e-6)
    assert score.cost == network.graph.count(HALF)
    assert score.latency_ms is None
    assert score.widths == HALF
    assert score.feasible


@pytest.mark.parametrize(("ratio", "feasible"), [(0.34, True), (0.32, False)])
def test_a_network_over_its_budget_is_not_feasible(network, builder, data, ratio, feasible):
    share = network.graph.count(HALF).macs / network.graph.count().macs
    assert 0.32 < share < 0.34
    assert make_scorer(network, builder, data, Budget(macs=ratio))(HALF).feasible is feasible


def test_the_metric_is_in_the_reward_but_for_a_floor_which_is_one_on_top1(network, builder, data):
    by_probability = make_scorer(network, builder, data, Budget(macs=0.5), metric="probability")(HALF)
    assert by_probability.reward == by_probability.probability - 1.0 != by_probability.top1 - 1.0
    floored = make_scorer(network, builder, data, Budget(macs=0.5), metric="probability", accuracy_floor=0.5)
    assert floored(HALF).reward == by_probability.top1 - 1.0


def test_fidelity_is_measured_and_may_be_the_reward(network, builder, data):
    scorer = make_scorer(network, builder, data, Budget(macs=0.5), metric="fidelity")
    half, full = scorer(HALF), scorer(FULL)
    assert half.reward == half.fidelity - 1.0 < full.fidelity - 1.0
    assert Score.from_json(half.to_json()) == half
    weights, calibration = builder.weights(builder.plan(HALF)), make_split().calibration
    expected = accuracy(
        network.predictor(weights),
        calibration,
        input_range=RANGE,
        reference=probabilities(network.predictor(network.weights), calibration, input_range=RANGE),
    )
    assert scorer.rescore(half, weights, calibration).fidelity == pytest.approx(expected.fidelity, abs=1e-5)
    assert make_scorer(network, builder, data, Budget(macs=0.5))(HALF).fidelity == half.fidelity
    floored = make_scorer(network, builder, data, Budget(macs=0.5), metric="fidelity", accuracy_floor=0.5)
    assert floored(HALF).reward == floored(HALF).top1 - 1.0


@pytest.mark.parametrize(("floor", "feasible"), [(0.0, True), (0.8, True), (0.99, False)])
def test_a_network_below_the_accuracy_floor_is_not_feasible(network, builder, data, floor, feasible):
    scorer = make_scorer(network, builder, data, Budget(accuracy=0.9), reward="macs", accuracy_floor=floor)
    score = scorer(FULL)
    assert 0.8 < score.top1 < 0.99
    assert score.feasible is feasible
    error = max(1 - score.top1, 1 - floor if floor else 0.0)
    assert score.reward == pytest.approx(-error * np.log(score.cost.macs))


def test_a_latency_is_the_ratio_to_the_reference_times_the_baseline(network, builder, data):
    # The device is slow for a while: 12 ms, but only 0.4 of the reference at the same time.
    timing = fixed_timing(network, 12.0, reference_median_ms=30.0)
    score = make_scorer(network, builder, data, Budget(latency=0.5), timing=timing)(HALF)
    assert score.latency_ms == pytest.approx(4.0)
    assert score.feasible


def test_without_a_reference_the_median_counts(network, builder, data):
    timing = fixed_timing(network, 4.5)
    score = make_scorer(network, builder, data, Budget(latency=0.5), timing=timing)(HALF)
    assert score.latency_ms == 4.5


def test_drift_of_the_device_changes_nothing(network, builder, data):
    found = []
    for drift in (1.0, 3.0):
        meter = ScriptedMeter(reference=bytes(20000), drift=drift)
        timing = Timing(meter, 2.0, LatencyPredictor(network.graph, 2.0))
        scorer = make_scorer(network, builder, data, Budget(latency=0.5), timing=timing, baseline_ms=2.0)
        found.append(scorer(HALF).latency_ms)
    assert found[0] == pytest.approx(found[1])


def test_what_a_network_is_too_slow_is_taken_off_its_reward(network, builder, data):
    slow, fast = (
        make_scorer(network, builder, data, Budget(latency=0.5), timing=fixed_timing(network, ms))(HALF)
        for ms in (6.0, 5.0)
    )
    assert fast.feasible
    assert fast.reward == pytest.approx(fast.top1 - 1.0)
    assert not slow.feasible
    assert slow.reward == pytest.approx(slow.top1 - 1.0 - 0.2)  # 6 ms are 20 % over the 5 ms allowed


def test_a_measured_latency_beside_another_budget_costs_no_reward(network, builder, data):
    timing = fixed_timing(network, 600.0)
    score = make_scorer(network, builder, data, Budget(macs=0.5), timing=timing)(HALF)
    assert (score.latency_ms, score.feasible) == (600.0, True)
    assert score.reward == pytest.approx(score.top1 - 1.0)


def test_the_soft_latency_reward_gets_target_and_exponent(network, builder, data):
    scorer = make_scorer(
        network,
        builder,
        data,
        Budget(latency=0.5),
        reward="soft_latency",
        timing=fixed_timing(network, 2.5),
        latency_exponent=-0.5,
    )
    score = scorer(HALF)
    assert score.reward == pytest.approx(score.top1 * 0.5**-0.5)


def test_every_measurement_teaches_the_predictor(network, builder, data):
    timing = fixed_timing(network, 4.0)
    before = timing.predictor.predict(HALF)
    make_scorer(network, builder, data, Budget(latency=0.5), timing=timing)(HALF)
    assert abs(timing.predictor.predict(HALF) - 4.0) < abs(before - 4.0)


class KeepingMeter(ScriptedMeter):
    """Keeps the last network that it timed."""

    def measure(self, tflite):
        object.__setattr__(self, "last", tflite)
        return super().measure(tflite)


def test_int8_latency_is_that_of_the_candidate_as_an_int8_network(network, builder, data):
    scores, kinds = {}, {}
    for precision in ("float32", "int8"):
        meter = KeepingMeter(reference=bytes(20000))
        timing = Timing(meter, 2.0, LatencyPredictor(network.graph, 2.0), precision)
        scorer = make_scorer(network, builder, data, Budget(latency=0.9), timing=timing, baseline_ms=2.0)
        scores[precision] = scorer(HALF)
        kinds[precision] = {item.precision for item in read_operators(meter.last) if item.num_weights}
        assert scores[precision].latency_ms == pytest.approx(2.0 * len(meter.last) / 20000)
    assert kinds == {"float32": {"float32"}, "int8": {"int8"}}
    assert scores["int8"].latency_ms != scores["float32"].latency_ms
    assert scores["int8"].top1 == scores["float32"].top1


def test_int8_accuracy_is_that_of_the_int8_network(network, builder, data):
    plain, quantized = (
        make_scorer(network, builder, data, Budget(macs=0.5), int8_accuracy=asked)(HALF)
        for asked in (False, True)
    )
    weights = builder.weights(builder.plan(HALF))
    tflite = to_tflite(
        network.bind(weights),
        precision="int8",
        calibration_images=calibration_images(),
        input_shape=network.input_shape,
    )
    expected = accuracy(TFLiteRunner(tflite).predict, data, input_range=RANGE)
    assert (quantized.top1, quantized.top5) == (expected.top1, expected.top5)
    assert quantized.reward == pytest.approx(expected.top1 - 1.0)
    assert quantized.cost == plain.cost


def test_a_network_is_scored_once(network, builder, data):
    timing = fixed_timing(network, 4.0)
    scorer = make_scorer(network, builder, data, Budget(latency=0.5), timing=timing)
    first = scorer(HALF)
    assert scorer(list(HALF)) is first
    assert scorer(np.array(HALF)) is first
    assert timing.meter.num_measured == 1
    scorer(FULL)
    assert timing.meter.num_measured == 2


def test_a_remembered_score_is_returned_without_work(network, data):
    broken = SimpleNamespace(plan=None, weights=None)
    scorer = make_scorer(network, broken, data, Budget(macs=0.5))
    known = Score(HALF, -0.5, 0.5, 0.9, 0.5, Cost(1, 2), None, True)
    scorer.remember(known)
    assert scorer(HALF) is known


def test_a_failed_measurement_is_not_remembered(network, builder, data, monkeypatch):
    timing = fixed_timing(network, 4.0)
    scorer = make_scorer(network, builder, data, Budget(latency=0.5), timing=timing)

    def fail(*_, **__):
        raise MeasurementError("The phone is gone.")

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "to_tflite", fail)
        with pytest.raises(MeasurementError):
            scorer(HALF)
    assert scorer(HALF).latency_ms == 4.0


class MeetingMeter(ScriptedMeter):
    """Times a network only once its accuracy is being evaluated in another thread."""

    def __init__(self, barrier, **fields):
        super().__init__(**fields)
        object.__setattr__(self, "barrier", barrier)

    def measure(self, tflite):
        self.barrier.wait(timeout=10)
        return super().measure(tflite)


def test_a_phone_times_a_network_while_its_accuracy_is_evaluated_here(network, builder, data, monkeypatch):
    barrier = threading.Barrier(2)

    def meet(*args, **options):
        barrier.wait(timeout=10)
        return accuracy(*args, **options)

    timing = Timing(MeetingMeter(barrier, runs_elsewhere=True), 2.0, LatencyPredictor(network.graph, 2.0))
    alone = Timing(ScriptedMeter(), 2.0, LatencyPredictor(network.graph, 2.0))
    expected = make_scorer(network, builder, data, Budget(latency=0.5), timing=alone, baseline_ms=2.0)(HALF)
    monkeypatch.setattr(executor_module, "accuracy", meet)
    overlapped = make_scorer(network, builder, data, Budget(latency=0.5), timing=timing, baseline_ms=2.0)
    assert overlapped(HALF) == expected
    assert timing.predictor.predict(HALF) == alone.predictor.predict(HALF)


def test_this_machine_times_a_network_while_it_does_nothing_else(network, builder, data, monkeypatch):
    events = []

    def evaluate(*args, **options):
        events.append("accuracy begins")
        found = accuracy(*args, **options)
        events.append("accuracy ends")
        return found

    class Noting(ScriptedMeter):
        def measure(self, tflite):
            events.append("measured")
            return super().measure(tflite)

    timing = Timing(Noting(runs_elsewhere=False), 2.0, LatencyPredictor(network.graph, 2.0))
    monkeypatch.setattr(executor_module, "accuracy", evaluate)
    make_scorer(network, builder, data, Budget(latency=0.5), timing=timing, baseline_ms=2.0)(HALF)
    assert events == ["accuracy begins", "accuracy ends", "measured"]


@pytest.mark.parametrize("error", [PhoneError("The phone is gone."), KeyboardInterrupt()], ids=type)
def test_what_ends_a_measurement_on_a_phone_reaches_the_caller(network, builder, data, error):
    class Failing(ScriptedMeter):
        def measure(self, tflite):
            raise error

    timing = Timing(Failing(runs_elsewhere=True), 2.0, LatencyPredictor(network.graph, 2.0))
    scorer = make_scorer(network, builder, data, Budget(latency=0.5), timing=timing, baseline_ms=2.0)
    threads, untaught = threading.active_count(), timing.predictor.predict(HALF)
    with pytest.raises(type(error)) as caught:
        scorer(HALF)
    assert caught.value is error
    assert threading.active_count() == threads
    assert timing.predictor.predict(HALF) == untaught


def test_a_network_that_cannot_be_evaluated_is_told_though_a_phone_timed_it(
    network, builder, data, monkeypatch
):
    def fail(*_, **__):
        raise ModelError("The network returned nothing.")

    monkeypatch.setattr(executor_module, "accuracy", fail)
    timing = Timing(ScriptedMeter(runs_elsewhere=True), 2.0, LatencyPredictor(network.graph, 2.0))
    with pytest.raises(ModelError, match="returned nothing"):
        make_scorer(network, builder, data, Budget(latency=0.5), timing=timing, baseline_ms=2.0)(HALF)
    assert len(timing.meter.seen) == 1


def test_a_score_survives_json_to_the_last_bit():
    score = Score((8, 12), -1 / 3, 2 / 3, 0.1 + 0.2, 1 / 9, Cost(10**12 + 1, 7), 1 / 7, False)
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert score.to_json()["bytes"] == 28


def test_of_equal_rewards_more_operations_rank_higher():
    small = Score((8,), -0.5, 0.5, 1.0, 0.5, Cost(100, 5), None, True)
    large = dataclasses.replace(small, cost=Cost(101, 5))
    better = dataclasses.replace(small, reward=-0.4)
    assert small.rank < large.rank < better.rank


def test_an_unknown_reward_is_refused_at_construction(network, builder, data):
    with pytest.raises(SettingsError, match="There is no reward 'best'; choose one of error, macs"):
        make_scorer(network, builder, data, Budget(macs=0.5), reward="best")


def test_a_score_of_a_sparse_network_keeps_the_bytes_of_its_masks():
    score = Score((3,), 0.5, 0.9, 1.0, 0.8, Cost(10, 7, mask_bytes=5), None, True)
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert score.to_json()["bytes"] == 33
