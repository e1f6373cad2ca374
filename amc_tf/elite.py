"""Proposes variations of the best plan found so far, beside what the actor proposes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amc_tf.budget import Bounds
from amc_tf.controls import scaled

_NOISE = 0.12  # of a keep ratio
_CHANGED = 0.4  # share of the groups


class EliteExplorer:
    """Replaces the actor in a share of the episodes.

    The paper explores around the actor only, which in its first hundreds of episodes proposes networks far
    worse than uniform pruning. DDPG learns from whatever was executed, so episodes may as well start where
    good networks are: the first ones play what is known to be good without a search, such as the uniform
    plan, and then a share of them plays the best plan so far with some keep ratios moved and all of them
    scaled back to the budget. What to propose depends on the
    seed, the episode and the best plan only, so there is no state to save.

    Args:
        bounds: the widths that each group may be given.
        share: part of the episodes that are played so, in [0, 1]; 0 is the paper's search.
        starts: the widths that the first episodes play.
        seed: seed of the choice of episodes and of the variations.
    """

    def __init__(self, bounds: Bounds, share: float, *, starts: Sequence[tuple[int, ...]], seed: int) -> None:
        self._bounds = bounds
        self._share = share
        self._starts = starts
        self._seed = seed

    def propose(self, episode: int, best: tuple[int, ...] | None) -> NDArray[np.float32] | None:
        """Returns the keep ratios to play in an episode, or None where the actor should play.

        Args:
            episode: its number.
            best: widths of the best network so far, None before there is one.

        Returns:
            float32 [groups], or None.
        """
        if self._share == 0.0:
            return None
        generator = np.random.default_rng([self._seed, episode])
        if episode < len(self._starts):
            return self._as_ratios(self._starts[episode])
        if best is None or generator.random() >= self._share:
            return None
        ratios = np.array(best) / np.array(self._bounds.full)
        changed = generator.random(len(ratios)) < _CHANGED
        changed[generator.integers(len(ratios))] = True
        moved = np.clip(ratios + changed * generator.normal(0.0, _NOISE, len(ratios)), 0.0, 1.0)
        return self._as_ratios(scaled(self._bounds, moved.tolist()))

    def _as_ratios(self, widths: tuple[int, ...]) -> NDArray[np.float32]:
        return (np.array(widths) / np.array(self._bounds.full)).astype(np.float32)
