"""Exploration: a truncated normal around the actor's output, whose deviation decays after the warm-up."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

_SMALLEST_SIGMA = 1e-12  # a deviation that has decayed to 0 could not be divided by


@dataclass(frozen=True)
class NoiseSchedule:
    """Standard deviation of the exploration noise as a function of the episode (paper, section 4).

    Attributes:
        start: Deviation up to the end of the warm-up.
        decay: Factor for each episode after the warm-up, in (0, 1].
        warmup_episodes: Episodes of the warm-up.
    """

    start: float
    decay: float
    warmup_episodes: int

    def sigma(self, episode: int) -> float:
        """Returns the deviation in an episode, counted from 0."""
        decayed = self.start * self.decay ** max(0, episode - self.warmup_episodes)
        return max(float(decayed), _SMALLEST_SIGMA)

    def is_warmup(self, episode: int) -> bool:
        """Whether that episode, counted from 0, belongs to the warm-up."""
        return episode < self.warmup_episodes


def truncated_normal(mean: float, sigma: float, generator: np.random.Generator) -> float:
    """Draws from the normal distribution with that mean and deviation, truncated to [0, 1].

    One uniform number goes through the inverse distribution function, so that every draw takes exactly one
    step of the generator however little of the normal lies inside.

    Args:
        mean: Mean before truncation, in [0, 1].
        sigma: Standard deviation before truncation, above 0.
        generator: Source of the draw.
    """
    below = ndtr((0.0 - mean) / sigma)
    inside = ndtr((1.0 - mean) / sigma) - below
    draw = mean + sigma * ndtri(below + generator.random() * inside)
    return float(np.clip(draw, 0.0, 1.0))
