"""What a pruned network may cost, and how wide each channel group may stay so that it holds (Algorithm 1)."""

from __future__ import annotations

import dataclasses
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

from amc_tf.cost import Cost
from amc_tf.errors import BudgetError, SettingsError
from amc_tf.graph import ChannelGraph
from amc_tf.plan import allowed_widths

UNITS = {
    "macs": "MACs",
    "params": "parameters",
    "bytes": "bytes",
    "latency": "ms",
    "accuracy": "of the accuracy",
}
_COUNT_OF: dict[str, Callable[[Cost], int]] = {
    "macs": lambda cost: cost.macs,
    "params": lambda cost: cost.params,
    "bytes": lambda cost: cost.size_bytes,
}
_FACTORS = {"": 1.0, "ms": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "kB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the pruned network may cost; exactly one of the kinds is given.

    A value of at most 1 is a ratio of the original's cost, a greater one is absolute.

    Attributes:
        macs: multiply-accumulates per image.
        params: parameters.
        bytes: bytes of the parameters as float32.
        latency: median latency; absolute in ms.
        accuracy: the accuracy-guaranteed protocol (paper, section 3.3.2): nothing bounds the cost, the reward
            makes it small; a plan counts only if it keeps this part of the original's accuracy, in [0, 1].
        absolute: take the value as absolute even if it is at most 1, as for a latency of 0.8 ms.
    """

    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None
    accuracy: float | None = None
    absolute: bool = False

    def __post_init__(self) -> None:
        given = [kind for kind in UNITS if getattr(self, kind) is not None]
        if len(given) != 1:
            named = ", ".join(given) if given else "none"
            raise BudgetError(
                f"A budget is exactly one of {', '.join(UNITS)}, not {named}; give for example macs=0.5."
            )
        if self.kind == "accuracy" and not 0.0 <= self.value <= 1.0:
            raise BudgetError(f"The budget {self} is no part of the original's accuracy; give 0 to 1.")
        if self.kind != "accuracy" and not (math.isfinite(self.value) and self.value > 0.0):
            raise BudgetError(
                f"The budget {self} is not above 0; give a ratio such as 0.5 or an absolute value."
            )

    @classmethod
    def none(cls) -> Budget:
        """Returns the budget that allows everything: accuracy-guaranteed search without a floor."""
        return cls(accuracy=0.0)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads a budget such as "macs=0.5", "macs=285M", "bytes=1.2MB", "latency=0.8ms" or "none".

        A number with a unit is absolute.

        Raises:
            BudgetError: if the text is no budget.
        """
        if text == "none":
            return cls.none()
        match = re.fullmatch(r"(\w+)=([0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)", text.strip())
        kind, number, unit = match.groups() if match else ("", "", "")
        fits = unit == "" or (unit == "ms") == (kind == "latency")
        if kind not in UNITS or unit not in _FACTORS or not fits or number.count(".") > 1 or number == ".":
            raise BudgetError(
                f"'{text}' is no budget; give KIND=VALUE such as macs=0.5, bytes=1.2MB or latency=8ms, where"
                f" KIND is one of {', '.join(UNITS)}."
            )
        return cls(**{kind: float(number) * _FACTORS[unit]}, absolute=unit != "")

    @property
    def kind(self) -> str:
        """Which kind is given: "macs", "params", "bytes", "latency" or "accuracy"."""
        return next(kind for kind in UNITS if getattr(self, kind) is not None)

    @property
    def value(self) -> float:
        """The value as given."""
        return float(getattr(self, self.kind))

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"

    def resolve(self, cost: Cost, latency_ms: float | None = None) -> Limit:
        """Turns the budget into an absolute limit for one network.

        Args:
            cost: cost of the original.
            latency_ms: measured latency of the original; needed for a latency budget only.

        Raises:
            BudgetError: if the original is within the budget already, or its latency is needed and missing.
        """
        if self.kind == "accuracy":
            return Limit(self, math.inf, math.inf)
        if self.kind != "latency":
            original = float(_COUNT_OF[self.kind](cost))
        elif latency_ms is None:
            raise BudgetError(f"The budget {self} needs the measured latency of the original; give a meter.")
        else:
            original = latency_ms
        is_ratio = self.value <= 1.0 and not self.absolute
        limit = self.value * original if is_ratio else self.value
        if limit >= original:
            raise BudgetError(
                f"The budget {self} allows {_show(limit, self.kind)}, but the original has only"
                f" {_show(original, self.kind)}: there is nothing to compress; give a ratio below 1 such as"
                f" {self.kind}=0.5."
            )
        return Limit(self, limit, original)


@dataclasses.dataclass(frozen=True)
class Limit:
    """A budget in absolute numbers for one network.

    Attributes:
        budget: the budget as it was given.
        limit: the most that a pruned network may cost, in the budget's unit; infinite without a bound.
        original: what the original costs, in the same unit; infinite without a bound.
    """

    budget: Budget
    limit: float
    original: float

    @property
    def kind(self) -> str:
        """Kind of the budget."""
        return self.budget.kind

    @property
    def unit(self) -> str:
        """Unit of `limit` and `original`."""
        return UNITS[self.kind]

    def allows(self, cost: Cost, latency_ms: float | None = None) -> bool:
        """Whether a finished network is within the budget.

        Args:
            cost: its exact cost.
            latency_ms: its measured latency; without one, no network is within a latency budget.
        """
        if math.isinf(self.limit):
            return True
        if self.kind == "latency":
            return latency_ms is not None and latency_ms <= self.limit
        return _COUNT_OF[self.kind](cost) <= self.limit


class Predictor(Protocol):
    """Predicts the latency of a network that need not exist yet; never falls when a width rises."""

    def predict(self, widths: Sequence[int]) -> float:
        """Returns the latency in ms of the network with these widths."""


class Countable(Protocol):
    """Counts what a network costs from how much each of its groups keeps."""

    def count(self, widths: Sequence[int]) -> Cost:
        """Returns the exact cost; it never falls when a width rises."""


class Bounds:
    """How much each group may keep so that the finished network is within the budget (Algorithm 1).

    A width is how much a group keeps: channels of a channel group (`WidthBounds`), weights of a layer in
    fine-grained pruning. The paper's duty of a step, on exact cost and with the alignment inside: the largest
    allowed width w_t with cost(w_1..w_t-1 as chosen, w_t, all later groups at their smallest) <= limit. Cost
    never falls when a width rises, and the smallest network is checked at construction, so a step always has
    a width to take and the finished network is never over the limit.

    Beyond the paper there is a bound from below as well: the smallest allowed width with which the network,
    all later groups untouched, still uses `min_use` of the limit. A network well inside its budget is seldom
    the best one, and with it random actions explore how to spend the budget instead of how little to spend.
    Where the two bounds meet, the limit wins.

    A latency limit is held on predicted latency: the measured one decides afterwards whether a network
    counts. The prediction is fitted anew between episodes; should it come to call even the smallest network
    too slow, the bounds give the smallest widths.

    Attributes:
        limit: the limit that is held, lowered by the margin.
        allowed: for each group the widths it may be given, ascending; the last one is the untouched width.
    """

    def __init__(
        self,
        units: Countable,
        limit: Limit,
        *,
        allowed: Sequence[Sequence[int]],
        min_use: float,
        advice: str,
        predictor: Predictor | None = None,
        margin: float = 0.0,
    ) -> None:
        """Checks that the budget can be met.

        Args:
            units: counts the cost of widths.
            limit: what the network may cost.
            allowed: for each group the widths it may be given, ascending, the untouched width last.
            min_use: part of the limit that a network should use, in [0, 1]; 0 leaves Algorithm 1 alone.
            advice: how to allow smaller networks, for the error.
            predictor: predicts latency; needed for a latency limit only.
            margin: part of the limit that is kept free, in [0, 1), for what a prediction may be wrong by.

        Raises:
            BudgetError: if even the smallest network is over the limit; the message names the smallest value.
            SettingsError: if an argument is outside its range.
        """
        if not 0.0 <= min_use <= 1.0:
            raise SettingsError(f"min_use is {min_use}; give a part of the limit from 0 to 1.")
        if limit.kind == "latency" and predictor is None:
            raise BudgetError(f"The budget {limit.budget} needs a latency predictor to bound the widths.")
        self.limit = dataclasses.replace(limit, limit=(1.0 - margin) * limit.limit)
        self.allowed = tuple(tuple(widths) for widths in allowed)
        self._units = units
        self._predictor = predictor
        self._least = 0.0 if math.isinf(limit.limit) else min_use * self.limit.limit
        smallest = self.cost(self.minimum)
        if smallest > self.limit.limit:
            raise BudgetError(_impossible(limit, smallest, margin, advice))

    @property
    def minimum(self) -> tuple[int, ...]:
        """The smallest width of each group."""
        return tuple(widths[0] for widths in self.allowed)

    @property
    def full(self) -> tuple[int, ...]:
        """The untouched width of each group."""
        return tuple(widths[-1] for widths in self.allowed)

    def cost(self, widths: Sequence[int]) -> float:
        """Returns what a network costs in the limit's unit: exact, or predicted in ms; 0 without a bound."""
        if self._predictor is not None and self.limit.kind == "latency":
            return self._predictor.predict(widths)
        if self.limit.kind in _COUNT_OF:
            return float(_COUNT_OF[self.limit.kind](self._units.count(widths)))
        return 0.0

    def fits(self, widths: Sequence[int]) -> bool:
        """Whether a network is within the limit (as predicted, for a latency limit)."""
        return self.cost(widths) <= self.limit.limit

    def largest(self, chosen: Sequence[int]) -> int:
        """Returns the largest width that the next group may be given.

        Args:
            chosen: widths of the groups before it.
        """
        widths, rest = self.allowed[len(chosen)], self.minimum[len(chosen) + 1 :]
        position = bisect_right(widths, False, key=lambda width: not self.fits((*chosen, width, *rest)))
        return widths[max(position - 1, 0)]

    def smallest(self, chosen: Sequence[int]) -> int:
        """Returns the smallest width of the next group with which the network can still use `min_use`.

        Args:
            chosen: widths of the groups before it.
        """
        widths, rest = self.allowed[len(chosen)], self.full[len(chosen) + 1 :]
        position = bisect_left(
            widths, True, key=lambda width: self.cost((*chosen, width, *rest)) >= self._least
        )
        return widths[min(position, len(widths) - 1)]

    def nearest(self, index: int, keep_ratio: float) -> int:
        """Returns the allowed width of a group that is nearest to a keep ratio, the smaller of two equals."""
        wanted = keep_ratio * self.full[index]
        return min(self.allowed[index], key=lambda width: (abs(width - wanted), width))

    def bound(self, chosen: Sequence[int], keep_ratio: float) -> int:
        """Returns the width that the next group gets when a keep ratio is asked for: nearest, within bounds.

        Args:
            chosen: widths of the groups before it.
            keep_ratio: the part of its channels that should stay, in [0, 1].
        """
        wanted = max(self.nearest(len(chosen), keep_ratio), self.smallest(chosen))
        return min(wanted, self.largest(chosen))

    def bound_all(self, keep_ratios: Sequence[float]) -> tuple[int, ...]:
        """Returns the widths of a whole network when a keep ratio is asked for in each group, in order."""
        chosen: tuple[int, ...] = ()
        for keep_ratio in keep_ratios:
            chosen = (*chosen, self.bound(chosen, keep_ratio))
        return chosen


class WidthBounds(Bounds):
    """How wide each channel group may stay so that the finished network is within the budget."""

    def __init__(
        self,
        graph: ChannelGraph,
        limit: Limit,
        *,
        round_to: int = 8,
        min_keep_ratio: float = 0.2,
        min_use: float = 0.97,
        predictor: Predictor | None = None,
        margin: float = 0.0,
    ) -> None:
        """Checks that the budget can be met.

        Args:
            graph: the network.
            limit: what it may cost.
            round_to: widths are multiples of this (or untouched).
            min_keep_ratio: smallest part of the channels that stays in each group.
            min_use: part of the limit that a network should use, in [0, 1]; 0 leaves Algorithm 1 alone.
            predictor: predicts latency; needed for a latency limit only.
            margin: part of the limit that is kept free, in [0, 1), for what a prediction may be wrong by.

        Raises:
            BudgetError: if even the smallest network is over the limit; the message names the smallest value.
            SettingsError: if an argument is outside its range.
        """
        super().__init__(
            graph,
            limit,
            allowed=[
                allowed_widths(group.num_channels, round_to=round_to, min_keep_ratio=min_keep_ratio)
                for group in graph.groups
            ],
            min_use=min_use,
            predictor=predictor,
            margin=margin,
            advice=f"lower round_to ({round_to}) or min_keep_ratio ({min_keep_ratio:g})",
        )


def _show(value: float, kind: str) -> str:
    number = f"{value:.3f}" if kind == "latency" else f"{math.floor(value):,}"
    return f"{number} {UNITS[kind]}"


def _impossible(limit: Limit, smallest: float, margin: float, advice: str) -> str:
    """Says what the smallest network costs, and which budget could be met if there is one."""
    kept_free = f", of which {100 * margin:g} % are kept free for errors of prediction" if margin else ""
    ratio = smallest / ((1.0 - margin) * limit.original)
    remedy = (
        f"give at least {limit.kind}={_round_up(ratio)} (as a ratio of the original)"
        if ratio <= 1.0
        else f"give a budget of another kind, since {limit.kind} hardly depends on the widths here"
    )
    return (
        f"The budget {limit.budget} allows {_show(limit.limit, limit.kind)}{kept_free}, but the smallest "
        f"network that the search may build has {_show(smallest, limit.kind)}; {remedy}, or {advice}."
    )


def _round_up(ratio: float) -> str:
    return f"{math.ceil(ratio * 1e4) / 1e4:g}"
