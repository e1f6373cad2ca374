"""The latency table of one device: networks timed on it, in a JSON file, and what they say about others."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amc_tf.device.latency import Latency
from amc_tf.device.operators import Operator, read_operators, structure
from amc_tf.device.table_file import read_json, write_json
from amc_tf.device.table_samples import HeldOut, TableError, TableSample, read_text
from amc_tf.errors import MeasurementError, ModelError

if TYPE_CHECKING:
    from amc_tf.device.operator_times import OperatorTimes

FORMAT = "amc-tf latency table"
VERSION = 1
_NUM_FOLDS = 10
_UNKNOWN_ERROR = 0.1  # relative, assumed of a table with a single network
# Of a normal distribution: its deviation and its 95th percentile in units of the median absolute value.
_DEVIATION_OF_MEDIAN = 1.4826
_P95_OF_MEDIAN = 2.4387


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """What is known about the latencies of one device.

    Attributes:
        name: For people, as of the meter: "Google Pixel 8:cpu:1-thread".
        measured_with: Device, runtime and settings as JSON values; samples of others do not belong here.
        source: Where the samples come from, for people.
        samples: The timed networks, each structure once.
        error: As of `measure_error`, None where the samples have changed since.
    """

    name: str
    measured_with: Mapping[str, Any]
    source: str
    samples: tuple[TableSample, ...] = ()
    error: TableError | None = None

    def predict(self, operators: Sequence[Operator]) -> float:
        """Returns the predicted latency of a network in ms, also where the table has timed it.

        Raises:
            MeasurementError: The table is empty, or has nothing of the network's precision.
        """
        return float(sum(self.predict_operators(operators)))

    def predict_operators(self, operators: Sequence[Operator]) -> tuple[float, ...]:
        """Returns the predicted time of each operator in ms; they add up to `predict`.

        Raises:
            MeasurementError: As of `predict`.
        """
        translated = self.translate(operators)
        return tuple(map(float, self.times.predict(translated)))

    def known(self, operators: Sequence[Operator]) -> TableSample | None:
        """Returns the sample of a network of the same structure, or None."""
        return self._by_structure.get(structure(operators))

    def with_sample(self, sample: TableSample) -> LatencyTable:
        """Returns a table with one more sample; an earlier one of the same structure leaves.

        A profile that the new sample lacks is taken over.
        """
        earlier = self._by_structure.get(sample.structure)
        if earlier is not None and sample.times_ms is None:
            sample = dataclasses.replace(sample, times_ms=earlier.times_ms)
        others = tuple(item for item in self.samples if item.structure != sample.structure)
        return dataclasses.replace(self, samples=(*others, sample), error=None)

    def measure_error(self) -> TableError | None:
        """Predicts every network from others; None for a table with fewer than two.

        Up to ten networks are left out one at a time; more are left out in ten folds.
        """
        from amc_tf.device.operator_times import OperatorTimes

        if len(self.samples) < 2:
            return None
        num_folds = min(len(self.samples), _NUM_FOLDS)
        predicted: dict[int, float] = {}
        for fold in range(num_folds):
            rest = [item.timed for index, item in enumerate(self.samples) if index % num_folds != fold]
            times = OperatorTimes(rest)
            for index in range(fold, len(self.samples), num_folds):
                predicted[index] = float(times.predict(self.samples[index].operators).sum())
        return TableError(
            tuple(HeldOut(item.label, item.median_ms, predicted[i]) for i, item in enumerate(self.samples))
        )

    def with_error(self) -> LatencyTable:
        """Returns the table with its error measured."""
        return dataclasses.replace(self, error=self.measure_error())

    @functools.cached_property
    def times(self) -> OperatorTimes:
        """The fitted model of operator times.

        Raises:
            MeasurementError: The table is empty.
        """
        from amc_tf.device.operator_times import OperatorTimes

        return OperatorTimes([sample.timed for sample in self.samples])

    def translate(self, operators: Sequence[Operator]) -> tuple[Operator, ...]:
        """Writes operators in a precision that the table knows.

        Weights stored as float16 cost a CPU nothing: they are unpacked once and computed with as float32.

        Raises:
            MeasurementError: The table has nothing of the network's precision.
        """
        known = self._precisions
        found = {operator.precision for operator in operators if operator.num_weights}
        if "float16" in found - known and "float32" in known:
            operators = [_as_float32(operator) for operator in operators]
            found = found - {"float16"} | {"float32"}
        if not found <= known:
            raise MeasurementError(
                f"The latency table '{self.name}' has timed {' and '.join(sorted(known)) or 'no'} networks, "
                f"but this one is {' and '.join(sorted(found - known))}; time it on the device."
            )
        return tuple(operators)

    def to_json(self) -> dict[str, Any]:
        """Returns the table as plain JSON values; `from_json` is the inverse."""
        operators = dict.fromkeys(item for sample in self.samples for item in sample.operators)
        numbers = {operator: index for index, operator in enumerate(operators)}
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "source": self.source,
            "measured_with": dict(self.measured_with),
            "error": self.error.to_json() if self.error else None,
            "operators": [operator.to_row() for operator in operators],
            "networks": [sample.to_json(numbers) for sample in self.samples],
        }

    @classmethod
    def from_json(cls, record: Any) -> LatencyTable:
        """Rebuilds a table from `to_json`.

        Raises:
            MeasurementError: The record is no table, is of another version, or has values no table has.
        """
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise MeasurementError(f'the format is not "{FORMAT}"')
        if record.get("version") != VERSION:
            raise MeasurementError(f"the version is {record.get('version')!r}, not {VERSION}")
        try:
            operators = [Operator.from_row(row) for row in record["operators"]]
            held_out = record["error"]
            return cls(
                name=read_text(record["name"]),
                measured_with=dict(record["measured_with"]),
                source=read_text(record["source"]),
                samples=tuple(TableSample.from_json(item, operators) for item in record["networks"]),
                error=None if held_out is None else TableError.from_json(held_out),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise MeasurementError(f"{type(error).__name__}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table, whole or not at all.

        Raises:
            RunFolderError: The file cannot be written; what stood there before is untouched.
        """
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Reads a table.

        Raises:
            MeasurementError: There is no such file, it is no table, or it is damaged.
        """
        try:
            return cls.from_json(read_json(path))
        except OSError as error:
            raise MeasurementError(
                f"The latency table {path} cannot be read ({error.strerror}); `amc-tf table build` makes one."
            ) from error
        except (ValueError, MeasurementError) as error:
            raise MeasurementError(
                f"{path} is damaged or no latency table ({error}); make one with `amc-tf table build`."
            ) from error

    @functools.cached_property
    def typical_error(self) -> float:
        """Median relative error of predictions; measured on first use where `error` is None."""
        error = self.error or self.measure_error()
        return error.median if error else _UNKNOWN_ERROR

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of all that predictions depend on."""
        content = {**self.to_json(), "error": None, "source": None}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def _by_structure(self) -> dict[str, TableSample]:
        return {sample.structure: sample for sample in self.samples}

    @functools.cached_property
    def _precisions(self) -> frozenset[str]:
        return frozenset(
            operator.precision
            for sample in self.samples
            for operator in sample.operators
            if operator.num_weights
        )


