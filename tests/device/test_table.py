"""Facts about device/table.py and what it is made of: prediction, held-out error, JSON, the meter."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.device.operators import read_operators
from amc_tf.device.table import LatencyTable, TableMeter
from amc_tf.device.table_samples import TableError, TableSample
from amc_tf.errors import MeasurementError, RunFolderError
from tests.flips import read_flipped
from tests.tflite_files import chain


def true_ms(operators):
    return sum(0.001 + 2e-7 * item.macs * (3 if "DEPTHWISE" in item.kind else 1) for item in operators)


def sample(widths, **changes):
    operators = read_operators(chain(widths))
    time = true_ms(operators)
    label = f"widths {widths}"
    measured = TableSample(label, operators, time, 0.9 * time, 1.2 * time, 0.1 * time, num_runs=50)
    return dataclasses.replace(measured, **changes)


WIDTHS = [(32, 32, 32), (16, 24, 32), (32, 16, 8), (8, 8, 8), (24, 32, 16)]


@pytest.fixture(scope="module")
def table():
    device = {"kind": "phone", "phone": {"model": "Pixel 8"}}
    return LatencyTable("Pixel 8:cpu", device, "a test", tuple(map(sample, WIDTHS))).with_error()


def test_unseen_networks_are_predicted_and_operators_add_up(table):
    operators = read_operators(chain((32, 24, 16)))
    assert table.predict(operators) == pytest.approx(true_ms(operators), rel=0.06)
    assert sum(table.predict_operators(operators)) == pytest.approx(table.predict(operators))


def test_the_error_is_that_of_networks_that_were_left_out(table):
    assert [network.label for network in table.error.networks] == [item.label for item in table.samples]
    first = table.error.networks[0]
    rest = dataclasses.replace(table, samples=table.samples[1:])
    assert first.predicted_ms == pytest.approx(rest.predict(table.samples[0].operators))
    assert first.error == pytest.approx(first.predicted_ms / table.samples[0].median_ms - 1)
    assert 0 < table.error.median <= table.error.largest < 0.3


def test_many_networks_are_left_out_in_ten_folds():
    samples = tuple(sample((8 * a, 8 * b)) for a in range(1, 5) for b in range(1, 5))
    table = LatencyTable("device", {}, "", samples).with_error()
    assert len(table.error.networks) == 16
    rest = dataclasses.replace(table, samples=tuple(s for i, s in enumerate(samples) if i % 10 != 3))
    assert table.error.networks[13].predicted_ms == pytest.approx(rest.predict(samples[13].operators))


def test_one_network_has_no_error_and_no_network_no_prediction(table):
    assert dataclasses.replace(table, samples=table.samples[:1]).measure_error() is None
    empty = dataclasses.replace(table, samples=())
    with pytest.raises(MeasurementError, match="has timed no networks, but this one is float32"):
        empty.predict(read_operators(chain((8, 8))))
    with pytest.raises(MeasurementError, match="is empty; build it with a device"):
        TableMeter(empty)


def test_a_sample_replaces_the_earlier_one_of_its_structure_and_keeps_its_profile(table):
    times = tuple(0.1 for _ in table.samples[1].operators)
    profiled = table.with_sample(dataclasses.replace(table.samples[1], times_ms=times))
    again = profiled.with_sample(dataclasses.replace(table.samples[1], median_ms=9.0))
    assert len(again.samples) == len(table.samples)
    assert again.known(table.samples[1].operators).median_ms == 9.0
    assert again.known(table.samples[1].operators).times_ms == times
    assert again.error is None and table.error is not None


def test_half_precision_weights_count_as_float32_and_int8_is_refused(table):
    operators = read_operators(chain((32, 24, 16)))
    half = [
        dataclasses.replace(operator, precision="float16") if operator.num_weights else operator
        for operator in operators
    ]
    assert table.predict(half) == table.predict(operators)
    int8 = [dataclasses.replace(operator, precision="int8") for operator in operators]
    with pytest.raises(MeasurementError, match=r"has timed float32 networks, but this one is int8; time it"):
        table.predict(int8)


def test_a_saved_table_is_loaded_as_it_was(table, tmp_path):
    times = tuple(0.1 if operator.num_weights else None for operator in table.samples[0].operators)
    table = table.with_sample(dataclasses.replace(table.samples[0], times_ms=times)).with_error()
    path = tmp_path / "a table; 'x'.json"
    table.save(path)
    loaded = LatencyTable.load(path)
    assert loaded == table and loaded.sha256 == table.sha256
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert len(path.read_text().splitlines()) < 60


def test_the_digest_follows_samples_and_device_but_not_the_error(table):
    assert dataclasses.replace(table, error=None, source="elsewhere").sha256 == table.sha256
    assert dataclasses.replace(table, samples=table.samples[1:]).sha256 != table.sha256
    assert dataclasses.replace(table, measured_with={"kind": "host"}).sha256 != table.sha256


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Expecting value"),
        ("[1, 2]", "the format is not"),
        ('{"format": "amc-tf latency table", "version": 2}', "the version is 2, not 1"),
        ('{"format": "amc-tf latency table", "version": 1}', "KeyError: 'operators'"),
        ('{"format": NaN}', "it holds the number NaN"),
        ("[" * 100_000, "nested too deeply"),
        ("\udcff", "'utf-8' codec can't decode"),
    ],
)
def test_files_that_are_no_table_are_refused_by_name(tmp_path, content, why):
    path = tmp_path / "phone.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(MeasurementError, match=f"phone.json is damaged or no latency table .*{why}"):
        LatencyTable.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("median_ms", 0), ("median_ms", -1.0), ("median_ms", "x"), ("median_ms", 1e300), ("num_runs", 0),
        ("operators", [99]), ("operators", []), ("operators", [0.5]), ("times_ms", [1.0]), ("label", 7),
        ("noise", -1), ("unknown", 1), ("p5_ms", None),
    ],
)  # fmt: skip
def test_impossible_samples_are_refused(table, field, value):
    record = table.to_json()
    record["networks"][0][field] = value
    with pytest.raises(MeasurementError):
        LatencyTable.from_json(record)


def test_no_flipped_bit_changes_a_table(table, tmp_path):
    path = tmp_path / "phone.json"
    table.save(path)
    values, refusals = read_flipped(path, 500, LatencyTable.load, MeasurementError)
    assert all(value == table for value in values)
    assert len(refusals) > 400
    assert all(f"{path} is damaged or no latency table" in text for text in refusals)
    assert LatencyTable.load(path) == table


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), value=json_values)
def test_mutated_tables_raise_nothing_but_the_projects_own_error(table, data, value):
    record = json.loads(json.dumps(table.to_json()))
    place = record
    for _ in range(data.draw(st.integers(1, 3))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key]:
            break
        parent, place = place, place[key]
    else:
        place = parent
    place[key] = value
    try:
        predicted = LatencyTable.from_json(record).predict(read_operators(chain((16, 24))))
    except MeasurementError:
        return
    assert 0 <= predicted < math.inf


def test_a_table_of_impossible_sizes_is_refused_when_it_is_used(table):
    record = table.to_json()
    record["operators"] = [[row[0], *[1 << 24] * 11, row[-1]] for row in record["operators"]]
    record["networks"][0]["median_ms"] = 1e-300
    with pytest.raises(MeasurementError, match="No model fits the times of the 5 networks"):
        LatencyTable.from_json(record).predict(table.samples[0].operators)


def test_missing_and_unwritable_files_are_named(table, tmp_path):
    with pytest.raises(MeasurementError, match="none.json cannot be read .No such file.*table build"):
        LatencyTable.load(tmp_path / "none.json")
    with pytest.raises(RunFolderError, match="no/such/folder.json cannot be written: No such file"):
        table.save(tmp_path / "no/such/folder.json")


def test_the_meter_predicts_and_says_so(table):
    meter = TableMeter(table)
    assert isinstance(meter, LatencyMeter) and meter.name == "table:Pixel 8:cpu"
    network = chain((32, 24, 16))
    latency = meter.measure(network)
    assert latency.predicted and latency.num_runs == 1 and latency.ratio is None
    assert latency.median_ms == pytest.approx(table.predict(read_operators(network)))
    margin = 2.4387 * table.error.median
    assert latency.p5_ms == pytest.approx(latency.median_ms * (1 - margin))
    assert latency.p95_ms == pytest.approx(latency.median_ms * (1 + margin))


def test_the_meter_gives_measured_numbers_where_it_has_them(table):
    latency = TableMeter(table).measure(chain(WIDTHS[1], seed=5))
    known = table.samples[1]
    assert (latency.median_ms, latency.p5_ms, latency.num_runs) == (known.median_ms, known.p5_ms, 50)
    assert not latency.predicted


def test_the_meter_compares_with_its_reference(table):
    alone = TableMeter(table)
    paired = alone.with_reference(chain(WIDTHS[0]))
    network = chain((32, 24, 16))
    assert paired.measure(network).ratio == pytest.approx(
        alone.measure(network).median_ms / table.samples[0].median_ms
    )
    assert paired.fingerprint() != alone.fingerprint()
    assert json.loads(paired.fingerprint())["table"] == table.sha256
    assert not paired.runs_elsewhere


def test_the_meter_refuses_what_is_no_network(table):
    with pytest.raises(
        MeasurementError, match="cannot be looked up in table:Pixel 8:cpu: The 4 bytes are no"
    ):
        TableMeter(table).measure(b"oops")


def test_a_measured_ratio_is_scaled_to_the_reference_in_the_table():
    operators = read_operators(chain((8, 8)))
    latency = Latency(12.0, 11.0, 14.0, 1.0, 30, (11.0, 12.0, 14.0), 20.0, 0.5)
    scaled = TableSample.from_latency("x", operators, latency, reference_ms=16.0)
    assert (scaled.median_ms, scaled.std_ms) == pytest.approx((8.0, 8.0 / 12.0))
    assert TableSample.from_latency("x", operators, latency).median_ms == 12.0
    assert scaled.noise == pytest.approx(latency.spread / math.sqrt(3))


def test_an_error_of_no_network_is_refused():
    with pytest.raises(ValueError, match="of no network"):
        TableError.from_json([])
