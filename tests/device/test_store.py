"""MeasurementStore and CachedMeter: what is kept, for whom, and what a bad file says."""

import concurrent.futures
import dataclasses
import datetime
import pathlib
import sqlite3
import subprocess
import sys

import pytest

from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.latency import Latency
from amc_tf.device.store import Measurement, MeasurementStore, utc_now
from amc_tf.errors import RunFolderError
from tests.flips import read_flipped

LATENCY = Latency.from_samples([1.5, 1.25, 2.0], reference_median_ms=3.0, paired_ratio=0.49)


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


def test_every_field_is_got_again() -> None:
    latency = dataclasses.replace(
        Latency.from_samples([2.0, 2.5], reference_raw_ms=[4.0, 5.0], paired_ratio=0.5, noise=0.01),
        predicted=True,
        conditions={"device": {"model": "Pixel 8", "serial": "A1"}, "mask": "f0", "battery_c": [31.5, 32.0]},
    )
    operator = OperatorTime("CONV_2D", "conv1", 0.75, 0.8, 0.375, 12.0, 1)
    row = Measurement("a" * 64, "phone", "Pixel 8", latency, utc_now(), "half.tflite", (operator, operator))
    with MeasurementStore() as store:
        store.put(row)
        store.put(measurement())
        assert store.list()[0] == row
        assert store.list()[0].device == {"model": "Pixel 8", "serial": "A1"}
        assert (store.list()[1].device, store.list()[1].profile, store.list()[1].network) == (None, (), "")


def test_a_second_measurement_is_kept_and_the_first_one_stays_the_answer() -> None:
    later = Measurement("a" * 64, "device A", "counting", Latency.from_samples([9.0]), utc_now())
    with MeasurementStore() as store:
        store.put(measurement())
        store.put(later)
        assert store.get("a" * 64, "device A") == LATENCY
        assert [row.latency.median_ms for row in store.list()] == [1.5, 9.0]
        assert len(store) == 2


def test_a_clock_that_jumps_back_changes_no_answer() -> None:
    with MeasurementStore() as store:
        for milliseconds, year in ((1.0, 2030), (2.0, 2020)):
            latency, moment = Latency.from_samples([milliseconds]), f"{year}-01-01T00:00:00+00:00"
            store.put(Measurement("a" * 64, "device A", "counting", latency, moment))
        assert store.get("a" * 64, "device A") == Latency.from_samples([1.0])


def test_list_is_in_order_of_storing_and_can_be_limited_to_one_device() -> None:
    with MeasurementStore() as store:
        rows = [measurement("a" * 64), measurement("b" * 64, "device B"), measurement("c" * 64)]
        for row in rows:
            store.put(row)
        assert store.list() == tuple(rows)
        assert store.list("device A") == (rows[0], rows[2])


def test_history_is_limited_to_the_newest_of_one_network() -> None:
    with MeasurementStore() as store:
        for name in "abca":
            store.put(measurement(name * 64))
        newest = store.list(newest_first=True, limit=2)
        assert [row.sha256[0] for row in newest] == ["a", "c"]
        assert [row.sha256[0] for row in store.list(limit=3)] == ["a", "b", "c"]
        assert store.list(sha256="a" * 64, newest_first=True) == (newest[0], store.list()[0])
        assert store.list(limit=0) == ()


def test_history_of_one_phone_holds_what_it_shared_with_another() -> None:
    with MeasurementStore() as store:
        for serials in (None, "A", "B", "A, B", "AB"):
            conditions = {} if serials is None else {"device": {"serial": serials}}
            latency = dataclasses.replace(LATENCY, conditions=conditions)
            store.put(Measurement("a" * 64, "phone", "Pixel 8", latency, utc_now()))
        found = [row.device["serial"] for row in store.list(serial="A") if row.device]
        assert found == ["A", "A, B"]
        assert store.list(serial="C") == ()


def test_another_thread_may_read_and_write() -> None:
    with MeasurementStore() as store, concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(store.put, [measurement(f"{index:064d}") for index in range(40)]))
        assert pool.submit(len, store).result() == 40


