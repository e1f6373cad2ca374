"""Keeps every measurement in one SQLite file, found again by network content and meter fingerprint."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.latency import Latency
from amc_tf.errors import MeasurementError, RunFolderError

SCHEMA_VERSION = 2

_TABLE = """
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    meter TEXT NOT NULL,
    network TEXT NOT NULL,
    median_ms REAL NOT NULL,
    p5_ms REAL NOT NULL,
    p95_ms REAL NOT NULL,
    std_ms REAL NOT NULL,
    num_runs INTEGER NOT NULL,
    raw_ms TEXT NOT NULL,
    reference_median_ms REAL,
    paired_ratio REAL,
    reference_raw_ms TEXT NOT NULL,
    noise REAL,
    predicted INTEGER NOT NULL,
    device TEXT,
    conditions TEXT NOT NULL,
    profile TEXT NOT NULL,
    created_at TEXT NOT NULL,
    checksum TEXT
)
"""
_ADD_CHECKSUM = "ALTER TABLE measurements ADD COLUMN checksum TEXT"
_INDEX = "CREATE INDEX measurements_of_network ON measurements (sha256, fingerprint)"
_FROM_VERSION_1 = """
INSERT INTO measurements
SELECT NULL, sha256, fingerprint, meter, '', median_ms, p5_ms, p95_ms, std_ms, num_runs, raw_ms,
    reference_median_ms, paired_ratio, '[]', NULL, 0, NULL, '{}', '[]', created_at, NULL
FROM measurements_1 ORDER BY created_at
"""
_LATENCY_NUMBERS = (
    "median_ms", "p5_ms", "p95_ms", "std_ms", "num_runs", "reference_median_ms", "paired_ratio", "noise",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One stored latency and where it came from.

    Attributes:
        sha256: Hexadecimal SHA-256 of the TFLite bytes.
        fingerprint: What was measured with (`LatencyMeter.fingerprint`).
        meter: Name of the meter.
        latency: The latency, with raw runs and conditions.
        created_at: When it was stored, ISO 8601 in UTC.
        network: What people call the network, such as its file name; "" where nobody named it.
        profile: Time of each operator, in the order they run; empty where it was not profiled.
    """

    sha256: str
    fingerprint: str
    meter: str
    latency: Latency
    created_at: str
    network: str = ""
    profile: tuple[OperatorTime, ...] = ()

    @property
    def device(self) -> Mapping[str, Any] | None:
        """What did the work, serial included, where the meter told (`Latency.conditions["device"]`)."""
        device: Mapping[str, Any] | None = self.latency.conditions.get("device")
        return device


