"""The rewards of a search by name: pure functions of what one pruned network turned out to be.

`Outcome.metric` says what their accuracy is. The paper's is top-1; the authors' code takes top-5 on
ImageNet, because there an un-tuned pruned network may have almost no top-1 left to learn from. The mean
probability of the true class, which searches take by default, tells networks apart on fewer images than
either (docs/deviations.md).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from amc_tf.errors import SettingsError
from amc_tf.named_function import find_function, is_named_function
from amc_tf.settings import ACCURACY_METRICS


@dataclass(frozen=True)
class Outcome:
    """What is known of one pruned network when its reward is computed.

    Attributes:
        top1: Top-1 accuracy on the search images, a fraction.
        top5: Top-5 accuracy on the search images, a fraction.
        probability: Mean probability of the true class on the search images.
        fidelity: How near the outputs on the search images are to the original's, or None when not measured.
        macs: Multiply-accumulates per image.
        params: Parameters.
        latency_ms: Median latency, or None when it was not measured.
        target_latency_ms: Latency that `soft_latency` aims at, or None.
        latency_exponent: w of `soft_latency`; zero or negative.
        metric: Which accuracy counts, one of `ACCURACY_METRICS`.
        allowed_error: Error that the budget allows; a smaller one counts as this one, in [0, 1].
    """

    top1: float
    top5: float
    probability: float
    macs: int
    params: int
    fidelity: float | None = None
    latency_ms: float | None = None
    target_latency_ms: float | None = None
    latency_exponent: float = -0.07
    metric: str = "top1"
    allowed_error: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in ACCURACY_METRICS:
            raise SettingsError(f"metric is {self.metric!r}; choose one of {', '.join(ACCURACY_METRICS)}.")
        if getattr(self, self.metric) is None:
            raise SettingsError(f"metric is {self.metric!r}, which was not measured.")

    @property
    def accuracy(self) -> float:
        """The accuracy that counts, a fraction."""
        found: float = getattr(self, self.metric)
        return found

    @property
    def error(self) -> float:
        """One minus the accuracy that counts, a fraction; at least the allowed error.

        The floor goes beyond the paper, whose accuracy-guaranteed rewards are 0 for every network without an
        error on the search images, whatever it costs. With it, of networks that are accurate enough the
        cheapest earns most.
        """
        return max(1.0 - self.accuracy, self.allowed_error)


def error_reward(outcome: Outcome) -> float:
    """R_err = -Error (section 3.3.1); for a search under a budget, where the bounds see to the cost."""
    return -outcome.error


def macs_reward(outcome: Outcome) -> float:
    """R_FLOPs = -Error * log(FLOPs) (section 3.3.2); accuracy-guaranteed search, FLOPs counted as MACs."""
    return -outcome.error * math.log(outcome.macs)


def parameters_reward(outcome: Outcome) -> float:
    """R_Param = -Error * log(#Param) (section 3.3.2); accuracy-guaranteed search for a small file."""
    return -outcome.error * math.log(outcome.params)


def latency_reward(outcome: Outcome) -> float:
    """-Error * log(latency): R_FLOPs of section 3.3.2 with the measured time in the place of FLOPs.

    The latency is taken in microseconds: in milliseconds a network faster than 1 ms would turn the sign of
    the logarithm and be rewarded for its errors.

    Raises:
        SettingsError: If the latency was not measured.
    """
    return -outcome.error * math.log(1000.0 * _measured_latency(outcome, "latency"))


def soft_latency_reward(outcome: Outcome) -> float:
    """Accuracy * (latency / target)^w: a target that may be missed at a price (MnasNet, section 3.1).

    Not in the AMC paper. With w = -0.07 a network of twice the target's time needs about 5 % more accuracy,
    relatively, to earn as much.

    Raises:
        SettingsError: If the latency was not measured or there is no target.
    """
    latency_ms = _measured_latency(outcome, "soft_latency")
    if outcome.target_latency_ms is None or outcome.target_latency_ms <= 0:
        raise SettingsError(
            f"The soft_latency reward needs a target latency above 0 ms, not {outcome.target_latency_ms};"
            " give a latency budget."
        )
    return outcome.accuracy * math.pow(latency_ms / outcome.target_latency_ms, outcome.latency_exponent)


REWARDS: dict[str, Callable[[Outcome], float]] = {
    "error": error_reward,
    "macs": macs_reward,
    "parameters": parameters_reward,
    "latency": latency_reward,
    "soft_latency": soft_latency_reward,
}


def find_reward(name: str) -> Callable[[Outcome], float]:
    """Returns the reward of that name, or a function of the user's own, named as `module:function`.

    Raises:
        SettingsError: If there is none; the message lists the valid names.
    """
    if is_named_function(name):
        return _own_reward(name)
    if name not in REWARDS:
        raise SettingsError(
            f"There is no reward {name!r}; choose one of {', '.join(REWARDS)}, or your own as "
            "module:function."
        )
    return REWARDS[name]


def _own_reward(name: str) -> Callable[[Outcome], float]:
    """Returns a function of the user's own, its value checked to be a number."""
    function = find_function(name, error=SettingsError)

    def reward(outcome: Outcome) -> float:
        value = function(outcome)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{name} returned {value!r}, but a reward is a number.") from error

    return reward


def needs_latency(name: str) -> bool:
    """Whether the reward of that name reads a measured latency, so that a meter is needed.

    A function of the user's own is not asked: without a meter it is given a latency of None.
    """
    find_reward(name)
    return name in ("latency", "soft_latency")


def _measured_latency(outcome: Outcome, name: str) -> float:
    if outcome.latency_ms is None or outcome.latency_ms <= 0:
        raise SettingsError(
            f"The {name} reward needs a measured latency above 0 ms, not {outcome.latency_ms};"
            " give the search a latency meter."
        )
    return outcome.latency_ms