def write_version_1(path: pathlib.Path) -> None:
    """Writes a file as the first version of the toolkit did: one row per network and device."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            """
            CREATE TABLE IF NOT EXISTS measurements (
                sha256 TEXT NOT NULL,
                fingerprint TEXT NOT NULL,
                meter TEXT NOT NULL,
                median_ms REAL NOT NULL,
                p5_ms REAL NOT NULL,
                p95_ms REAL NOT NULL,
                std_ms REAL NOT NULL,
                num_runs INTEGER NOT NULL,
                reference_median_ms REAL,
                paired_ratio REAL,
                raw_ms TEXT NOT NULL,
                created_at TEXT NOT NULL,
                PRIMARY KEY (sha256, fingerprint)
            )
            """
        )
        rows = [
            ("b" * 64, 9.0, 9.0, 9.0, 0.0, 1, None, None, "[9.0]", "2026-02-01T00:00:00"),
            (
                "a" * 64, LATENCY.median_ms, LATENCY.p5_ms, LATENCY.p95_ms, LATENCY.std_ms, 3, 3.0, 0.49,
                "[1.5, 1.25, 2.0]", "2026-01-01T00:00:00",
            ),
        ]  # fmt: skip
        marks = "?, 'device A', 'host', ?, ?, ?, ?, ?, ?, ?, ?, ?"
        connection.executemany(f"INSERT INTO measurements VALUES ({marks})", rows)
        connection.execute("PRAGMA user_version = 1")
    connection.close()


def test_a_file_of_format_1_keeps_its_measurements_and_takes_new_ones(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    write_version_1(path)
    with MeasurementStore(path) as store:
        assert store.list() == (
            Measurement("a" * 64, "device A", "host", LATENCY, "2026-01-01T00:00:00"),
            Measurement("b" * 64, "device A", "host", Latency.from_samples([9.0]), "2026-02-01T00:00:00"),
        )
        store.put(measurement())
    with MeasurementStore(path) as store:
        assert len(store) == 3


def test_a_conversion_that_fails_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    write_version_1(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE INDEX measurements_of_network ON measurements (meter)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match="cannot be used .*measurements_of_network already exists"):
        MeasurementStore(path)
    assert path.read_bytes() == before


def test_a_file_of_format_1_that_another_process_holds_is_converted_later(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    write_version_1(path)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunFolderError, match="locked"):
        MeasurementStore(path, timeout_s=0.0)
    other.close()
    with MeasurementStore(path) as store:
        assert len(store) == 2


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


@pytest.mark.parametrize(
    ("column", "damaged"), [("raw_ms", "[1.0, "), ("profile", '[{"colour": 1}]'), ("conditions", "7")]
)
def test_a_corrupt_row_names_the_file(tmp_path: pathlib.Path, column: str, damaged: str) -> None:
    path = tmp_path / "measurements.sqlite"
    with MeasurementStore(path) as store:
        store.put(measurement())
        with sqlite3.connect(path) as other:
            other.execute(f"UPDATE measurements SET {column} = '{damaged}'")
        other.close()
        with pytest.raises(RunFolderError, match=r"measurements\.sqlite is damaged"):
            store.get("a" * 64, "device A")


def read_all(path: pathlib.Path) -> tuple[tuple[Measurement, ...], Latency | None]:
    with MeasurementStore(path) as store:
        return store.list(), store.get("c" * 64, "device A")


def test_no_flipped_bit_changes_a_measurement(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    with MeasurementStore(path) as store:
        for name in "abcdef":
            store.put(measurement(name * 64))
    expected = read_all(path)
    values, refusals = read_flipped(path, 1500, read_all, RunFolderError)
    assert all(value == expected for value in values)
    assert len(refusals) > 200  # most of the file is free space
    assert all(f"The measurement store {path} " in text for text in refusals)


@pytest.mark.parametrize("part", [0.1, 0.4, 0.7, 0.99])
def test_a_truncated_file_is_named(tmp_path: pathlib.Path, part: float) -> None:
    path = tmp_path / "measurements.sqlite"
    with MeasurementStore(path) as store:
        store.put(measurement())
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(RunFolderError, match=r"measurements\.sqlite is damaged .*move it away"):
        MeasurementStore(path)


def test_rows_of_a_file_without_checksums_are_read_and_new_ones_get_theirs(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "measurements.sqlite"
    with MeasurementStore(path) as store:
        store.put(measurement())
        with sqlite3.connect(path) as other:
            other.execute("ALTER TABLE measurements DROP COLUMN checksum")
        other.close()
        assert store.get("a" * 64, "device A") == LATENCY
        store.put(measurement("b" * 64))
        with sqlite3.connect(path) as other:
            other.execute("UPDATE measurements SET median_ms = 0.5")
        other.close()
        assert store.get("a" * 64, "device A") == dataclasses.replace(LATENCY, median_ms=0.5)
        with pytest.raises(RunFolderError, match="measurement 2 is not what was stored"):
            store.get("b" * 64, "device A")


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
    with pytest.raises(RunFolderError, match="has format 99, but this version reads formats up to 2"):
        MeasurementStore(path)


def test_a_closed_store_says_so() -> None:
    store = MeasurementStore()
    store.close()
    store.close()
    with pytest.raises(RunFolderError, match="is closed"):
        store.get("a" * 64, "device A")
