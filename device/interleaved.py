"""Times networks on this machine in turns with a reference network; what runs a network is left open."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Callable

from amc_tf.device.latency import Latency, relative_spread
from amc_tf.errors import MeasurementError, ModelError, SettingsError

_LOGGER = logging.getLogger(__name__)

Invoke = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long a measurement warms up, how it takes turns with the reference, and when it stops.

    Attributes:
        warmup_runs: Fewest untimed runs of a network after loading; 0 or more.
        warmup_seconds: Shortest warm-up, in seconds; 0 or more.
        block_runs: Timed runs in a row before the other network's turn; 1 or more.
        settle_runs: Untimed runs at the start of each turn; 0 or more.
        min_seconds: Shortest time spent on timing one candidate, reference included; 0 or more.
        max_seconds: No new round starts after this many seconds; at least `min_seconds`.
        max_spread: While interquartile range / median is above this, rounds go on up to `max_seconds`.
    """

    warmup_runs: int = 5
    warmup_seconds: float = 0.05
    block_runs: int = 10
    settle_runs: int = 2
    min_seconds: float = 0.2
    max_seconds: float = 1.0
    max_spread: float = 0.1

    def __post_init__(self) -> None:
        for name, smallest in (("warmup_runs", 0), ("block_runs", 1), ("settle_runs", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise SettingsError(f"{name} must be an integer of {smallest} or more, but is {value!r}.")
        for name in ("warmup_seconds", "min_seconds", "max_spread"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} must be 0 or more, but is {getattr(self, name)!r}.")
        if not self.max_seconds >= self.min_seconds:
            raise SettingsError(
                f"max_seconds must be at least min_seconds ({self.min_seconds}), but is {self.max_seconds!r}."
            )


class InterleavedTimer:
    """Times networks, candidate and reference in turn.

    Candidate and reference take turns in short blocks, the first turn changing sides each round (C R, R C,
    C R, ...): a slow drift of the machine falls on both alike and cancels in `Latency.paired_ratio`. Blocks,
    and not one run each, because a device in use runs one network over and over with its weights in cache.
    The first `Timing.settle_runs` of a turn are not timed.

    Rounds go on until `num_runs` runs and `Timing.min_seconds` are reached and the spread is small enough, or
    `Timing.max_seconds` have passed; two rounds are always made.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[bytes], Invoke],
        *,
        reference: bytes | None,
        num_runs: int,
        timing: Timing,
        clock_ns: Callable[[], int],
    ) -> None:
        """Loads and warms the reference; it stays loaded for all candidates.

        Args:
            name: Of the meter, for messages.
            load: Turns TFLite bytes into a function that runs the network once and waits for its end.
            reference: The network that every candidate is compared with, as TFLite bytes, or None.
            num_runs: Fewest timed runs per candidate, unless `timing.max_seconds` pass first; 1 or more.
            timing: Warm-up, block and time limits.
            clock_ns: Monotonic clock in nanoseconds.

        Raises:
            MeasurementError: The reference does not load or run.
            SettingsError: `num_runs` is below 1.
        """
        if isinstance(num_runs, bool) or not isinstance(num_runs, int) or num_runs < 1:
            raise SettingsError(f"num_runs must be an integer of 1 or more, but is {num_runs!r}.")
        self._name = name
        self._load = load
        self._num_runs = num_runs
        self._timing = timing
        self._clock_ns = clock_ns
        self._reference = None if reference is None else self._prepare(reference, "reference")

    def measure(self, tflite: bytes) -> Latency:
        """Times one network against the reference.

        Args:
            tflite: The contents of a `.tflite` file.

        Returns:
            The latency; `reference_median_ms` and `paired_ratio` are None without a reference.

        Raises:
            MeasurementError: The bytes are empty, damaged, or the network does not run.
        """
        candidate = self._prepare(tflite, "candidate")
        candidate_blocks: list[list[float]] = []
        reference_blocks: list[list[float]] = []
        start_ns = self._clock_ns()
        while not self._is_done(candidate_blocks, (self._clock_ns() - start_ns) / 1e9):
            turns = [(candidate, candidate_blocks)]
            if self._reference is not None:
                turns.append((self._reference, reference_blocks))
            for invoke, blocks in turns if len(candidate_blocks) % 2 == 0 else reversed(turns):
                blocks.append(self._time_block(invoke))
        latency = _summarise(candidate_blocks, reference_blocks)
        if latency.spread > self._timing.max_spread:
            _LOGGER.info(
                "%s is unsteady: interquartile range %.0f %% of the median after %d runs, limit %.0f %%.",
                self._name, 100 * latency.spread, latency.num_runs, 100 * self._timing.max_spread,
            )  # fmt: skip
        return latency

    def _prepare(self, tflite: bytes, role: str) -> Invoke:
        try:
            invoke = self._load(tflite)
            self._warm_up(invoke)
        except (ModelError, RuntimeError, ValueError) as error:
            raise MeasurementError(f"The {role} network cannot be timed on {self._name}: {error}") from error
        return invoke

    def _warm_up(self, invoke: Invoke) -> None:
        start_ns = self._clock_ns()
        runs = 0
        while (
            runs < self._timing.warmup_runs or self._clock_ns() - start_ns < self._timing.warmup_seconds * 1e9
        ):
            invoke()
            runs += 1

    def _is_done(self, blocks: list[list[float]], seconds: float) -> bool:
        if len(blocks) < 2:
            return False
        if seconds >= self._timing.max_seconds:
            return True
        samples = [sample for block in blocks for sample in block]
        enough = len(samples) >= self._num_runs and seconds >= self._timing.min_seconds
        return enough and relative_spread(samples) <= self._timing.max_spread

    def _time_block(self, invoke: Invoke) -> list[float]:
        for _ in range(self._timing.settle_runs):
            invoke()
        samples_ms = []
        for _ in range(self._timing.block_runs):
            start_ns = self._clock_ns()
            invoke()
            samples_ms.append((self._clock_ns() - start_ns) / 1e6)
        return samples_ms


def _summarise(candidate_blocks: list[list[float]], reference_blocks: list[list[float]]) -> Latency:
    samples = [sample for block in candidate_blocks for sample in block]
    if not reference_blocks:
        medians = [statistics.median(block) for block in candidate_blocks]
        return Latency.from_samples(samples, noise=relative_spread(medians))
    ratios = [
        statistics.median(candidate) / statistics.median(reference)
        for candidate, reference in zip(candidate_blocks, reference_blocks, strict=True)
        if statistics.median(reference) > 0
    ]
    return Latency.from_samples(
        samples,
        reference_raw_ms=[sample for block in reference_blocks for sample in block],
        paired_ratio=statistics.median(ratios) if ratios else None,
        noise=relative_spread(ratios) if len(ratios) > 1 else None,
    )
