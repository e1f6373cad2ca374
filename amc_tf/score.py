"""What a pruning plan is worth: accuracy, cost, measured latency, and the reward made of them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from amc_tf.budget import Limit, Predictor
from amc_tf.cost import BYTES_PER_FLOAT32, Cost
from amc_tf.data import ImageData, to_input_range
from amc_tf.device.latency import LatencyMeter
from amc_tf.evaluate import Accuracy, probabilities
from amc_tf.executor import Executor
from amc_tf.reward import Outcome, find_reward
from amc_tf.weights import Weights

# What an int8 network that is only timed is calibrated on: the ranges of its numbers change no time. A
# MobileNet for CIFAR is converted in 0.32 s to float32, in 0.36 s to int8 with 8 images, in 0.53 s with 32.
_NUM_TIMING_IMAGES = 8
_MAX_SCALED_BYTES = 1 << 29  # of search images that are kept as float32: 890 of 224x224 pixels


class Candidates(Protocol):
    """Builds the pruned network for any widths; see `amc_tf.candidate.CandidateBuilder`."""

    def count(self, widths: Sequence[int]) -> Cost:
        """Counts the exact cost of the network with these widths."""

    def plan(self, widths: Sequence[int]) -> Any:
        """Decides what is kept."""

    def cut(self, plan: Any) -> Weights:
        """Returns the weights of a plan without any recovery: enough to time the network."""

    def weights(self, plan: Any) -> Weights:
        """Returns the weights of a plan after the recoveries that are on."""


@dataclasses.dataclass(frozen=True)
class Score:
    """What one pruned network turned out to be.

    Attributes:
        widths: kept channels of each group.
        reward: what the agent is told.
        top1: accuracy on the search images, in [0, 1].
        top5: likewise.
        probability: mean probability of the true class on these images, in [0, 1].
        fidelity: how near the outputs on them are to the original's, in (0, 1]; None in records of
            before it was measured.
        cost: exact cost.
        latency_ms: measured median latency, scaled to the reference's first timing; None without a meter.
        feasible: whether the network is within the budget as measured.
    """

    widths: tuple[int, ...]
    reward: float
    top1: float
    top5: float
    probability: float
    cost: Cost
    latency_ms: float | None
    feasible: bool
    fidelity: float | None = None

    @property
    def rank(self) -> tuple[float, int]:
        """Orders networks: by reward, and of equals the one with more operations has more to recover with."""
        return self.reward, self.cost.macs

    def to_json(self) -> dict[str, Any]:
        """Returns the score as one line of `episodes.jsonl` shows it."""
        return {
            "reward": self.reward,
            "top1": self.top1,
            "top5": self.top5,
            "probability": self.probability,
            "fidelity": self.fidelity,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "bytes": self.cost.size_bytes,
            "latency_ms": self.latency_ms,
            "widths": list(self.widths),
            "feasible": self.feasible,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Score:
        """Reads what `to_json` wrote."""
        return cls(
            widths=tuple(value["widths"]),
            reward=value["reward"],
            top1=value["top1"],
            top5=value["top5"],
            probability=value["probability"],
            fidelity=value.get("fidelity"),
            cost=Cost(value["macs"], value["params"], value["bytes"] - BYTES_PER_FLOAT32 * value["params"]),
            latency_ms=value["latency_ms"],
            feasible=value["feasible"],
        )


class LearningPredictor(Predictor, Protocol):
    """Predicts latency for the bounds of a search, and learns from what the search measures."""

    def observe(self, widths: Sequence[int], latency_ms: float) -> None:
        """Takes in a measured latency."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns all that was observed, as arrays that `np.savez` can write."""

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Takes over what `state` returned."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """How candidates are timed.

    Attributes:
        meter: times the converted candidate.
        baseline_ms: median latency of the original, the unit that ratios to it are turned back into.
        predictor: learns from every measurement, for the bounds of a latency budget.
        precision: what candidates are converted to, as the original was for `baseline_ms`.
        sparse: whether kernels with many zeros are stored as sparse ones.
    """

    meter: LatencyMeter
    baseline_ms: float
    predictor: LearningPredictor
    precision: str = "float32"
    sparse: bool = False

    def latency_ms(self, tflite: bytes) -> float:
        """Times a network; where the meter timed the original beside it, drift of the device is taken out."""
        latency = self.meter.measure(tflite)
        return latency.median_ms if latency.ratio is None else latency.ratio * self.baseline_ms


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a search is after.

    Attributes:
        reward: name of the reward (see `amc_tf.reward`).
        metric: what accuracy is in it, one of `amc_tf.settings.ACCURACY_METRICS`; top-1 where there is an
            accuracy floor, which is one on top-1.
        limit: the budget in absolute numbers.
        latency_exponent: w of the soft latency reward.
        accuracy_floor: top-1 on the search images that a network must keep to count, in [0, 1]; errors that
            it allows count alike in the reward. 0 for none.
        int8_accuracy: whether accuracies are those of the int8 TFLite network.
    """

    reward: str
    limit: Limit
    metric: str = "top1"
    latency_exponent: float = -0.07
    accuracy_floor: float = 0.0
    int8_accuracy: bool = False

    @property
    def metric_in_reward(self) -> str:
        """The accuracy that counts; a floor is one on top-1."""
        return "top1" if self.accuracy_floor else self.metric


