"""Facts about amc_tf/latency_model.py."""

import keras
import numpy as np
import pytest

from amc_tf.errors import MeasurementError
from amc_tf.graph import ChannelGraph
from amc_tf.latency_model import LatencyPredictor, probe_widths


@pytest.fixture(scope="module")
def graph():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(32, 3),
            layers.DepthwiseConv2D(3),
            layers.Conv2D(64, 1),
            layers.DepthwiseConv2D(3),
            layers.Conv2D(96, 1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(48),
            layers.Dense(10),
        ]
    )
    return ChannelGraph.from_model(model)


def true_latency(graph, widths):
    """A device of 0.3 ms, and 2 ns per pointwise MAC, 5 per other convolution MAC, 9 per depthwise MAC."""
    macs = list(graph.layer_macs(widths).values())
    return 0.3 + 1e-6 * (5 * macs[0] + 9 * (macs[1] + macs[3]) + 2 * (macs[2] + macs[4]))


def random_widths(graph, generator):
    return tuple(int(generator.integers(4, width + 1)) for width in graph.full_widths)


def test_the_predictor_learns_the_device_from_measurements(graph):
    predictor = LatencyPredictor(graph, true_latency(graph, graph.full_widths))
    generator = np.random.default_rng(0)
    for _ in range(30):
        widths = random_widths(graph, generator)
        predictor.observe(widths, true_latency(graph, widths))
    for _ in range(20):
        widths = random_widths(graph, generator)
        assert predictor.predict(widths) == pytest.approx(true_latency(graph, widths), rel=0.01)


def test_the_original_alone_is_predicted_as_measured_and_smaller_networks_as_faster(graph):
    predictor = LatencyPredictor(graph, 4.0)
    assert predictor.predict(graph.full_widths) == pytest.approx(4.0, rel=1e-6)
    probes = [predictor.predict(widths) for widths in probe_widths(graph)]
    assert 4.0 > probes[0] > probes[1] > probes[2] > 0.0


def test_the_prediction_never_falls_when_a_width_rises(graph):
    predictor = LatencyPredictor(graph, 4.0)
    generator = np.random.default_rng(1)
    for _ in range(10):  # noise only: nothing in it follows the widths
        predictor.observe(random_widths(graph, generator), 1.0 + generator.random())
    for _ in range(20):
        widths = list(random_widths(graph, generator))
        index = int(generator.integers(len(widths)))
        wider = [*widths]
        wider[index] = graph.full_widths[index]
        assert predictor.predict(wider) >= predictor.predict(widths) - 1e-12


def test_a_later_measurement_of_a_network_replaces_the_earlier(graph):
    predictor = LatencyPredictor(graph, 4.0)
    predictor.observe(graph.full_widths, 2.0)
    assert predictor.predict(graph.full_widths) == pytest.approx(2.0, rel=0.05)


def test_a_restored_predictor_predicts_the_same(graph, tmp_path):
    predictor = LatencyPredictor(graph, 4.0)
    predictor.observe(probe_widths(graph)[1], 1.7)
    np.savez(tmp_path / "predictor.npz", **predictor.state())
    restored = LatencyPredictor(graph, 4.0)
    with np.load(tmp_path / "predictor.npz") as saved:
        restored.restore(dict(saved))
    for widths in probe_widths(graph):
        assert restored.predict(widths) == predictor.predict(widths)


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_latency_that_cannot_be_is_refused(graph, latency_ms):
    with pytest.raises(MeasurementError, match="measure one above 0 ms"):
        LatencyPredictor(graph, 1.0).observe(graph.full_widths, latency_ms)


def test_probes_are_aligned_and_end_with_the_smallest_network(graph):
    probes = probe_widths(graph, round_to=8, min_keep_ratio=0.2)
    assert probes == ((24, 48, 72, 32), (16, 32, 48, 24), (8, 16, 24, 16))
