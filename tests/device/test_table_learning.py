"""Facts about device/table_learning.py: building tables, resuming, learning from a search."""

import numpy as np
import pytest

from amc_tf.device.latency import LatencyMeter
from amc_tf.device.operators import read_operators
from amc_tf.device.table import LatencyTable, TableMeter
from amc_tf.device.table_learning import LearningMeter, build_table, measured_with
from amc_tf.errors import MeasurementError, PhoneError
from tests.fake_times import FakePhone
from tests.tflite_files import chain


def networks():
    widths = [(32, 32, 32), (16, 24, 32), (32, 16, 8), (8, 8, 8)]
    return [(f"network {index}", chain(item)) for index, item in enumerate(widths)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "phone.json"


def test_a_build_measures_and_profiles_every_network(path):
    phone, seen = FakePhone(), []
    table = build_table(phone, networks(), path, source="a test", on_network=lambda *item: seen.append(item))
    assert len(phone.measured) == 4 and [known for _, known in seen] == [False] * 4
    assert table.name == "Pixel 8:cpu" and table.source == "a test"
    assert all(None not in sample.times_ms for sample in table.samples)
    assert table.error.median < 0.05
    assert LatencyTable.load(path) == table
    unseen = chain((24, 24, 24))
    assert table.predict(read_operators(unseen)) == pytest.approx(phone.measure(unseen).median_ms, rel=0.03)


def test_an_interrupted_build_goes_on_without_measuring_again(path):
    phone = FakePhone()
    phone.fails_on = networks()[2][1]
    with pytest.raises(PhoneError, match="has gone"):
        build_table(phone, networks(), path)
    assert len(LatencyTable.load(path).samples) == 2
    phone, seen = FakePhone(), []
    table = build_table(phone, networks(), path, on_network=lambda *item: seen.append(item))
    assert len(phone.measured) == 2 and [known for _, known in seen] == [True, True, False, False]
    assert table == build_table(FakePhone(), networks(), path.with_name("whole.json"))


def test_a_tool_that_cannot_profile_leaves_totals(path, caplog):
    phone = FakePhone()
    phone.profile_error = MeasurementError("This benchmark_model prints no operator profile.")
    table = build_table(phone, networks(), path)
    assert all(sample.times_ms is None for sample in table.samples)
    assert "timed as a whole only: This benchmark_model prints no operator profile" in caplog.text


def test_a_phone_that_drops_out_while_it_profiles_ends_the_build(path):
    phone = FakePhone()
    phone.profile_error = PhoneError("The phone has gone.")
    with pytest.raises(PhoneError):
        build_table(phone, networks(), path)


def test_another_device_is_kept_out_of_a_table(path):
    build_table(FakePhone(), networks(), path)
    with pytest.raises(MeasurementError, match=r"phone.json is of another device or other settings \(phone:"):
        LearningMeter(FakePhone("Pixel 9"), path)
    LearningMeter(FakePhone(num_runs=200), path)


def test_what_a_meter_measures_with_leaves_out_reference_and_timing():
    alone, paired = FakePhone(), FakePhone(num_runs=9).with_reference(chain((8, 8)))
    assert measured_with(alone) == measured_with(paired)
    assert measured_with(alone) == {"phone": {"model": "Pixel 8"}, "settings": {"num_threads": 1}}


def test_a_search_teaches_the_table_and_lowers_its_error(path):
    original = chain((32, 32, 32))
    learner = LearningMeter(FakePhone(), path)
    assert isinstance(learner, LatencyMeter) and learner.runs_elsewhere and learner.name == "Pixel 8:cpu"
    assert learner.fingerprint() == FakePhone().fingerprint()
    learner.measure(original)
    paired = learner.with_reference(original)
    rng = np.random.default_rng(0)
    unseen = [tuple(8 * int(width) for width in rng.integers(1, 5, size=3)) for _ in range(8)]
    truth = [FakePhone().measure(chain(widths)).median_ms for widths in unseen]

    def error():
        table = LatencyTable.load(path)
        found = [table.predict(read_operators(chain(widths))) for widths in unseen]
        return np.median([abs(a / b - 1) for a, b in zip(found, truth, strict=True)])

    before = error()
    for _ in range(25):
        paired.measure(chain(tuple(8 * int(width) for width in rng.integers(1, 5, size=3))))
    assert learner.table is paired.table
    assert error() < 0.5 * before and error() < 0.04


def test_a_warm_phone_does_not_spoil_the_table(path):
    original, slim = chain((32, 32, 32)), chain((16, 16, 16))
    phone = FakePhone()
    build_table(phone, [("original", original)], path)
    phone.warmth = 1.5
    learner = LearningMeter(phone, path)
    assert learner.measure(original).median_ms == pytest.approx(1.5 * sum(phone._times(original)))
    learner.with_reference(original).measure(slim)
    table = LatencyTable.load(path)
    assert table.known(read_operators(original)).median_ms == pytest.approx(sum(phone._times(original)))
    assert table.known(read_operators(slim)).median_ms == pytest.approx(sum(phone._times(slim)))


def test_a_later_ratio_of_a_network_replaces_the_earlier(path):
    original, slim = chain((32, 32, 32)), chain((16, 16, 16))
    build_table(FakePhone(), [("original", original), ("slim", slim)], path)
    learner = LearningMeter(FakePhone(), path).with_reference(original)
    learner.measure(slim)
    sample = LatencyTable.load(path).known(read_operators(slim))
    assert sample.label == "slim" and sample.times_ms is not None


def test_predictions_teach_nothing(path):
    table = build_table(FakePhone(), networks(), path)
    meter = TableMeter(table)
    learner = LearningMeter(meter, path.with_name("other.json"))
    assert learner.measure(chain((24, 24, 24))).predicted
    assert not path.with_name("other.json").exists()


def test_a_failed_measurement_leaves_the_table_as_it_was(path):
    phone = FakePhone()
    build_table(phone, networks(), path)
    before = path.read_text()
    phone.fails_on = chain((24, 24, 24))
    with pytest.raises(PhoneError):
        LearningMeter(phone, path).measure(phone.fails_on)
    assert path.read_text() == before
