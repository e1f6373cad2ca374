"""Chooses a network after a search: its best few and the uniform control, each recovered in earnest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from amc_tf.score import Score


@dataclasses.dataclass(frozen=True)
class Finalist:
    """A network after the longer recovery.

    Attributes:
        score: its score, with the accuracy on the search images that it has now.
        merit: its reward on the search and the calibration images together, under a budget of accuracy on the
            former alone. The search has looked for what is right on the former, by luck too; no label of the
            latter was ever used.
    """

    score: Score
    merit: float

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Orders finalists; recovery may lose what a budget of accuracy asks for."""
        return self.score.feasible, self.merit, self.score.cost.macs


@dataclasses.dataclass(frozen=True)
class Choice:
    """The outcome of a search.

    Attributes:
        best: the network that was chosen, with its accuracy and reward once recovered.
        found_by: "agent", or "uniform" where the control was no worse; "threshold" where that of fine-grained
            pruning was the best.
        uniform: the control, recovered alike; as it was scored if it is not within the budget.
    """

    best: Score
    found_by: str
    uniform: Score


def choose(
    uniform: Score,
    found: Sequence[Score],
    *,
    recover: Callable[[Score], Finalist],
    others: Sequence[Score] = (),
) -> Choice | None:
    """Recovers the best networks of a search and the control, and takes the best.

    What a candidate gets in a search is quick, and two networks that are equal after it may be points apart
    after a longer recovery (ResNet-56 at half its MACs: 2.7 points between eight networks).

    Args:
        uniform: the score of the control.
        found: the scores of the best networks of the search, see `best_scores`.
        recover: recovers a network.
        others: the scores of other controls, which are recovered whatever their rank.

    Returns:
        The choice; of equal networks the one with more operations, and the control rather than the same one
        found by the agent. None if no network is within the budget.
    """
    finalists: dict[tuple[int, ...], Score] = {}
    for score in (uniform, *others, *found):
        if score.feasible:
            finalists.setdefault(score.widths, score)
    recovered = [recover(score) for score in finalists.values()]
    best = max(recovered, key=lambda finalist: finalist.rank, default=None)  # of equals the control
    if best is None or not best.score.feasible:
        return None
    found_by = "uniform" if best.score.widths == uniform.widths else "agent"
    return Choice(best.score, found_by, recovered[0].score if uniform.feasible else uniform)


def best_scores(episodes: Iterable[Mapping[str, Any]], number: int) -> list[Score]:
    """Returns the networks within the budget of the highest rank, each once.

    Args:
        episodes: the records of a search.
        number: most networks to return.
    """
    found = [Score.from_json(record) for record in episodes if record.get("feasible")]
    distinct = {score.widths: score for score in found}
    return sorted(distinct.values(), key=lambda score: score.rank, reverse=True)[:number]
