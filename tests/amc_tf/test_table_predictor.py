"""Facts about amc_tf/table_predictor.py: close to the table, never falling, learning, fast."""

import dataclasses
import time

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_tf.device.convert import to_tflite
from amc_tf.device.operators import read_operators
from amc_tf.device.table import LatencyTable
from amc_tf.device.table_samples import TableSample
from amc_tf.errors import MeasurementError
from amc_tf.network import NetworkFunction
from amc_tf.plan import allowed_widths, widths_to_plan
from amc_tf.table_predictor import TablePredictor


def small_network():
    """Branches, a sum, a concatenation, pooling, grouped and depthwise convolutions."""
    layers = keras.layers
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="stem")(images)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(48, 1, name="point")(y)))
    x = layers.Add()([layers.Conv2D(48, 1, name="shortcut")(x), y])
    z = layers.SeparableConv2D(40, 3, padding="same", name="separable")(layers.MaxPooling2D()(x))
    x = layers.Concatenate()([layers.MaxPooling2D()(x), z])
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="wide")(x)
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    return keras.Model(images, layers.Dense(10, name="classes")(layers.Dense(64, name="hidden")(x)))


def device_ms(operator, *, steps):
    """A device that crawls through widths that are no multiples of 16, if it has steps."""
    aligned = operator.output[2] % 16 == 0 or not steps
    work = 2e-7 * operator.macs + 4e-7 * operator.num_weights + 1e-7 * np.prod(operator.output)
    return 0.0005 + (1.0 if aligned else 1.8) * work


def make_table(function, graph, *, steps, num_networks=12):
    """A table of profiled networks, of the original and random ones."""
    rng = np.random.default_rng(3)
    samples = []
    for number in range(num_networks):
        widths = graph.full_widths if number == 0 else random_widths(graph, rng)
        operators = operators_of(function, graph, widths)
        times = tuple(float(device_ms(operator, steps=steps)) for operator in operators)
        total = sum(times)
        samples.append(TableSample(str(number), operators, total, total, total, 0.0, 10, times_ms=times))
    return LatencyTable("device", {}, "a test", tuple(samples))


def allowed(graph):
    return [allowed_widths(group.num_channels, round_to=8, min_keep_ratio=0.2) for group in graph.groups]


def random_widths(graph, rng):
    return tuple(int(rng.choice(widths)) for widths in allowed(graph))


def operators_of(function, graph, widths):
    weights = function.slice(widths_to_plan(graph, widths))
    return read_operators(to_tflite(function.bind(weights), input_shape=function.input_shape))


@pytest.fixture(scope="module")
def function():
    return NetworkFunction(small_network())


@pytest.fixture(scope="module")
def graph(function):
    return function.graph


@pytest.fixture(scope="module")
def smooth(function, graph):
    return make_table(function, graph, steps=False)


@pytest.fixture(scope="module")
def stepped(function, graph):
    return make_table(function, graph, steps=True)