class TableMeter:
    """A `LatencyMeter` that answers from a table, without a device and at once.

    A network of a structure that the table has timed gets its measured numbers; any other is predicted, and
    its latency says so. The 5th and 95th percentile of a prediction tell what the table does not know: they
    enclose 90 % of what the device would measure if the table's errors on unseen networks were normally
    distributed around 0.

    Attributes:
        name: "table:" and the name of the table.
        runs_elsewhere: False: it takes no time that could be used.
    """

    runs_elsewhere = False

    def __init__(self, table: LatencyTable, reference: bytes | None = None) -> None:
        """Checks that the table can answer.

        Args:
            table: At least one network.
            reference: The network that every candidate is compared with, as TFLite bytes.

        Raises:
            MeasurementError: The table is empty, or the reference cannot be predicted.
        """
        if not table.samples:
            raise MeasurementError(
                f"The latency table '{table.name}' is empty; build it with a device first."
            )
        self.name = f"table:{table.name}"
        self._table = table
        self._reference_sha256 = hashlib.sha256(reference).hexdigest() if reference else None
        self._reference_ms: float | None = None
        if reference:
            self._reference_ms = self.measure(reference).median_ms

    def fingerprint(self) -> str:
        """Returns the table's digest and the reference as one line of JSON (see `LatencyMeter`)."""
        return json.dumps(
            {"kind": "table", "table": self._table.sha256, "reference": self._reference_sha256},
            sort_keys=True,
        )

    def with_reference(self, tflite: bytes) -> TableMeter:
        """Returns a meter over the same table that compares every candidate with this network."""
        return TableMeter(self._table, tflite)

    def measure(self, tflite: bytes) -> Latency:
        """Looks a network up, or predicts it.

        Args:
            tflite: The contents of a `.tflite` file.

        Raises:
            MeasurementError: The bytes are no network, or the table has nothing of its precision.
        """
        try:
            operators = self._table.translate(read_operators(tflite))
        except ModelError as error:
            raise MeasurementError(f"The network cannot be looked up in {self.name}: {error}") from error
        sample = self._table.known(operators)
        if sample is not None:
            return Latency(
                sample.median_ms, sample.p5_ms, sample.p95_ms, sample.std_ms, sample.num_runs,
                reference_median_ms=self._reference_ms,
            )  # fmt: skip
        median_ms, typical = self._table.predict(operators), self._table.typical_error
        return Latency(
            median_ms,
            p5_ms=median_ms * max(1 - _P95_OF_MEDIAN * typical, 0.0),
            p95_ms=median_ms * (1 + _P95_OF_MEDIAN * typical),
            std_ms=median_ms * _DEVIATION_OF_MEDIAN * typical,
            num_runs=1,
            reference_median_ms=self._reference_ms,
            predicted=True,
        )


def _as_float32(operator: Operator) -> Operator:
    return dataclasses.replace(operator, precision="float32") if operator.precision == "float16" else operator
