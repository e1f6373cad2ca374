"""The pruning plan: which channels of each group are kept."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amc_tf.errors import PlanError, SettingsError
from amc_tf.files import is_intact, with_checksum
from amc_tf.graph import ChannelGraph, ChannelGroup

FORMAT = "amc-tf plan 1"


@dataclasses.dataclass(frozen=True)
class PruningPlan:
    """Which channels of each channel group are kept.

    Attributes:
        kept: indices of the kept channels by group name, ascending; a group left out keeps all.
        num_channels: channels of each of these groups before pruning.
    """

    kept: Mapping[str, tuple[int, ...]]
    num_channels: Mapping[str, int]

    def __post_init__(self) -> None:
        if set(self.kept) != set(self.num_channels):
            raise PlanError("A plan must give kept channels and number of channels for the same groups.")
        try:
            kept = {name: tuple(map(operator.index, channels)) for name, channels in self.kept.items()}
            num_channels = {name: operator.index(count) for name, count in self.num_channels.items()}
        except TypeError as error:
            raise PlanError(f"A plan is made of whole numbers: {error}.") from error
        for name, channels in kept.items():
            _check_group(name, channels, num_channels[name])
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "num_channels", num_channels)

    def validate(self, graph: ChannelGraph) -> None:
        """Checks that the plan belongs to a network.

        Raises:
            PlanError: naming the first group that the network does not have or that has another size.
        """
        sizes = {group.name: group.num_channels for group in graph.groups}
        for name, count in self.num_channels.items():
            if name not in sizes:
                listed = ", ".join(list(sizes)[:5]) + (", ..." if len(sizes) > 5 else "")
                raise PlanError(
                    f"The plan prunes '{name}', which '{graph.trace.name}' does not have (its channel "
                    f"groups: {listed}): it is the plan of another model."
                )
            if sizes[name] != count:
                raise PlanError(
                    f"The plan is for {count} channels in '{name}', but '{graph.trace.name}' has "
                    f"{sizes[name]}: it is the plan of another model."
                )

    def widths(self, graph: ChannelGraph) -> tuple[int, ...]:
        """Returns the number of kept channels of each group of a network."""
        return tuple(
            len(self.kept[group.name]) if group.name in self.kept else group.num_channels
            for group in graph.groups
        )

    def masks(self, graph: ChannelGraph) -> list[NDArray[np.bool_]]:
        """Returns for each group of a network a bool [channels] array, True where a channel is kept."""
        masks: list[NDArray[np.bool_]] = []
        for group in graph.groups:
            mask: NDArray[np.bool_] = np.ones(group.num_channels, dtype=bool)
            if group.name in self.kept:
                mask[:] = False
                mask[list(self.kept[group.name])] = True
            masks.append(mask)
        return masks

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON-compatible values, with a checksum of them."""
        groups = {
            name: {"num_channels": self.num_channels[name], "kept": list(channels)}
            for name, channels in self.kept.items()
        }
        return with_checksum({"format": FORMAT, "groups": groups})

    @classmethod
    def from_json(cls, value: Any) -> PruningPlan:
        """Reads a plan from JSON-compatible values.

        Raises:
            PlanError: if they are not a plan.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise PlanError(f'This is no pruning plan: "format": "{FORMAT}" was expected at the top.')
        if not is_intact(value):
            raise PlanError(
                'It is not what was written: copy it again, or, if you changed it, delete its line "sha256".'
            )
        try:
            groups = value["groups"].items()
            kept = {name: tuple(map(_as_index, group["kept"])) for name, group in groups}
            counts = {name: _as_index(group["num_channels"]) for name, group in groups}
        except (KeyError, TypeError, AttributeError) as error:
            message = f'A plan needs "groups", each with "kept" and "num_channels": {error!r}.'
            raise PlanError(message) from error
        return cls(kept, counts)

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> PruningPlan:
        """Reads a plan written by `save`.

        Raises:
            PlanError: if there is no such file, or it holds no plan.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise PlanError(f"The plan '{path}' cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise PlanError(f"The plan '{path}' is damaged: {error}") from error


def allowed_widths(num_channels: int, *, round_to: int, min_keep_ratio: float) -> tuple[int, ...]:
    """Lists the widths that a group may be given, ascending.

    These are the multiples of `round_to` that keep at least `min_keep_ratio` of the channels, and the
    untouched width, which is the model's own choice whatever it is.

    Args:
        num_channels: channels before pruning.
        round_to: alignment in channels, 1 or more.
        min_keep_ratio: in (0, 1]; the paper's sparsity cap of 0.8 is 0.2 here.

    Raises:
        SettingsError: if an argument is outside its range.
    """
    if round_to < 1 or not 0 < min_keep_ratio <= 1:
        raise SettingsError(
            f"round_to={round_to} and min_keep_ratio={min_keep_ratio} were given: round_to must be 1 or more "
            "and min_keep_ratio above 0 and at most 1."
        )
    lowest = max(1, math.ceil(min_keep_ratio * num_channels / round_to - 1e-9)) * round_to
    return (*range(lowest, num_channels, round_to), num_channels)


def round_width(num_channels: int, keep_ratio: float, *, round_to: int) -> int:
    """Returns the aligned width, or the width of all channels, that is nearest to a keep ratio."""
    wanted = keep_ratio * num_channels
    steps = max(1, math.floor(wanted / round_to + 0.5))
    return min(steps * round_to, num_channels, key=lambda width: (width > num_channels, abs(width - wanted)))


def widths_to_plan(
    graph: ChannelGraph, widths: Sequence[int], *, scores: Mapping[str, ArrayLike] | None = None
) -> PruningPlan:
    """Chooses the channels to keep for given widths.

    Args:
        graph: the network.
        widths: channels to keep in each group.
        scores: importance by group name, float [channels]; the highest stay, ties go to the lower index.
            None keeps the first channels, which is enough where only the cost matters.

    Raises:
        PlanError: if a width is not between 1 and the channels of its group, or scores are missing.
    """
    if len(widths) != len(graph.groups):
        raise PlanError(f"{len(widths)} widths were given for the {len(graph.groups)} groups of the network.")
    kept = {}
    for group, width in zip(graph.groups, widths, strict=True):
        if not 1 <= width <= group.num_channels:
            raise PlanError(f"'{group.name}' has {group.num_channels} channels: it cannot keep {width}.")
        best = np.argsort(-_group_scores(group, scores), kind="stable")[:width]
        kept[group.name] = tuple(sorted(best.tolist()))
    return PruningPlan(kept, {group.name: group.num_channels for group in graph.groups})


def compose(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """Returns the one plan that does what two do one after the other.

    Args:
        first: the plan of a network.
        second: a plan of the slim network that `first` makes of it.

    Returns:
        A plan of the network of `first`; a group that only one of them names is taken from that one.

    Raises:
        PlanError: if `second` counts other channels in a group than `first` leaves there.
    """
    kept, num_channels = dict(first.kept), {**second.num_channels, **first.num_channels}
    for name, channels in second.kept.items():
        before = first.kept.get(name, range(second.num_channels[name]))
        if len(before) != second.num_channels[name]:
            raise PlanError(
                f"The second plan is for {second.num_channels[name]} channels in '{name}', but the first "
                f"leaves {len(before)}: it is the plan of another model."
            )
        kept[name] = tuple(before[channel] for channel in channels)
    return PruningPlan(kept, num_channels)


def uniform_plan(graph: ChannelGraph, keep_ratio: float, *, round_to: int = 8) -> PruningPlan:
    """Keeps the same share of every group, rounded to the alignment: a width multiplier.

    Args:
        graph: the network.
        keep_ratio: in (0, 1].
        round_to: alignment in channels.

    Raises:
        SettingsError: if an argument is outside its range.
    """
    if round_to < 1 or not 0 < keep_ratio <= 1:
        raise SettingsError(
            f"keep_ratio={keep_ratio} and round_to={round_to} were given: keep_ratio must be above 0 and at "
            "most 1, round_to 1 or more."
        )
    return widths_to_plan(
        graph, [round_width(group.num_channels, keep_ratio, round_to=round_to) for group in graph.groups]
    )


def _group_scores(group: ChannelGroup, scores: Mapping[str, ArrayLike] | None) -> NDArray[np.float64]:
    if scores is None:
        return np.zeros(group.num_channels)
    score = np.asarray(scores.get(group.name, ()), dtype=np.float64)
    if score.shape != (group.num_channels,):
        raise PlanError(
            f"Scores of shape {score.shape} were given for '{group.name}': one for each of its "
            f"{group.num_channels} channels was expected."
        )
    return score


def _as_index(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _check_group(name: str, channels: Sequence[int], num_channels: int) -> None:
    if not channels:
        raise PlanError(f"The plan keeps no channel of '{name}': at least one must stay.")
    if any(low >= high for low, high in itertools.pairwise(channels)):
        raise PlanError(f"The kept channels of '{name}' must ascend, each named once.")
    if channels[0] < 0 or channels[-1] >= num_channels:
        wrong = channels[0] if channels[0] < 0 else channels[-1]
        raise PlanError(f"The plan keeps channel {wrong} of '{name}', which has {num_channels} channels.")
