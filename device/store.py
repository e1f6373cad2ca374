"""Keeps every measurement in one SQLite file, keyed by network content and meter fingerprint."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from types import TracebackType

from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.errors import MeasurementError, RunFolderError

SCHEMA_VERSION = 1

_SCHEMA = """
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
_COLUMNS = (
    "sha256, fingerprint, meter, median_ms, p5_ms, p95_ms, std_ms, num_runs, "
    "reference_median_ms, paired_ratio, raw_ms, created_at"
)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One stored latency and where it came from.

    Attributes:
        sha256: Hexadecimal SHA-256 of the TFLite bytes.
        fingerprint: What was measured with (`LatencyMeter.fingerprint`).
        meter: Name of the meter.
        latency: The latency, raw runs included.
        created_at: When it was stored, ISO 8601 in UTC.
    """

    sha256: str
    fingerprint: str
    meter: str
    latency: Latency
    created_at: str


class MeasurementStore:
    """A SQLite file of measurements that several processes may use at once.

    Every `put` is one transaction on disk, so a run that is killed keeps all it measured. Use it as a context
    manager, or call `close`.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, timeout_s: float = 30.0) -> None:
        """Opens the store, creating the file when there is none.

        Args:
            path: The file; None keeps the measurements in memory.
            timeout_s: How long to wait for another process that is writing, in seconds.

        Raises:
            RunFolderError: The file cannot be opened, is no store, or was written by another version.
        """
        self._name = ":memory:" if path is None else os.fspath(path)
        self._connection: sqlite3.Connection | None = None
        with _clear_errors(self._name):
            self._connection = sqlite3.connect(self._name, timeout=timeout_s)
            try:
                _create_schema(self._connection, self._name)
            except BaseException:
                self.close()
                raise

    def get(self, sha256: str, fingerprint: str) -> Latency | None:
        """Returns the stored latency of a network on a device, or None.

        Args:
            sha256: Hexadecimal SHA-256 of the TFLite bytes.
            fingerprint: What it would be measured with.

        Raises:
            RunFolderError: The file is damaged, closed, or locked for longer than the timeout.
        """
        query = f"SELECT {_COLUMNS} FROM measurements WHERE sha256 = ? AND fingerprint = ?"
        with self._connected() as connection:
            row = connection.execute(query, (sha256, fingerprint)).fetchone()
            return None if row is None else _measurement(row).latency

    def put(self, measurement: Measurement) -> None:
        """Stores a measurement; one of the same network and fingerprint is replaced.

        Raises:
            RunFolderError: The file cannot be written: damaged, closed, locked, or the disk is full.
        """
        latency = measurement.latency
        values = (
            measurement.sha256, measurement.fingerprint, measurement.meter,
            latency.median_ms, latency.p5_ms, latency.p95_ms, latency.std_ms, latency.num_runs,
            latency.reference_median_ms, latency.paired_ratio, json.dumps(latency.raw_ms),
            measurement.created_at,
        )  # fmt: skip
        marks = ", ".join("?" * len(values))
        with self._connected() as connection, connection:
            connection.execute(f"INSERT OR REPLACE INTO measurements ({_COLUMNS}) VALUES ({marks})", values)

    def list(self, fingerprint: str | None = None) -> tuple[Measurement, ...]:
        """Returns the measurements, oldest first.

        Args:
            fingerprint: Only those measured with this; None for all.

        Raises:
            RunFolderError: The file is damaged, closed, or locked for longer than the timeout.
        """
        query = (
            f"SELECT {_COLUMNS} FROM measurements WHERE ?1 IS NULL OR fingerprint = ?1 ORDER BY created_at"
        )
        with self._connected() as connection:
            return tuple(_measurement(row) for row in connection.execute(query, (fingerprint,)))

    def __len__(self) -> int:
        with self._connected() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM measurements").fetchone()[0])

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> MeasurementStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            raise RunFolderError(f"The measurement store {self._name} is closed; open it again.")
        with _clear_errors(self._name):
            yield self._connection


class CachedMeter:
    """A `LatencyMeter` that measures each network once and then answers from a store.

    Attributes:
        name: Name of the meter behind it.
        runs_elsewhere: That of the meter behind it.
        num_measured: How many networks the meter behind it has timed.
        num_cached: How many answers came from the store.
    """

    def __init__(self, meter: LatencyMeter, store: MeasurementStore) -> None:
        """Puts a store in front of a meter.

        Args:
            meter: The meter to ask for networks that the store does not know.
            store: Where answers are looked up and kept; its caller closes it.
        """
        self.name = meter.name
        self.runs_elsewhere = meter.runs_elsewhere
        self.num_measured = 0
        self.num_cached = 0
        self._meter = meter
        self._store = store

    def fingerprint(self) -> str:
        """Returns the fingerprint of the meter behind it."""
        return self._meter.fingerprint()

    def with_reference(self, tflite: bytes) -> CachedMeter:
        """Returns a meter over the same store whose measurements are made beside this network."""
        return CachedMeter(self._meter.with_reference(tflite), self._store)

    def measure(self, tflite: bytes) -> Latency:
        """Returns the stored latency of a network with this content, measuring it first if there is none.

        Args:
            tflite: The contents of a `.tflite` file.

        Raises:
            MeasurementError: The meter cannot time it; nothing is stored.
            RunFolderError: The store cannot be read or written.
        """
        sha256 = hashlib.sha256(tflite).hexdigest()
        fingerprint = self.fingerprint()
        stored = self._store.get(sha256, fingerprint)
        if stored is not None:
            self.num_cached += 1
            return stored
        latency = self._meter.measure(tflite)
        self._store.put(Measurement(sha256, fingerprint, self.name, latency, utc_now()))
        self.num_measured += 1
        return latency


def utc_now() -> str:
    """Returns the time as ISO 8601 in UTC, to the microsecond."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


@contextlib.contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    """Turns SQLite's errors into sentences that name the file."""
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
        raise RunFolderError(
            f"The measurement store {name} cannot be used ({error}); check that its folder exists, "
            "is writable and has space, and that no other program holds it."
        ) from error
    except (sqlite3.DatabaseError, json.JSONDecodeError, MeasurementError) as error:
        raise RunFolderError(
            f"The measurement store {name} is damaged ({error}); move it away, "
            "and its networks are measured again."
        ) from error


def _create_schema(connection: sqlite3.Connection, name: str) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, SCHEMA_VERSION):
        raise RunFolderError(
            f"The measurement store {name} has format {version}, but this version reads format "
            f"{SCHEMA_VERSION}; use the version that wrote it, or name another file."
        )
    if version == 0:
        with connection:
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _measurement(row: tuple) -> Measurement:
    sha256, fingerprint, meter, median, p5, p95, std, num_runs, reference, ratio, raw, created_at = row
    latency = Latency(
        median_ms=median,
        p5_ms=p5,
        p95_ms=p95,
        std_ms=std,
        num_runs=num_runs,
        raw_ms=tuple(json.loads(raw)),
        reference_median_ms=reference,
        paired_ratio=ratio,
    )
    return Measurement(sha256, fingerprint, meter, latency, created_at)
