"""Fills latency tables: from networks made for the purpose, and from whatever a search measures."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from amc_tf.device.latency import Latency, LatencyMeter
from amc_tf.device.operators import Operator, assign_times, read_operators
from amc_tf.device.table import LatencyTable
from amc_tf.device.table_samples import TableSample
from amc_tf.errors import MeasurementError, ModelError, PhoneError

_LOGGER = logging.getLogger(__name__)
# How long and beside what a network is timed does not change what its time is.
_NOT_IDENTITY = (
    "reference",
    "timing",
    "num_runs",
    "min_seconds",
    "max_seconds",
    "warmup_runs",
    "warmup_seconds",
)

OnNetwork = Callable[[TableSample, bool], None]


def measured_with(meter: LatencyMeter) -> dict[str, Any]:
    """Returns device, runtime and settings of a meter, as far as they decide what it measures."""
    return _without_timing(json.loads(meter.fingerprint()))


class LearningMeter:
    """A `LatencyMeter` that adds every network it measures to a table, and saves the table each time.

    A network timed beside a reference that the table knows is added as measured ratio × the reference's time
    in the table, so that a warm day does not make the networks measured on it look slow. A network timed
    alone is added only if the table does not know it. Predicted latencies teach nothing and are passed on.

    Attributes:
        name: That of the meter behind it.
        runs_elsewhere: That of the meter behind it.
        label: What the networks that it adds are called in the table.
    """

    def __init__(self, meter: LatencyMeter, path: str | os.PathLike[str]) -> None:
        """Opens the table, or starts one if there is no such file.

        Args:
            meter: Measures; usually a phone.
            path: The JSON file of the table.

        Raises:
            MeasurementError: The file is no table, or one of another device or other settings.
        """
        self.name = meter.name
        self.runs_elsewhere = meter.runs_elsewhere
        self.label = "search"
        self._meter = meter
        self._book = _Book(meter, Path(path))
        self._reference: bytes | None = None

    @property
    def table(self) -> LatencyTable:
        """The table as it is now."""
        return self._book.table

    def fingerprint(self) -> str:
        """Returns the fingerprint of the meter behind it."""
        return self._meter.fingerprint()

    def with_reference(self, tflite: bytes) -> LearningMeter:
        """Returns a meter that teaches the same table and times every candidate beside this network."""
        learner = copy.copy(self)
        learner._meter, learner._reference = self._meter.with_reference(tflite), tflite
        return learner

    def measure(self, tflite: bytes) -> Latency:
        """Times one network and adds it to the table.

        Raises:
            MeasurementError: It cannot be timed; the table is as before.
            RunFolderError: The table cannot be written.
        """
        latency = self._meter.measure(tflite)
        if not latency.predicted:
            self._book.add(self.label, tflite, latency, reference=self._reference)
        return latency


def build_table(
    meter: LatencyMeter,
    networks: Iterable[tuple[str, bytes]],
    path: str | os.PathLike[str],
    *,
    source: str = "",
    extend: bool = True,
    on_network: OnNetwork | None = None,
) -> LatencyTable:
    """Measures networks into a table, or goes on where an interrupted build stopped.

    The first network is the reference of all others. Each is timed, and profiled where the meter can
    profile; the file is saved after each. Networks of a structure that the file holds already are not
    measured again.

    Args:
        meter: Times and, if it has a method `profile`, profiles networks.
        networks: Label and TFLite bytes of each; the original first.
        path: The JSON file.
        source: Where the samples come from, for people.
        extend: Add to an existing table of the same device; else it is replaced once a network is measured.
        on_network: Told each sample, and whether it was there already.

    Returns:
        The table with its error on held-out networks, as saved.

    Raises:
        MeasurementError: A network cannot be timed, or the file is no table of this device; what was
            measured before is saved.
        RunFolderError: The file cannot be written.
    """
    book = _Book(meter, Path(path), source=source, extend=extend)
    paired, reference = meter, None
    for label, tflite in networks:
        sample = book.known(tflite)
        is_known = sample is not None
        if sample is None:
            latency = paired.measure(tflite)
            times = _profile(meter, tflite)
            sample = book.add(label, tflite, latency, reference=reference, times_ms=times)
        if reference is None:
            paired, reference = meter.with_reference(tflite), tflite
        if on_network is not None:
            on_network(sample, is_known)
    return book.save_with_error()


class _Book:
    """A table, its file, and the rule for what is added."""

    def __init__(self, meter: LatencyMeter, path: Path, *, source: str = "", extend: bool = True) -> None:
        self._path = path
        identity = measured_with(meter)
        if not (extend and path.exists()):
            self.table = LatencyTable(meter.name, identity, source or f"measured on {meter.name}")
            return
        self.table = LatencyTable.load(path)
        stored = _without_timing(dict(self.table.measured_with))
        different = sorted(key for key in {*identity, *stored} if identity.get(key) != stored.get(key))
        if different:
            key = different[0]
            raise MeasurementError(
                f"The latency table {path} is of another device or other settings ({', '.join(different)}: "
                f"{stored.get(key)!r} there, {identity.get(key)!r} here); name another file."
            )

    def known(self, tflite: bytes) -> TableSample | None:
        return self.table.known(_operators(tflite))

    def add(
        self,
        label: str,
        tflite: bytes,
        latency: Latency,
        *,
        reference: bytes | None,
        times_ms: tuple[float | None, ...] | None = None,
    ) -> TableSample:
        """Adds a measurement and saves; returns what the table now holds for the network."""
        operators = _operators(tflite)
        earlier = self.table.known(operators)
        beside = self.table.known(_operators(reference)) if reference is not None else None
        if earlier is not None and (beside is None or beside.structure == earlier.structure):
            return earlier
        sample = TableSample.from_latency(
            earlier.label if earlier else label,
            operators,
            latency,
            times_ms=times_ms,
            reference_ms=beside.median_ms if beside else None,
        )
        self.table = self.table.with_sample(sample)
        self.table.save(self._path)
        return sample

    def save_with_error(self) -> LatencyTable:
        self.table = self.table.with_error()
        self.table.save(self._path)
        return self.table


def _profile(meter: LatencyMeter, tflite: bytes) -> tuple[float | None, ...] | None:
    """Profiles a network where the meter can; a tool that cannot profile leaves its time as a whole."""
    profile = getattr(meter, "profile", None)
    if profile is None:
        return None
    try:
        rows = profile(tflite)
    except PhoneError:
        raise
    except MeasurementError as error:
        _LOGGER.warning("A network was timed as a whole only: %s", error)
        return None
    return assign_times(_operators(tflite), [(row.kind, row.mean_ms) for row in rows])


def _operators(tflite: bytes) -> tuple[Operator, ...]:
    try:
        return read_operators(tflite)
    except ModelError as error:
        raise MeasurementError(f"A timed network does not fit into a latency table: {error}") from error


def _without_timing(record: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_timing(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in _NOT_IDENTITY
    }