class Scorer:
    """Scores widths: builds the candidate, runs it on the search images, times it, computes the reward.

    With a latency budget the bounds hold a prediction only. A network that turns out slower than the limit is
    not feasible, and the part by which it is too slow is taken off its reward, so that the agent is told the
    measured time and not just the predicted one.

    A network is scored once; asked again, the first score is returned. While a meter that runs elsewhere
    times it, its accuracy is evaluated here.

    Args:
        executor: runs and converts networks.
        builder: makes plan and weights from widths.
        data: the search images.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
        objective: what the reward is made of.
        timing: how to time; None to leave latency out.
        calibration_images: float32 [N, H, W, C] in the model's input range, where anything is int8: the
            ranges of its numbers are found on them.

    Attributes:
        num_scored: networks that were built and measured, not recalled.
    """

    def __init__(
        self,
        executor: Executor,
        builder: Candidates,
        data: ImageData,
        *,
        input_range: str,
        objective: Objective,
        timing: Timing | None = None,
        calibration_images: NDArray[np.float32] | None = None,
    ) -> None:
        self._executor = executor
        self._builder = builder
        self._data = _scaled_once(data, input_range)
        self._input_range = input_range
        self._objective = objective
        self._reward = find_reward(objective.reward)
        self._timing = timing
        self._calibration_images = calibration_images
        self._known: dict[tuple[int, ...], Score] = {}
        self._references: list[tuple[ImageData, NDArray[np.float32]]] = []
        self.num_scored = 0

    def __call__(self, widths: Sequence[int]) -> Score:
        """Returns the score of the network with these widths.

        Raises:
            ConversionError: if the candidate does not convert.
            MeasurementError: if it cannot be timed.
        """
        key = tuple(int(width) for width in widths)
        if key not in self._known:
            self._known[key] = self._score(key)
            self.num_scored += 1
        return self._known[key]

    def remember(self, score: Score) -> None:
        """Takes over a score from an earlier run of the same search."""
        self._known[score.widths] = score

    def rescore(self, score: Score, weights: Weights, data: ImageData | None = None) -> Score:
        """Returns the score of the same network with other weights, its latency as measured.

        Args:
            score: of the network.
            weights: its slim weights.
            data: images of its accuracy; the search images by default.
        """
        found = self.accuracy(weights, data)
        reward, feasible = self._judge(found, score.cost, score.latency_ms)
        return dataclasses.replace(score, reward=reward, feasible=feasible, **dataclasses.asdict(found))

    def _score(self, widths: tuple[int, ...]) -> Score:
        found, latency_ms = self._evaluate(self._builder.plan(widths))
        if self._timing is not None and latency_ms is not None:
            self._timing.predictor.observe(widths, latency_ms)
        cost = self._builder.count(widths)
        reward, feasible = self._judge(found, cost, latency_ms)
        return Score(
            widths=widths,
            reward=reward,
            cost=cost,
            latency_ms=latency_ms,
            feasible=feasible,
            **dataclasses.asdict(found),
        )

    def _judge(self, found: Accuracy, cost: Cost, latency_ms: float | None) -> tuple[float, bool]:
        """Returns the reward, and whether the network is within the budget."""
        objective = self._objective
        limit = objective.limit
        outcome = Outcome(
            **dataclasses.asdict(found),
            metric=objective.metric_in_reward,
            macs=cost.macs,
            params=cost.params,
            latency_ms=latency_ms,
            target_latency_ms=limit.limit if limit.kind == "latency" else None,
            latency_exponent=objective.latency_exponent,
            allowed_error=1.0 - objective.accuracy_floor if objective.accuracy_floor else 0.0,
        )
        overshoot = 0.0
        if limit.kind == "latency" and latency_ms is not None:
            overshoot = max(0.0, latency_ms / limit.limit - 1.0)
        feasible = limit.allows(cost, latency_ms) and found.top1 >= objective.accuracy_floor
        return self._reward(outcome) - overshoot, feasible

    def _evaluate(self, plan: Any) -> tuple[Accuracy, float | None]:
        """Returns accuracy and latency; both at once where the one does not disturb the other.

        What is timed has the weights as they were cut, which take as long as the recovered ones: a phone can
        begin at once.
        """
        timing = self._timing
        if timing is None:
            return self.accuracy(self._builder.weights(plan)), None
        tflite = self._convert(
            self._builder.cut(plan), timing.precision, num_images=_NUM_TIMING_IMAGES, sparse=timing.sparse
        )
        if not timing.meter.runs_elsewhere:
            return self.accuracy(self._builder.weights(plan)), timing.latency_ms(tflite)
        # It is the wait for the phone that stays in this thread, for Ctrl-C reaches it here.
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as worker:
            found = worker.submit(lambda: self.accuracy(self._builder.weights(plan)))
            latency_ms = timing.latency_ms(tflite)
        return found.result(), latency_ms

    def accuracy(self, weights: Weights, data: ImageData | None = None) -> Accuracy:
        """Returns the accuracy of weights as scores have it: as int8 TFLite where the objective says so.

        Args:
            weights: of the original or of a slim network.
            data: images of the accuracy; the search images by default.
        """
        data = self._data if data is None else data
        input_range, reference = self._input_range, self._reference(data)
        if self._objective.int8_accuracy:
            tflite = self._convert(weights, "int8")
            return self._executor.tflite_accuracy(tflite, data, input_range=input_range, reference=reference)
        return self._executor.accuracy(weights, data, input_range=input_range, reference=reference)

    def _reference(self, data: ImageData) -> NDArray[np.float32]:
        """Returns the original's probabilities for images."""
        for known, reference in self._references:
            if known is data:
                return reference
        predict = self._executor.predictor(self._executor.network.weights)
        self._references.append((data, probabilities(predict, data, input_range=self._input_range)))
        return self._references[-1][1]

    def _convert(
        self, weights: Weights, precision: str, *, num_images: int | None = None, sparse: bool = False
    ) -> bytes:
        images = self._calibration_images
        return self._executor.to_tflite(
            weights,
            precision=precision,
            calibration_images=images[:num_images] if images is not None and precision == "int8" else None,
            sparse=sparse,
        )


def _scaled_once(data: ImageData, input_range: str) -> ImageData:
    """Scales the images now, and not for each candidate, where they are not too large as float32."""
    if data.images.size * np.dtype(np.float32).itemsize > _MAX_SCALED_BYTES:
        return data
    return dataclasses.replace(data, images=to_input_range(data.images, input_range))
