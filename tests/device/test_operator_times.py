"""Facts about device/operator_times.py: it learns devices with steps, from profiles and from totals."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from amc_tf.device.operator_times import OperatorTimes, TimedNetwork
from amc_tf.device.operators import Operator
from amc_tf.errors import MeasurementError


def network(widths, *, size=32):
    """A chain of depthwise and 1x1 convolutions, every second one with stride 2, and a classifier."""
    operators = [Operator("CONV_2D", (2 * size, 2 * size, 3), (size, size, widths[0]), (3, 3), (2, 2))]
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        image, stride = (size, size), 1 + index % 2
        size //= stride
        depthwise = Operator(
            "DEPTHWISE_CONV_2D", (*image, before), (size, size, before), (3, 3), (stride,) * 2
        )
        operators += [depthwise, Operator("CONV_2D", (size, size, before), (size, size, after))]
    operators.append(Operator("MEAN", (size, size, widths[-1]), (1, 1, widths[-1])))
    operators.append(Operator("FULLY_CONNECTED", (1, 1, widths[-1]), (1, 1, 10)))
    return tuple(operators)


def true_time(operator):
    """A device whose kernels fill tiles of 16 channels; depthwise ones crawl through other widths."""
    tiled = math.ceil(operator.output[2] / 16) * 16 / operator.output[2]
    if operator.kind == "DEPTHWISE_CONV_2D":
        return 0.001 + operator.macs * (6e-7 if operator.output[2] % 16 == 0 else 9e-7)
    if operator.num_weights:
        return 0.001 + operator.macs * tiled * 2e-7 + operator.num_weights * 1e-6
    return 0.002 + 3e-7 * math.prod(operator.input)


def timed(widths, *, profile=True):
    operators = network(widths)
    times = tuple(map(true_time, operators))
    return TimedNetwork(operators, sum(times), times if profile else None)


def random_widths(rng):
    return tuple(8 * int(rng.integers(1, 13)) for _ in range(5))


def errors(times, networks):
    return [abs(times.predict(item.operators).sum() / item.total_ms - 1) for item in networks]


@pytest.fixture(scope="module")
def unseen():
    rng = np.random.default_rng(7)
    return [timed(random_widths(rng)) for _ in range(30)]


def test_timed_operators_are_met_and_steps_survive():
    times = OperatorTimes([timed((32,) * 5), timed((24,) * 5)])
    depthwise = network((32, 32))[1]
    predicted = times.predict_widths(depthwise, [16, 24, 32, 48], [16, 24, 32, 48])
    truth = [
        true_time(dataclasses.replace(depthwise, input=(32, 32, width), output=(32, 32, width)))
        for width in (16, 24, 32, 48)
    ]
    assert predicted[1:3] == pytest.approx(truth[1:3], rel=0.03)
    assert predicted[1] > predicted[2], "24 channels are slower than 32 on this device"
    assert predicted[0] == pytest.approx(truth[0], rel=0.15), "16 channels are aligned as 32 are"
    assert predicted[3] == pytest.approx(truth[3], rel=0.15)


def test_profiled_networks_predict_others(unseen):
    rng = np.random.default_rng(0)
    times = OperatorTimes([timed((96,) * 5), *(timed(random_widths(rng)) for _ in range(9))])
    found = errors(times, unseen)
    assert np.median(found) < 0.02 and max(found) < 0.06
    operator_errors = [
        abs(time / true_time(operator) - 1)
        for item in unseen
        for operator, time in zip(item.operators, times.predict(item.operators), strict=True)
    ]
    assert np.median(operator_errors) < 0.06


def test_totals_alone_teach_the_device(unseen):
    rng = np.random.default_rng(0)
    totals = [timed((96,) * 5, profile=False), *(timed(random_widths(rng), profile=False) for _ in range(60))]
    medians = [np.median(errors(OperatorTimes(totals[:count]), unseen)) for count in (1, 10, 61)]
    assert medians[0] > 2 * medians[1] > 2 * medians[2]
    assert medians[2] < 0.02


def test_a_single_total_is_met_and_smaller_networks_take_less():
    times = OperatorTimes([timed((96,) * 5, profile=False)])
    full, half = (times.predict(network((width,) * 5)).sum() for width in (96, 48))
    assert full == pytest.approx(timed((96,) * 5).total_ms, rel=0.01)
    assert 0.2 * full < half < 0.6 * full


def test_a_profile_that_costs_time_is_scaled_to_the_total(unseen):
    rng = np.random.default_rng(0)
    networks = [timed(random_widths(rng)) for _ in range(10)]
    slowed = [
        dataclasses.replace(item, times_ms=tuple(1.3 * time for time in item.times_ms)) for item in networks
    ]
    assert np.median(errors(OperatorTimes(slowed), unseen)) < 0.03


def test_operators_of_unknown_kinds_get_times_of_the_devices_speed():
    times = OperatorTimes([timed((96,) * 5)])
    tenfold = OperatorTimes([dataclasses.replace(timed((96,) * 5), total_ms=10 * timed((96,) * 5).total_ms)])
    add = Operator("ADD", (32, 32, 64), (32, 32, 64))
    assert 0 < times.predict([add])[0] < times.predict(network((96,) * 5)).sum() / 10
    assert tenfold.predict([add])[0] == pytest.approx(10 * times.predict([add])[0])


def test_equal_samples_give_equal_models(unseen):
    one, two = (OperatorTimes(unseen[:5]).predict(unseen[9].operators) for _ in range(2))
    assert np.array_equal(one, two)


def test_there_must_be_something_to_learn_from():
    for networks in ([], [TimedNetwork((), 1.0)]):
        with pytest.raises(MeasurementError, match="at least one timed network"):
            OperatorTimes(networks)
