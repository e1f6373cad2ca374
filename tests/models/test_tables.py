"""Facts about models/tables: what the published Pixel 1 logs teach."""

import dataclasses
from pathlib import Path

import pytest

import amc_tf.models
from amc_tf.device.table import LatencyTable
from benchmarks.pixel1_table import AMC_HALF_FLOPS, FULL, mobilenet_operators

# "AMC 50% time" of the same authors; the Pixel 1 took 63.0 to 63.4 ms for it. Its logs are not in the table.
AMC_HALF_TIME = (16, 48, 88, 80, 192, 168, 336, 360, 360, 352, 352, 368, 768, 680)


@pytest.fixture(scope="module")
def table():
    return LatencyTable.load(Path(amc_tf.models.__file__).parent / "tables" / "pixel1.json")


@pytest.fixture(scope="module")
def without_amc(table):
    """The table of MobileNet-V1 1.0 and 0.75 alone."""
    return dataclasses.replace(table, samples=table.samples[:2], error=None)


def test_the_table_is_of_the_published_networks_and_names_its_source(table):
    assert [sample.label for sample in table.samples] == [
        "MobileNet-V1 1.0",
        "MobileNet-V1 0.75",
        "AMC 50 % FLOPs",
    ]
    assert [round(sample.median_ms, 1) for sample in table.samples] == [123.2, 73.1, 68.3]
    macs = [sum(operator.macs for operator in sample.operators) for sample in table.samples]
    assert [round(count / 1e6) for count in macs] == [569, 325, 294]
    assert "mit-han-lab/amc-models" in table.source


def test_the_stored_errors_are_those_of_the_samples(table):
    again = dataclasses.replace(table, error=None).with_error().error
    for stored, network in zip(table.error.networks, again.networks, strict=True):
        assert network.predicted_ms == pytest.approx(stored.predicted_ms, rel=1e-6)


def test_mobilenet_and_its_uniform_variant_predict_the_amc_network_within_5_percent(table, without_amc):
    amc = table.samples[2]
    assert amc.operators[0].output[2] == 24
    assert without_amc.predict(amc.operators) == pytest.approx(amc.median_ms, rel=0.02)


def test_each_network_is_predicted_from_the_two_others_within_5_percent(table):
    assert table.error.largest < 0.04
    assert table.error.median < 0.015


def test_a_network_that_is_not_in_the_table_is_predicted(table, without_amc):
    operators = mobilenet_operators(AMC_HALF_TIME, tail=["RESHAPE"])
    assert without_amc.predict(operators) == pytest.approx(63.2, rel=0.02)
    assert table.predict(operators) == pytest.approx(63.2, rel=0.01)


def test_the_first_depthwise_layer_keeps_its_steps(without_amc):
    times = without_amc.predict_operators(
        [mobilenet_operators((width, *FULL[1:]), tail=[])[1] for width in (16, 24, 32)]
    )
    assert times == pytest.approx([1.2, 2.55, 2.34], rel=0.03)


def test_operators_are_predicted_where_they_take_time(table, without_amc):
    operators = mobilenet_operators(AMC_HALF_FLOPS, tail=["RESHAPE"])
    predicted = without_amc.predict_operators(operators)
    pairs = zip(predicted, table.samples[2].times_ms, strict=True)
    errors = sorted(abs(ours / theirs - 1) for ours, theirs in pairs if theirs > 1.0)
    assert errors[len(errors) // 2] < 0.05 and errors[-1] < 0.1