class MeasurementStore:
    """A SQLite file of all measurements ever made, which several processes and threads may use at once.

    Nothing is replaced: a network that is measured again gets another row. `get` answers with the first one,
    so that what a run was once told stays true when it is resumed.
    Every `put` is one transaction on disk, so a run that is killed keeps all it measured. Each row has a
    checksum (but those of early versions), for SQLite itself does not notice a wrong bit in a number. Use it
    as a context manager, or call `close`.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, timeout_s: float = 30.0) -> None:
        """Opens the store, creating the file when there is none; a file of format 1 is converted in place.

        Args:
            path: The file; None keeps the measurements in memory.
            timeout_s: How long to wait for another process that is writing, in seconds.

        Raises:
            RunFolderError: The file cannot be opened, is no store, or was written by a later version.
        """
        self._name = ":memory:" if path is None else os.fspath(path)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        with _clear_errors(self._name):
            self._connection = sqlite3.connect(self._name, timeout=timeout_s, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            try:
                _prepare_schema(self._connection, self._name)
            except BaseException:
                self.close()
                raise

    def get(self, sha256: str, fingerprint: str) -> Latency | None:
        """Returns the latency of a network on a device that was stored first, or None.

        Args:
            sha256: Hexadecimal SHA-256 of the TFLite bytes.
            fingerprint: What it would be measured with.

        Raises:
            RunFolderError: The file is damaged, closed, or locked for longer than the timeout.
        """
        found = self.list(fingerprint, sha256=sha256, limit=1)
        return found[0].latency if found else None

    def put(self, measurement: Measurement) -> None:
        """Adds a measurement; earlier ones of the same network are kept.

        Raises:
            RunFolderError: The file cannot be written: damaged, closed, locked, or the disk is full.
        """
        row = _row(measurement)
        marks = ", ".join(f":{name}" for name in row)
        with self._connected() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            if not _has_checksums(connection):
                connection.execute(_ADD_CHECKSUM)
            added = connection.execute(f"INSERT INTO measurements ({', '.join(row)}) VALUES ({marks})", row)
            kept = connection.execute(
                "SELECT * FROM measurements WHERE id = ?", (added.lastrowid,)
            ).fetchone()
            checksum = _checksum(kept)
            connection.execute("UPDATE measurements SET checksum = ? WHERE id = ?", (checksum, kept["id"]))

    def list(
        self,
        fingerprint: str | None = None,
        *,
        sha256: str | None = None,
        serial: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> tuple[Measurement, ...]:
        """Returns the measurements in the order they were stored, oldest first unless told otherwise.

        Args:
            fingerprint: Only those measured with this; None for all.
            sha256: Only those of the network with this content; None for all.
            serial: Only those that the phone with this serial took part in; None for all.
            newest_first: Begin with the latest.
            limit: Not more than this many, from the beginning of the order; None for all.

        Raises:
            RunFolderError: The file is damaged, closed, or locked for longer than the timeout.
        """
        filters = {
            "fingerprint = :fingerprint": fingerprint,
            "sha256 = :sha256": sha256,
            "instr(', ' || json_extract(device, '$.serial') || ',', ', ' || :serial || ',') > 0": serial,
        }
        chosen = " AND ".join(["1", *(text for text, value in filters.items() if value is not None)])
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT * FROM measurements WHERE {chosen} ORDER BY id {order} LIMIT :limit"
        values = {
            "fingerprint": fingerprint,
            "sha256": sha256,
            "serial": serial,
            "limit": -1 if limit is None else limit,
        }
        with self._connected() as connection:
            return tuple(_measurement(row) for row in connection.execute(query, values))

    def __len__(self) -> int:
        with self._connected() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM measurements").fetchone()[0])

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        with self._lock:
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
        with self._lock:
            if self._connection is None:
                raise RunFolderError(f"The measurement store {self._name} is closed; open it again.")
            with _clear_errors(self._name):
                yield self._connection


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
    # What SQLite's module and the rows make of damage: ValueError is JSON or UTF-8, IndexError a lost column.
    except (sqlite3.Error, ValueError, TypeError, IndexError, OverflowError, MeasurementError) as error:
        raise RunFolderError(
            f"The measurement store {name} is damaged ({error}); move it away, "
            "and its networks are measured again."
        ) from error


def _prepare_schema(connection: sqlite3.Connection, name: str) -> None:
    """Creates the table, or moves one of format 1 into it, in one transaction."""
    words = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if words != "ok":
        raise sqlite3.DatabaseError(words.splitlines()[-1])
    if _version(connection) == SCHEMA_VERSION:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection)
        if version not in (0, 1, SCHEMA_VERSION):
            raise RunFolderError(
                f"The measurement store {name} has format {version}, but this version reads formats up to "
                f"{SCHEMA_VERSION}; use the version that wrote it, or name another file."
            )
        if version == 1:
            connection.execute("ALTER TABLE measurements RENAME TO measurements_1")
        if version < SCHEMA_VERSION:
            connection.execute(_TABLE)
            connection.execute(_INDEX)
        if version == 1:
            connection.execute(_FROM_VERSION_1)
            connection.execute("DROP TABLE measurements_1")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _has_checksums(connection: sqlite3.Connection) -> bool:
    return "checksum" in [column["name"] for column in connection.execute("PRAGMA table_info(measurements)")]


def _checksum(row: sqlite3.Row) -> str:
    """Returns the SHA-256 of what a row holds."""
    values = {name: row[name] for name in row.keys() if name != "checksum"}  # noqa: SIM118  # a Row is no dict
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _row(measurement: Measurement) -> dict[str, Any]:
    latency = measurement.latency
    return {
        "sha256": measurement.sha256,
        "fingerprint": measurement.fingerprint,
        "meter": measurement.meter,
        "network": measurement.network,
        **{name: getattr(latency, name) for name in _LATENCY_NUMBERS},
        "raw_ms": json.dumps(latency.raw_ms),
        "reference_raw_ms": json.dumps(latency.reference_raw_ms),
        "predicted": latency.predicted,
        "device": None if measurement.device is None else json.dumps(measurement.device),
        "conditions": json.dumps({k: v for k, v in latency.conditions.items() if k != "device"}),
        "profile": json.dumps([dataclasses.asdict(operator) for operator in measurement.profile]),
        "created_at": measurement.created_at,
    }


def _measurement(row: sqlite3.Row) -> Measurement:
    expected = row["checksum"] if "checksum" in row.keys() else None  # noqa: SIM118  # a Row is no dict
    if expected is not None and expected != _checksum(row):
        raise ValueError(f"measurement {row['id']} is not what was stored")
    device = {} if row["device"] is None else {"device": json.loads(row["device"])}
    latency = Latency(
        **{name: row[name] for name in _LATENCY_NUMBERS},
        raw_ms=tuple(json.loads(row["raw_ms"])),
        reference_raw_ms=tuple(json.loads(row["reference_raw_ms"])),
        predicted=bool(row["predicted"]),
        conditions={**device, **json.loads(row["conditions"])},
    )
    return Measurement(
        sha256=row["sha256"],
        fingerprint=row["fingerprint"],
        meter=row["meter"],
        latency=latency,
        created_at=row["created_at"],
        network=row["network"],
        profile=tuple(OperatorTime(**operator) for operator in json.loads(row["profile"])),
    )