def test_networks_are_predicted_as_the_table_predicts_their_files(function, graph, smooth):
    baseline = smooth.predict(operators_of(function, graph, graph.full_widths))
    predictor = TablePredictor(graph, smooth, baseline)
    rng = np.random.default_rng(1)
    for _ in range(5):
        widths = random_widths(graph, rng)
        assert predictor.predict(widths) == pytest.approx(
            smooth.predict(operators_of(function, graph, widths)), rel=0.03
        )
    assert predictor.predict(graph.full_widths) == pytest.approx(baseline, rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_predicted_latency_never_falls_when_a_width_rises(graph, stepped, data):
    predictor = TablePredictor(graph, stepped, 1.0)
    for _ in range(data.draw(st.integers(0, 3))):
        some = [data.draw(st.sampled_from(widths)) for widths in allowed(graph)]
        predictor.observe(some, data.draw(st.floats(0.1, 3.0)))
    narrow = [data.draw(st.integers(1, width)) for width in graph.full_widths]
    wide = [data.draw(st.integers(low, high)) for low, high in zip(narrow, graph.full_widths, strict=True)]
    assert predictor.predict(narrow) <= predictor.predict(wide) + 1e-12


def test_steps_stay_in_the_bound(graph, stepped):
    predictor = TablePredictor(graph, stepped, 1.0)
    full = list(graph.full_widths)
    stem = next(group.index for group in graph.groups if group.name == "stem")
    times = []
    for width in (16, 24, 32):
        full[stem] = width
        times.append(predictor.predict(full))
    assert times[1] - times[0] > 2 * (times[2] - times[1]) >= 0


def test_the_factor_between_table_and_device_is_learned_at_once(function, graph, smooth):
    baseline = smooth.predict(operators_of(function, graph, graph.full_widths))
    predictor = TablePredictor(graph, smooth, 1.4 * baseline)
    widths = tuple(widths[0] for widths in allowed(graph))
    truth = 1.4 * smooth.predict(operators_of(function, graph, widths))
    assert predictor.predict(widths) == pytest.approx(truth, rel=0.05)


def test_measurements_tell_the_operators_apart(graph, smooth):
    """The device spends twice the table's time on convolutions larger than 1x1."""
    slower = dataclasses.replace(smooth, samples=tuple(map(with_slow_windows, smooth.samples)))
    device = TablePredictor(graph, slower, slower.samples[0].median_ms)
    learner = TablePredictor(graph, smooth, slower.samples[0].median_ms)
    rng = np.random.default_rng(0)
    unseen = [random_widths(graph, rng) for _ in range(30)]

    def error():
        return np.median([abs(learner.predict(widths) / device.predict(widths) - 1) for widths in unseen])

    before = error()
    for _ in range(80):
        widths = random_widths(graph, rng)
        learner.observe(widths, device.predict(widths))
    assert error() < 0.5 * before


def with_slow_windows(sample):
    times = tuple(
        time * (2.0 if operator.kernel == (3, 3) else 1.0)
        for operator, time in zip(sample.operators, sample.times_ms, strict=True)
    )
    return dataclasses.replace(sample, median_ms=sum(times), times_ms=times)


def test_a_restored_predictor_predicts_the_same(graph, smooth):
    predictor, restored = (TablePredictor(graph, smooth, 1.0) for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(5):
        predictor.observe(random_widths(graph, rng), float(rng.uniform(0.3, 1.0)))
    restored.restore(predictor.state())
    widths = random_widths(graph, rng)
    assert restored.predict(widths) == predictor.predict(widths)


def test_a_prediction_takes_less_than_a_fifth_of_a_millisecond(graph, smooth):
    predictor = TablePredictor(graph, smooth, 1.0)
    widths = random_widths(graph, np.random.default_rng(0))
    predictor.predict(widths)
    durations = []
    for _ in range(50):
        start = time.perf_counter()
        predictor.predict(widths)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 2e-4


def test_no_latency_and_no_table_are_refused(graph, smooth):
    with pytest.raises(MeasurementError, match="A latency of 0.0 ms was observed"):
        TablePredictor(graph, smooth, 0.0)
    with pytest.raises(MeasurementError, match="has timed no networks"):
        TablePredictor(graph, dataclasses.replace(smooth, samples=()), 1.0)


def test_both_flavours_of_keras_have_the_same_operators(library, smooth):
    layers = library.layers
    images = library.Input((32, 32, 3))
    x = layers.Conv2D(32, 3, strides=2, padding="same", name="stem")(images)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(48, 1, name="point")(x))
    function = NetworkFunction(library.Model(images, layers.Dense(10)(x)))
    graph = function.graph
    predictor = TablePredictor(graph, smooth, smooth.predict(operators_of(function, graph, (32, 48))))
    assert predictor.predict((16, 24)) == pytest.approx(
        smooth.predict(operators_of(function, graph, (16, 24))), rel=0.03
    )
