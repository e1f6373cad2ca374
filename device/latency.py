"""The value every timing ends in, and the protocol of the things that time."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from amc_tf.errors import MeasurementError


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long one inference of a network takes on one device, batch size 1.

    Attributes:
        median_ms: Median over all timed runs, in milliseconds; the number that rewards and tables use.
        p5_ms: 5th percentile, in milliseconds (linear interpolation between order statistics).
        p95_ms: 95th percentile, in milliseconds.
        std_ms: Population standard deviation, in milliseconds; one interruption by the scheduler
            can dominate it, so judge steadiness by `noise` or `spread`.
        num_runs: Number of timed runs; at least 1.
        raw_ms: Every timed run in the order taken, in milliseconds, or, from a tool that tells only how a
            process of many runs went, the median of each process; empty if the device kept none.
        reference_median_ms: Median of the reference network timed in the same minutes, or None.
        paired_ratio: Median, over neighbouring blocks of runs, of candidate time / reference time, or None.
            Whatever slows the device down for a while slows both halves of a pair.
        reference_raw_ms: What `raw_ms` is for the reference; empty without one.
        noise: How far one round of the measurement is from the next: interquartile range / median of the
            rounds' paired ratios, or of their medians without a reference; None if fewer than two rounds are
            known. Two networks whose ratios differ by less have not been told apart.
        predicted: Whether the numbers come from a model of the device instead of from runs.
        conditions: JSON values that tell how it was measured, where the meter knows: temperatures, cores,
            memory; nothing in it is needed to use the numbers.
    """

    median_ms: float
    p5_ms: float
    p95_ms: float
    std_ms: float
    num_runs: int
    raw_ms: tuple[float, ...] = ()
    reference_median_ms: float | None = None
    paired_ratio: float | None = None
    reference_raw_ms: tuple[float, ...] = ()
    noise: float | None = None
    predicted: bool = False
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        times = (self.median_ms, self.p5_ms, self.p95_ms, self.std_ms)
        if self.num_runs < 1 or not all(math.isfinite(time) and time >= 0 for time in times):
            raise MeasurementError(
                f"A latency needs at least one run and finite times of 0 ms or more, but got {self.num_runs} "
                f"runs with median, p5, p95 and standard deviation {times}; measure again."
            )
        beside = (self.reference_median_ms, self.paired_ratio, self.noise)
        if not all(number is None or (math.isfinite(number) and number >= 0) for number in beside):
            raise MeasurementError(
                "A latency needs finite numbers of 0 or more, but got a time of the reference, a ratio to it "
                f"and a noise of {beside}; measure again."
            )

    @classmethod
    def from_samples(
        cls,
        samples_ms: Sequence[float],
        *,
        reference_median_ms: float | None = None,
        paired_ratio: float | None = None,
        reference_raw_ms: Sequence[float] = (),
        noise: float | None = None,
    ) -> Latency:
        """Summarises timed runs.

        Args:
            samples_ms: Duration of each run, in milliseconds, in the order taken; at least one.
            reference_median_ms: Median of the reference network over the same period, if there is one; by
                default that of `reference_raw_ms`.
            paired_ratio: Median ratio over pairs of neighbouring blocks, if there are pairs.
            reference_raw_ms: Duration of each run of the reference, in milliseconds, if they were kept.
            noise: Relative spread between rounds, if there were rounds.

        Raises:
            MeasurementError: There are no samples, or one is negative or not finite.
        """
        if not samples_ms:
            raise MeasurementError("No run was timed, so there is no latency; allow at least one run.")
        raw = tuple(float(sample) for sample in samples_ms)
        reference_raw = tuple(float(sample) for sample in reference_raw_ms)
        if not all(math.isfinite(sample) and sample >= 0 for sample in raw + reference_raw):
            raise MeasurementError(
                "A timed run is negative or not finite; the device's clock cannot be trusted."
            )
        if reference_median_ms is None and reference_raw:
            reference_median_ms = statistics.median(reference_raw)
        return cls(
            median_ms=percentile(raw, 50),
            p5_ms=percentile(raw, 5),
            p95_ms=percentile(raw, 95),
            std_ms=statistics.pstdev(raw),
            num_runs=len(raw),
            raw_ms=raw,
            reference_median_ms=reference_median_ms,
            paired_ratio=paired_ratio,
            reference_raw_ms=reference_raw,
            noise=noise,
        )

    @property
    def ratio(self) -> float | None:
        """Candidate time / reference time: `paired_ratio` if pairs were taken, else the medians' quotient."""
        if self.paired_ratio is not None:
            return self.paired_ratio
        if self.reference_median_ms:
            return self.median_ms / self.reference_median_ms
        return None

    @property
    def spread(self) -> float:
        """Interquartile range / median of `raw_ms`; 0 where fewer than two are kept.

        Of single runs it tells how steady the device was; of process medians, few as they are, how well a
        measurement repeats without a reference to cancel drift. `noise` is the number to report.
        """
        return relative_spread(self.raw_ms)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values; `from_json` is the inverse."""
        return {
            **dataclasses.asdict(self),
            "raw_ms": list(self.raw_ms),
            "reference_raw_ms": list(self.reference_raw_ms),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Latency:
        """Rebuilds a latency from `to_json`.

        Raises:
            MeasurementError: A field is missing, unknown or of the wrong type.
        """
        try:
            series = {name: tuple(map(float, record[name])) for name in ("raw_ms", "reference_raw_ms")}
            return cls(**{**record, **series})
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(
                f"A stored latency cannot be read ({error}); it needs the fields "
                f"{', '.join(field.name for field in dataclasses.fields(cls))}."
            ) from error


@runtime_checkable
class LatencyMeter(Protocol):
    """Something that can time a TFLite network: this machine, a phone, a table of known times.

    A search asks one meter for hundreds of networks, one after the other, and compares the answers. An
    implementation therefore owes its caller:

    - One inference of batch size 1 is timed after warm-up, without loading, copying in or copying out.
    - The reference network, when the meter has one, is timed again with every candidate and reported in the
      same `Latency`, so that a device that slows down (heat, other work) cannot pass for a slower network.
    - `measure` leaves nothing of the candidate behind on the device, and may be called again after it failed.

    Attributes:
        name: For people, short and stable: "host:1-thread", "Pixel 8:xnnpack:4-thread".
        runs_elsewhere: Whether this machine may work on while `measure` waits, without changing the answer:
            true of a phone, false of this machine itself.
    """

    name: str
    runs_elsewhere: bool

    def fingerprint(self) -> str:
        """Returns what the numbers depend on besides the network, as one line of text.

        Device, runtime and its version, threads, delegate, timing settings, reference network: two meters
        with equal fingerprints may share stored measurements, so anything that changes what is measured
        must change the text. It must not depend on the moment (no temperature, no load).
        """
        ...

    def with_reference(self, tflite: bytes) -> LatencyMeter:
        """Returns a meter like this one that times every candidate beside this network."""
        ...

    def measure(self, tflite: bytes) -> Latency:
        """Times one network.

        Args:
            tflite: The contents of a `.tflite` file with one input.

        Raises:
            MeasurementError: The network does not load or run, or the device is gone; the message says which.
        """
        ...


def percentile(samples: Sequence[float], percent: int) -> float:
    """Returns the percentile of at least one sample, by linear interpolation (as `numpy.percentile`).

    Args:
        samples: Values in any order and any unit.
        percent: 1 to 99.
    """
    if len(samples) == 1:
        return samples[0]
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


def relative_spread(samples: Sequence[float]) -> float:
    """Returns interquartile range / median: 0 for equal samples, blind to a few outliers."""
    if len(samples) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return (upper - lower) / middle if middle > 0 else 0.0
