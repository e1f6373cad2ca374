"""MeasurementStore and CachedMeter: what is kept, for whom, and what a bad file says."""

import datetime
import pathlib
import sqlite3
import subprocess
import sys

import pytest

from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.device.store import CachedMeter, Measurement, MeasurementStore, utc_now
from amc_tf.errors import MeasurementError, RunFolderError

LATENCY = Latency.from_samples([1.5, 1.25, 2.0], reference_median_ms=3.0, paired_ratio=0.49)


class CountingMeter:
    """Answers 1 ms, 2 ms, ... and counts its calls; b"bad" cannot be measured."""

    name = "counting"
    runs_elsewhere = False

    def __init__(self, fingerprint: str = "device A") -> None:
        self.calls: list[bytes] = []
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint

    def measure(self, tflite: bytes) -> Latency:
        self.calls.append(tflite)
        if tflite == b"bad":
            raise MeasurementError("cannot be measured")
        return Latency.from_samples([float(len(self.calls))])


def measurement(sha256: str = "a" * 64, fingerprint: str = "device A") -> Measurement:
    return Measurement(sha256, fingerprint, "counting", LATENCY, utc_now())


def test_what_is_put_is_got_after_reopening(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    with MeasurementStore(path) as store:
        store.put(measurement())
    with MeasurementStore(path) as store:
        assert store.get("a" * 64, "device A") == LATENCY
        assert store.get("a" * 64, "device B") is None
        assert store.get("b" * 64, "device A") is None
        assert len(store) == 1


def test_putting_again_replaces() -> None:
    with MeasurementStore() as store:
        store.put(measurement())
        store.put(Measurement("a" * 64, "device A", "counting", Latency.from_samples([9.0]), utc_now()))
        assert len(store) == 1
        assert store.get("a" * 64, "device A") == Latency.from_samples([9.0])


def test_list_is_in_order_of_time_and_can_be_limited_to_one_device() -> None:
    with MeasurementStore() as store:
        rows = [measurement("a" * 64), measurement("b" * 64, "device B"), measurement("c" * 64)]
        for row in reversed(rows):
            store.put(row)
        assert store.list() == tuple(rows)
        assert store.list("device A") == (rows[0], rows[2])


def test_times_are_utc() -> None:
    moment = datetime.datetime.fromisoformat(utc_now())
    assert moment.utcoffset() == datetime.timedelta(0)


def test_a_second_process_writes_to_an_open_store(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    code = (
        "import sys; from amc_tf.device.store import *; from amc_tf.device.latency import Latency;"
        "MeasurementStore(sys.argv[1]).put(Measurement('b' * 64, 'device A', 'x',"
        " Latency.from_samples([2.0]), utc_now()))"
    )
    with MeasurementStore(path) as store:
        store.put(measurement())
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        assert store.get("b" * 64, "device A") == Latency.from_samples([2.0])


def test_a_corrupt_file_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(RunFolderError, match=r"measurements\.sqlite is damaged .*move it away"):
        MeasurementStore(path)


def test_a_corrupt_row_names_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    with MeasurementStore(path) as store:
        store.put(measurement())
        with sqlite3.connect(path) as other:
            other.execute("UPDATE measurements SET raw_ms = '[1.0, '")
        other.close()
        with pytest.raises(RunFolderError, match=r"measurements\.sqlite is damaged"):
            store.get("a" * 64, "device A")


def test_a_missing_folder_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunFolderError, match=r"none/m\.sqlite cannot be used .*folder exists"):
        MeasurementStore(tmp_path / "none" / "m.sqlite")


def test_a_locked_file_is_an_error_after_the_timeout(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    with MeasurementStore(path, timeout_s=0.0) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RunFolderError, match="locked"):
            store.put(measurement())
        other.close()
        store.put(measurement())
        assert len(store) == 1


def test_a_store_of_another_format_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RunFolderError, match="has format 99, but this version reads format 1"):
        MeasurementStore(path)


def test_a_closed_store_says_so() -> None:
    store = MeasurementStore()
    store.close()
    store.close()
    with pytest.raises(RunFolderError, match="is closed"):
        store.get("a" * 64, "device A")


def test_a_network_is_measured_once_even_across_runs(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    meter = CountingMeter()
    with MeasurementStore(path) as store:
        cached = CachedMeter(meter, store)
        first = cached.measure(b"one")
        assert cached.measure(b"one") == first
        assert cached.measure(b"two") != first
        assert (cached.num_measured, cached.num_cached) == (2, 1)
    with MeasurementStore(path) as store:
        assert CachedMeter(meter, store).measure(b"one") == first
    assert meter.calls == [b"one", b"two"]


def test_another_fingerprint_is_measured_again() -> None:
    first, second = CountingMeter("device A"), CountingMeter("device B")
    with MeasurementStore() as store:
        CachedMeter(first, store).measure(b"one")
        CachedMeter(second, store).measure(b"one")
    assert (len(first.calls), len(second.calls)) == (1, 1)


def test_a_failed_measurement_is_not_stored() -> None:
    meter = CountingMeter()
    with MeasurementStore() as store:
        cached = CachedMeter(meter, store)
        for _ in range(2):
            with pytest.raises(MeasurementError):
                cached.measure(b"bad")
        assert len(store) == 0
    assert len(meter.calls) == 2


def test_cached_meter_is_a_meter_with_the_name_of_the_one_behind() -> None:
    cached = CachedMeter(CountingMeter(), MeasurementStore())
    assert isinstance(cached, LatencyMeter)
    assert (cached.name, cached.fingerprint()) == ("counting", "device A")
