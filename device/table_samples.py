"""What a latency table is made of: networks timed on one device, and how well unseen ones are predicted."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amc_tf.device.latency import Latency
from amc_tf.device.operators import Operator, structure
from amc_tf.errors import MeasurementError

if TYPE_CHECKING:
    from amc_tf.device.operator_times import TimedNetwork

_MAX_TEXT = 10_000


@dataclasses.dataclass(frozen=True)
class TableSample:
    """One network that was timed.

    Attributes:
        label: For people: "original", "uniform 0.75".
        operators: What it consists of, in run order.
        median_ms: Median latency, in milliseconds; above 0.
        p5_ms: 5th percentile.
        p95_ms: 95th percentile.
        std_ms: Standard deviation.
        num_runs: Timed runs.
        noise: Relative uncertainty of `median_ms`.
        times_ms: Profiled time of each operator, None for one that is not known; None without a profile.
    """

    label: str
    operators: tuple[Operator, ...]
    median_ms: float
    p5_ms: float
    p95_ms: float
    std_ms: float
    num_runs: int
    noise: float = 0.0
    times_ms: tuple[float | None, ...] | None = None

    def __post_init__(self) -> None:
        numbers = [self.median_ms, self.p5_ms, self.p95_ms, self.std_ms, self.noise]
        numbers += [time for time in self.times_ms or () if time is not None]
        fits = all(math.isfinite(number) and 0 <= number < 1e9 for number in numbers) and self.median_ms > 0
        lengths_fit = self.times_ms is None or len(self.times_ms) == len(self.operators)
        if not (fits and lengths_fit and self.operators and self.num_runs >= 1):
            raise MeasurementError(
                f"The times of network '{self.label}' cannot be right: they must be finite, the median of "
                f"{self.median_ms} ms above 0, with one for each of its {len(self.operators)} operators."
            )

    @classmethod
    def from_latency(
        cls,
        label: str,
        operators: Sequence[Operator],
        latency: Latency,
        *,
        times_ms: tuple[float | None, ...] | None = None,
        reference_ms: float | None = None,
    ) -> TableSample:
        """Makes a sample of a measurement.

        Args:
            label: For people.
            operators: Of the network.
            latency: Its measurement.
            times_ms: Of its operators, if it was profiled.
            reference_ms: What the table knows of the reference beside which it was timed: the sample is then
                the measured ratio times this, so that all samples are as of one state of the device.
        """
        ratio = latency.ratio
        usable = reference_ms is not None and ratio is not None and latency.median_ms > 0
        scale = ratio * reference_ms / latency.median_ms if usable else 1.0  # type: ignore[operator]  # usable
        return cls(
            label=label,
            operators=tuple(operators),
            median_ms=scale * latency.median_ms,
            p5_ms=scale * latency.p5_ms,
            p95_ms=scale * latency.p95_ms,
            std_ms=scale * latency.std_ms,
            num_runs=latency.num_runs,
            noise=_uncertainty(latency),
            times_ms=times_ms,
        )

    def to_json(self, numbers: Mapping[Operator, int]) -> dict[str, Any]:
        """Returns the fields as JSON values, each operator as its number; `from_json` is the inverse."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "operators": [numbers[operator] for operator in self.operators],
            "times_ms": None if self.times_ms is None else list(self.times_ms),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], operators: Sequence[Operator]) -> TableSample:
        """Rebuilds a sample from `to_json` and the numbered operators.

        Raises:
            KeyError, TypeError, ValueError, MeasurementError: A field is missing, unknown or wrong.
        """
        indices, times = record["operators"], record["times_ms"]
        if not all(type(index) is int and 0 <= index < len(operators) for index in indices):
            raise ValueError(f"network {record['label']!r} names operators that are not there")
        fields = {
            **record,
            "label": read_text(record["label"]),
            "operators": tuple(operators[index] for index in indices),
            "num_runs": int(record["num_runs"]),
            "times_ms": None
            if times is None
            else tuple(None if time is None else float(time) for time in times),
        }
        for name in ("median_ms", "p5_ms", "p95_ms", "std_ms", "noise"):
            fields[name] = float(record[name])
        return cls(**fields)

    @functools.cached_property
    def structure(self) -> str:
        """Digest of the operators; two networks that differ in weights only share it."""
        return structure(self.operators)

    @functools.cached_property
    def timed(self) -> TimedNetwork:
        """The sample as the model of operator times takes it."""
        from amc_tf.device.operator_times import TimedNetwork

        return TimedNetwork(self.operators, self.median_ms, self.times_ms, self.noise)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A network that was predicted by a model that had not seen it.

    Attributes:
        label: The network's.
        measured_ms: Its measured median.
        predicted_ms: What the model said.
    """

    label: str
    measured_ms: float
    predicted_ms: float

    def __post_init__(self) -> None:
        times = (self.measured_ms, self.predicted_ms)
        if not all(math.isfinite(time) and time > 0 for time in times):
            raise MeasurementError(
                f"Network '{self.label}' cannot have {times} as measured and predicted ms."
            )

    @property
    def error(self) -> float:
        """Predicted / measured - 1."""
        return self.predicted_ms / self.measured_ms - 1.0


@dataclasses.dataclass(frozen=True)
class TableError:
    """How far predictions of unseen networks are off.

    Attributes:
        networks: Each network of the table, predicted from those of the other folds; at least one.
    """

    networks: tuple[HeldOut, ...]

    @property
    def median(self) -> float:
        """Median of the relative errors' magnitudes."""
        return statistics.median(abs(network.error) for network in self.networks)

    @property
    def largest(self) -> float:
        """The largest magnitude of a relative error."""
        return max(abs(network.error) for network in self.networks)

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the networks as plain JSON values; `from_json` is the inverse."""
        return [dataclasses.asdict(network) for network in self.networks]

    @classmethod
    def from_json(cls, record: Sequence[Mapping[str, Any]]) -> TableError:
        """Rebuilds an error from `to_json`.

        Raises:
            KeyError, TypeError, ValueError, MeasurementError: A field is missing or wrong.
        """
        networks = tuple(
            HeldOut(read_text(item["label"]), float(item["measured_ms"]), float(item["predicted_ms"]))
            for item in record
        )
        if not networks:
            raise ValueError("the error is of no network")
        return cls(networks)


def _uncertainty(latency: Latency) -> float:
    """Half of how far apart the rounds are; without rounds, about the standard error of the median run."""
    if latency.noise is not None:
        return latency.noise / 2
    return latency.spread / math.sqrt(max(len(latency.raw_ms), 1))


def read_text(value: Any) -> str:
    """Returns a text from JSON.

    Raises:
        ValueError: It is no text, or a very long one.
    """
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"{str(value)[:40]!r} stands where a text of at most {_MAX_TEXT} characters belongs")
    return value
