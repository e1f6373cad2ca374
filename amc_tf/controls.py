"""The policies that the agent must beat under the same bounds: uniform, ramps, threshold, random, greedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from amc_tf.budget import Bounds
from amc_tf.env import Scored, Scorer
from amc_tf.errors import SettingsError

_NUM_BISECTIONS = 40


def uniform(bounds: Bounds) -> tuple[int, ...]:
    """Keeps the same part of every group: the largest keep ratio whose aligned network is within the limit.

    The control of the paper (Table 2, "uniform") and of width multipliers. Each group takes the allowed width
    nearest to the ratio.

    Args:
        bounds: the widths that each group may be given, and the limit.

    Returns:
        The width of each group.
    """
    return _largest_fitting(bounds, lambda ratio: [ratio] * len(bounds.full))


def uniform_networks(bounds: Bounds) -> list[tuple[int, ...]]:
    """Lists the uniform networks of all keep ratios in steps of one per cent, narrowest first, none twice.

    Args:
        bounds: the widths that each group may be given.

    Returns:
        The width of each group, for each network.
    """
    return _distinct(bounds, ([ratio] * len(bounds.full) for ratio in np.arange(0, 101) / 100))


def wider_networks(bounds: Bounds, widths: Sequence[int]) -> list[tuple[int, ...]]:
    """Lists networks of the same proportions, narrowest first, none twice.

    All keep ratios are multiplied by one factor, in steps of one per cent; a group that is whole stays whole.

    Args:
        bounds: the widths that each group may be given.
        widths: of each group in the first network, each allowed.

    Returns:
        The width of each group, for each network; the last is the untouched one.
    """
    ratios = np.divide(widths, bounds.full)
    factors = np.arange(100, math.ceil(100 / ratios.min()) + 1) / 100
    return _distinct(bounds, (np.minimum(1.0, factor * ratios) for factor in factors))


def _distinct(
    bounds: Bounds, networks: Iterable[Sequence[float] | NDArray[np.floating]]
) -> list[tuple[int, ...]]:
    """Returns the allowed widths nearest to the keep ratios of each network, none twice."""
    found = (tuple(bounds.nearest(index, ratio) for index, ratio in enumerate(ratios)) for ratios in networks)
    return list(dict.fromkeys(found))


def shallow(bounds: Bounds) -> tuple[int, ...]:
    """Prunes the first groups most: the keep ratio rises in a straight line to the last group.

    The paper (Table 2) names the policy without numbers. Here group t of T asks for the keep ratio
    low + (high - low) * t / (T - 1), where high is 1 and low as large as the limit allows; if even low = 0 is
    over the limit, low stays 0 and high is as large as the limit allows. Ratios below the smallest width
    become the smallest width.

    Args:
        bounds: the widths that each group may be given, and the limit.

    Returns:
        The width of each group.
    """
    return _ramp(bounds, np.linspace(0.0, 1.0, len(bounds.full)))


def deep(bounds: Bounds) -> tuple[int, ...]:
    """Prunes the last groups most: `shallow` with the order of the groups reversed.

    Args:
        bounds: the widths that each group may be given, and the limit.

    Returns:
        The width of each group.
    """
    return _ramp(bounds, np.linspace(1.0, 0.0, len(bounds.full)))


def scaled(bounds: Bounds, keep_ratios: Sequence[float]) -> tuple[int, ...]:
    """Multiplies all keep ratios by one factor, the largest (up to 4) whose aligned network fits the limit.

    Without a limit the ratios are taken as they are.

    Args:
        bounds: the widths that each group may be given, and the limit.
        keep_ratios: one for each group, in [0, 1].

    Returns:
        The width of each group.
    """
    if math.isinf(bounds.limit.limit):
        return tuple(bounds.nearest(index, ratio) for index, ratio in enumerate(keep_ratios))
    return _largest_fitting(bounds, lambda size: [min(1.0, 4.0 * size * ratio) for ratio in keep_ratios])


def global_threshold(bounds: Bounds, magnitudes: Sequence[NDArray[np.floating]]) -> tuple[int, ...]:
    """Keeps what lies above one threshold in all groups: the lowest whose network is within the limit.

    Global magnitude pruning, the usual policy of fine-grained pruning that looks at no layer by itself.

    Args:
        bounds: how much each group may keep, and the limit.
        magnitudes: for each group the magnitude of all that it may keep, float [width before pruning].

    Returns:
        The width of each group.
    """
    ordered = [np.sort(np.ravel(values)) for values in magnitudes]
    together = np.sort(np.concatenate(ordered))

    def ratios(size: float) -> Sequence[float]:
        threshold = together[min(int((1.0 - size) * len(together)), len(together) - 1)]
        return [1.0 - np.searchsorted(values, threshold) / len(values) for values in ordered]

    return _largest_fitting(bounds, ratios)


def random_search(
    bounds: Bounds, scorer: Scorer, *, num_evaluations: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """Scores networks of uniformly random keep ratios, each bounded as the agent's actions are.

    Args:
        bounds: the widths that each group may be given, and the limit.
        scorer: returns the score of the network with the given widths.
        num_evaluations: networks to score; give the agent's number of episodes for a fair comparison.
        generator: source of the ratios.

    Returns:
        The widths of the feasible network of the highest reward, the first of equals; of any network if none
        is feasible.

    Raises:
        SettingsError: if no evaluation is allowed.
    """
    if num_evaluations < 1:
        raise SettingsError(f"num_evaluations is {num_evaluations}; give at least 1.")
    best: tuple[tuple[int, ...], Scored] | None = None
    for _ in range(num_evaluations):
        widths = bounds.bound_all(generator.random(len(bounds.full)).tolist())
        score = scorer(widths)
        if best is None or _merit(score) > _merit(best[1]):
            best = (widths, score)
    return best[0] if best else bounds.minimum


def greedy(bounds: Bounds, scorer: Scorer, *, num_iterations: int = 20) -> tuple[int, ...]:
    """Shrinks one group at a time, the one that loses least reward for the cost it saves (NetAdapt-style).

    After Yang et al., ECCV 2018, without their fine-tuning between iterations. From the untouched network,
    each iteration has to save 1 / num_iterations of what is to be saved in all. Every group that can shrink
    makes one proposal: its largest width that saves that much or, if none does, its smallest width. All
    proposals are scored and the one with the smallest (reward lost) / (cost saved) is taken, until the
    network is within the limit. It takes about (number of groups) * num_iterations scores.

    Args:
        bounds: the widths that each group may be given, and the limit.
        scorer: returns the score of the network with the given widths.
        num_iterations: steps from the untouched network to the limit.

    Returns:
        The width of each group.

    Raises:
        SettingsError: if no iteration is allowed.
    """
    if num_iterations < 1:
        raise SettingsError(f"num_iterations is {num_iterations}; give at least 1.")
    widths = bounds.full
    if bounds.fits(widths):
        return widths
    reward = scorer(widths).reward
    step = (bounds.cost(widths) - bounds.limit.limit) / num_iterations
    while not bounds.fits(widths):
        target = max(bounds.cost(widths) - step, bounds.limit.limit)
        proposals = _proposals(bounds, widths, target)
        if not proposals:
            break
        rewards = [scorer(proposal).reward for proposal in proposals]
        saved = [bounds.cost(widths) - bounds.cost(proposal) for proposal in proposals]
        losses = [(reward - new) / max(cost, 1e-12) for new, cost in zip(rewards, saved, strict=True)]
        taken = int(np.argmin(losses))
        widths, reward = proposals[taken], rewards[taken]
    return widths


def _proposals(bounds: Bounds, widths: tuple[int, ...], target: float) -> list[tuple[int, ...]]:
    """Lists, for each group that can shrink, the network in which it alone has shrunk."""
    proposals = []
    for index, allowed in enumerate(bounds.allowed):
        narrower = [width for width in allowed if width < widths[index]]
        networks = [(*widths[:index], width, *widths[index + 1 :]) for width in reversed(narrower)]
        if networks:
            enough = (network for network in networks if bounds.cost(network) <= target)
            proposals.append(next(enough, networks[-1]))
    return proposals


def _ramp(bounds: Bounds, position: np.ndarray) -> tuple[int, ...]:
    """Returns the largest ramp within the limit; `position` float64 [T] is 0 where most is pruned."""

    def ratios(size: float) -> Sequence[float]:
        low, high = max(0.0, 2.0 * size - 1.0), min(1.0, 2.0 * size)
        return (low + (high - low) * position).tolist()

    return _largest_fitting(bounds, ratios)


def _largest_fitting(bounds: Bounds, ratios: Callable[[float], Sequence[float]]) -> tuple[int, ...]:
    """Finds the largest size in [0, 1] whose network is within the limit.

    Args:
        bounds: the widths that each group may be given, and the limit.
        ratios: keep ratios of all groups for a size, none of which falls when the size rises.
    """

    def build(size: float) -> tuple[int, ...]:
        return tuple(bounds.nearest(index, ratio) for index, ratio in enumerate(ratios(size)))

    if bounds.fits(build(1.0)):
        return build(1.0)
    low, high = 0.0, 1.0
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if bounds.fits(build(middle)) else (low, middle)
    return build(low)


def _merit(score: Scored) -> tuple[bool, float]:
    return score.feasible, score.reward
